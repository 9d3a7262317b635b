# SPDX-License-Identifier: GPL-2.0-only
# Other modules than the running ones, which are put back; for "host".

# Of a --try, as long as it runs.
state=/run/kvm-svm-lab

# What tells loaded modules from others: build ids and parameters.
identity() {
	for m in kvm kvm_amd; do
		echo "$m $(od -An -v -tx1 "/sys/module/$m/notes/.note.gnu.build-id" 2>/dev/null | tr -d ' \n')"
		parameters $m | sed "s/^/$m /"
	done
}
# What --try leaves behind, in a session of its own: waits for the end of whoever has the
# pipe DIR/alive open, be it killed, and puts the modules back as DIR says.
put_back() {
	set +e
	trap '' INT TERM HUP QUIT PIPE
	cat <"$1/alive" >/dev/null || :
	kill_tests
	[ "$(identity)" != "$(cat "$1/identity")" ] || { rm -r "$1"; exit 0; }
	# A test that was killed may take a moment to go.
	for _ in 1 2 3 4 5 6 7 8 9 10; do
		[ ! -d $amd ] || rmmod kvm_amd 2>/dev/null
		[ -d $amd ] || break
		sleep 1
		kill_tests
	done
	[ ! -d /sys/module/kvm ] || rmmod kvm
	{ modprobe kvm $(cat "$1/kvm") && modprobe kvm_amd $(cat "$1/kvm_amd"); } || {
		say "host: they do not load with the parameters that they had:$(cat "$1/kvm" "$1/kvm_amd")"
		modprobe kvm_amd
	}
	if identity | cmp -s - "$1/identity"; then
		rm -r "$1"
		say "the shipped modules are back, with the parameters that they had"
		exit 0
	fi
	say "host: the modules are NOT what they were ('<'); a reboot puts that right:"
	identity | diff "$1/identity" - >&2
	exit 3
}

may_load() {
	[ "$(id -u)" = 0 ] || cannot "loading a module takes root: sudo $0 ..."
	! container || cannot "this is a container: modules are loaded outside of it"
	[ -e $amd/refcnt ] ||
		cannot "kvm_amd is built into this kernel: build one with the series instead (make kernel)"
	[ ! -e $state ] ||
		cannot "another --try is at it; or one could not put the modules back, and a reboot will ($state)"
	for m in kvm kvm_amd; do
		[ -e "$(modinfo -n $m 2>/dev/null)" ] || cannot "modprobe does not know $m, so it could not be put back"
	done
	[ "$(cat $amd/refcnt)" = 0 ] ||
		cannot "KVM is in use by${running:- somebody that cannot be seen from here}: stop it first"
	[ "$(ls /sys/module/kvm/holders)" = kvm_amd ] ||
		cannot "kvm is in use by these modules, too:" $(cd /sys/module/kvm/holders && printf '%s\n' * | grep -vx kvm_amd)
	[ "$(cat /sys/module/kvm/refcnt)" = 1 ] ||
		cannot "kvm is in use by more than kvm_amd: a tracepoint, perf or bpf?"
	[ "$(cat /sys/module/module/parameters/sig_enforce 2>/dev/null)" != Y ] ||
		cannot "this kernel takes signed modules only (module.sig_enforce)"
	locked=$(sed -n 's/.*\[\(.*\)\].*/\1/p' /sys/kernel/security/lockdown 2>/dev/null || :)
	case $locked in
	'' | none) ;;
	*) cannot "this kernel is locked down ($locked), as with Secure Boot: it takes signed modules only" ;;
	esac
}

try() {
	[ -s "$module" ] || cannot "no module '$module'"

	# What puts them back must not depend on how this ends.
	mkdir $state || cannot "another --try is at it"
	trap 'rm -rf $state; exit 130' INT TERM HUP
	identity >$state/identity
	parameters kvm >$state/kvm
	parameters kvm_amd >$state/kvm_amd
	# Then, kvm refuses the others.
	! grep -qx nx_huge_pages=never $state/kvm || sed -i '/^nx_huge_pages_recovery_/d' $state/kvm
	mkfifo $state/alive
	exec 9<>$state/alive
	setsid sh "$here/host" --put-back $state 9>&- &
	guard=$!
	trap 'end $?' EXIT
	trap 'exit 130' INT TERM HUP

	say "loads $module; it taints the kernel until the next boot"
	kvm=$(dirname "$module")/kvm.ko
	rmmod kvm_amd || cannot "kvm_amd does not unload: nothing was changed"
	if [ -e "$kvm" ]; then
		rmmod kvm || cannot "kvm does not unload"
		# One more way in for the tests, emulation.
		insmod "$kvm" $(cat $state/kvm) force_emulation_prefix=1 || cannot "$kvm does not load, dmesg says why"
	fi
	insmod "$module" $(cat $state/kvm_amd) $params || cannot "$module does not load, dmesg says why"
	[ -e /dev/kvm ] || sleep 1
	show_parameters
	tests tried 9>&-
}
# end STATUS: of --try, with the modules put back.
end() {
	trap '' INT TERM HUP
	trap - EXIT
	exec 9>&-
	wait $guard || exit 3
	exit "$1"
}
