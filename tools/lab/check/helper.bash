# SPDX-License-Identifier: GPL-2.0-only
# What each of the *.bats files begins with. common.sh goes by $0, which is bats here.
# shellcheck shell=bash

BASH_ARGV0=$BATS_TEST_DIRNAME/lab-test
. "$BATS_TEST_DIRNAME/../common.sh"
. "$lab/build/variants.sh"
. "$lab/check/check.sh"
set +u

# Of one file's checks, and gone after them.
scratch=$BATS_FILE_TMPDIR
tree=linux-6.12.y
session=

# A guest that is to fail does so in its own way.
vm() { "$lab/boot/vm" $tree shipped '' "$@"; }

# not COMMAND...: it fails. ("! COMMAND" would be ignored but at the end.)
not() { ! "$@"; }

# copy_of_this DIR: the repository, as committed, with the lab as it is.
copy_of_this() {
	rm -rf "$1"
	git clone -q "$top" "$1"
	cp -r "$top/tools/lab" "$1/tools/"
}

# hostile_home: makes $scratch/hostile, the home of a user whose git changes patches, or stops.
hostile_home() {
	local home="$scratch/hostile" hook
	mkdir -p "$home/hooks" "$home/template"
	sed "s,DIR,$home," "$lab/check/hostile.gitconfig" >"$home/.gitconfig"
	echo '*.[ch] diff=hostile eol=crlf' >"$home/attributes"
	echo '*.[ch]' >"$home/template/description"
	for hook in applypatch-msg pre-applypatch post-applypatch pre-commit commit-msg post-checkout; do
		printf '#!/bin/sh\necho hook $0; exit 1\n' >"$home/hooks/$hook"
	done
	chmod +x "$home/hooks"/*
}

# What runs in a session of its own does not get the terminal's INT, and may be stopped, too.
teardown() {
	[ -n "$session" ] || return 0
	pkill -TERM -s "$session" || :
	pkill -CONT -s "$session" || :
	wait "$session" || :
}
