# SPDX-License-Identifier: GPL-2.0-only
# test.mk: what "test" has make run, two parts at a time, as half of all that has but one thread. A part's target is
# what it printed the last time that all of it passed: build/results/known/PART.OF-KEY, where "inputs OF" prints KEY. It
# has no prerequisites but for the order: what is in files decides, not when they were written. What fails
# leaves no target, and is no error of make's: "part" prints it, and "test" counts.

check := tools/lab/check
known := build/results/known
# As make's own child, so that who ends make's tree finds it.
part = exec $(check)/part $@
first := linux-6.12.y

# OF-KEY, and OF of what a pattern has matched.
with_key = $1-$(or $(shell $(check)/inputs $1),$(error no key of $1))
of = $(patsubst %-$(lastword $(subst -, ,$*)),%,$*)

others := $(foreach t,$(filter-out $(first),$(notdir $(wildcard series/*))),$(call with_key,$t))
first_key := $(call with_key,$(first))
of_tree = $(addprefix $(known)/,gate.$1 mutants.$1 bench.$1 migrate.$1)
of_first := $(call of_tree,$(first_key)) $(addprefix $(known)/,host-test.$(first_key) second-opinion.$(first_key) \
	input-test.$(call with_key,input-test) fresh-machine.$(call with_key,fresh-machine))
soak := $(addprefix $(known)/soak-test.,$(filter kvm-x86-%,$(others)))
targets := $(soak) $(known)/judge-test.$(call with_key,judge-test) $(foreach t,$(others),$(call of_tree,$t)) $(of_first)
as_before := $(if $(FRESH),,$(wildcard $(targets)))

.PHONY: all as-before lab
all: as-before $(firstword $(targets)) lab $(targets)

as-before:
	@sed -s '1s/:$$/ (as before):/' $(as_before) /dev/null

# The lab's own checks are run always, and one by one: they go by the clock, and take modules away from under
# whoever uses them. The parts of the same tree wait for that.
lab:
	@$(part) "the lab: guests" $(check)/lab-test lab
	@$(part) "the lab: what is not known" $(check)/lab-test unknown
	@$(part) "the lab: what is known" $(check)/lab-test tables
	@$(part) "the lab: builds" $(check)/lab-test build
	@$(part) "the lab: series" $(check)/lab-test series
	@$(part) "the lab: git" $(check)/lab-test git
	@$(part) "the lab: host, kernel" $(check)/lab-test host
$(of_first): | lab

$(known)/judge-test.%:	  ; @$(part) "judge: whole, cut and empty outputs" $(check)/judge-test
$(known)/gate.%:	  ; @$(part) "$(of): the gate" $(check)/gate $(of)
$(known)/mutants.%:	  ; @$(part) "$(of): mutants" check "every mutant is killed, and every rule of KVM's broken" \
				env VARIANT=checked tools/lab/verdict/mutants $(of)
$(known)/bench.%:	  ; @$(part) "$(of): what it costs" $(check)/bench $(of)
$(known)/migrate.%:	  ; @$(part) "$(of): VMs that move" $(check)/migrate $(of)
$(known)/soak-test.%:	  ; @$(part) "$(of): random operations, in short" $(check)/soak-test $(of)
$(known)/second-opinion.%: ; @$(part) "$(of): the selftests in Bochs" $(check)/second-opinion $(of)
$(known)/host-test.%:	  ; @$(part) "$(of): host, on the emulated machine" $(check)/host-test
$(known)/input-test.%:	  ; @$(part) "$(of): wrong input" $(check)/input-test
$(known)/fresh-machine.%: ; @$(part) "fresh-machine: make run on an empty machine" $(check)/fresh-machine
