# SPDX-License-Identifier: GPL-2.0-only
# How a check is made and said.

# check TEXT COMMAND...: prints TEXT and whether COMMAND succeeds, with what it says if it does not;
# counts in passed and failed. Needs a directory $scratch.
passed=0 failed=0
check() {
	local text="$1" start out
	start=$(date +%s%N) out=$(mktemp -p "$scratch")
	shift
	if "$@" >"$out" 2>&1; then
		passed=$((passed + 1))
		printf 'ok      %6.1f s  %s\n' "$(seconds_since "$start")" "$text"
	else
		failed=$((failed + 1))
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
