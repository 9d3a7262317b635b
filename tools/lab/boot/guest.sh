# SPDX-License-Identifier: GPL-2.0-only
# For who has guests run tests.

# What a kernel that complains says behind the time.
# shellcheck disable=SC2034 # For who sources this.
complaints='(\[ )?(WARNING|BUG)|UBSAN|kmemleak: [0-9]|Oops|Kernel panic|INFO: (task|trying)|watchdog|rcu: INFO|general protection'

# kvm_of MODULE DIR: copies the kvm.ko that belongs to the kvm-amd.ko MODULE to DIR, under a name
# that stands for its content, and prints that name.
kvm_of() {
	local kvm name
	kvm=$(dirname "$1")/kvm.ko
	name=kvm-$(key "$kvm").ko || return
	[ -e "$2/$name" ] || cp "$kvm" "$2/$name" || return
	echo "$name"
}

# lab_key TREE: a key of all that runs a test on TREE's kernel, but for module and test.
lab_key() {
	{
		qemu-system-x86_64 --version
		ldd --version
		echo "$VM_CPU $VM_KERNEL $VM_MEMORY $VM_ROOT $VM_SHIFT"
		cat "$lab/get/fetch" "$lab/get/parts.sh" "$lab/get/unpack.sh" "$lab/boot/vm" "$lab/boot/init" "$lab/boot/image.sh" "$lab/boot/guest.sh" \
			"$lab/boot/guest-run" "$("$lab/get/fetch" "$1" kernel)/version" /bin/busybox
	} | key
}

# known_parameters MODULE NAME=VALUE...: MODULE, a kvm-amd.ko, has these parameters.
known_parameters() {
	local module="$1" p known
	known=$(tr '\0' '\n' <"$module" | sed -n 's/^parmtype=\([a-z0-9_]*\):.*/\1/p')
	shift
	for p in "$@"; do
		case $p in
		*?=?*) ;;
		*) die "'$p' is no parameter: PARAMS=\"NAME=VALUE ...\"" ;;
		esac
		printf '%s\n' "$known" | grep -qxF "${p%%=*}" ||
			die "kvm_amd has no parameter '${p%%=*}' here; it has:" $known
	done
}

# guest CMD FILE...: boots the kernel of the tree that was read, without KVM, and has it run the commands in the file
# CMD, which know what guest-run has, with the modules that are beside CMD and the FILEs. It does so in $emulator, "vm" or
# "bochs", if there is one.
guest() {
	"$lab/boot/${emulator:-vm}" "$name" - '' ". ./guest-run; . ./${1##*/}; exit 0" "$lab/boot/guest-run" "${1%/*}"/*.ko "$@"
}
