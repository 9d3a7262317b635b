#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-only
# Series, patches and mutants that are not as they should be.

load helper

# break_a_patch COPY: one that does not apply then.
break_a_patch() {
	sed -i '/^-\t\t\tsvm_set_gif(svm, true);/s/svm_set_gif/svm_set_fig/' \
		"$1/arch/x86/kvm/svm/$tree/svme-clear-keeps-gif.patch"
}

@test "a patch that does not apply: which, where, last good" {
	local copy="$scratch/copy" words
	copy_of_this "$copy"
	break_a_patch "$copy"
	for words in 'svme-clear-keeps-gif.patch does not apply' 'svm/svm.c:[0-9]' 'last good on 6.12.[0-9]'; do
		says 2 "$words" "$copy/tools/lab/build/assemble" $tree
	done
	not ls -d "$copy"/build/assembled/*
	rm -rf "$copy/build"
	mkdir -p "$copy/build/results" "$build/base" "$build/module" "$build/selftests" "$build/results/units"
	ln -s "$build/base" "$build/module" "$build/selftests" "$copy/build"
	ln -s "$build/results/units" "$copy/build/results"
	says 2 '^6.* as shipped .default. fails [1-9][0-9]* of [1-9][0-9]*[.]$' "$copy/tools/lab/verdict/run" $tree
	grep '^run: series/.* does not apply' "$scratch/says"
}

@test "a patch that the kernel has, or has a part of" {
	local base="$scratch/has-it" all patch
	all=$(grep -c '\.patch' "$top/series/$tree")
	patch=$(sed -n 's/^arch.*rsm-checks-l1s-state/&/p' "$top/series/$tree")
	git clone -q "$("$lab/build/assemble" $tree)" "$base"
	git -C "$base" checkout -q --detach "HEAD~$((all - 1))"
	printf '%s = 6\n' VERSION PATCHLEVEL SUBLEVEL >"$base/Makefile"
	git -C "$base" add -f Makefile
	git -C "$base" commit -q -m Makefile
	export BASE="$base" OUT="$scratch/written"
	says 0 '^no-64-bit-roots-for-pae-paging.patch is not needed: ' "$lab/build/series" $tree
	set -- "$OUT/1"/*.patch
	[ $# = $((all - 1)) ]
	grep -x 'no-64-bit-roots-for-pae-paging.patch' "$OUT/1/cover-letter"
	git -C "$base" am -q "$OUT"/1/*.patch
	[ "$(git -C "$base" diff --name-only origin/HEAD HEAD)" = Makefile ]
	says 2 '^series: nothing of series/.* is needed' "$lab/build/series" $tree
	git -C "$base" reset -q --hard "HEAD~$((all - 1))"
	git -C "$base" apply --include='*.h' "$top/$patch"
	git -C "$base" commit -q -a -m 'a part of it'
	says 2 "^$patch does not apply to .*, which has 1 of its [2-9] hunks already:" "$lab/build/series" $tree
}

# The series up to a patch after one that applies and does not build.
@test "a patch that applies and does not build: which, and why" {
	local copy="$scratch/builds-not"
	copy_of_this "$copy"
	sed -i '/init-vmcb-owns-vls/q' "$copy/series/$tree"
	sed -i 's/^+\t    !(c->virt_ext/+\t    !no_such_thing(c->virt_ext/' \
		"$copy/arch/x86/kvm/svm/$tree/l2-vmload-vmsave-failsafe.patch"
	says 1 '^6[^ ]* +(ok +)+BUILD +- *$' \
		"$copy/tools/lab/check/applies" $tree "$(cat "$("$lab/get/fetch" $tree source)/version")"
	grep -q '^6[^ ]*, patch [0-9]*: arch/x86/kvm/svm/nested.c:.*no_such_thing' "$scratch/says"
}

# appended LINE...: "assemble" with a patch that ends with these lines, whatever that one does otherwise.
appended() {
	local copy="$scratch/foreign"
	git -C "$copy" checkout -q arch
	printf '%s\n' "$@" >>"$copy/arch/x86/kvm/svm/$tree/svme-clear-keeps-gif.patch"
	"$copy/tools/lab/build/assemble" $tree
}

@test "a patch to what is not KVM's own: which, and what" {
	local foreign=arch/x86/include/asm/cpufeatures.h own=arch/x86/kvm/cpuid.h new=arch/x86/include/asm/kvm_new.h
	local refused="svme-clear-keeps-gif.patch changes $foreign, which is not KVM"
	copy_of_this "$scratch/foreign"
	says 2 "$refused" appended "--- a/$foreign" "+++ b/$foreign" '@@ -1 +1 @@' -1 +2
	says 2 "$refused" appended "diff --git a/$foreign b/$foreign" 'old mode 100644' 'new mode 100755'
	set -- $foreign $own
	for _ in from to; do
		says 2 "$refused" appended "diff --git a/$1 b/$2" 'similarity index 100%' "rename from $1" \
			"rename to $2"
		set -- $own $foreign
	done
	says 0 '' appended "diff --git a/$new b/$new" 'new file mode 100644' '--- /dev/null' "+++ b/$new" \
		'@@ -0,0 +1 @@' '+/* new */'
	[ -s "$(tail -n 1 "$scratch/says")/$new" ]
}

# A series with which a test fails (2), that does not build (3), is without a verdict (5), takes the host down (6),
# breaks a rule (8), and does not apply (last); modules and guests are but numbers here, and two tests.
@test "a prefix that is worse than shipped, or cannot be told: which, and why" {
	local copy="$scratch/bad-prefixes" line all last
	all=$(grep -c '\.patch' "$top/series/$tree")
	last=$(grep '\.patch' "$top/series/$tree" | grep -n svme-clear-keeps-gif | cut -d: -f1)
	copy_of_this "$copy"
	mkdir "$copy/build" "$copy/listed" "$copy/programs"
	ln -s "$build/base" "$copy/build"
	touch "$copy/programs/t"
	printf 't a.%s\n' one two >"$copy/listed/list"
	cat >"$copy/tools/lab/build/selftests" <<-EOT
		#!/bin/sh
		[ -n "\${1:-}" ] && echo $copy/listed/list || echo $copy/programs
	EOT
	cat >"$copy/tools/lab/build/module" <<-EOT
		#!/bin/sh
		n=\${2%/source*}
		n=\${n##*/}
		[ \$n != 3 ] || { echo 'x.c:1: error: of a test' >&2; exit 2; }
		mkdir -p $copy/build/\$n
		echo \$n | tee $copy/build/\$n/kvm.ko >$copy/build/\$n/kvm-amd.ko
		echo $copy/build/\$n/kvm-amd.ko
	EOT
	cat >"$copy/tools/lab/boot/vm" <<-'EOT'
		#!/bin/sh
		for f; do case $f in */kvm-amd.ko) n=$(cat $f) ;; */cmd) cmd=$f ;; esac; done
		: >"$VM_LOG"
		rules=$(sed -n "1,2s/^.*rules='\([^']*\)'.*/\1/p" $cmd)
		for set in default npt=0; do
			grep -q "; run $set " $cmd || continue
			printf '## %s t\n1..%d\nok 1 a.one\n#  RUN           a.two ...\n' $set $(($(echo $rules | wc -w) + 2))
			case $n$set in
			2*) echo not ok 2 a.two ;;
			5*) continue ;;
			6d*) printf 'vm: the kernel complained:\n[ 1.0] BUG: of a test\n' >&2; exit 125 ;;
			*) echo ok 2 a.two ;;
			esac
			for r in $rules; do
				case $n$set$r in 8defaultvls-bit) printf '# broken by a.one\nnot ' ;; esac
				echo ok 3 rule.$r
			done
		done
		printf '## all kernel\n1..1\n'
	EOT
	break_a_patch "$copy"
	sed -i "s,^known=.*,known=$copy/known," "$copy/tools/lab/verdict/prefixes"
	says 1 '^ok +shipped +0 of 28 red$' "$copy/tools/lab/verdict/prefixes" $tree
	while read -r line; do
		grep -qE "$line" "$scratch/says" || { echo "no line /$line/"; false; }
	done <<-EOT
		^NOT ok +2 .* 2 of 28 red, 2 that passed before$
		^  patch 2 \(.*\): t a.two \(npt=0\): FAIL; passed with shipped; passes again with patch 4 \(
		^NOT ok +3 .* does not build: x.c:1: error: of a test$
		^ok +4 .* 0 of 28 red$
		^NOT ok +5 .* 0 of 28 red, 25 without a verdict$
		^NOT ok +6 .* 1 of 28 red, 1 that passed before, 12 without a verdict$
		^  patch 6 \(.*\): t a.two \(default\): FAIL, the host: BUG: of a test; passed with shipped; passes again with patch 7 \(
		^NOT ok +8 .* 2 of 28 red, 2 that passed before$
		^  patch 8 \(.*\): t rule.vls-bit \(default\): FAIL; passed with shipped; passes again with patch 9 \(
		^  patch 8 \(.*\): t a.one breaks rule.vls-bit \(default\): FAIL; passed with shipped; passes again with patch 9 \(
		^NOT ok +$last .* does not apply: error: .*svm/svm.c
		^NOT ok +$((last + 1)) .* not made: patch $last does not apply$
		5 regressions; of shipped and $all prefixes, $((all - last + 6)) are not ok$
	EOT
}

# A mutant says which trees it is of, and a tree has one form of each.
@test "each mutant is of trees that there are, in one form" {
	local t file trees
	for file in "$top"/mutants/*; do
		trees=$(sed -n '/^---$/q; s/^Trees: //p' "$file")
		for t in ${trees:-none}; do
			echo "$file: Trees: $t"
			[ -f "$lab/get/trees/${t%-base}" ]
			[ "$(mutant "$t" "$(basename "$file" | sed 's/\..*//')")" = "$file" ]
		done
	done
}
