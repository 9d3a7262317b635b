#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-only
# What "second-opinion" and "coverage" make of what they have measured, and of what is known of it.

load helper

# opinions [KNOWN...]: what "second-opinion" makes of three tests, how they ended in the files "qemu" and "bochs", and of
# what is known of them.
opinions() {
	printf 'row\tX1\ta behaviour\ntest\ta_test\ta.one\tX1\ntest\ta_test\ta.two\tX1\ntest\ta_test\ta.more\tX2\nset\tnone\tX2\tcannot\n' >"$scratch/expected"
	printf '%s\n' '# TEST ...' 'a.tw*|shipped|tree|red pass|Bochs: a reason' "$@" >"$scratch/known"
	awk -f "$lab/check/second-opinion-table" -v name=tree -v trees='tree other' -v variants='shipped patched' \
		-v each="$scratch/each" "$scratch/expected" "$scratch/known" "$scratch/qemu" "$scratch/bochs"
}
# ended FILE SHIPPED... PATCHED...: a.one, a.two and a.more on each.
ended() {
	local file="$scratch/$1" v t
	shift
	for v in shipped patched; do
		for t in one two more; do printf '%s\ta_test\t%s\ta.%s\ta reason\t\n' $v "$1" $t; shift; done
	done >"$file"
}

@test "second-opinion: a test that differs, one that does no longer, one that has no verdict" {
	ended qemu pass FAIL skip pass pass skip
	ended bochs pass pass skip pass pass skip
	says 0 '^tree: 1 tests agree on two implementations' opinions
	grep '^ok .* shipped: 1 the same, 0 pass that cannot be red, 1 skip on both; patched: 2 the same, .* 1 differ as is known' "$scratch/says"
	grep '^shipped, Bochs: a reason$' "$scratch/says"
	grep '^known *shipped *a_test a.two: FAIL pass$' "$scratch/each"
	ended qemu TIMEOUT FAIL pass pass pass pass
	ended bochs FAIL pass pass pass pass pass
	says 0 '^tree: 1 tests agree on two implementations' opinions
	grep '^ok .* shipped: 1 the same, 1 pass that cannot be red, 0 skip on both' "$scratch/says"
	not grep '^both' "$scratch/each"
	ended bochs pass pass pass pass pass pass
	says 1 '^NOT ok  a.one, shipped: TIMEOUT in QEMU, pass in Bochs$' opinions
	ended bochs FAIL pass pass skip pass pass
	says 1 '^NOT ok  a.one, patched: pass in QEMU, skip in Bochs$' opinions
	ended bochs FAIL FAIL pass pass pass pass
	says 1 '^NOT ok  a.two, shipped: FAIL in QEMU, FAIL in Bochs; known is: red pass$' opinions
	echo 'no verdict'
	sed -i '$d' "$scratch/bochs"
	says 2 '^NOT ok  tree: 1 tests have no verdict, first a.more on patched in Bochs' opinions
	not grep 'agree' "$scratch/says"
}

@test "second-opinion: what is known is of tests, trees and results that there are" {
	ended qemu pass FAIL pass pass pass pass
	ended bochs pass pass pass pass pass pass
	says 0 '^ok ' opinions 'a.one|patched|other|red pass|KVM: another tree'
	says 1 '^NOT ok  second-opinion-known, line 3 is no TEST' opinions 'a.one|patched|tree|red pass'
	says 1 '^NOT ok  second-opinion-known, line 3 has no such test: a.four' opinions 'a.four|patched|other|red pass|KVM: why'
	says 1 '^NOT ok  second-opinion-known, line 3 has no tree: three' opinions 'a.one|patched|three|red pass|KVM: why'
	says 1 '^NOT ok  second-opinion-known, line 3 has no variant: v' opinions 'a.one|v|tree|red pass|KVM: why'
	says 1 '^NOT ok  second-opinion-known, line 3 has no two results that differ: pass pass' opinions 'a.one|patched|tree|pass pass|KVM: why'
	says 1 '^NOT ok  second-opinion-known, line 3 does not say whose' opinions 'a.one|patched|tree|red pass|why'
	says 1 '^NOT ok  second-opinion-known, line 3 is known already: a.two, shipped' opinions 'a.two|shipped|tree|red pass|KVM: why'
}

# covered LINE... -- KNOWN...: what "coverage" makes of f(), which has lines 3 and 4, and of which LINEs are executed; what
# the series adds is in the file "added".
covered() {
	cd "$scratch"
	printf '%s\n' 'int f(void)' '{' '	a();' '	b();' '}' >nested.c
	printf '%s\n' 'Disassembly of section .text:' '0000000000000000 <f>:' '/x/nested.c:3' '       3:	call a' '/x/nested.c:4' \
		'       4:	call b' >objdump
	echo '.text:0xffffffffc0000000' >set.text
	: >set.insns
	while [ "$1" != -- ]; do echo "ffffffffc000000$1" >>set.insns; shift; done
	shift
	printf '%s\n' "$@" >known
	"$lab/check/coverage-table" -v tree=one -v all=all -v reached=reached known added nested.c set.text set.insns objdump
}

@test "coverage: a line without a reason, a reason without a line, a line of the series, no line" {
	: >"$scratch/added"
	says 1 'f +1 of +2 +4: NO REASON' covered 3 --
	says 1 'f +1 of +2 +4: NO REASON' covered 3 -- 'two|f|why'
	says 0 'nested.c: 1 of 2 lines' covered 3 -- 'two one|f|why'
	says 0 'nested.c: 2 of 2 lines' covered 3 4 --
	says 1 'f +has a reason, and needs none' covered 3 4 -- 'one|f|why'
	echo 'nested.c|4' >"$scratch/added"
	says 1 'f +1 of +2 +[+]4: NO REASON' covered 3 -- 'one|f|why'
	says 0 'and 0 of 1 that the series adds' covered 3 -- 'one|f+1|why'
	sed -i 's/nested/other/' "$scratch/objdump"
	cd "$scratch"
	says 2 'no line of nested.c has code' "$lab/check/coverage-table" -v tree=one -v all=all -v reached=reached known added nested.c \
		set.text set.insns objdump
}
