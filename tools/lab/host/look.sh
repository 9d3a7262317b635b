# SPDX-License-Identifier: GPL-2.0-only
# What this machine is, and whether it can run the tests; for "host".

# cpu FIELD: that field of the first CPU in /proc/cpuinfo.
cpu() { sed -n "/^$1[[:space:]]*: /{s///p;q;}" /proc/cpuinfo; }
has() { case " $(cpu flags) " in *" $1 "*) ;; *) return 1 ;; esac; }
# parameters MODULE: those of a loaded module, as NAME=VALUE.
parameters() {
	for f in "/sys/module/$1/parameters"/*; do
		[ ! -r "$f" ] || printf '%s=%s\n' "${f##*/}" "$(cat "$f" 2>/dev/null)"
	done
}
# on PARAMETER: kvm_amd has it, and it is on.
on() { case $(cat "$amd/parameters/$1" 2>/dev/null) in [1Y]) ;; *) return 1 ;; esac; }
show_parameters() {
	say "kvm_amd  $(for p in nested npt vgif vls vnmi avic; do
		[ ! -r "$amd/parameters/$p" ] || printf ' %s=%s' $p "$(cat "$amd/parameters/$p")"
	done)"
}
# Processes that have KVM open, as far as may be seen.
users() {
	# shellcheck disable=SC2012 # It is about where links lead.
	ls -l /proc/[0-9]*/fd 2>/dev/null |
		awk -F/ '/^\/proc/ { pid = $3 } /\/dev\/kvm$|anon_inode:kvm-vm$/ { print pid }' | sort -u |
		while read -r pid; do printf ' %s (%s)' "$(cat "/proc/$pid/comm" 2>/dev/null)" "$pid"; done
}
# fitting_tree RELEASE: the tree whose series fits, by version; sets name, fits, what there is to say of that, and BUGS, OPEN,
# QUIRK, QEMU_QUIRK and such.
fitting_tree() {
	fits='none: they are for'
	for name in linux-6.1.y linux-6.12.y kvm-x86; do
		. "$trees/$name"
		for r in $RELEASES; do case $1 in $r) fits=$name; return ;; esac; done
		fits="$fits $RELEASES"
	done
	name='' BUGS='' OPEN='' QUIRK='' QEMU_QUIRK=''
}

container() {
	[ -e /.dockerenv ] || [ -e /run/.containerenv ] || [ -e /run/systemd/container ] ||
		tr '\0' '\n' </proc/1/environ 2>/dev/null | grep -q '^container='
}

look() {
	me=$(id -un 2>/dev/null || id -u)
	vendor=$(cpu vendor_id) model=$(cpu 'model name')
	case $vendor in
	AuthenticAMD | HygonGenuine) ;;
	*) cannot "this CPU is of $vendor: SVM is AMD's; 'make run' emulates one" ;;
	esac
	if ! has svm; then
		! has hypervisor ||
			cannot "this is a virtual machine without nested SVM: its host has to give it the CPU flag svm"
		cannot "the CPU has no SVM: switch 'SVM Mode' on in the firmware's setup"
	fi
	[ -d "$amd" ] ||
		cannot "kvm_amd is not loaded: modprobe kvm_amd (if that fails, dmesg says why; SVM may be off in the firmware's setup)"
	on nested || cannot "kvm_amd runs with nested=0: reload it with nested=1"
	if [ ! -e /dev/kvm ]; then
		! container || cannot "this is a container without /dev/kvm: start it with --device /dev/kvm"
		cannot "there is no /dev/kvm although kvm_amd is loaded: is udev running?"
	fi
	{ [ -r /dev/kvm ] && [ -w /dev/kvm ]; } ||
		cannot "no access to /dev/kvm for $me: as root, or after 'adduser $me kvm' and a new login"
	fitting_tree "$(uname -r)"
	case $model in
	*'QEMU TCG'*) where='Emulated AMD host (QEMU TCG), not measured on hardware.' ;;
	*) QEMU_QUIRK=
	   where="On hardware: $model."
	   ! has hypervisor || where="In a virtual machine: $model." ;;
	esac
	say "CPU       $model"
	say "kernel    $(uname -r), $(uname -v); series that fits: $fits"
	show_parameters
	say "/dev/kvm  usable by $me"
	running=$(users)
	say "VMs      ${running:- none that $me can see}"
}
