// SPDX-License-Identifier: GPL-2.0-only
#include "test_util.h"
#include "kvm_util.h"
#include "kvm_test_harness.h"
#include "processor.h"
#include "svm_util.h"

enum {
	AT_L1,
	AT_L2,
};

static void l2_code(void)
{
	GUEST_SYNC(AT_L2);
	vmmcall();
}

static void l1_code(struct svm_test_data *svm, u64 misc_ctl2)
{
	generic_svm_setup(svm, l2_code);
	svm->vmcb->control.misc_ctl2 |= misc_ctl2;
	run_guest(svm->vmcb, svm->vmcb_gpa);
	GUEST_ASSERT_EQ(svm->vmcb->control.exit_code, SVM_EXIT_VMMCALL);
	GUEST_DONE();
}

static void l1_stop(void)
{
	GUEST_SYNC(AT_L1);
}

FIXTURE(l2) {
	struct kvm_vcpu *vcpu;
	struct kvm_sregs reset_sregs;
	struct kvm_regs reset_regs;
};

FIXTURE_VARIANT(l2) {
	bool npt;
};

FIXTURE_VARIANT_ADD(l2, no_npt) { };
FIXTURE_VARIANT_ADD(l2, npt) { .npt = true };

FIXTURE_SETUP(l2)
{
	gva_t svm_gva;

	if (variant->npt && !kvm_cpu_has_npt())
		SKIP(return, "KVM doesn't support nested NPT");

	vm_create_with_one_vcpu(&self->vcpu, l1_code);
	__vcpu_alloc_svm(self->vcpu->vm, variant->npt, &svm_gva);
	vcpu_sregs_get(self->vcpu, &self->reset_sregs);
	vcpu_regs_get(self->vcpu, &self->reset_regs);
	vcpu_args_set(self->vcpu, 2, svm_gva, 0);
}

FIXTURE_TEARDOWN(l2)
{
	kvm_vm_free(self->vcpu->vm);
}

static struct kvm_vcpu *run_to_l2_and_migrate(struct kvm_vcpu *vcpu,
					      void (*prepare)(struct kvm_vcpu *vcpu))
{
	vcpu_run_to_l2(vcpu, AT_L2);
	vcpu = vcpu_migrate(vcpu, prepare);
	TEST_ASSERT(vcpu_in_l2(vcpu), "vCPU not in guest mode after migration");
	return vcpu;
}

TEST_F(l2, exits_to_l1_after_migration)
{
	self->vcpu = run_to_l2_and_migrate(self->vcpu, NULL);
	vcpu_run_to_done(self->vcpu);
	TEST_ASSERT(vcpu_svme(self->vcpu), "L1 lost EFER.SVME");
}

static void toggle_cpuid_feature(struct kvm_vcpu *vcpu, struct kvm_x86_cpu_feature feature)
{
	struct kvm_cpuid_entry2 *entry;

	entry = __vcpu_get_cpuid_entry(vcpu, feature.function, feature.index);
	(&entry->eax)[feature.reg] ^= BIT(feature.bit);
}

static void change_vendor(struct kvm_vcpu *vcpu)
{
	struct kvm_cpuid_entry2 *entry = vcpu_get_cpuid_entry(vcpu, 0);

	memcpy(&entry->ebx, "Genu", 4);
	memcpy(&entry->edx, "ineI", 4);
	memcpy(&entry->ecx, "ntel", 4);
}

static void change_vls(struct kvm_vcpu *vcpu)
{
	toggle_cpuid_feature(vcpu, X86_FEATURE_V_VMSAVE_VMLOAD);
}

static void change_svm(struct kvm_vcpu *vcpu)
{
	toggle_cpuid_feature(vcpu, X86_FEATURE_SVM);
}

static void change_maxphyaddr(struct kvm_vcpu *vcpu)
{
	vcpu_get_cpuid_entry(vcpu, 0x80000008)->eax--;
}

static const struct {
	const char *what;
	void (*change)(struct kvm_vcpu *vcpu);
} cpuid_changes[] = {
	{ "the vendor", change_vendor },
	{ "V_VMSAVE_VMLOAD", change_vls },
	{ "SVM", change_svm },
	{ "MAXPHYADDR", change_maxphyaddr },
};

/* What KVM runs L2 on depends on CPUID: it has to stay, with L2 yet to run. */
TEST_F(l2, cpuid_cannot_change_after_migration)
{
	struct kvm_cpuid2 *old;
	struct kvm_vcpu *vcpu;
	int i, r;

	self->vcpu = run_to_l2_and_migrate(self->vcpu, NULL);
	vcpu = self->vcpu;

	vcpu_get_cpuid(vcpu);
	old = allocate_kvm_cpuid2(vcpu->cpuid->nent);
	memcpy(old, vcpu->cpuid, kvm_cpuid2_size(old->nent));

	/* Don't run the vCPU if a change goes through: that wouldn't be safe. */
	for (i = 0; i < ARRAY_SIZE(cpuid_changes); i++) {
		cpuid_changes[i].change(vcpu);
		r = __vcpu_ioctl(vcpu, KVM_SET_CPUID2, vcpu->cpuid);
		TEST_ASSERT(r == -1 && errno == EINVAL,
			    "Change of %s in CPUID: wanted EINVAL, got %d, errno %d",
			    cpuid_changes[i].what, r, errno);

		vcpu_get_cpuid(vcpu);
		TEST_ASSERT(!memcmp(old, vcpu->cpuid, kvm_cpuid2_size(old->nent)),
			    "CPUID has changed, with KVM having refused to change %s",
			    cpuid_changes[i].what);
	}
	free(old);

	vcpu_set_cpuid(vcpu);
	TEST_ASSERT(vcpu_in_l2(vcpu), "vCPU left guest mode");
	vcpu_run_to_done(vcpu);
}

static void leave_l2(struct kvm_vcpu *vcpu)
{
	vcpu_svm_nested_flags_set(vcpu, KVM_STATE_NESTED_GIF_SET);
	TEST_ASSERT(!vcpu_in_l2(vcpu), "vCPU still in guest mode");
}

TEST_F(l2, cpuid_can_change_with_l2_gone)
{
	int i;

	self->vcpu = run_to_l2_and_migrate(self->vcpu, NULL);
	leave_l2(self->vcpu);

	for (i = 0; i < ARRAY_SIZE(cpuid_changes); i++) {
		cpuid_changes[i].change(self->vcpu);
		vcpu_set_cpuid(self->vcpu);
	}
}

/*
 * With L2 active, CPUID goes back to what KVM supports, which it may not.  If
 * it does, VMLOAD and VMSAVE may take the addresses of the host from then on:
 * nothing that runs after it executes them.  A KVM that looks at what the CPU
 * gets finds that out at the next VMRUN, and all others have to survive it.
 */
static void undo_cpuid_change_in_l2(struct kvm_vcpu *vcpu)
{
	int r = __vcpu_ioctl(vcpu, KVM_SET_CPUID2, kvm_get_supported_cpuid());

	TEST_ASSERT(!r || (r == -1 && errno == EINVAL),
		    "Change of CPUID in L2: wanted 0 or EINVAL, got %d, errno %d", r, errno);
	TEST_ASSERT(vcpu_in_l2(vcpu), "vCPU left guest mode");
}

static void set_other_vendor(struct kvm_vcpu *vcpu)
{
	change_vendor(vcpu);
	vcpu_set_cpuid(vcpu);
}

static void set_other_vls(struct kvm_vcpu *vcpu)
{
	change_vls(vcpu);
	vcpu_set_cpuid(vcpu);
}

/* KVM intercepts VMLOAD and VMSAVE of L1 for the one vendor, not for the other. */
TEST_F(l2, cpuid_of_other_vendor_keeps_l1_from_host_memory)
{
	self->vcpu = run_to_l2_and_migrate(self->vcpu, set_other_vendor);
	undo_cpuid_change_in_l2(self->vcpu);
	leave_l2(self->vcpu);

	self->reset_sregs.efer |= EFER_SVME;
	self->reset_regs.rip = (gva_t)l1_stop;
	vcpu_sregs_set(self->vcpu, &self->reset_sregs);
	vcpu_regs_set(self->vcpu, &self->reset_regs);
	vcpu_run_to_sync(self->vcpu, AT_L1);
}

/* For what makes KVM WARN where it goes wrong. */
KVM_ONE_VCPU_TEST_SUITE(host_may_crash);

/* KVM virtualizes VMLOAD and VMSAVE of L2 if L1 wants that and may have it. */
TEST_F(host_may_crash, cpuid_without_vls_keeps_l2_from_host_memory)
{
	gva_t svm_gva;

	if (!kvm_cpu_has_npt() || !kvm_cpu_has(X86_FEATURE_V_VMSAVE_VMLOAD))
		SKIP(return, "KVM doesn't support nested NPT and V_VMSAVE_VMLOAD");

	vcpu_arch_set_entry_point(self->vcpu, l1_code);
	__vcpu_alloc_svm(self->vcpu->vm, true, &svm_gva);
	vcpu_args_set(self->vcpu, 2, svm_gva, SVM_MISC2_ENABLE_V_VMLOAD_VMSAVE);

	self->vcpu = run_to_l2_and_migrate(self->vcpu, set_other_vls);
	undo_cpuid_change_in_l2(self->vcpu);
	vcpu_run_to_done(self->vcpu);
}

int main(int argc, char *argv[])
{
	TEST_REQUIRE(kvm_cpu_has(X86_FEATURE_SVM));

	return test_harness_run(argc, argv);
}
