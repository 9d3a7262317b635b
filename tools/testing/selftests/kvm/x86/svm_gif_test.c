// SPDX-License-Identifier: GPL-2.0-only
#include "test_util.h"
#include "kvm_util.h"
#include "kvm_test_harness.h"
#include "processor.h"
#include "svm_util.h"

enum {
	AT_STEP,
	AT_L2,
	AT_CLGI,
	AT_STGI,
	AT_SVME_CLEAR,
	AT_SVME_SET,
};

static void l1_toggle_svme(bool gif, bool by_wrmsr)
{
	set_svme(true);
	if (!gif)
		clgi();
	GUEST_SYNC(AT_CLGI);

	if (by_wrmsr)
		set_svme(false);
	GUEST_SYNC(AT_SVME_CLEAR);

	if (by_wrmsr)
		set_svme(true);
	GUEST_SYNC(AT_SVME_SET);

	stgi();
	GUEST_SYNC(AT_STGI);
}

KVM_ONE_VCPU_TEST_SUITE(svme_toggle);

FIXTURE_VARIANT(svme_toggle) {
	/* NULL: by WRMSR in L1. */
	void (*set_svme)(struct kvm_vcpu *vcpu, bool svme);
};

FIXTURE_VARIANT_ADD(svme_toggle, wrmsr) { };
FIXTURE_VARIANT_ADD(svme_toggle, set_sregs) { .set_svme = vcpu_set_svme_by_sregs };
FIXTURE_VARIANT_ADD(svme_toggle, set_msrs) { .set_svme = vcpu_set_svme_by_msrs };

static void test_svme_toggle(struct kvm_vcpu *vcpu, bool gif,
			     void (*set_svme)(struct kvm_vcpu *vcpu, bool svme))
{
	vcpu_arch_set_entry_point(vcpu, l1_toggle_svme);
	vcpu_args_set(vcpu, 2, gif, !set_svme);

	vcpu_run_to_sync(vcpu, AT_CLGI);
	TEST_ASSERT_EQ(vcpu_gif(vcpu), gif);

	if (set_svme) {
		set_svme(vcpu, false);
		TEST_ASSERT_EQ(vcpu_gif(vcpu), gif);
	}
	vcpu_run_to_sync(vcpu, AT_SVME_CLEAR);
	TEST_ASSERT_EQ(vcpu_svme(vcpu), false);
	TEST_ASSERT_EQ(vcpu_gif(vcpu), gif);

	if (set_svme) {
		set_svme(vcpu, true);
		TEST_ASSERT_EQ(vcpu_gif(vcpu), gif);
	}
	vcpu_run_to_sync(vcpu, AT_SVME_SET);
	TEST_ASSERT_EQ(vcpu_svme(vcpu), true);
	TEST_ASSERT_EQ(vcpu_gif(vcpu), gif);

	vcpu_run_to_sync(vcpu, AT_STGI);
	TEST_ASSERT_EQ(vcpu_gif(vcpu), true);
}

TEST_F(svme_toggle, keeps_gif_clear)
{
	test_svme_toggle(self->vcpu, false, variant->set_svme);
}

TEST_F(svme_toggle, keeps_gif_set)
{
	test_svme_toggle(self->vcpu, true, variant->set_svme);
}

static void l1_gif_insns_without_svme(void)
{
	u8 vector;

	GUEST_SYNC(AT_STEP);

	vector = kvm_asm_safe("stgi");
	GUEST_ASSERT_EQ(vector, UD_VECTOR);
	vector = kvm_asm_safe("clgi");
	GUEST_ASSERT_EQ(vector, UD_VECTOR);
	GUEST_DONE();
}

KVM_ONE_VCPU_TEST_SUITE(nested_state_without_svme);

FIXTURE_VARIANT(nested_state_without_svme) {
	u16 flags;
};

FIXTURE_VARIANT_ADD(nested_state_without_svme, gif_clear) { };
FIXTURE_VARIANT_ADD(nested_state_without_svme, gif_set) { .flags = KVM_STATE_NESTED_GIF_SET };

TEST_F(nested_state_without_svme, is_returned_as_set)
{
	TEST_ASSERT_EQ(vcpu_svme(self->vcpu), false);

	vcpu_svm_nested_flags_set(self->vcpu, variant->flags);
	TEST_ASSERT_EQ(vcpu_svm_nested_flags(self->vcpu), variant->flags);

	/* The other way round, so that neither value is what it was anyway. */
	vcpu_svm_nested_flags_set(self->vcpu, variant->flags ^ KVM_STATE_NESTED_GIF_SET);
	TEST_ASSERT_EQ(vcpu_svm_nested_flags(self->vcpu),
		       variant->flags ^ KVM_STATE_NESTED_GIF_SET);
}

TEST_F(nested_state_without_svme, keeps_stgi_and_clgi_ud)
{
	vcpu_arch_set_entry_point(self->vcpu, l1_gif_insns_without_svme);
	vcpu_run_to_sync(self->vcpu, AT_STEP);
	TEST_ASSERT_EQ(vcpu_svme(self->vcpu), false);

	vcpu_svm_nested_flags_set(self->vcpu, variant->flags);

	vcpu_run_to_done(self->vcpu);
	TEST_ASSERT_EQ(vcpu_svm_nested_flags(self->vcpu), variant->flags);
}

static void l2_sync(void)
{
	GUEST_SYNC(AT_L2);
	vmmcall();
}

static void l1_forced_leave(struct svm_test_data *svm, bool l1_gif)
{
	generic_svm_setup(svm, l2_sync);
	if (!l1_gif)
		clgi();
	run_guest(svm->vmcb, svm->vmcb_gpa);
	GUEST_DONE();
}

static void enter_smm(struct kvm_vcpu *vcpu, bool unused)
{
	struct kvm_vcpu_events events;

	vcpu_events_get(vcpu, &events);
	events.smi.smm = true;
	events.flags |= KVM_VCPUEVENT_VALID_SMM;
	vcpu_events_set(vcpu, &events);
}

FIXTURE(forced_leave) {
	struct kvm_vcpu *vcpu;
};

FIXTURE_VARIANT(forced_leave) {
	void (*leave)(struct kvm_vcpu *vcpu, bool svme);
};

FIXTURE_VARIANT_ADD(forced_leave, set_sregs) { .leave = vcpu_set_svme_by_sregs };
FIXTURE_VARIANT_ADD(forced_leave, set_msrs) { .leave = vcpu_set_svme_by_msrs };
FIXTURE_VARIANT_ADD(forced_leave, set_events_smm) { .leave = enter_smm };

FIXTURE_SETUP(forced_leave)
{
	if (variant->leave == enter_smm && !kvm_has_cap(KVM_CAP_X86_SMM))
		SKIP(return, "KVM_CAP_X86_SMM not supported");

	vm_create_with_one_vcpu(&self->vcpu, l1_forced_leave);
}

FIXTURE_TEARDOWN(forced_leave)
{
	kvm_vm_free(self->vcpu->vm);
}

/*
 * VMRUN sets GIF, so that whatever GIF was in L1 before, it is '1' in the
 * state that the vCPU is forced out of.
 */
static void test_forced_leave(struct kvm_vcpu *vcpu, bool l1_gif,
			      void (*leave)(struct kvm_vcpu *vcpu, bool svme))
{
	gva_t svm_gva;

	vcpu_alloc_svm(vcpu->vm, &svm_gva);
	vcpu_args_set(vcpu, 2, svm_gva, l1_gif);

	vcpu_run_to_sync(vcpu, AT_L2);
	TEST_ASSERT_EQ(vcpu_svm_nested_flags(vcpu),
		       KVM_STATE_NESTED_GUEST_MODE | KVM_STATE_NESTED_GIF_SET);

	leave(vcpu, false);
	TEST_ASSERT_EQ(vcpu_svm_nested_flags(vcpu), KVM_STATE_NESTED_GIF_SET);
}

TEST_F(forced_leave, gif_set_if_l1_vmrun_with_gif_set)
{
	test_forced_leave(self->vcpu, true, variant->leave);
}

TEST_F(forced_leave, gif_set_if_l1_vmrun_with_gif_clear)
{
	test_forced_leave(self->vcpu, false, variant->leave);
}

int main(int argc, char *argv[])
{
	TEST_REQUIRE(kvm_cpu_has(X86_FEATURE_SVM));

	return test_harness_run(argc, argv);
}
