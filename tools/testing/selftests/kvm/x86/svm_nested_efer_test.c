// SPDX-License-Identifier: GPL-2.0-only
#include "test_util.h"
#include "kvm_util.h"
#include "kvm_test_harness.h"
#include "processor.h"
#include "svm_util.h"

#define VMMCALL_INSN_SIZE	3

#define READ_ONLY_GPA		0xc0000000ull
#define READ_ONLY_SLOT		10

/* In seconds, for tests whose guest may hang where KVM gets it wrong. */
#define TIMEOUT			5

enum {
	AT_L1,
	AT_L2,
};

static void l2_code(void)
{
	GUEST_SYNC(AT_L2);
	vmmcall();
}

static void l2_toggle_other_efer_bits(void)
{
	const u64 efer = rdmsr(MSR_EFER);
	const u64 bits[] = { 0, EFER_SCE, EFER_NX, EFER_SCE | EFER_NX };
	int i;

	GUEST_ASSERT(efer & EFER_SVME);

	for (i = 0; i < ARRAY_SIZE(bits); i++) {
		wrmsr(MSR_EFER, efer ^ bits[i]);
		GUEST_ASSERT_EQ(rdmsr(MSR_EFER), efer ^ bits[i]);
		vmmcall();
		GUEST_ASSERT_EQ(rdmsr(MSR_EFER), efer ^ bits[i]);
		wrmsr(MSR_EFER, efer);
	}

	GUEST_SYNC(AT_L2);
	vmmcall();
}

static void l2_clear_svme_with_fault(void)
{
	const u64 efer = rdmsr(MSR_EFER);
	const u64 bad_efers[] = {
		(efer & ~EFER_SVME) | BIT_ULL(9),
		(efer & ~EFER_SVME) | BIT_ULL(63),
		efer & ~(EFER_SVME | EFER_LME),
	};
	int i;

	for (i = 0; i < ARRAY_SIZE(bad_efers); i++) {
		GUEST_ASSERT_EQ(wrmsr_safe(MSR_EFER, bad_efers[i]), GP_VECTOR);
		GUEST_ASSERT_EQ(rdmsr(MSR_EFER), efer);
		vmmcall();
		GUEST_ASSERT_EQ(rdmsr(MSR_EFER), efer);
	}

	GUEST_SYNC(AT_L2);
	vmmcall();
}

/* L2 must come to its GUEST_SYNC() only after @nr_exits. */
static void l1_skip_vmmcalls(struct svm_test_data *svm, void (*l2_code)(void), int nr_exits)
{
	struct vmcb *vmcb = svm->vmcb;
	u64 efer;
	int i;

	generic_svm_setup(svm, l2_code);
	efer = rdmsr(MSR_EFER);

	for (i = 0; i < nr_exits; i++) {
		run_guest(vmcb, svm->vmcb_gpa);
		GUEST_ASSERT_EQ(vmcb->control.exit_code, SVM_EXIT_VMMCALL);
		GUEST_ASSERT(vmcb->save.efer & EFER_SVME);
		GUEST_ASSERT_EQ(rdmsr(MSR_EFER), efer);
		vmcb->save.rip += VMMCALL_INSN_SIZE;
	}

	run_guest(vmcb, svm->vmcb_gpa);
	GUEST_ASSERT_EQ(vmcb->control.exit_code, SVM_EXIT_VMMCALL);
	GUEST_DONE();
}

static void l1_code(struct svm_test_data *svm)
{
	GUEST_ASSERT(!(rdmsr(MSR_EFER) & EFER_SVME));
	GUEST_SYNC(AT_L1);

	generic_svm_setup(svm, l2_code);
	run_guest(svm->vmcb, svm->vmcb_gpa);
	GUEST_ASSERT_EQ(svm->vmcb->control.exit_code, SVM_EXIT_VMMCALL);
	GUEST_DONE();
}

FIXTURE(l2) {
	struct kvm_vcpu *vcpu;
	gva_t svm_gva;
	struct kvm_sregs reset_sregs;
	struct kvm_regs reset_regs;
};

FIXTURE_VARIANT(l2) {
	bool npt;
};

FIXTURE_VARIANT_ADD(l2, no_npt) { };
FIXTURE_VARIANT_ADD(l2, npt) { .npt = true };

static void run_to_l2(struct kvm_vcpu *vcpu)
{
	vcpu_run_to_sync(vcpu, AT_L1);
	TEST_ASSERT(!vcpu_in_l2(vcpu), "vCPU in guest mode with L1 running");
	vcpu_run_to_l2(vcpu, AT_L2);
}

FIXTURE_SETUP(l2)
{
	struct kvm_vm *vm;

	if (variant->npt && !kvm_cpu_has_npt())
		SKIP(return, "KVM doesn't support nested NPT");

	vm = vm_create_with_one_vcpu(&self->vcpu, l1_code);
	vm_enable_cap(vm, KVM_CAP_X86_TRIPLE_FAULT_EVENT, true);

	__vcpu_alloc_svm(vm, variant->npt, &self->svm_gva);
	vcpu_args_set(self->vcpu, 1, self->svm_gva);
	vcpu_sregs_get(self->vcpu, &self->reset_sregs);
	vcpu_regs_get(self->vcpu, &self->reset_regs);
}

FIXTURE_TEARDOWN(l2)
{
	kvm_vm_free(self->vcpu->vm);
}

TEST_F(l2, toggles_other_efer_bits)
{
	vcpu_arch_set_entry_point(self->vcpu, l1_skip_vmmcalls);
	vcpu_args_set(self->vcpu, 3, self->svm_gva, l2_toggle_other_efer_bits, 4);

	vcpu_run_to_l2(self->vcpu, AT_L2);
	vcpu_run_to_done(self->vcpu);
}

TEST_F(l2, gets_gp_for_svme_clear_with_illegal_bits)
{
	vcpu_arch_set_entry_point(self->vcpu, l1_skip_vmmcalls);
	vcpu_args_set(self->vcpu, 3, self->svm_gva, l2_clear_svme_with_fault, 3);

	vcpu_run_to_l2(self->vcpu, AT_L2);
	vcpu_run_to_done(self->vcpu);
}

static void run_l1_after_reset(struct kvm_vcpu *vcpu)
{
	run_to_l2(vcpu);
	vcpu_run_to_done(vcpu);
}

static void assert_left_l2(struct kvm_vcpu *vcpu)
{
	struct kvm_vcpu_events events;

	vcpu_events_get(vcpu, &events);
	TEST_ASSERT(!events.triple_fault.pending, "Triple fault pending");
	TEST_ASSERT(!vcpu_in_l2(vcpu), "vCPU still in guest mode");
}

TEST_F(l2, userspace_clears_svme_with_set_sregs)
{
	run_to_l2(self->vcpu);
	vcpu_sregs_set(self->vcpu, &self->reset_sregs);
	assert_left_l2(self->vcpu);

	vcpu_regs_set(self->vcpu, &self->reset_regs);
	run_l1_after_reset(self->vcpu);
}

TEST_F(l2, userspace_clears_svme_with_set_sregs2)
{
	struct kvm_sregs2 sregs2;

	if (!kvm_has_cap(KVM_CAP_SREGS2))
		SKIP(return, "KVM_CAP_SREGS2 not supported");

	vcpu_ioctl(self->vcpu, KVM_GET_SREGS2, &sregs2);

	run_to_l2(self->vcpu);
	vcpu_ioctl(self->vcpu, KVM_SET_SREGS2, &sregs2);
	assert_left_l2(self->vcpu);

	vcpu_regs_set(self->vcpu, &self->reset_regs);
	run_l1_after_reset(self->vcpu);
}

TEST_F(l2, userspace_clears_svme_with_set_msrs)
{
	run_to_l2(self->vcpu);
	vcpu_set_msr(self->vcpu, MSR_EFER, self->reset_sregs.efer);
	assert_left_l2(self->vcpu);

	vcpu_sregs_set(self->vcpu, &self->reset_sregs);
	vcpu_regs_set(self->vcpu, &self->reset_regs);
	run_l1_after_reset(self->vcpu);
}

static void l1_write_to_read_only_memory(u64 *mem)
{
	/* Have the page mapped before it is written to. */
	READ_ONCE(*mem);
	WRITE_ONCE(*mem, 1);
	GUEST_DONE();
}

/* The vCPU goes on as it is, i.e. with what KVM has loaded for L1. */
TEST_F_TIMEOUT(l2, userspace_clears_svme_and_memory_stays_read_only, TIMEOUT)
{
	struct kvm_vcpu *vcpu = self->vcpu;
	struct kvm_vm *vm = vcpu->vm;
	struct kvm_regs regs;

	vm_userspace_mem_region_add(vm, VM_MEM_SRC_ANONYMOUS, READ_ONLY_GPA, READ_ONLY_SLOT, 1,
				    KVM_MEM_READONLY);
	virt_map(vm, READ_ONLY_GPA, READ_ONLY_GPA, 1);
	/* A page of its own, lest a write that goes through hits the host's zero page. */
	WRITE_ONCE(*(u64 *)addr_gpa2hva(vm, READ_ONLY_GPA), 2);

	run_to_l2(vcpu);
	vcpu_set_svme_by_msrs(vcpu, false);

	regs = self->reset_regs;
	regs.rip = (gva_t)l1_write_to_read_only_memory;
	regs.rdi = READ_ONLY_GPA;
	vcpu_regs_set(vcpu, &regs);
	vcpu_run(vcpu);

	TEST_ASSERT_KVM_EXIT_REASON(vcpu, KVM_EXIT_MMIO);
	TEST_ASSERT_EQ(vcpu->run->mmio.phys_addr, READ_ONLY_GPA);
	TEST_ASSERT(vcpu->run->mmio.is_write, "MMIO read from read-only memory");
}

/* KVM_RUN takes the registers while the vCPU already "wants to run". */
TEST_F(l2, userspace_clears_svme_with_sync_regs)
{
	struct kvm_run *run = self->vcpu->run;

	if (!(kvm_check_cap(KVM_CAP_SYNC_REGS) & KVM_SYNC_X86_SREGS))
		SKIP(return, "KVM_SYNC_X86_SREGS not supported");

	run_to_l2(self->vcpu);
	run->s.regs.sregs = self->reset_sregs;
	run->s.regs.regs = self->reset_regs;
	run->kvm_dirty_regs = KVM_SYNC_X86_SREGS | KVM_SYNC_X86_REGS;
	run_l1_after_reset(self->vcpu);
}

int main(int argc, char *argv[])
{
	TEST_REQUIRE(kvm_cpu_has(X86_FEATURE_SVM));

	return test_harness_run(argc, argv);
}
