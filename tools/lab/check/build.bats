#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-only
# What is fetched and built: whole or not at all, and anew if and only if what it is made of has changed.

load helper

# What bears its final name, 16 digits at its end, is whole, however far the build came.
no_half_module() {
	local dir
	rm -rf "$build/module/$tree-patched"-*
	timeout -s "$1" 0.3 "$lab/build/module" $tree patched || :
	for dir in "$build/module/$tree-patched"-????????????????; do
		[ ! -d "$dir" ] || [ -s "$dir/kvm-amd.ko" ]
	done
	[ -s "$("$lab/build/module" $tree patched)" ]
}

@test "an interrupted build leaves nothing behind" { no_half_module INT; }

@test "a killed build leaves nothing behind" { no_half_module KILL; }

@test "an interrupted step leaves nothing behind" {
	mkdir "$scratch/tmp"
	TMPDIR=$scratch/tmp timeout -s INT 1 sh -c '. "$(dirname "$0")/../common.sh"; step "of a test" sleep 9' "$lab/check/test" || :
	rmdir "$scratch/tmp"
}

# With what a kernel developer may have set for builds of another kind.
@test "what is exported for other builds is in no module" {
	local module
	module=$("$lab/build/module" $tree patched)
	rm -rf "$scratch/plain"
	mv "$(dirname "$module")" "$scratch/plain"
	ARCH=arm64 CROSS_COMPILE=none- LLVM=1 KCFLAGS=-Og KBUILD_OUTPUT=$scratch "$lab/build/module" $tree patched
	cmp "$module" "$scratch/plain/kvm-amd.ko"
}

@test "two builds at once" {
	rm -rf "$build/module/$tree-patched"-*
	"$lab/build/module" $tree patched >"$scratch/one" 3>&- &
	"$lab/build/module" $tree patched >"$scratch/two"
	wait $!
	cmp "$scratch/one" "$scratch/two"
	[ -s "$(cat "$scratch/one")" ]
}

@test "no network: says so, and does not keep it" {
	local namespace=-rn
	export CACHE="$scratch/cache"
	! unshare -n true 2>/dev/null || namespace=-n
	says 2 '^fetch: apt-get update failed: is there a network' unshare $namespace "$lab/get/fetch" $tree name
	says 0 '^Linux 6[.]12' "$lab/get/fetch" $tree name
}

# A field that is first in a struct, in KVM's own header, moves all others, in kvm.ko and in kvm-amd.ko, which
# has the versions of that kvm.ko's symbols, or would not load; but for a struct that the kernel knows.
@test "an edit of KVM's own header is in the modules" {
	local source="$scratch/header" header="$scratch/header/arch/x86/include/asm/kvm_host.h" base module
	base=$("$lab/build/assemble" --base $tree)
	cp -r "$base" "$source"
	sed -i '/^struct kvm_vcpu_arch {/a\	u64 of_a_test;' "$header"
	says 2 '^module: asm/kvm_host.h: moves vcpu->run or vcpu->stat.signal_exits' "$lab/build/module" $tree "$source"
	git -C "$source" checkout "$header"
	sed -i '/^struct kvm_x86_ops {/a\	u64 of_a_test;' "$header"
	module=$("$lab/build/module" $tree "$source")
	not cmp "$module" "$("$lab/build/module" $tree "$base")"
	not cmp "$(dirname "$module")/kvm.ko" "$("$lab/get/fetch" $tree kernel)/ko/kvm.ko"
	"$lab/boot/vm" $tree "$module" '' true
}

# What "run" runs goes by what is in it: the module by the source that patches give, a program by what it
# was compiled to, and beside them the scripts and the kernel.
@test "a module is what its source makes it" {
	local source="$scratch/source" was is
	cp -r "$("$lab/build/assemble" $tree)" "$source"
	was=$("$lab/build/module" $tree "$source")
	[ "$was" = "$("$lab/build/module" $tree "$source")" ]
	sed -i 's/if (efer & EFER_SVME)/if (efer \& EFER_LME)/' "$source/arch/x86/kvm/svm/svm.c"
	is=$("$lab/build/module" $tree "$source")
	[ "$was" != "$is" ]
	not cmp "$was" "$is"
}

@test "another compiler, or another choice of files: nothing is as it was" {
	local copy="$scratch/choice" base
	mkdir "$scratch/gcc"
	printf '#!/bin/sh\n[ "$1" = --version ]\n' >"$scratch/gcc/$gcc"
	chmod +x "$scratch/gcc/$gcc"
	"$lab/build/module" $tree patched
	not env PATH="$scratch/gcc:$PATH" "$lab/build/module" $tree patched
	"$lab/build/selftests"
	not env PATH="$scratch/gcc:$PATH" "$lab/build/selftests"
	copy_of_this "$copy"
	base=$("$copy/tools/lab/build/assemble" --base $tree)
	echo '# an edit' >>"$copy/tools/lab/get/parts.sh"
	[ "$base" != "$("$copy/tools/lab/build/assemble" --base $tree)" ]
}

# Whatever is edited, "inputs" prints another key; but for what is another tree's. Names that no file here has are those
# of users' own.
@test "whatever is edited, the verdict is made anew" {
	local copy="$scratch/edits" was is edit
	copy_of_this "$copy"
	touch "$copy/a note" "$copy/a'note"
	was=$("$copy/tools/lab/check/inputs" $tree)
	for edit in arch/x86/kvm/svm/$tree/init-vmcb-owns-vls.patch mutants/b2-invlpga-unchecked.patch \
		    tools/testing/selftests/kvm/x86/svm_gif_test.c Documentation/virt/kvm/x86/nested-svm.rst \
		    series/$tree series/kvm-x86 tools/lab/boot/vm tools/lab/build/wrap.c tools/lab/get/small.config \
		    tools/lab/get/trees/$tree; do
		echo "an edit of $edit"
		echo '# an edit' >>"$copy/$edit"
		is=$("$copy/tools/lab/check/inputs" $tree)
		[ "$is" != "$was" ]
		was=$is
	done
	mkdir "$scratch/bin"
	printf '#!/bin/sh\n%s "$@"\necho libc6 99\n' "$(command -v dpkg-query)" >"$scratch/bin/dpkg-query"
	chmod +x "$scratch/bin/dpkg-query"
	echo 'another version of a package'
	[ "$(PATH="$scratch/bin:$PATH" "$copy/tools/lab/check/inputs" $tree)" != "$was" ]
	echo 'another machine'
	[ "$(VM_CPU=-vgif "$copy/tools/lab/check/inputs" $tree)" != "$was" ]
	[ "$(VM_MEMORY=512 "$copy/tools/lab/check/inputs" $tree)" != "$was" ]
	echo "an edit of another tree's patch is none of $tree"
	echo '# an edit' >>"$copy/arch/x86/kvm/svm/linux-6.1.y/init-vmcb-owns-vls.patch"
	[ "$("$copy/tools/lab/check/inputs" $tree)" = "$was" ]
	echo 'an edit of a mutant that is of two trees, and named after the other'
	was=$("$copy/tools/lab/check/inputs" linux-6.1.y)
	edit=$(grep -lE '^Trees:.* linux-6\.1\.y' "$copy"/mutants/*.$tree.patch | head -n 1)
	echo '# an edit' >>"$edit"
	[ "$("$copy/tools/lab/check/inputs" linux-6.1.y)" != "$was" ]
	echo 'a file that is gone'
	[ -z "$(key "$scratch/gone")" ]
	mv "$copy/tools/lab/check/judge-fixtures" "$copy"
	not "$copy/tools/lab/check/inputs" judge-test
}

# A source without git of its own, in a repository that is about something else.
@test "BASE that lies in a git tree: an edit of what is taken of it is another kernel" {
	local source="$scratch/outer/linux" was is edit
	mkdir "$scratch/outer"
	cp -r "$("$lab/build/assemble" --base $tree)" "$source"
	rm -rf "$source/.git"
	printf '%s\n' 'VERSION = 6' 'PATCHLEVEL = 12' 'SUBLEVEL = 0' >"$source/Makefile"
	git init -q "$scratch/outer"
	git -C "$scratch/outer" commit -q --allow-empty -m outer
	export BASE="$source"
	was=$("$lab/get/fetch" $tree name)
	for edit in arch/x86/kvm/svm/svm.c arch/x86/include/asm/kvm_host.h virt/kvm/kvm_main.c Makefile MAINTAINERS \
		    Documentation/virt/kvm/api.rst tools/testing/selftests/kvm/Makefile; do
		echo "an edit of $edit"
		echo '# an edit' >>"$source/$edit"
		is=$("$lab/get/fetch" $tree name)
		[ "$is" != "$was" ]
		was=$is
	done
}

@test "shellcheck: every script is clean" {
	cd "$top"
	shellcheck tools/lab/boot/guest-run tools/lab/verdict/guests tools/lab/check/judge-fixtures tools/lab/check/helper.bash \
		$(find tools/lab -name '*.sh') $(grep -rlE '^#!(/bin/sh|/usr/bin/env bats)' .ci tools/lab)
}
