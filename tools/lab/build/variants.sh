# SPDX-License-Identifier: GPL-2.0-only
# What there is to build: a series' patches, mutants (mutants/), and KVM's rules (invariants/).

# patches_of TREE: prints the patches of its series.
patches_of() { sed -n 's,^\([^#]*\.patch\).*,\1,p' "$top/series/$1"; }

# in_it BASE DIR: prints those of the series of the tree that was read that the git tree BASE has all of, by taking them
# back in DIR, the last one first, as one may have changed what another did.
in_it() {
	local patch
	git clone -q --shared "$1" "$2"
	for patch in $(patches_of "$name" | tac); do
		! git -C "$2" apply -R --index "$top/$patch" 2>/dev/null || echo "$patch"
	done
	rm -rf "$2"
}

# mutants_of TREE: the names of its mutants: mutants/NAME.patch, or NAME.FORM.patch, says "Trees: TREE ..." above its
# diff. mutant TREE NAME: prints that file, or nothing if there is none.
mutants_of() { (cd "$top/mutants" && { grep -lE "^Trees:(.*)? $1( |\$)" -- *.patch || :; } | sed 's/\..*//'); }
mutant() { grep -slE "^Trees:(.*)? $1( |\$)" "$top/mutants/$2.patch" "$top/mutants/$2".*.patch || :; }

# take_variant: for who takes VARIANT=checked, of the tree that was read: sets checked to what "module" has behind a
# variant's name then, and rules to the names of KVM's rules; with "patched", or without VARIANT, to nothing.
take_variant() {
	checked='' rules=''
	case ${VARIANT:-patched} in
	patched) return ;;
	checked) ;;
	*) die "VARIANT is 'checked' or nothing here, not '$VARIANT'" ;;
	esac
	checked=+checked
	rules=$(sed -n 's/^[^#].*|rule\.//p' "$top/invariants/rules" | paste -sd ' ')
	[ "$(printf '%s\n' $rules | sort)" = "$(sed -n 's/.*svm_rule("\([a-z0-9-]*\)".*/\1/p' "$top/invariants/rules.h" | sort)" ] ||
		die "invariants/rules and invariants/rules.h have different rules"
	rules_fit
}
# rule_id NAME: prints the ID of the rule of that NAME.
rule_id() { sed -n "s/|.*|rule\.$1\$//p" "$top/invariants/rules" | grep . || die "no rule '$1' in invariants/rules"; }
# rules_fit: sets rules_patch to that of the tree that was read. Of BASE it is known before a kernel is built of it.
rules_fit() {
	rules_patch=$top/invariants/$name.patch
	[ -f "$rules_patch" ] || rules_patch=$top/invariants/$KERNEL.patch
	[ -f "$rules_patch" ] || die "no invariants/$name.patch: it cannot be checked"
	[ -z "$BASE" ] || patch -s -f --dry-run -d "$BASE" -p1 -F2 <"$rules_patch" >/dev/null 2>&1 ||
		die "${rules_patch#"$top/"} does not fit BASE=$BASE: nothing is built, as it would not be checked"
}
# unchecked [VARIANT]: for who does not take it, or what is built like it.
unchecked() {
	case ${1:-$VARIANT} in *checked) die "VARIANT=checked is for the lab's guests: make run, mutants, module, vm, soak" ;; esac
}

# first_error FILE: the first error in what a build of "module" said.
first_error() {
	{ grep -m 1 -iE '(error|undefined)\b' "$1" || tail -n 1 "$1"; } | sed 's,^.*/work-[^/]*/,arch/x86/kvm/,'
}
