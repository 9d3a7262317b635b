# SPDX-License-Identifier: GPL-2.0-only
# What git does here, whoever runs it.

# Of a user's git, name and email are taken, and nothing else: what more stands in its configuration, or, as in
# a hook, in GIT_*, changes patches without a word. Instead there is tools/lab/get/gitconfig, which as an include beats
# also what a repository's own says, and as the global one is there in what clone starts as well.
nobody='KVM SVM lab <lab@localhost>'
if [ "${GIT_CONFIG_GLOBAL:-}" != "$lab/get/gitconfig" ]; then
	user=$(env -u GIT_DIR git -C "$top" -c safe.directory='*' -c user.useConfigOnly=true \
		var GIT_COMMITTER_IDENT 2>/dev/null) || user=$nobody
	user=${user%>*}
	unset $(env | sed -n 's/^\(GIT_[A-Z0-9_]*\)=.*/\1/p')
	export GIT_CONFIG_NOSYSTEM=1 GIT_ATTR_NOSYSTEM=1 GIT_CONFIG_GLOBAL="$lab/get/gitconfig" GIT_CONFIG_COUNT=3 \
		GIT_CONFIG_KEY_0=include.path GIT_CONFIG_VALUE_0="$lab/get/gitconfig" \
		GIT_CONFIG_KEY_1=user.name GIT_CONFIG_VALUE_1="${user% <*}" \
		GIT_CONFIG_KEY_2=user.email GIT_CONFIG_VALUE_2="${user##*<}"
fi

# base_commit: prints the commit that BASE is at, if it is a git tree and does not only lie in one.
base_commit() {
	[ -n "$BASE" ] && [ -z "$(git -C "$BASE" rev-parse --show-prefix 2>/dev/null)" ] &&
		git -C "$BASE" rev-parse -q --verify HEAD 2>/dev/null
}
