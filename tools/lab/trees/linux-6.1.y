# What Debian 12 ships.
RELEASES='6.1.*'
SUITE=
SOURCE=linux-source-6.1
HEADERS='linux-headers-6.1.*-cloud-amd64'
IMAGE=linux-image
BUGS='B1a B1b B1c B1d B3 B5 F1 F2 H1 H3 H4 H6 H7 H8a H9 U1 U29'
OPEN='H8b U5 U6'
QUIRK='H8: KVM leaves it to the CPU here, and QEMU stores half of the exit code'
