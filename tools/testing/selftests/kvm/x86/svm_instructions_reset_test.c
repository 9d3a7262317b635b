// SPDX-License-Identifier: GPL-2.0-only
#include "smm.h"
#include "svm_insn.h"

/* What a VMM does for a reset, in whatever state the vCPU is. */
static void test_svme_already_cleared(struct kvm_vcpu *vcpu, struct kvm_regs *regs,
				      struct kvm_sregs *sregs)
{
	TEST_ASSERT(!vcpu_svme(vcpu), "EFER.SVME set");

	sregs->efer = efer_set_svme(sregs->efer, false);
	vcpu_sregs_set(vcpu, sregs);
	vcpu_regs_set(vcpu, regs);
	run_insn(vcpu, false);
}

TEST_F(svm_insn, cleared_by_init)
{
	struct kvm_vcpu_events events;
	struct kvm_mp_state mp_state;
	struct kvm_sregs sregs;
	struct kvm_regs regs;

	set_svme_then_cpuid(self->vcpu);
	run_insn(self->vcpu, true);

	vcpu_run_complete_io(self->vcpu);
	vcpu_sregs_get(self->vcpu, &sregs);
	vcpu_regs_get(self->vcpu, &regs);

	/* A latched INIT is taken by KVM_GET_MP_STATE, unless it is blocked. */
	vcpu_events_get(self->vcpu, &events);
	events.flags |= KVM_VCPUEVENT_VALID_SMM;
	events.smi.latched_init = 1;
	vcpu_events_set(self->vcpu, &events);
	vcpu_mp_state_get(self->vcpu, &mp_state);

	test_svme_already_cleared(self->vcpu, &regs, &sregs);
}

static void run_to_smm(struct kvm_vcpu *vcpu)
{
	inject_smi(vcpu);
	vcpu_run_to_port(vcpu, SMI_STOP_PORT);
	TEST_ASSERT(!vcpu_svme(vcpu), "EFER.SVME set in SMM");
}

TEST_F(svm_insn, cleared_by_smm_entry)
{
	struct kvm_vcpu_events events;
	struct kvm_sregs sregs;
	struct kvm_regs regs;

	if (!kvm_has_cap(KVM_CAP_X86_SMM))
		SKIP(return, "KVM_CAP_X86_SMM is not supported");

	setup_smi_stop(self->vcpu);

	set_svme_then_cpuid(self->vcpu);
	run_insn(self->vcpu, true);

	vcpu_run_complete_io(self->vcpu);
	vcpu_sregs_get(self->vcpu, &sregs);
	vcpu_regs_get(self->vcpu, &regs);

	run_to_smm(self->vcpu);

	/* Real mode has its own #UD, so leave SMM in the way of a VMM's reset. */
	vcpu_run_complete_io(self->vcpu);
	vcpu_events_get(self->vcpu, &events);
	TEST_ASSERT_EQ(events.smi.smm, 1);
	events.smi.smm = 0;
	vcpu_events_set(self->vcpu, &events);

	test_svme_already_cleared(self->vcpu, &regs, &sregs);
}

TEST_F(svm_insn, restored_by_rsm)
{
	int i;

	if (!kvm_has_cap(KVM_CAP_X86_SMM))
		SKIP(return, "KVM_CAP_X86_SMM is not supported");

	setup_smi_stop(self->vcpu);

	for (i = 0; i < NR_ROUNDS; i++) {
		vcpu_set_svme_by_sregs(self->vcpu, true);
		run_insn(self->vcpu, true);
		run_to_smm(self->vcpu);
		run_insn(self->vcpu, true);

		vcpu_set_svme_by_sregs(self->vcpu, false);
		run_insn(self->vcpu, false);
		run_to_smm(self->vcpu);
		run_insn(self->vcpu, false);
	}
}

TEST_F(svm_insn, saved_and_restored)
{
	int i;

	for (i = 0; i < NR_ROUNDS; i++) {
		vcpu_set_svme_by_sregs(self->vcpu, true);
		run_insn(self->vcpu, true);
		self->vcpu = vcpu_migrate(self->vcpu, NULL);
		run_insn(self->vcpu, true);

		vcpu_set_svme_by_sregs(self->vcpu, false);
		run_insn(self->vcpu, false);
		self->vcpu = vcpu_migrate(self->vcpu, NULL);
		run_insn(self->vcpu, false);
	}
}

/* A VMM writes back the state of nested virtualization at every reset. */
static void test_nested_state_gif_set(struct kvm_vcpu *vcpu)
{
	struct kvm_nested_state state = { .size = sizeof(state) };

	vcpu_nested_state_get(vcpu, &state);
	TEST_ASSERT_EQ(state.flags, KVM_STATE_NESTED_GIF_SET);
	vcpu_nested_state_set(vcpu, &state);

	run_insn(vcpu, false);
}

TEST_F(svm_insn, nested_state_gif_set_svme_never_set)
{
	run_insn(self->vcpu, false);

	test_nested_state_gif_set(self->vcpu);
}

TEST_F(svm_insn, nested_state_gif_set_svme_cleared)
{
	vcpu_set_svme_by_sregs(self->vcpu, true);
	run_insn(self->vcpu, true);
	vcpu_set_svme_by_sregs(self->vcpu, false);
	run_insn(self->vcpu, false);

	test_nested_state_gif_set(self->vcpu);
}

static void l1_never_runs(void)
{
	GUEST_DONE();
}

static void assert_refused(struct kvm_vcpu *vcpu, int r)
{
	TEST_ASSERT(r == -1 && errno == EINVAL, "Wanted EINVAL, got %d, errno %d", r, errno);
	TEST_ASSERT(!vcpu_svme(vcpu), "EFER.SVME set");
}

FIXTURE(svme_without_cpuid) {
	struct kvm_vcpu *vcpu;
};

FIXTURE_SETUP(svme_without_cpuid)
{
	if (!kvm_cpu_has(X86_FEATURE_SVM))
		SKIP(return, "SVM is not supported");

	vm_create_with_one_vcpu(&self->vcpu, l1_never_runs);
	vcpu_clear_cpuid_feature(self->vcpu, X86_FEATURE_SVM);
}

FIXTURE_TEARDOWN(svme_without_cpuid)
{
	kvm_vm_free(self->vcpu->vm);
}

TEST_F(svme_without_cpuid, refused_by_set_sregs)
{
	struct kvm_sregs sregs;

	vcpu_sregs_get(self->vcpu, &sregs);
	sregs.efer |= EFER_SVME;
	assert_refused(self->vcpu, _vcpu_sregs_set(self->vcpu, &sregs));

	vcpu_set_cpuid_feature(self->vcpu, X86_FEATURE_SVM);
	vcpu_sregs_set(self->vcpu, &sregs);
}

TEST_F(svme_without_cpuid, refused_by_set_sregs2)
{
	struct kvm_sregs2 sregs2;

	if (!kvm_has_cap(KVM_CAP_SREGS2))
		SKIP(return, "KVM_CAP_SREGS2 is not supported");

	vcpu_ioctl(self->vcpu, KVM_GET_SREGS2, &sregs2);
	sregs2.efer |= EFER_SVME;
	assert_refused(self->vcpu, __vcpu_ioctl(self->vcpu, KVM_SET_SREGS2, &sregs2));

	vcpu_set_cpuid_feature(self->vcpu, X86_FEATURE_SVM);
	vcpu_ioctl(self->vcpu, KVM_SET_SREGS2, &sregs2);
}

int main(int argc, char *argv[])
{
	return test_harness_run(argc, argv);
}
