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
		cat "$copy/build/series/$tree"/* |
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

@test "without a name in git, only SIGNOFF=1 needs one" {
	mkdir -p "$scratch/nobody"
	git -C "$copy" checkout -q arch series
	as "$scratch/nobody" "$copy/tools/lab/build/series" $tree
	says 2 'SIGNOFF=1 needs your name: git config --global user.name' \
		as "$scratch/nobody" SIGNOFF=1 "$copy/tools/lab/build/series" $tree
	[ "$(wc -l <"$scratch/says")" = 1 ]
}
