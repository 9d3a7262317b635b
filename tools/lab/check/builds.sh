# SPDX-License-Identifier: GPL-2.0-only
# How the gate builds a series, in all of the source, as a maintainer would. Of the gate it takes $am, $scratch,
# and what the series is about: $concerned.

# The source that is built: hard links to what was unpacked, and over them, by git, which writes each anew, the files of
# COMMIT that differ from what is there.
src=$scratch/src
# In what ccache has kept of a warning, it is where another gate had it.
anywhere="${scratch%/*}/[^/]*/src/"
put() { git --git-dir="$am/.git" --work-tree="$src" checkout -q -f "$1"; }

# each_part COMMAND...: runs it on the source of each part, which has the parts before that in it.
each_part() {
	local part
	for part in $(git -C "$am" tag -l 'part-*'); do put "$part" && "$@" || { echo "$part"; return 1; }; done
}

# makes ARG...: make with these; what is said goes to $scratch/said. compile OUT CC ARG...: the kernel's, in OUT.
makes() { make -s -j"$jobs" "$@" >"$scratch/said" 2>&1 || { cat "$scratch/said"; return 1; }; }
compile() { local out="$1" cc="$2"; shift 2; makes -C "$src" O="$out" CC="$cc" HOSTCC=$gcc "$@"; }

# objects OUT CC ARG...: the same; nothing may be said that the base does not say as well, but for line numbers.
: >"$scratch/known"
objects() {
	compile "$@" || return 1
	sed "s,$anywhere,,; s/:[0-9][0-9:]*:* /: /" "$scratch/said" | sort -u >"$scratch/warnings"
	comm -13 "$scratch/known" "$scratch/warnings" >"$scratch/new"
	cat "$scratch/new"
	[ ! -s "$scratch/new" ]
}

configure() { CC=${2:-ccache $gcc} "$lab/get/configure" "$src" "$1" ${3:-}; }
# A commit that changes nothing of the kernel's but documentation leaves make nothing to do, which takes it seconds.
builds() {
	put "$1" || return
	[ "$1" != base ] && git -C "$am" diff --quiet "$1~" "$1" -- . ':!Documentation' ':!tools/testing' ||
		objects "$scratch/obj" "ccache $gcc" W=1 arch/x86/kvm/
}
base_builds() { builds base || cp "$scratch/warnings" "$scratch/known"; }
# With another option, what the series changes or lies beside that, if there is such an object then.
builds_with() {
	configure "$scratch/obj" "ccache $gcc" "$1" || return 1
	[ "$1" = KVM_HYPERV=n ] && set -- $(echo "$concerned" | grep -v /hyperv.o) || set -- $concerned
	each_part objects "$scratch/obj" "ccache $gcc" "$@"
}
builds_with_clang() { configure "$scratch/clang" 'ccache clang-19' && each_part objects "$scratch/clang" 'ccache clang-19' $concerned; }

# sparse_to FILE: what sparse says, but for line numbers, goes to FILE. Debian 12's is
# refused by kernels of today for lack of an operator, and gives up on a file that has a
# static assertion which it cannot evaluate: help it over both.
sparse_to() {
	compile "$scratch/obj" "ccache $gcc" C=2 CHECK="sparse -D__typeof_unqual__=__typeof__ '-D_Static_assert(...)='" $concerned &&
		! grep 'specified, but' "$scratch/said" || return 1
	sed -n "/warning\|error/{ s,$anywhere,,; s/:[0-9]*:[0-9]*:/:/; p }" "$scratch/said" | sort >"$1"
}
sparse_is_as_of_base() { sparse_to "$scratch/b" && diff "$scratch/a" "$scratch/b"; }
sparse_says_nothing_new() { put base && sparse_to "$scratch/a" && each_part sparse_is_as_of_base; }

# selftests_build CC TEST...: these, as far as they are there.
selftests_build() {
	local cc="$1" uapi tests
	shift
	[ $# != 0 ] || { echo "there is none"; return 1; }
	tests=$(for t; do [ ! -e "$src/tools/testing/selftests/kvm/$t.c" ] || echo "$t"; done)
	[ -n "$tests" ] || return 0
	uapi=$(BASE= "$lab/get/fetch" "$newest" source)/uapi/usr
	makes -C "$src/tools/testing/selftests/kvm" ARCH=x86 CC="ccache $cc" OUTPUT="$scratch/selftests-$cc" LIBVFIO_O= \
		TEST_GEN_PROGS_EXTENDED= TEST_GEN_PROGS_x86="$(echo $tests)" \
		KHDR_INCLUDES="-isystem $uapi/lib/linux/uapi/x86 -isystem $uapi/include" \
		$(printf "$scratch/selftests-$cc/%s " $tests) || return 1
	! grep -E 'warning|error' "$scratch/said"
}
