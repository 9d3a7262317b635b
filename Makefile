# SPDX-License-Identifier: GPL-2.0-only
TREE ?= linux-6.12.y
VARIANT ?= patched

# What may be said after the target, and of what is not for all of them, with which.
variables := TREE BASE CACHE FRESH DEBUG CONFIG VARIANT PARAMS CMD FILES SIGNOFF PART V SECONDS SEED N URL
CONFIG_for := kernel
DEBUG_for := vm module soak
VARIANT_for := module vm run mutants migrate nested soak second-opinion image
PARAMS_for := run vm host-try image
CMD_for := vm
FILES_for := vm
SIGNOFF_for := series
PART_for := series
V_for := series
SECONDS_for := soak
SEED_for := soak mutate
N_for := mutate
URL_for := image
given := $(foreach v,$(.VARIABLES),$(if $(findstring command,$(origin $v)),$v))
$(foreach v,$(filter-out $(variables),$(given)),$(error no variable '$v'; there are: $(variables)))
$(foreach v,$(given),$(if $($v_for),$(if $(filter $($v_for),$(MAKECMDGOALS)),,$(error $v is for: make $($v_for)))))

# What the environment has of these is for who takes it, and somebody else's otherwise.
$(foreach v,$(variables),$(if $(filter environment,$(origin $v)),$(if $($v_for),$(if $(filter $($v_for),$(MAKECMDGOALS)),,$(eval override $v :=)))))

# As they were typed, $$ and quotes and all: scripts get them in the environment.
$(foreach v,$(variables),$(if $(filter undefined,$(origin $v)),,$(eval override $v := $$(value $v))))
export $(variables)

.DEFAULT_GOAL := help
.PHONY: help run test fresh-machine report mutants mutate prefixes series tree gate refresh module vm applies upstream-tests \
	host host-module host-try install-tests image kernel bench migrate nested second-opinion soak coverage update clean

run: ## The main job: TREE's kernel as shipped and patched, behaviour by behaviour (VARIANT=checked: KVM's rules, too)
	@tools/lab/verdict/run "$$TREE" $${PARAMS:+"$$PARAMS"}
test: ## All checks but prefixes, applies, upstream-tests, nested, soak, coverage and mutate; ends "N passed, N failed, N skipped"
	@tools/lab/check/test
fresh-machine: ## make run on an empty Debian 12 and an empty Debian 13; wants root
	@tools/lab/check/fresh-machine
report: ## build/report.html: all trees, all sets of parameters, with the logs
	@tools/lab/check/report
mutants: ## TREE's mutants: which test kills each (VARIANT=checked: which of KVM's rules it breaks, too)
	@tools/lab/verdict/mutants "$$TREE"
mutate: ## Whether the selftests notice changes that nobody has thought of, N=6 of each kind; 20 minutes
	@tools/lab/check/mutate "$$TREE"
prefixes: ## Whether TREE with the first 1, 2, 3 ... patches only is ever worse than shipped, KVM's rules included
	@tools/lab/verdict/prefixes "$$TREE"
gate: ## What a maintainer asks of TREE's series: git am, every commit builds, checkpatch, sparse, clang ...
	@tools/lab/check/gate "$$TREE"
series: ## TREE's series for git am, a directory a part, with cover letter (PART=2: only that; V=2: as v2; SIGNOFF=1: by you)
	@tools/lab/build/series "$$TREE"
tree: ## TREE's source as a git tree with the series on top, to work in
	@tools/lab/build/tree "$$TREE"
refresh: ## The way back: what is committed in that git tree, as patches and files here
	@tools/lab/build/tree --refresh "$$TREE"
module: ## kvm-amd.ko of TREE; VARIANT is shipped, patched, tree, a mutant, checked, or shipped+checked ...
	@tools/lab/build/module "$$TREE" "$$VARIANT"
vm: ## Boot TREE with VARIANT and PARAMS="vgif=0", run CMD with FILES="a b" in an emulated AMD host
	@tools/lab/boot/vm "$$TREE" "$$VARIANT" "$$PARAMS" "$$CMD" $$FILES
applies: ## Which of TREE's patches apply to which of the versions that apt has, and build there
	@tools/lab/check/applies "$$TREE"
upstream-tests: ## The selftests that upstream has already, on TREE as shipped and patched
	@tools/lab/verdict/upstream-tests "$$TREE"
host: ## The selftests on this machine's own KVM as it runs; AMD only
	@tools/lab/host/on-host
host-module: ## kvm-amd.ko with the series that fits, for the running Debian kernel
	@tools/lab/host/on-host module
host-try: ## The selftests with that module, loaded with PARAMS; the shipped one is put back
	@tools/lab/host/on-host try "$$PARAMS"
install-tests: ## The selftests as a kselftest tarball, to run on another machine
	@tools/lab/host/install-tests
image: ## Kernel, initrd that runs the selftests, and a LAVA job that boots them on QEMU's AMD CPU (URL=where they will be)
	@tools/lab/boot/image "$$TREE" "$$VARIANT" "$$PARAMS"
kernel: ## BASE, a git tree of Linux, with TREE's series on a branch of its own, built with your config
	@tools/lab/host/kernel "$$TREE"
bench: ## What TREE's series costs, in instructions and bytes, against shipped
	@tools/lab/check/bench "$$TREE"
migrate: ## What becomes of a VM that moves between TREE as shipped and as patched, both ways, in QEMU's order
	@tools/lab/check/migrate "$$TREE" "$$VARIANT"
soak: ## Random operations on TREE's kernel, next to a model, for SECONDS=60 a set of parameters, from SEED=1 on
	@tools/lab/check/soak "$$TREE" "$$VARIANT"
nested: ## Whether QEMU in a VM runs, resets, saves and restores a VM of its own, shipped and patched; three minutes
	@tools/lab/check/nested "$$TREE" "$$VARIANT"
second-opinion: ## Whether the selftests end on another implementation of SVM, Bochs, as in QEMU (VARIANT=MUTANT: on a mutant)
	@tools/lab/check/second-opinion "$$TREE" "$$VARIANT"
coverage: ## Which lines of svm.c and nested.c, as patched, the selftests reach; what they do not, and why
	@tools/lab/check/coverage "$$TREE"
update: ## Ask apt for newer kernels; without it, what was fetched first is used for good
	@tools/lab/get/fetch --update
clean: ## Remove build/; what was downloaded stays in the cache
	rm -rf build
help: ## This
	@echo 'make TARGET [TREE=linux-6.12.y]; trees: $(notdir $(wildcard series/*))'; echo
	@sed -n 's/^\([a-z-]*\):.* ## /\1|/p' $(MAKEFILE_LIST) | while IFS='|' read -r t h; do \
		printf '  %-15s %s\n' "$$t" "$$h"; done
	@echo; echo 'BASE=dir uses that kernel source instead of Debian'\''s, in guests and for series; what is slow is built once.'
	@echo 'DEBUG=1 is for vm, module and soak: a kernel with KASAN, lockdep, UBSAN and kmemleak, of BASE or Debian'\''s source.'
	@echo 'CACHE=dir keeps downloads elsewhere than in ~/.cache; FRESH=1 runs again what has not changed, too.'
	@echo 'Exit status: 0 all is as it should be; 1 something is red, or has no verdict; 2 that could not be'
	@echo 'found out. make itself passes each of the latter on as 2; tools/lab/*/TARGET (on-host for host) does'
	@echo 'not, tools/lab/boot/vm returns that of CMD, and host-try 3 if it could not put the shipped module back.'
	@echo 'For machines: build/results/TREE/verdict.ktap has a test for each behaviour and kernel, with run'\''s verdict.'
