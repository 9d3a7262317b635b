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
# nothing of the system's is written.
use_apt() {
	export APT_CONFIG="$cache/apt/apt.conf"
	[ ! -f "$cache/apt/done" ] || return 0
	mkdir -p "$cache/apt/lists/partial" "$cache/apt/archives/partial"
	find_mirror
	{
		printf '%s\n' "$sources"
		sed -n 's/^SUITE=\(.\)/\1/p' "$lab"/get/trees/* | sort -u | while read -r suite; do
			echo "$sources" | sed -n "s,$mirror $VERSION_CODENAME main,$mirror $suite main,p"
		done
	} | sort -u >"$cache/apt/sources.list"
	cat >"$APT_CONFIG" <<-EOT
		Dir::Etc::sourcelist "$cache/apt/sources.list";
		Dir::Etc::sourceparts "/dev/null";
		Dir::State::Lists "$cache/apt/lists";
		Dir::Cache "$cache/apt";
		APT::Sandbox::User "root";
		APT::Update::Error-Mode "any";
		Acquire::Retries "3";
	EOT
	# Without that mode, apt takes no lists for success; with them there, nothing would be asked again.
	apt-get update -qq >&2 || {
		rm -rf "$cache/apt"
		die "apt-get update failed: is there a network? Apt's own words stand above"
	}
	touch "$cache/apt/done"
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
	[ -z "$DEBS" ] || for p in $packages; do cp "$DEBS/${p%%=*}_${p#*=}"_*.deb "$dir"; done
}
