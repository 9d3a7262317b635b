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

# Bochs whose binary is what COPY/emulator does, with the file that says what it is to emulate.
@test "bochs: an emulator that does not start, a guest that stops, one that ends" {
	local copy="$scratch/bochs" boot
	copy_of_this "$copy"
	boot="$copy/tools/lab/boot/bochs"
	mkdir -p "$copy/usr/lib/ISOLINUX" "$copy/usr/lib/syslinux/modules/bios"
	touch "$copy/usr/lib/ISOLINUX/isolinux.bin" "$copy/usr/lib/syslinux/modules/bios/ldlinux.c32"
	cat >"$copy/tools/lab/get/bochs" <<-EOT
		#!/bin/sh
		[ \$# != 0 ] || echo $copy
		port() { sed -n "s/^com\$1:.* dev=//p" "\$bochsrc"; }
		[ \$# != 5 ] || { bochsrc=\$5; . $copy/emulator; }
	EOT
	echo 'echo no display; exit 1' >"$copy/emulator"
	says 2 '^bochs: Bochs does not start: no display' "$boot" $tree - '' true
	echo 'echo up >$(port 1); sleep 99' >"$copy/emulator"
	VM_TIMEOUT=1 says 124 '^bochs: TIMEOUT, no end within 1 s' "$boot" $tree - '' true
	echo 'echo up >$(port 1); echo done >$(port 2)' >"$copy/emulator"
	says 125 '^bochs: it died before CMD ended' "$boot" $tree - '' true
	echo 'echo up >$(port 1); echo done >$(port 2); echo 7 >$(port 3)' >"$copy/emulator"
	says 7 '^done$' "$boot" $tree - '' true
}

# As where a mirror has no such suite.
@test "bochs: a suite that cannot be had" {
	local bin="$scratch/bin"
	mkdir -p "$bin"
	printf '#!/bin/sh\n[ "$1" != update ] || exit 100\nexec /usr/bin/apt-get "$@"\n' >"$bin/apt-get"
	chmod +x "$bin/apt-get"
	CACHE=$scratch/cache PATH=$bin:$PATH says 2 'apt-get update failed: .*trixie on this mirror' "$lab/get/bochs"
	[ -z "$(ls -d "$scratch/cache"/*/apt-* "$scratch/cache"/*/bochs-* 2>/dev/null)" ]
}

# A program with a test that passes, on guests that are none: in Bochs, what COPY/bochs does.
@test "second-opinion: a guest that stops, an emulator that does not start" {
	local copy="$scratch/stopped" script
	copy_of_this "$copy"
	mkdir -p "$copy/tests" "$copy/ko"
	touch "$copy/tests/a_test" "$copy/ko/kvm.ko" "$copy/ko/kvm-amd.ko"
	echo 'a_test a.one' >"$copy/list"
	echo 3.0 >"$copy/version"
	: >"$copy/tools/lab/check/second-opinion-known"
	cat >"$copy/passes" <<-'EOT'
		run() { printf '## %s %s\n1..1\nok 1 a.one\n' "$1" "$5"; }
		for f; do case $f in *.cmd) . "$f" ;; esac; done
	EOT
	while IFS='|' read -r script says; do
		printf '#!/bin/sh\n%s\n' "$says" >"$copy/tools/lab/$script"
	done <<-EOT
		build/assemble|:
		build/module|shift; for v; do echo $copy/ko/kvm-amd.ko; done
		build/selftests|case \$1 in --list) echo $copy/list ;; *) echo $copy/tests ;; esac
		get/bochs|echo $copy
		boot/vm|. $copy/passes
		boot/bochs|. $copy/bochs
	EOT
	cp "$copy/passes" "$copy/bochs"
	says 0 '^linux-6.12.y: 1 tests agree on two implementations' "$copy/tools/lab/check/second-opinion" $tree
	echo 'echo "bochs: TIMEOUT, no end" >&2; exit 124' >"$copy/bochs"
	FRESH=1 says 2 'bochs: TIMEOUT, no end' "$copy/tools/lab/check/second-opinion" $tree
	not grep 'agree' "$scratch/says"
	not ls "$copy/build/results/second-opinion/$tree"
	printf '#!/bin/sh\necho no suite >&2; exit 2\n' >"$copy/tools/lab/get/bochs"
	says 2 'no suite' "$copy/tools/lab/check/second-opinion" $tree
	not grep 'agree' "$scratch/says"
}
