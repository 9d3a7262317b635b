# What Debian 12 ships.
SUITE=
SOURCE=linux-source-6.1
HEADERS='linux-headers-6.1.*-cloud-amd64'
IMAGE=linux-image
BUGS=
OPEN=
QUIRK=
