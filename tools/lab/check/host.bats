#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-only
# What the lab does to machines and git trees of others.

load helper

# look_says PATTERN CPU: "host" rules the emulated machine out, with these changes of its CPU.
look_says() {
	export VM_CPU="$2"
	says 2 "$1" "$lab/boot/vm" $tree - '' './host --look' "$lab/host"/*
}

@test "host: an Intel CPU" { look_says 'this CPU is of GenuineIntel' vendor=GenuineIntel; }

@test "host: SVM is off" { look_says "switch 'SVM Mode' on" -svm,-hypervisor; }

@test "host: a VM without nesting" { look_says 'a virtual machine without nested SVM' -svm; }

# model CPU TEXT: what "host" says that it runs in, where this is the emulated one.
model() {
	"$lab/host/install-tests"
	VM_CPU=$1 "$lab/boot/vm" $tree patched '' \
		'mkdir tests; cd tests; xz -dc ../*.xz | tar x; sed -i 1q kselftest-list.txt; ./host; cat host.ktap' \
		"$build/kselftest.tar.xz" >"$scratch/model"
	grep "^$2: stand-in\.\$" "$scratch/model"
}

@test "host: says \"hardware\" on hardware" { model 'model-id=stand-in,-hypervisor' 'On hardware'; }

@test "host: says \"virtual machine\" in one" { model 'model-id=stand-in' 'In a virtual machine'; }

# Debian 12 has LAVA's schema.
@test "image: boots, and is a job that LAVA takes" {
	local image job
	image=$("$lab/boot/image" $tree patched)
	[ "$debian" != 12 ] || for job in lava board; do
		/usr/bin/python3 -c 'import sys, yaml, lava_common.schemas as s; s.validate(yaml.safe_load(sys.stdin))' <"$image/$job.yaml"
	done
	"$image/qemu" </dev/null | tr -d '\r' >"$scratch/console"
	grep -x 'lab: ends' "$scratch/console"
	[ "$(grep -c '^# lab: pass ' "$scratch/console")" -gt 400 ]
}

# The same series.
@test "host-module: for another flavour of the kernel" {
	local module
	set -- $("$lab/get/fetch" $tree name | sed 's/^Linux \([^ ]*\)-cloud-amd64 (Debian \(.*\))/\1-amd64 \2/')
	module=$("$lab/host/on-host" module "$1" "$2")
	modinfo -F vermagic "$module" | grep "^$1 "
}

# own_kernel STATUS PATTERN TREE: "kernel" with a git tree that has what the series is about, and a Makefile
# that only says what it was to make; sets id.
own_kernel() {
	local base head
	linux=$scratch/linux
	base=$("$lab/build/assemble" --base $tree)
	rm -rf "$linux"
	git clone -q "$base" "$linux"
	mkdir -p "$linux/scripts"
	printf 'all olddefconfig:\n\t@echo made $@ $(LOCALVERSION)\n' >"$linux/Makefile"
	printf '#!/bin/sh\necho "config $*"\n' >"$linux/scripts/config"
	chmod +x "$linux/scripts/config"
	git -C "$linux" add -A
	git -C "$linux" -c user.name=x -c user.email=x commit -q -m 'a user'
	hostile_home
	cat "$scratch/hostile/.gitconfig" >>"$linux/.git/config"
	printf '%s\n' CONFIG_MINE=y 'CONFIG_SYSTEM_TRUSTED_KEYS="debian/x.pem"' >"$linux/.config"
	echo '/* mine */' >>"$linux/arch/x86/kvm/svm/svm.c"
	head=$(git -C "$linux" rev-parse HEAD)
	id=$(git -C "$linux" rev-parse --short=12 HEAD)
	export BASE="$linux"
	says "$1" "$2" "$lab/host/kernel" $3
	[ "$(git -C "$linux" rev-parse HEAD)" = "$head" ]
	tail -n 1 "$linux/arch/x86/kvm/svm/svm.c" | grep -q mine
}

teardown() { [ -z "${id:-}" ] || rm -rf "$build/kernel"/*-"$id"-*; }

@test "kernel: the series on a user's git tree, and nothing of theirs touched" {
	own_kernel 0 'made all -kvm-svm' $tree
	grep -q '^config .*SYSTEM_TRUSTED_KEYS' "$scratch/says"
	not grep -q '^config .*SYSTEM_REVOCATION_KEYS' "$scratch/says"
	[ "$(git -C "$linux" rev-list --count --branches='kvm-svm-lab/*' --not HEAD)" = \
	  "$(grep -c '\.patch' "$top/series/$tree")" ]
	grep -qx CONFIG_MINE=y "$build/kernel/$tree-$id"-*/.config
}

@test "kernel: a series that does not apply leaves nothing" {
	own_kernel 2 'series/kvm-x86 does not apply to' kvm-x86
	[ "$(git -C "$linux" branch --list 'kvm-svm-lab/*' | wc -l)" = 0 ]
	not ls -d "$build/kernel/kvm-x86-$id"-*
}
