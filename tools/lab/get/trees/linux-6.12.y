# What Debian 12 (backported, by apt as it is) and Debian 13 ship.
# What uname -r says where the series fits.
RELEASES='6.12.*'
SUITE=
SOURCE=linux-source-6.12
HEADERS='linux-headers-6.12.*-cloud-amd64'
IMAGE=linux-image
# Behaviours (tools/lab/verdict/behaviours) that are red on shipped, maybe before a version, and green with the series.
BUGS='B1a B1b B1c B1d B5 F1 F2 F3 F6 F7 F9 F10 F11 F12<6.12.118 F13 F17 F18 F22 F24 F25 F26 F27 F28 H1 H4 H6 H8a U1 U14 U15 U24 U29 U7'
# Red on shipped, and not closed by the series either.
OPEN='F8a<6.12.118 F14 H10 U5 U6'
# Not to be judged, and why; and what is the emulator's fault. More than one with "; " between.
QUIRK=''
QEMU_QUIRK='H8: KVM leaves it to the CPU here, and QEMU stores half of the exit code'
# KVM's rules (invariants/rules) that shipped breaks: none with the series.
RULES='R1 R2 R3 R4 R5 R6 R7 R8 R10 R11'
