#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-only
# Guests, and what runs on them, when things go wrong.

load helper

@test "vm: output and status of a command come back" { says 7 '^6[.]12' vm 'uname -r; exit 7'; }

@test "vm: files are there" {
	says 0 '^all: that must hold' vm 'sed -n "s/^# test: everything/all:/p" test' "$lab/check/test"
}

@test "vm: a guest that hangs is a TIMEOUT" {
	export VM_TIMEOUT=8
	says 124 'TIMEOUT, no end within 8 s' vm 'while :; do :; done'
}

@test "vm: a panic fails, with its words" { says 125 'sysrq triggered crash' vm 'echo c >/proc/sysrq-trigger'; }

@test "vm: a WARN in the log fails, with its words" {
	says 125 'WARNING: CPU: 9' vm 'echo "<4>WARNING: CPU: 9 of a test" >/dev/kmsg'
}

@test "vm: a module that does not load" {
	says 126 'does not load' "$lab/boot/vm" $tree "$lab/check/test" '' true
}

# A process group of its own stands for a terminal's foreground job; INT is ignored in
# what a script puts into the background, unless told otherwise.
no_qemu_left() {
	env --default-signal=INT setsid "$lab/boot/vm" $tree shipped '' 'echo up; while :; do :; done' \
		>"$scratch/up" 2>&1 3>&- &
	session=$!
	until grep -q up "$scratch/up"; do kill -0 $session; sleep 0.2; done
	pgrep -s $session qemu
	if [ "$1" = INT ]; then kill -INT -$session; else kill -KILL $session; fi
	wait $session || :
	sleep 1
	not pgrep -s $session qemu
	session=
}

@test "vm: no QEMU is left after SIGINT" { no_qemu_left INT; }

@test "vm: no QEMU is left after SIGKILL" { no_qemu_left KILL; }

# A run has the same table with 16 busy loops beside it, and with QEMUs that do not get to run for more than a
# second at a time.
@test "the same table on a busy machine" {
	local stopped=0 i
	"$lab/verdict/run" $tree >"$scratch/idle"
	FRESH=1 setsid "$lab/verdict/run" $tree >"$scratch/busy" 3>&- &
	session=$!
	until pgrep -s $session qemu; do kill -0 $session; sleep 0.2; done
	for i in $(seq 16); do timeout 15 sh -c 'while :; do :; done' 3>&- & done
	sleep 15
	while kill -0 $session; do
		! pkill -STOP -s $session qemu || stopped=$((stopped + 1))
		sleep 1.5
		pkill -CONT -s $session qemu || :
		sleep 1.5
	done
	wait $session
	session=
	echo "QEMUs were stopped $stopped times"
	[ $stopped != 0 ]
	diff "$scratch/idle" "$scratch/busy"
}

# stand_ins COPY: "bench" there gets to its end in a second: a module is what COPY/module prints, which gets the variant,
# and a guest what COPY/guest does.
stand_ins() {
	local copy="$1"
	copy_of_this "$copy"
	mkdir -p "$copy/build" "$copy/ko"
	ln -s "$build/base" "$copy/build"
	cp "$("$lab/get/fetch" $newest kernel)/ko/irqbypass.ko" "$copy/ko/kvm-amd.ko"
	touch "$copy/ko/kvm.ko" "$copy/ko/bench"
	printf '#!/bin/sh\necho %s\n' "$copy/ko" >"$copy/tools/lab/build/selftests"
	printf '#!/bin/sh\n. %s\n' "$copy/module" >"$copy/tools/lab/build/module"
	printf '#!/bin/sh\n. %s\n' "$copy/guest" >"$copy/tools/lab/boot/vm"
	echo "echo $copy/ko/kvm-amd.ko" >"$copy/module"
	cat >"$copy/guest" <<-'EOT'
		for set in default vgif=0,vls=0; do
			echo "## $set bench"
			for op in a b c d e f g h i j k l; do echo "$op|1|0"; done
		done
	EOT
}

@test "bench: no goal is met by what was not measured" {
	local copy="$scratch/unmeasured" bench goal
	bench=$copy/tools/lab/check/bench
	stand_ins "$copy"
	echo 'operations that have other names'
	says 1 '^NOT ok  VMLOAD with SVME=1: ' "$bench" $newest
	for goal in VMSAVE STGI CLGI 'VMLOAD, VMRUN' CPUID 'WRMSR of EFER, SVME' KVM_SET_SREGS 'text of what protects'; do
		grep "^NOT ok  $goal" "$scratch/says"
	done
	not grep '^ok ' "$scratch/says"
	echo 'a commit in the middle that does not build'
	echo "case \$2 in */of-base) ;; */of-*) exit 2 ;; esac; echo $copy/ko/kvm-amd.ko" >"$copy/module"
	says 2 'FAILED  sizes' "$bench" $newest
	echo 'a patch that has another name'
	echo "echo $copy/ko/kvm-amd.ko" >"$copy/module"
	git -C "$copy" mv arch/x86/kvm/svm/kvm-x86/exception-comes-before-init.patch arch/x86/kvm/svm/kvm-x86/another-name.patch
	sed -i 's,exception-comes-before-init,another-name,' "$copy/series/kvm-x86"
	says 2 'series/kvm-x86 .* exception-comes-before-init' "$bench" $newest
	git -C "$copy" mv arch/x86/kvm/svm/$tree/recalc-intercepts-on-svme.patch arch/x86/kvm/svm/$tree/another-name.patch
	sed -i 's,recalc-intercepts-on-svme,another-name,' "$copy/series/$tree"
	says 2 "series/$tree .* B1 and B5" "$bench" $tree
}

@test "bench: no guest is left after SIGINT" {
	local copy="$scratch/interrupted"
	stand_ins "$copy"
	echo 'exec sleep 99' >"$copy/guest"
	env --default-signal=INT setsid "$copy/tools/lab/check/bench" $newest >"$scratch/bench" 2>&1 3>&- &
	session=$!
	until [ "$(pgrep -c -s $session -x sleep)" = 2 ]; do kill -0 $session; sleep 0.2; done
	kill -INT -$session
	wait $session || :
	sleep 1
	not pgrep -r D,R,S -s $session
	session=
}

# Guests that do all that they are to, and then their kernel complains.
@test "what a guest complains of after its last test" {
	local copy="$scratch/complaining"
	stand_ins "$copy"
	cat >>"$copy/guest" <<-'EOT'
		: >"${VM_LOG:-/dev/null}"
		set -- $4 bench
		echo "## $3 selftests"
		shift 3
		echo "1..$#"
		n=0
		for t; do echo "ok $((n += 1)) $t"; done
		echo "vm: the kernel complained: of a test" >&2
		exit 125
	EOT
	says 2 'kernel complained: of a test' "$copy/tools/lab/check/bench" $tree
	says 1 'kernel complained: of a test' "$copy/tools/lab/verdict/upstream-tests" $tree
	grep '^shipped: a guest did not end' "$scratch/says"
	grep 'shipped/patched: .* 0/0 lost$' "$scratch/says"
}

# table: what "migrate" makes of four VMs that were saved at a point, and of what is known of them.
table() {
	printf 'here||L1\n' >"$scratch/points"
	printf '# POINT ...\nhere|s>p p>p|tree/default|EINVAL|a reason\n' >"$scratch/known"
	awk -f "$lab/check/migrate-table" -v name=tree -v kernel=Linux -v variant=patched -v sets=default \
		"$scratch/points" "$scratch/known" "$scratch/moved"
}

@test "migrate: a VM that differs, one that does no longer, one that has no verdict" {
	printf '## default:%s:here migrate\n= %s\n' s saved p saved 's>s' 'goes on' 's>p' EINVAL 'p>s' 'goes on' 'p>p' EINVAL \
		>"$scratch/moved"
	cp "$scratch/moved" "$scratch/good"
	says 0 '^ok .* 2 VMs go on, 2 do as is known' table
	echo '= the host complains' >>"$scratch/moved"
	says 1 '^NOT ok  here p>p, default: EINVAL; the host complains; known is: EINVAL' table
	sed '$s/.*/= goes on/' "$scratch/good" >"$scratch/moved"
	says 1 '^NOT ok  here p>p, default: goes on; known is: EINVAL' table
	sed '/s>s/{n; s/.*/= EINVAL/}' "$scratch/good" >"$scratch/moved"
	says 1 '^NOT ok  here s>s, default: EINVAL$' table
	sed '$d' "$scratch/good" >"$scratch/moved"
	says 2 '^NOT ok  tree, default: no verdict of 1 VMs, first here p>p' table
}
