# SPDX-License-Identifier: GPL-2.0-only
# Packages from where this machine has Debian from.

# find_mirror: sets VERSION_CODENAME, this Debian release, mirror, where this machine has it from, and sources,
# lines for apt with it and what belongs to it.
find_mirror() {
	local list keyring=/usr/share/keyrings/debian-archive-keyring.gpg
	VERSION_CODENAME=$(. /etc/os-release && echo "$VERSION_CODENAME")
	list=$(targets "\$(ORIGIN) \$(CODENAME)")
	# Where apt's lists are gone, as in images, it knows no more than its configuration.
	[ -n "$list" ] || list=$(targets "Debian \$(RELEASE)" --no-release-info)
	sources=$(printf '%s\n' "$list" | sort -u |
		  sed -n "s,^Debian \(${VERSION_CODENAME}[a-z-]*\) main \(.*\),deb [signed-by=$keyring] \2 \1 main,p")
	mirror=$(printf '%s\n' "$sources" | sed -n "s/.*] \(.*\) $VERSION_CODENAME main/\1/p" | head -n 1)
	[ -n "$mirror" ] ||
		die "no Debian mirror in apt's configuration: add a deb line for $VERSION_CODENAME main"
}
targets() {
	APT_CONFIG='' apt-get indextargets ${2:-} --format "$1 \$(COMPONENT) \$(REPO_URI)" 'Created-By: Packages'
}

# use_apt: from here on, apt has these sources, and the suites that trees are in, with state and lists of its own, so that
# nothing of the system's is written; if $only_suite is set, it has that one only, as if nothing was installed.
only_suite=
use_apt() {
	local dir="$cache/apt${only_suite:+-$only_suite}" status=''
	export APT_CONFIG="$dir/apt.conf"
	[ ! -f "$dir/done" ] || return 0
	mkdir -p "$dir/lists/partial" "$dir/archives/partial"
	find_mirror
	if [ -n "$only_suite" ]; then
		suites $only_suite >"$dir/sources.list"
		status='Dir::State::status "/dev/null";'
	else
		{ printf '%s\n' "$sources"; suites $(sed -n 's/^SUITE=//p' "$lab"/get/trees/*); } | sort -u >"$dir/sources.list"
	fi
	cat >"$APT_CONFIG" <<-EOT
		Dir::Etc::sourcelist "$dir/sources.list";
		Dir::Etc::sourceparts "/dev/null";
		Dir::State::Lists "$dir/lists";
		$status
		Dir::Cache "$dir";
		APT::Sandbox::User "root";
		APT::Update::Error-Mode "any";
		Acquire::Retries "3";
	EOT
	# Without that mode, apt takes no lists for success; with them there, nothing would be asked again.
	apt-get update -qq >&2 || {
		rm -rf "$dir"
		die "apt-get update failed: is there a network${only_suite:+, and $only_suite on this mirror}? Apt's own words stand above"
	}
	touch "$dir/done"
}
# suites SUITE...: lines for apt with these, where this Debian release is.
suites() {
	local suite
	for suite; do echo "$sources" | sed -n "s,$mirror $VERSION_CODENAME main,$mirror $suite main,p"; done
}

# download DIR PACKAGE[=VERSION]...: the packages, in $VERSION unless told otherwise, which apt checks against the signed
# index of the archive.
download() {
	local dir="$1" p packages=
	shift
	[ "$(df -Pk "$dir" | awk 'NR == 2 { print $4 }')" -gt 3000000 ] ||
		die "less than 3 GB free in $cache: make room, or set CACHE to another directory"
	for p in "$@"; do
		case $p in *=*) ;; *) p=$p=$VERSION ;; esac
		packages="$packages $p"
	done
	(cd "${DEBS:-$dir}" && apt-get download -q $packages) >&2 ||
		die "apt-get download failed; if the archive has moved on, 'make update' asks it anew"
	[ -z "$DEBS" ] || for p in $packages; do cp "$DEBS/$(echo "$p" | sed 's/=/_/; s/:/%3a/')"_*.deb "$dir"; done
}
