# SPDX-License-Identifier: GPL-2.0-only
# Sourced by every script here: where things are, how to speak, how to make an
# artefact whole or not at all.

set -eu
export LC_ALL=C.UTF-8
umask 022

top=$(cd "$(dirname "$0")/../../.." && pwd)
lab=$top/tools/lab
build=$top/build

# Which Debian this is: 12, 13, 99 for one without a number (testing), 0 for anything else. Its compiler is that
# of its kernels; headers of a later Debian's are made to fit by "fetch". What is downloaded or made on one does not
# do for another.
debian=$(. /etc/os-release 2>/dev/null && [ "${ID:-}" = debian ] && echo "${VERSION_ID:-99}") || debian=0
case $debian in
12) gcc=gcc-12 ;;
*)  gcc=gcc-14 ;;
esac
cache=${CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/kvm-svm-lab}/$debian
newest=kvm-x86
jobs=$(nproc)
# The sets of kvm_amd's parameters that everything has to hold with.
parameter_sets='default vgif=0 vls=0 npt=0 nested=0'

# What KVM and its selftests are made of: no patch is about more. And its headers (patterns, for set -f where they
# are not to be expanded), with which modules are built, as the tree has them; the rest of the kernel
# has been built with the shipped ones.
kvm_parts='COPYING MAINTAINERS Documentation/virt/kvm arch/x86/kvm tools/testing/selftests/kvm virt/kvm'
kvm_headers='arch/x86/include/asm/kvm[-_]* arch/x86/include/asm/svm.h arch/x86/include/asm/vmx.h
	arch/x86/include/uapi/asm/kvm[_.]* arch/x86/include/uapi/asm/svm.h arch/x86/include/uapi/asm/vmx.h
	include/kvm/iodev.h include/linux/kvm_* include/trace/events/kvm.h include/uapi/linux/kvm[_.]*'

# What the lab runs on, and "gate" besides, as Debian packages, under names that all releases have: no libraries
# but by what depends on them. "fresh-machine" shows that none is missing.
packages="qemu-system-x86 busybox-static cpio lz4 xz-utils zstd git make patch $gcc libc6-dev libelf-dev uuid-dev
	  ccache util-linux procps"
gate_packages='sparse perl flex bison bc clang-19 b4 python3-docutils'

# --help: the comment that a script begins with.
case ${1:-} in
-h | --help) sed -n '3,/^[^#]/s/^# \{0,1\}//p' "$0"; exit ;;
esac
# What was said to the make that called is not for those that are called from here.
unset MAKEFLAGS MFLAGS MAKEOVERRIDES MAKELEVEL
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

say() { printf '%s\n' "$*" >&2; }
die() { say "$(basename "$0"): $*"; exit 2; }

# seconds_since NANOSECONDS: seconds with a decimal since that reading of date +%s%N.
seconds_since() {
	local tenths=$((($(date +%s%N) - $1) / 100000000))
	printf '%d.%d' $((tenths / 10)) $((tenths % 10))
}

# step TEXT PROGRAM ARG...: runs PROGRAM, prints TEXT and the seconds that it took,
# counting on a terminal meanwhile. Its standard output is kept from the user; what
# it says on standard error is shown where it fails, and step exits with 2.
step() {
	local text="$1" start="$(date +%s%N)" log="$(mktemp)" ticker= rc=0
	shift
	if [ -t 2 ]; then
		while kill -0 $$ 2>/dev/null; do
			printf '\r%6.1f s  %s ...' "$(seconds_since "$start")" "$text" >&2
			sleep 0.3
		done &
		ticker=$!
	else
		printf '          %s ...\n' "$text" >&2
	fi
	"$@" >/dev/null 2>"$log" || rc=$?
	[ -z "$ticker" ] || { kill "$ticker"; printf '\r\033[K' >&2; }
	if [ $rc = 0 ]; then
		printf '%6.1f s  %s\n' "$(seconds_since "$start")" "$text" >&2
	else
		say "  FAILED  $text"
		tail -n 30 "$log" >&2
	fi
	rm -f "$log"
	[ $rc = 0 ] || exit 2
}

# check TEXT COMMAND...: prints TEXT and whether COMMAND succeeds, with what it says if it does not;
# counts in passed and failed, and names it in $red. Needs a directory $scratch.
passed=0 failed=0 red=
check() {
	local text="$1" start="$(date +%s%N)" out="$(mktemp -p "$scratch")"
	shift
	if "$@" >"$out" 2>&1; then
		passed=$((passed + 1))
		printf 'ok      %6.1f s  %s\n' "$(seconds_since "$start")" "$text"
	else
		failed=$((failed + 1))
		red="$red
NOT ok  $text"
		printf 'NOT ok  %6.1f s  %s\n' "$(seconds_since "$start")" "$text"
		sed 's/^/    /' "$out" | tail -n 40
	fi
	rm "$out"
}

# says STATUS PATTERN COMMAND...: for "check": COMMAND exits with STATUS and prints what matches PATTERN.
says() {
	local status=$1 pattern="$2" rc=0
	shift 2
	"$@" >"$scratch/says" 2>&1 || rc=$?
	cat "$scratch/says"
	echo "exit status $rc, wanted $status and /$pattern/"
	[ $rc = "$status" ] && grep -qE -- "$pattern" "$scratch/says"
}

# use_ccache: what is compiled from here on is kept in the cache. A miss costs no preprocessor of its own.
use_ccache() { export CCACHE_DIR="$cache/ccache" CCACHE_DEPEND=1; }

# key FILE...: 16 hex digits that stand for the files' content, in this order, and for this Debian.
key() { { cat "$@" && echo "$debian"; } | sha256sum | cut -c1-16; }

# produce DIR FUNCTION ARG...: unless DIR is there, runs "FUNCTION ARG... SCRATCH" and
# renames SCRATCH to DIR. If that fails or is interrupted there is no DIR; of two runs
# at once one wins, and the other takes what the first made. Not for use in a condition.
produce() {
	[ -d "$1" ] && return
	mkdir -p "$(dirname "$1")"
	(
		local dir="$1" scratch="$(mktemp -d "$1.XXXXXX")"
		shift
		trap 'rm -rf "$scratch"' EXIT
		trap 'exit 130' INT TERM HUP
		chmod 755 "$scratch"
		"$@" "$scratch"
		mv -T "$scratch" "$dir" 2>/dev/null || [ -d "$dir" ]
	)
}

# tree NAME: reads the description of that tree: RELEASES SUITE SOURCE HEADERS IMAGE BUGS OPEN QUIRK RULES;
# and where the base is another tree's kernel with mutants, KERNEL, that tree, and WITHOUT, the
# mutants. Otherwise these are NAME and nothing. HOST_RELEASE and HOST_VERSION in the environment, what
# uname says, ask for that kernel of Debian's instead of the newest.
tree() {
	KERNEL=${1:-} WITHOUT= RULES=
	case /$KERNEL in
	*[!a-z0-9/.-]* | */.* | /) KERNEL= ;;
	esac
	[ -n "$KERNEL" ] && [ -f "$lab/get/trees/$1" ] ||
		die "no tree '${1:-}'; there are: $(cd "$lab/get/trees" && echo *)"
	. "$lab/get/trees/$1"
	[ -z "${BASE:-}" ] || [ -f "$BASE/arch/x86/kvm/svm/svm.c" ] || die "BASE=$BASE is no Linux source"
	[ -z "${HOST_RELEASE:-}" ] || HEADERS=linux-headers-$HOST_RELEASE
}

# mutants_of TREE: the names of its mutants: mutants/NAME.patch, or NAME.FORM.patch, says "Trees: TREE ..." above its
# diff. mutant TREE NAME: prints that file, or nothing if there is none.
mutants_of() { (cd "$top/mutants" && { grep -lE "^Trees:(.*)? $1( |\$)" *.patch || :; } | sed 's/\..*//'); }
mutant() { grep -slE "^Trees:(.*)? $1( |\$)" "$top/mutants/$2.patch" "$top/mutants/$2".*.patch || :; }

# take_variant: for who takes VARIANT=checked: sets checked to what "module" has behind a variant's name then, and
# rules to the names of KVM's rules; with "patched", or without VARIANT, to nothing.
take_variant() {
	checked= rules=
	case ${VARIANT:-patched} in
	patched) return ;;
	checked) ;;
	*) die "VARIANT is 'checked' or nothing here, not '$VARIANT'" ;;
	esac
	checked=+checked
	rules=$(sed -n 's/^[^#].*|rule\.//p' "$top/invariants/rules" | paste -sd ' ')
	[ "$(printf '%s\n' $rules | sort)" = "$(sed -n 's/.*svm_rule("\([a-z0-9-]*\)".*/\1/p' "$top/invariants/rules.h" | sort)" ] ||
		die "invariants/rules and invariants/rules.h have different rules"
	rules_fit "$name"
}
# rule_id NAME: prints the ID of the rule of that NAME.
rule_id() { sed -n "s/|.*|rule\.$1\$//p" "$top/invariants/rules" | grep . || die "no rule '$1' in invariants/rules"; }
# rules_fit TREE: sets rules_patch. Of BASE it is known before a kernel is built of it.
rules_fit() {
	rules_patch=$top/invariants/$1.patch
	[ -f "$rules_patch" ] || rules_patch=$top/invariants/$KERNEL.patch
	[ -f "$rules_patch" ] || die "no invariants/$1.patch: it cannot be checked"
	[ -z "${BASE:-}" ] || patch -s -f --dry-run -d "$BASE" -p1 -F2 <"$rules_patch" >/dev/null 2>&1 ||
		die "${rules_patch#"$top/"} does not fit BASE=$BASE: nothing is built, as it would not be checked"
}
# unchecked: for who does not.
unchecked() { [ "${VARIANT:-}" != checked ] || die "VARIANT=checked is for the lab's guests: make run, mutants, module, vm"; }

# kvm_of MODULE DIR: copies the kvm.ko that belongs to the kvm-amd.ko MODULE to DIR, under a name
# that stands for its content, and prints that name.
kvm_of() {
	local kvm="$(dirname "$1")/kvm.ko" name
	name=kvm-$(key "$kvm").ko
	[ -e "$2/$name" ] || cp "$kvm" "$2/$name"
	echo "$name"
}

# kill_tree PID: ends it and all that it has started: what is in the background does not get the terminal's INT.
kill_tree() {
	local child children="$(pgrep -P "$1")"
	kill "$1" 2>/dev/null || :
	for child in $children; do kill_tree "$child"; done
}

# lab_key TREE: a key of all that runs a test on TREE's kernel, but for module and test.
lab_key() {
	{
		qemu-system-x86_64 --version
		ldd --version
		echo "${VM_CPU:-} ${VM_MEMORY:-} ${VM_ROOT:-} ${VM_SHIFT:-}"
		cat "$lab/get/fetch" "$lab/boot/vm" "$lab/boot/init" "$lab/boot/guest-run" "$("$lab/get/fetch" "$1" kernel)/version"
	} | key
}

# first_error FILE: the first error in what a build of "module" said.
first_error() {
	{ grep -m 1 -iE '(error|undefined)\b' "$1" || tail -n 1 "$1"; } | sed 's,^.*/work-[^/]*/,arch/x86/kvm/,'
}

# known_parameters MODULE NAME=VALUE...: MODULE, a kvm-amd.ko, has these parameters.
known_parameters() {
	local module="$1" p known
	known=$(tr '\0' '\n' <"$module" | sed -n 's/^parmtype=\([a-z0-9_]*\):.*/\1/p')
	[ -n "$known" ] || return 0
	shift
	for p in "$@"; do
		case $p in
		*?=?*) ;;
		*) die "'$p' is no parameter: PARAMS=\"NAME=VALUE ...\"" ;;
		esac
		printf '%s\n' "$known" | grep -qxF "${p%%=*}" ||
			die "kvm_amd has no parameter '${p%%=*}' here; it has:" $known
	done
}

# find_mirror: sets VERSION_CODENAME, this Debian release, mirror, where this machine has it from, and sources,
# lines for apt with it and what belongs to it.
find_mirror() {
	local list keyring=/usr/share/keyrings/debian-archive-keyring.gpg
	VERSION_CODENAME=$(. /etc/os-release && echo "$VERSION_CODENAME")
	list=$(targets '$(ORIGIN) $(CODENAME)')
	# Where apt's lists are gone, as in images, it knows no more than its configuration.
	[ -n "$list" ] || list=$(targets 'Debian $(RELEASE)' --no-release-info)
	sources=$(printf '%s\n' "$list" | sort -u |
		  sed -n "s,^Debian \($VERSION_CODENAME[a-z-]*\) main \(.*\),deb [signed-by=$keyring] \2 \1 main,p")
	mirror=$(printf '%s\n' "$sources" | sed -n "s/.*] \(.*\) $VERSION_CODENAME main/\1/p" | head -n 1)
	[ -n "$mirror" ] ||
		die "no Debian mirror in apt's configuration: add a deb line for $VERSION_CODENAME main"
}
targets() {
	APT_CONFIG= apt-get indextargets ${2:-} --format "$1"' $(COMPONENT) $(REPO_URI)' 'Created-By: Packages'
}

# What does it on any other system; label=disable is for SELinux, as on Fedora.
container="podman run --rm -it --security-opt label=disable -v \"\$PWD\":/src -w /src debian:13 \
sh -c 'apt-get update && apt-get install -y make && make run'"

# need PACKAGE...: installs the Debian packages that are not there yet, and says so. One at a time, as apt
# does not take two; the next finds it done.
need() {
	[ "$debian" -ge 12 ] || die "this needs Debian 12 or 13; here: $container"
	[ -n "$(missing "$@")" ] || return 0
	mkdir -p "$cache"
	(
		flock 9
		install_ "$(missing "$@")" 9>&-
	) 9>"$cache/install.lock"
}

# missing PACKAGE...: prints those that are not installed.
missing() {
	local have="" p
	have=$(dpkg-query -W -f '${Package} ${Status}\n' "$@" 2>/dev/null | sed -n 's/ .* installed$//p') || :
	for p in "$@"; do
		printf '%s\n' "$have" | grep -qxF "$p" || printf ' %s' "$p"
	done
}

# For need. What apt says when it does not know a package yet is of no interest.
install_() {
	local sudo= get="apt-get -o DPkg::Lock::Timeout=600 -qq"
	[ -n "$1" ] || return 0
	if [ "$(id -u)" != 0 ]; then
		command -v sudo >/dev/null || die "as root: apt-get install$1"
		sudo=sudo
	fi
	step "apt-get install$1" $sudo sh -c \
		"export DEBIAN_FRONTEND=noninteractive
		 $get install -y --no-install-recommends$1 >/dev/null 2>&1 ||
		 { $get update && $get install -y --no-install-recommends$1; } ||
		 { echo 'apt-get install failed: is there a network? Apt says why above'; exit 1; }"
}
