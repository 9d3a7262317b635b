# What Debian 12 ships.
RELEASES='6.1.*'
SUITE=
SOURCE=linux-source-6.1
HEADERS='linux-headers-6.1.*-cloud-amd64'
IMAGE=linux-image
# F28 is red as H7 is: RSM does not look at vmcb12 at all.
BUGS='B1a B1b B1c B1d B3 B5 F1 F2 F3 F6 F7 F8 F8a F9 F10 F11/npt=0 F12 F13 F15 F17 F18 F22 F24 F25 F26 F27 F28 H1 H3 H4 H6 H7 H8a H9 U1 U14 U15 U24 U29 U7'
OPEN='H8b F14 H10 U5 U6'
QUIRK='F21: it takes Xen guests, which this kernel has not'
QEMU_QUIRK='H8: KVM leaves it to the CPU here, and QEMU stores half of the exit code'
RULES='R1 R2 R3 R4 R5 R6 R7 R8 R10 R11'
