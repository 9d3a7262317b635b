// SPDX-License-Identifier: GPL-2.0-only
#include "test_util.h"
#include "kvm_util.h"
#include "kvm_test_harness.h"
#include "processor.h"
#include "svm_util.h"

#define POISON		0x5a5a5a5aU

enum {
	AT_L1,
	AT_L2,
	AT_NMI,
	AT_NMI_END,
};

static u64 nr_nmis;
static u64 nmi_rip;

static void nmi_handler(struct ex_regs *regs)
{
	nr_nmis++;
	nmi_rip = regs->rip;
}

static void l2_code(void)
{
	vmmcall();
}

static void inject(struct vmcb *vmcb, u32 type, u8 vector)
{
	vmcb->control.event_inj = SVM_EVTINJ_VALID | type | vector;
}

static void l1_inject_nmi(struct svm_test_data *svm)
{
	struct vmcb_control_area *ctrl = &svm->vmcb->control;

	generic_svm_setup(svm, l2_code);
	inject(svm->vmcb, SVM_EVTINJ_TYPE_NMI, NMI_VECTOR);
	ctrl->event_inj_err = POISON;
	run_guest(svm->vmcb, svm->vmcb_gpa);

	GUEST_ASSERT_EQ(ctrl->exit_code, SVM_EXIT_VMMCALL);
	GUEST_ASSERT_EQ(nr_nmis, 1);
	GUEST_ASSERT_EQ(nmi_rip, (u64)l2_code);
	GUEST_ASSERT_EQ(ctrl->event_inj, 0);
	GUEST_ASSERT_EQ(ctrl->event_inj_err, 0);
	GUEST_DONE();
}

KVM_ONE_VCPU_TEST_SUITE(eventinj);

KVM_ONE_VCPU_TEST(eventinj, is_cleared_by_vmexit, l1_inject_nmi)
{
	gva_t svm_gva;

	vm_install_exception_handler(vcpu->vm, NMI_VECTOR, nmi_handler);
	vcpu_alloc_svm(vcpu->vm, &svm_gva);
	vcpu_args_set(vcpu, 1, svm_gva);

	vcpu_run_to_done(vcpu);
}

static void l2_sync(void)
{
	GUEST_SYNC(AT_L2);
}

static void l1_run_l2(struct svm_test_data *svm)
{
	generic_svm_setup(svm, l2_sync);
	run_guest(svm->vmcb, svm->vmcb_gpa);
}

static const struct {
	u32 type;
	u8 vector;
	bool legal;
} eventinjs[] = {
	{ SVM_EVTINJ_TYPE_INTR, 255, true },
	{ SVM_EVTINJ_TYPE_NMI, NMI_VECTOR, true },
	{ SVM_EVTINJ_TYPE_EXEPT, UD_VECTOR, true },
	{ SVM_EVTINJ_TYPE_EXEPT, DE_VECTOR, true },
	{ SVM_EVTINJ_TYPE_EXEPT, XM_VECTOR, true },
	{ SVM_EVTINJ_TYPE_SOFT, 128, true },
	{ 1 << SVM_EVTINJ_TYPE_SHIFT, UD_VECTOR },
	{ 5 << SVM_EVTINJ_TYPE_SHIFT, UD_VECTOR },
	{ 6 << SVM_EVTINJ_TYPE_SHIFT, UD_VECTOR },
	{ 7 << SVM_EVTINJ_TYPE_SHIFT, UD_VECTOR },
	{ SVM_EVTINJ_TYPE_EXEPT, NMI_VECTOR },
	{ SVM_EVTINJ_TYPE_EXEPT, 31 },
	{ SVM_EVTINJ_TYPE_EXEPT, 32 },
	{ SVM_EVTINJ_TYPE_EXEPT, 255 },
};

/* Nested state can have no EVENTINJ that VMRUN fails for. */
KVM_ONE_VCPU_TEST(eventinj, illegal_one_is_refused_in_nested_state, l1_run_l2)
{
	union svm_nested_state nested;
	struct vmcb *vmcb12 = (void *)nested.state.data.svm;
	gva_t svm_gva;
	int i, r;

	vcpu_alloc_svm(vcpu->vm, &svm_gva);
	vcpu_args_set(vcpu, 1, svm_gva);
	vcpu_run_to_l2(vcpu, AT_L2);

	vcpu_svm_nested_state_get(vcpu, &nested);
	for (i = 0; i < ARRAY_SIZE(eventinjs); i++) {
		inject(vmcb12, eventinjs[i].type, eventinjs[i].vector);
		r = __vcpu_nested_state_set(vcpu, &nested.state);
		TEST_ASSERT(eventinjs[i].legal ? !r : r == -1 && errno == EINVAL,
			    "EVENTINJ 0x%x: KVM_SET_NESTED_STATE returned %d, errno %d",
			    vmcb12->control.event_inj, r, errno);

		vmcb12->control.event_inj &= ~SVM_EVTINJ_VALID;
		vcpu_nested_state_set(vcpu, &nested.state);
	}
}

static void nmi_handler_with_stops(struct ex_regs *regs)
{
	nr_nmis++;
	GUEST_SYNC(AT_NMI);
	GUEST_SYNC(AT_NMI_END);
}

static void l1_nmi_for_l2(struct svm_test_data *svm)
{
	generic_svm_setup(svm, l2_sync);
	svm->vmcb->control.intercept |= BIT_ULL(INTERCEPT_INIT);

	/* Userspace brings the vCPU back here for the NMIs. */
	GUEST_SYNC(AT_L1);
	if (!READ_ONCE(nr_nmis))
		run_guest(svm->vmcb, svm->vmcb_gpa);
	GUEST_DONE();
}

static void set_init_pending(struct kvm_vcpu *vcpu, bool pending)
{
	struct kvm_vcpu_events events;

	vcpu_events_get(vcpu, &events);
	events.smi.latched_init = pending;
	events.flags |= KVM_VCPUEVENT_VALID_SMM;
	vcpu_events_set(vcpu, &events);
}

/* KVM_GET_MP_STATE takes a pending INIT, without running the vCPU. */
static void leave_by_init(struct kvm_vcpu *vcpu)
{
	struct kvm_mp_state mp_state;

	set_init_pending(vcpu, true);
	vcpu_mp_state_get(vcpu, &mp_state);
	set_init_pending(vcpu, false);
}

static void leave_by_nested_state(struct kvm_vcpu *vcpu)
{
	vcpu_svm_nested_flags_set(vcpu, 0);
}

KVM_ONE_VCPU_TEST_SUITE(nmi_for_l2);

FIXTURE_VARIANT(nmi_for_l2) {
	void (*leave)(struct kvm_vcpu *vcpu);
};

FIXTURE_VARIANT_ADD(nmi_for_l2, vmexit) { .leave = leave_by_init };
FIXTURE_VARIANT_ADD(nmi_for_l2, forced_leave) { .leave = leave_by_nested_state };

/* L2 is left before it runs with the NMI that L1 injects: it is L2's, and gone. */
TEST_F(nmi_for_l2, is_not_taken_for_l1s)
{
	struct kvm_vcpu *vcpu = self->vcpu;
	union svm_nested_state nested;
	struct vmcb *vmcb12 = (void *)nested.state.data.svm;
	struct kvm_regs l1_regs;
	gva_t svm_gva;

	if (!kvm_has_cap(KVM_CAP_X86_SMM))
		SKIP(return, "KVM_CAP_X86_SMM not supported");

	vm_install_exception_handler(vcpu->vm, NMI_VECTOR, nmi_handler_with_stops);
	vcpu_alloc_svm(vcpu->vm, &svm_gva);
	vcpu_arch_set_entry_point(vcpu, l1_nmi_for_l2);
	vcpu_args_set(vcpu, 1, svm_gva);

	vcpu_run_to_sync(vcpu, AT_L1);
	vcpu_run_complete_io(vcpu);
	vcpu_regs_get(vcpu, &l1_regs);

	vcpu_run_to_l2(vcpu, AT_L2);
	vcpu_svm_nested_state_get(vcpu, &nested);
	vmcb12->control.event_inj = SVM_EVTINJ_VALID | SVM_EVTINJ_TYPE_NMI;
	vcpu_nested_state_set(vcpu, &nested.state);

	variant->leave(vcpu);
	TEST_ASSERT_EQ(vcpu_svm_nested_flags(vcpu), 0);

	vcpu_svm_nested_flags_set(vcpu, KVM_STATE_NESTED_GIF_SET);
	vcpu_regs_set(vcpu, &l1_regs);

	/* The second NMI has to wait for the IRET of the first. */
	vcpu_ioctl(vcpu, KVM_NMI, NULL);
	vcpu_run_to_sync(vcpu, AT_NMI);
	vcpu_ioctl(vcpu, KVM_NMI, NULL);
	vcpu_run_to_sync(vcpu, AT_NMI_END);
	sync_global_from_guest(vcpu->vm, nr_nmis);
	TEST_ASSERT_EQ(nr_nmis, 1);

	vcpu_run_to_sync(vcpu, AT_NMI);
	vcpu_run_to_sync(vcpu, AT_NMI_END);
	vcpu_run_to_done(vcpu);
	sync_global_from_guest(vcpu->vm, nr_nmis);
	TEST_ASSERT_EQ(nr_nmis, 2);
}

int main(int argc, char *argv[])
{
	TEST_REQUIRE(kvm_cpu_has(X86_FEATURE_SVM));

	return test_harness_run(argc, argv);
}
