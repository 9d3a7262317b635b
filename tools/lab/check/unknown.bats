#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-only
# What was not measured, or did not come to its end, is no pass.

load helper

# stand_ins COPY: "bench" there gets to its end in a second: a module is what COPY/module prints, which gets the variant,
# and a guest what COPY/guest does.
stand_ins() {
	local copy="$1"
	copy_of_this "$copy"
	mkdir -p "$build/base" "$copy/build" "$copy/ko"
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

# table [KNOWN...]: what "migrate" makes of four VMs that were saved at a point, and of what is known of them.
table() {
	printf 'here||L1\n' >"$scratch/points"
	printf '%s\n' '# POINT ...' 'here|s>p p>p|tree/default|EINVAL|a reason' "$@" >"$scratch/known"
	awk -f "$lab/check/migrate-table" -v name=tree -v trees='tree other' -v kernel=Linux -v variant=patched -v sets=default \
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
	sed '/:p:/{n; s/.*/= none/}' "$scratch/good" >"$scratch/moved"
	says 1 '^NOT ok  here p>s, default: none$' table
	cp "$scratch/good" "$scratch/moved"
	says 0 '^ok ' table 'here|p>s|other|EINVAL|another tree'
	says 1 '^NOT ok  migrate-known, line 3 is no POINT' table 'there|p>s|tree|EINVAL|no point'
	says 1 '^NOT ok  migrate-known, line 3 has no FROM>TO: p>q' table 'here|p>q|tree|EINVAL|no pair'
	says 1 '^NOT ok  migrate-known, line 3 has no tree.*: three' table 'here|p>s|three|EINVAL|no tree'
	says 1 '^NOT ok  migrate-known, line 3 is known already: here p>p' table 'here|p>p|tree|EINVAL|another reason'
	says 2 '^NOT ok  there is no point' awk -f "$lab/check/migrate-table" -v sets=default /dev/null
}

# host LINE...: what a host of "nested" prints with all steps done and, before L1 is restored, LINEs.
host() {
	local step n=0
	for step in begin l1-boots l1-kvm l2-boots l2-reset l2-runs l1-saved; do echo "= $((n += 1000000000)) $step"; done
	printf '%s\n' 'guest_mode: 1' 'L1: up' 'L2: up' 'L2: up' "$@" '= 8000000000 l1-restored' '= 9000000000 l1-ends'
}

@test "nested: what went another way than all steps done" {
	host >"$scratch/s"
	nested() { host "$@" >"$scratch/p"; awk -f "$lab/check/nested-table" -v name=tree -v variant=patched "$scratch/s" "$scratch/p"; }
	says 0 '^ok .* instructions differ by [+]0.00 %' nested
	says 1 '^NOT ok  tree, patched: boots are 1 of L1, and 3 of L2, not 1 and 2$' nested 'L2: up'
	says 1 '^NOT ok  tree, patched: boots are 2 of L1, ' nested 'L1: up'
	says 1 '^NOT ok  tree, patched: a kernel complains' nested '[ 1.0] WARNING: of a test'
	says 2 '^NOT ok  tree, patched: L1 was saved, but not in L2' nested 'guest_mode: 0'
	sed -i /l1-restored/d "$scratch/s"
	says 1 '^NOT ok  tree, shipped: it does not come to: L1 is restored' nested
	: >"$scratch/s"
	says 2 '^NOT ok  tree, shipped: the host did not get to it' nested
}
