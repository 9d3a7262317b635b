#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-only
# Patches, there and back, with the git of users.

load helper

copy=$scratch/users-git

setup_file() { copy_of_this "$copy"; }

# as HOME COMMAND...: as from a shell of a user who has that home.
as() { local home="$1"; shift; env -i PATH="$PATH" CACHE="${cache%/*}" HOME="$home" "$@"; }

# The same patches, whatever git is set to in $HOME, its environment, and the tree that is worked in.
@test "a user's git configuration changes no patch" {
	local home env=
	mkdir "$scratch/plain"
	printf '[user]\nname = A User\nemail = user@localhost\n' >"$scratch/plain/.gitconfig"
	hostile_home
	for home in plain hostile; do
		rm -rf "$copy/build"
		as "$scratch/$home" $env SIGNOFF=1 "$copy/tools/lab/build/series" $tree
		as "$scratch/$home" $env "$copy/tools/lab/build/tree" $tree
		[ $home = plain ] || cat "$scratch/hostile/.gitconfig" >>"$copy/build/tree/$tree/.git/config"
		as "$scratch/$home" $env "$copy/tools/lab/build/tree" --refresh $tree
		git -C "$copy" diff | head -n 20
		[ -z "$(git -C "$copy" status --porcelain -- . ':!tools')" ]
		cat "$copy/build/series/$tree"/*/* |
			sed '/^Date: /d; /^Message-I/d; /^In-Rep/d; /^References: /d' >"$scratch/$home/series"
		env="GIT_DIR=$scratch GIT_AUTHOR_NAME=else GIT_AUTHOR_DATE=@1 GIT_DIFF_OPTS=-u1 GIT_EXTERNAL_DIFF=false
		     GIT_CONFIG_SYSTEM=$scratch/hostile/.gitconfig GIT_LITERAL_PATHSPECS=1"
	done
	grep -q '^Signed-off-by: A User <user@localhost>' "$scratch/plain/series"
	diff "$scratch/plain/series" "$scratch/hostile/series"
}

# What has changed here since a tree was made is not overwritten by it, but for what it wrote itself, renamed maybe.
@test "refresh: not of a tree that was made from other patches" {
	local patch=arch/x86/kvm/svm/$tree/svme-clear-keeps-gif.patch dir=arch/x86/kvm/svm/$tree
	rm -rf "$copy/build/tree"
	"$copy/tools/lab/build/tree" $tree
	sed -i 's/^Subject: /&An edit: /' "$copy/$patch"
	says 2 'not known to be made from the patches .* move it away' "$copy/tools/lab/build/tree" --refresh $tree
	[ "$(wc -l <"$scratch/says")" = 1 ]
	grep 'An edit: ' "$copy/$patch"
	git -C "$copy" checkout -q arch
	git -C "$copy/build/tree/$tree" commit -q --amend -m 'Another subject'
	"$copy/tools/lab/build/tree" --refresh $tree
	mv "$copy/$dir/another-subject.patch" "$copy/$dir/another-name.patch"
	sed -i 's/another-subject/another-name/' "$copy/series/$tree"
	"$copy/tools/lab/build/tree" --refresh $tree
	grep another-name "$copy/series/$tree"
}

# ^C at the first thing that it copies.
@test "refresh: interrupted while it writes, it writes all" {
	copy_of_this "$copy"
	rm -rf "$copy/build/tree"
	"$copy/tools/lab/build/tree" $tree
	git -C "$copy/build/tree/$tree" commit -q --amend -m 'Another subject'
	mkdir "$scratch/bin"
	printf '#!/bin/sh\n[ ! -d "$2" ] || kill -INT $PPID\nexec /bin/cp "$@"\n' >"$scratch/bin/cp"
	chmod +x "$scratch/bin/cp"
	PATH="$scratch/bin:$PATH" env --default-signal=INT "$copy/tools/lab/build/tree" --refresh $tree
	grep another-subject "$copy/series/$tree"
	"$copy/tools/lab/build/tree" --refresh $tree
	git -C "$copy" checkout -q .
}

@test "without a name in git, only SIGNOFF=1 needs one" {
	mkdir -p "$scratch/nobody"
	git -C "$copy" checkout -q arch series
	as "$scratch/nobody" "$copy/tools/lab/build/series" $tree
	says 2 'SIGNOFF=1 needs your name: git config --global user.name' \
		as "$scratch/nobody" SIGNOFF=1 "$copy/tools/lab/build/series" $tree
	[ "$(wc -l <"$scratch/says")" = 1 ]
}

# A second part, and what is new in it: applied one after the other, the parts are the series.
@test "a series in two parts: v1, v2, onto a commit of the user's, and there and back" {
	local base work="$scratch/parts" from part own
	copy_of_this "$copy"
	base=$("$copy/tools/lab/build/assemble" --base $tree)
	cp -r "$base" "$work"
	touch "$work/Makefile"
	own=$(git -C "$work" rev-parse HEAD)
	sed -i 's,^arch.*/l2-skinit-ud.patch,# The second part\n#\n# Of a test.\n#\n# v2:\n# - all new\n#\n# The end.\n&,' \
		"$copy/series/$tree"
	git -C "$copy" commit -q -a -m 'Two parts'
	says 2 "says nothing of V=2 of part 1: " env V=2 "$copy/tools/lab/build/series" $tree
	not ls "$copy/build/series"

	from=$(BASE=$work "$copy/tools/lab/build/series" $tree)
	[ "$(cd "$from" && echo *)" = '1 2' ]
	for part in "$from"/*; do
		grep -qx "base-commit: $own" "$part/cover-letter"
		git -C "$work" am -q "$part"/*.patch
	done
	git -C "$work" fetch -q "$("$copy/tools/lab/build/assemble" $tree)"
	git -C "$work" diff --exit-code FETCH_HEAD
	not grep 'all new' "$from/2/cover-letter"
	set -- "$from"/1/*.patch
	[ "$(grep -c '^prerequisite-patch-id: ' "$from/2/cover-letter")" = $# ]

	from=$(PART=2 V=2 "$copy/tools/lab/build/series" $tree)
	[ "$(cd "$from" && echo *)" = 2 ]
	set -- "$from"/2/*.patch
	grep -A 8 "^Subject: \[PATCH v2 6.12.y 0/$#\] The second part\$" "$from/2/cover-letter" | grep -B 1 -A 2 '^- all new$'
	grep "^Subject: \[PATCH v2 6.12.y 2/$#\] " "$from"/2/0002-*.patch

	"$copy/tools/lab/build/tree" $tree
	"$copy/tools/lab/build/tree" --refresh $tree
	[ -z "$(git -C "$copy" status --porcelain -- . ':!tools')" ]
}

@test "a test that the kernel has, or has in another form; what another part says of it" {
	local base="$scratch/has-test" name=svm_nested_forced_leave_test x86=tools/testing/selftests/kvm/x86 patch
	patch=$(sed -n "s,\(.*/$name.patch\) .*,\1,p" "$top/series/$newest")
	git clone -q "$("$lab/build/assemble" $newest)" "$base"
	cd "$base"
	# With what comes before it, but for one fix, so that there is a part 1.
	git checkout -q "$(git log --format=%h --diff-filter=A -- $x86/$name.c)"
	git revert -n "$(git log --format=%h --grep='hold back an exception')"
	printf '%s = 6\n' VERSION PATCHLEVEL SUBLEVEL >Makefile
	echo '/* another form */' >>$x86/$name.c
	git add -f Makefile
	git commit -q -a -m 'a test in another form'
	set -- env BASE="$base" OUT="$scratch/parts" "$lab/build/series" $newest
	says 2 "^$patch does not apply to .*, which has 1 of its 1 hunks already:" "$@"
	cp "$top/$x86/$name.c" $x86
	git commit -q -a -m 'as it is here'
	says 0 "^$name.patch is not needed: " "$@"
	grep -x "$name.patch" "$scratch/parts/1/cover-letter"
	not grep "$name.patch" "$scratch/parts/2/cover-letter"
}
