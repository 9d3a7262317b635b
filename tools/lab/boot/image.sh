# SPDX-License-Identifier: GPL-2.0-only
# Sourced by "vm", "bochs" and "image": what a guest boots, and what becomes of it.

# QEMU's AMD CPU. No byte-wise string instructions, which are slow when emulated. Five levels of page tables are turned on by
# what unpacks a vmlinuz, so there are four, as after a vmlinux. As a CPU of that model has no SVME_ADDR_CHK, KVM intercepts
# #GP while EFER.SVME=1 (F17).
cpu="max,vendor=AuthenticAMD,family=23,model=1,stepping=2,x-force-features=on,+v-vmsave-vmload,-la57,-erms,-fsrm"
cpu="$cpu,svme-addr-chk=off${VM_CPU:+,$VM_CPU}"

# make_image TREE VARIANT PARAMS CMD [FILE...]: sets kernel, the directory that has it, and options, its command line; makes
# $scratch, with what it unpacks as its root file system, initrd.
make_image() {
	local variant module params cmd root libraries f
	[ $# -ge 4 ] || die "usage: $(basename "$0") TREE VARIANT PARAMS CMD [FILE...]"
	read_tree "$1"
	[ -n "$4" ] || die "nothing to run: CMD='...' says what"
	variant=$2 params=$3 cmd=$4
	shift 4
	for f in "$@"; do [ -r "$f" ] || die "no file '$f'"; done

	kernel=$("$lab/get/fetch" "$name" kernel)
	case $variant in
	-)   module= ;;
	*/*) module=$variant ;;
	*)   module=$("$lab/build/module" "$name" "$variant") ;;
	esac
	[ -z "$module" ] || known_parameters "$module" $params

	make_scratch
	root=$scratch/root
	mkdir "$root"
	[ -z "$VM_ROOT" ] || cp -a "$VM_ROOT/." "$root"
	mkdir -p "$root/bin" "$root/dev" "$root/job" "$root/ko" "$root/proc" "$root/sys" "$root/tmp"
	cp /bin/busybox "$root/bin"
	cp "$lab/boot/init" "$root"
	[ -n "$VM_ROOT" ] || cp "$kernel/ko/irqbypass.ko" "$kernel/ko/kvm.ko" "$root/ko"
	if [ -n "$module" ]; then
		cp "$module" "$root/ko/kvm-amd.ko"
		[ ! -e "$(dirname "$module")/kvm.ko" ] || cp -L "$(dirname "$module")/kvm.ko" "$root/ko"
	fi
	[ $# = 0 ] || cp -L "$@" "$root/job"
	# What programs among the FILEs are linked with, and what the C library loads to cancel a thread.
	libraries=$([ $# = 0 ] || ldd "$@" 2>/dev/null | sed -n 's,.*[[:space:]]\(/[^ ]*\) (0x.*,\1,p' | sort -u)
	for f in $libraries $(printf '%s\n' $libraries | sed -n 's,/libc\.so\.6$,/libgcc_s.so.1,p'); do
		[ -e "$root$f" ] || { mkdir -p "$root$(dirname "$f")"; cp -L "$f" "$root$f"; }
	done
	printf '%s\n' "$params" >"$root/params"
	printf '%s\n' "$cmd" >"$root/cmd"
	(cd "$root" && find . | cpio -o -H newc --quiet) >"$scratch/initrd"
	rm -rf "$root"

	# No mitigations, which cost an emulated CPU a fifth of its time; RCU in a hurry, as each VM waits for it when
	# it goes, 10 ms otherwise. The kernel's check of its timer and of RCU goes by time that the guest has
	# not. Most of a boot would be tests of cryptography, certificates and BTF, and what tracing is shown by, so there
	# are none.
	options='console=ttyS0,115200 quiet log_buf_len=2M panic=-1 oops=panic softlockup_panic=1 norandmaps nokaslr no_timer_check'
	options="$options mitigations=off rcupdate.rcu_expedited=1 rcu_nocbs=0 rcupdate.rcu_cpu_stall_suppress=1"
	options="$options cryptomgr.notests initcall_blacklist=load_system_certificate_list,jent_mod_init,jent_init"
	options="$options,bpf_tcp_ca_kfunc_init,bpf_dummy_struct_ops_init,init_kprobe_trace,trace_eval_init${VM_KERNEL:+ $VM_KERNEL}"
}

# boots COMMAND...: an emulator, for $VM_TIMEOUT seconds; sets ended to its status. No parent, no emulator.
boots() {
	local start
	start=$(date +%s) ended=0
	setpriv --pdeathsig TERM timeout -k 5 "$VM_TIMEOUT" "$@" </dev/null 2>>"$scratch/said" &
	children=$!
	wait $children || ended=$?
	children=
	# Who does not hear TERM is killed.
	[ $ended != 137 ] || [ $(($(date +%s) - start)) -lt "$VM_TIMEOUT" ] || ended=124
}

# exit_as_guest EMULATOR: EMULATOR, whose words are in $scratch/said and $scratch/emulator, has $ended, and the guest's serial
# ports are in $scratch: exits as the comment above "vm" says.
exit_as_guest() {
	local emulator="$1" as line status
	as=$(basename "$0")
	cat "$scratch/console" "$scratch/dmesg" 2>/dev/null | tr -d '\r' >"$scratch/log"
	[ -z "$VM_LOG" ] || cp "$scratch/log" "$VM_LOG"
	status=$(tr -dc 0-9 <"$scratch/status" 2>/dev/null || :)

	case $ended:$(cat "$scratch/log" "$scratch/status" 2>/dev/null | head -c 1) in
	1: | 12[67]:) die "$emulator does not start: $(tail -n 3 "$scratch/said")" ;;
	esac
	if [ "$ended" = 124 ]; then
		say "$as: TIMEOUT, no end within $VM_TIMEOUT s; the kernel's last words:"
		tail -n 5 "$scratch/log" >&2
		exit 124
	fi
	if grep -nE "^\[[ 0-9.]*\] ($complaints)" "$scratch/log" >"$scratch/complaints"; then
		say "$as: the kernel complained:"
		line=$(sed -n '1s/:.*//p' "$scratch/complaints")
		sed -n "$line,$((line + 20))p" "$scratch/log" >&2
		exit 125
	fi
	if [ -z "$status" ]; then
		say "$as: it died before CMD ended; $emulator's and the kernel's last words:"
		tail -qn 10 "$scratch/said" "$scratch/emulator" >&2 2>/dev/null
		tail -n 10 "$scratch/log" >&2
		exit 125
	fi
	exit "$status"
}
