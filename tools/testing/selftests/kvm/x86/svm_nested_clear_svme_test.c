// SPDX-License-Identifier: GPL-2.0-only
#include "test_util.h"
#include "kvm_util.h"
#include "kvm_test_harness.h"
#include "processor.h"
#include "smm.h"
#include "svm_util.h"

#define WRMSR_INSN		0x300f
#define WRMSR_INSN_SIZE		2

/* EFER's two bits in the MSRPM, in the vector for MSRs 0xc0000000 and up. */
#define MSRPM_EFER_BYTE		(0x800 + (MSR_EFER & 0x1fff) / 4)
#define EFER_READ		BIT(0)
#define EFER_WRITE		BIT(1)

/* EFER in the state save area of CPUs with long mode, from SMBASE on. */
#define SMRAM_EFER		0xfed0

/* In seconds, for tests whose guest may hang where KVM gets it wrong. */
#define TIMEOUT			5

enum {
	AT_L1,
	AT_L2,
};

/* What ran after L2's WRMSR, counted without a stack or any other register. */
u64 nr_l2_resumes;
u64 nr_l1_resumes;

static u64 nr_l2_wrmsrs;

/* For L2 to write back, as it may not be able to read it. */
static u64 l1_efer;

/*
 * run_guest() keeps the registers in a global, i.e. is for one vCPU only, and
 * touches memory before it is known whether L1 should be running at all.
 */
static noinline void enter_l2(u64 vmcb_gpa)
{
	asm volatile("push %%rbp\n\t"
		     "vmrun %%rax\n\t"
		     "incq nr_l1_resumes\n\t"
		     "pop %%rbp"
		     : : "a" (vmcb_gpa)
		     : "rbx", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11",
		       "r12", "r13", "r14", "r15", "cc", "memory");
}

static void l1_run_l2(struct svm_test_data *svm, void (*l2_code)(void), u64 intercept,
		      u32 intercept_exceptions, u8 msrpm)
{
	struct vmcb *vmcb = svm->vmcb;

	GUEST_ASSERT(!(rdmsr(MSR_EFER) & EFER_SVME));
	GUEST_SYNC(AT_L1);

	generic_svm_setup(svm, l2_code);
	WRITE_ONCE(l1_efer, rdmsr(MSR_EFER));
	vmcb->control.intercept |= intercept;
	vmcb->control.intercept_exceptions = intercept_exceptions;
	((u8 *)svm->msr)[MSRPM_EFER_BYTE] = msrpm;

	enter_l2(svm->vmcb_gpa);
	GUEST_ASSERT_EQ(vmcb->control.exit_code, SVM_EXIT_VMMCALL);
	GUEST_DONE();
}

static void l2_stop_and_exit(void)
{
	GUEST_SYNC(AT_L2);
	vmmcall();
}

static void run_to_l2(struct kvm_vcpu *vcpu)
{
	vcpu_run_to_sync(vcpu, AT_L1);
	TEST_ASSERT(!vcpu_in_l2(vcpu), "vCPU in guest mode with L1 running");
	vcpu_run_to_l2(vcpu, AT_L2);
}

#define l2_write_efer_and_count(prefix, val)				\
do {									\
	u64 __val = val;						\
									\
	nr_l2_wrmsrs++;							\
	asm volatile(prefix "wrmsr\n\t"					\
		     "incq nr_l2_resumes"				\
		     : : "a" ((u32)__val), "d" ((u32)(__val >> 32)),	\
			 "c" (MSR_EFER)					\
		     : "cc", "memory");					\
} while (0)

static void l2_clear_svme(void)
{
	GUEST_SYNC(AT_L2);
	l2_write_efer_and_count("", READ_ONCE(l1_efer) & ~EFER_SVME);
	vmmcall();
}

static void l2_clear_svme_toggle_sce(void)
{
	GUEST_SYNC(AT_L2);
	l2_write_efer_and_count("", (READ_ONCE(l1_efer) ^ EFER_SCE) & ~EFER_SVME);
	vmmcall();
}

static void l2_clear_svme_emulated(void)
{
	GUEST_SYNC(AT_L2);
	l2_write_efer_and_count(KVM_FEP, READ_ONCE(l1_efer) & ~EFER_SVME);
	vmmcall();
}

FIXTURE(l2_clears_svme) {
	struct kvm_vcpu *vcpu;
	struct kvm_vcpu *other_vcpu;
	struct kvm_sregs reset_sregs;
	struct kvm_regs reset_regs;
};

FIXTURE_VARIANT(l2_clears_svme) {
	void (*l2_code)(void);
	bool npt;
	/* And all exceptions. */
	bool intercept_shutdown;
	bool use_msrpm;
	u8 msrpm;
};

#define L2_CLEARS_SVME(name)	FIXTURE_VARIANT_ADD(l2_clears_svme, name)

L2_CLEARS_SVME(not_intercepted) { l2_clear_svme };
L2_CLEARS_SVME(not_intercepted_npt) { l2_clear_svme, .npt = true };
L2_CLEARS_SVME(together_with_sce) { l2_clear_svme_toggle_sce };
L2_CLEARS_SVME(efer_reads_intercepted) { l2_clear_svme, .use_msrpm = true, .msrpm = EFER_READ };
L2_CLEARS_SVME(msrpm_not_used) { l2_clear_svme, .msrpm = EFER_READ | EFER_WRITE };
L2_CLEARS_SVME(shutdown_intercepted) { l2_clear_svme, .intercept_shutdown = true };
L2_CLEARS_SVME(shutdown_intercepted_npt) { l2_clear_svme, .npt = true, .intercept_shutdown = true };
L2_CLEARS_SVME(emulated) { l2_clear_svme_emulated };
L2_CLEARS_SVME(emulated_npt) { l2_clear_svme_emulated, .npt = true };

FIXTURE_SETUP(l2_clears_svme)
{
	u64 intercept = 0;
	struct kvm_vcpu *vcpus[2];
	gva_t svm_gva, other_svm_gva;
	struct kvm_vm *vm;

	if (variant->npt && !kvm_cpu_has_npt())
		SKIP(return, "KVM doesn't support nested NPT");

	if (variant->l2_code == l2_clear_svme_emulated && !is_forced_emulation_enabled)
		SKIP(return, "kvm.force_emulation_prefix is disabled");

	vm = vm_create_with_vcpus(ARRAY_SIZE(vcpus), l1_run_l2, vcpus);
	self->vcpu = vcpus[0];
	self->other_vcpu = vcpus[1];

	if (variant->npt)
		vm_enable_npt(vm);
	vcpu_alloc_svm(vm, &other_svm_gva);
	__vcpu_alloc_svm(vm, variant->npt, &svm_gva);

	/* As before the vCPU has ever run, but with another L2. */
	vcpu_args_set(self->vcpu, 5, svm_gva, l2_stop_and_exit, 0, 0, 0);
	vcpu_sregs_get(self->vcpu, &self->reset_sregs);
	vcpu_regs_get(self->vcpu, &self->reset_regs);

	if (variant->intercept_shutdown)
		intercept |= BIT_ULL(INTERCEPT_SHUTDOWN);
	if (variant->use_msrpm)
		intercept |= BIT_ULL(INTERCEPT_MSR_PROT);
	vcpu_args_set(self->vcpu, 5, svm_gva, variant->l2_code, intercept,
		      variant->intercept_shutdown ? -1u : 0, variant->msrpm);
	vcpu_args_set(self->other_vcpu, 5, other_svm_gva, l2_stop_and_exit, 0, 0, 0);
}

FIXTURE_TEARDOWN(l2_clears_svme)
{
	kvm_vm_free(self->vcpu->vm);
}

static void run_l2_to_shutdown(struct kvm_vcpu *vcpu)
{
	struct kvm_vm *vm = vcpu->vm;

	vcpu_run(vcpu);
	sync_global_from_guest(vm, nr_l2_wrmsrs);
	sync_global_from_guest(vm, nr_l2_resumes);
	sync_global_from_guest(vm, nr_l1_resumes);

	TEST_ASSERT(nr_l2_wrmsrs == 1 && !nr_l2_resumes && !nr_l1_resumes,
		    "L2 at WRMSR %lu times, past it %lu times, L1 past VMRUN %lu times",
		    nr_l2_wrmsrs, nr_l2_resumes, nr_l1_resumes);
	TEST_ASSERT_KVM_EXIT_REASON(vcpu, KVM_EXIT_SHUTDOWN);
}

TEST_F_TIMEOUT(l2_clears_svme, shuts_down_l1, TIMEOUT)
{
	struct kvm_sregs sregs;

	run_to_l2(self->other_vcpu);
	run_to_l2(self->vcpu);
	run_l2_to_shutdown(self->vcpu);

	TEST_ASSERT(!vcpu_in_l2(self->vcpu), "vCPU still in guest mode");
	TEST_ASSERT(!vcpu_svme(self->vcpu), "EFER.SVME still set");

	TEST_ASSERT(vcpu_in_l2(self->other_vcpu), "Other vCPU not in guest mode anymore");
	TEST_ASSERT(vcpu_svme(self->other_vcpu), "Other vCPU lost EFER.SVME");
	vcpu_run_to_done(self->other_vcpu);

	/* A shutdown is not the end: userspace can reset the vCPU, CR3 included. */
	vcpu_sregs_get(self->vcpu, &sregs);
	sregs.cr3 = 0;
	vcpu_sregs_set(self->vcpu, &sregs);
	vcpu_sregs_set(self->vcpu, &self->reset_sregs);
	vcpu_regs_set(self->vcpu, &self->reset_regs);
	run_to_l2(self->vcpu);
	vcpu_run_to_done(self->vcpu);
}

/* Whether it is executed or emulated, L2's WRMSR must not change anything. */
static void l1_intercept_efer_write(struct svm_test_data *svm, void (*l2_code)(void))
{
	struct vmcb *vmcb = svm->vmcb;
	u64 efer;

	generic_svm_setup(svm, l2_code);
	vmcb->control.intercept |= BIT_ULL(INTERCEPT_MSR_PROT);
	((u8 *)svm->msr)[MSRPM_EFER_BYTE] = EFER_WRITE;
	efer = rdmsr(MSR_EFER);
	WRITE_ONCE(l1_efer, efer);

	run_guest(vmcb, svm->vmcb_gpa);
	GUEST_ASSERT_EQ(vmcb->control.exit_code, SVM_EXIT_MSR);
	GUEST_ASSERT_EQ(vmcb->control.exit_info_1, 1);
	GUEST_ASSERT_EQ(guest_regs.rcx, MSR_EFER);
	GUEST_ASSERT_EQ(*(u16 *)vmcb->save.rip, WRMSR_INSN);
	GUEST_ASSERT_EQ(vmcb->save.efer, efer);
	GUEST_ASSERT_EQ(rdmsr(MSR_EFER), efer);
	GUEST_ASSERT_EQ(nr_l2_resumes, 0);

	vmcb->save.rip += WRMSR_INSN_SIZE;
	run_guest(vmcb, svm->vmcb_gpa);
	GUEST_ASSERT_EQ(vmcb->control.exit_code, SVM_EXIT_VMMCALL);
	GUEST_ASSERT_EQ(vmcb->save.efer, efer);
	GUEST_ASSERT_EQ(nr_l2_resumes, 1);
	GUEST_DONE();
}

FIXTURE(l2) {
	struct kvm_vcpu *vcpu;
	gva_t svm_gva;
};

FIXTURE_VARIANT(l2) {
	bool npt;
};

FIXTURE_VARIANT_ADD(l2, no_npt) { };
FIXTURE_VARIANT_ADD(l2, npt) { .npt = true };

FIXTURE_SETUP(l2)
{
	struct kvm_vm *vm;

	if (variant->npt && !kvm_cpu_has_npt())
		SKIP(return, "KVM doesn't support nested NPT");

	vm = vm_create_with_one_vcpu(&self->vcpu, l1_run_l2);
	__vcpu_alloc_svm(vm, variant->npt, &self->svm_gva);
	vcpu_args_set(self->vcpu, 5, self->svm_gva, l2_stop_and_exit, 0, 0, 0);
}

FIXTURE_TEARDOWN(l2)
{
	kvm_vm_free(self->vcpu->vm);
}

TEST_F_TIMEOUT(l2, clears_svme_after_migration, TIMEOUT)
{
	vcpu_args_set(self->vcpu, 5, self->svm_gva, l2_clear_svme, 0, 0, 0);
	run_to_l2(self->vcpu);
	self->vcpu = vcpu_migrate(self->vcpu, NULL);
	run_l2_to_shutdown(self->vcpu);
	TEST_ASSERT(!vcpu_in_l2(self->vcpu), "vCPU still in guest mode");
}

TEST_F(l2, svme_clear_is_intercepted)
{
	vcpu_arch_set_entry_point(self->vcpu, l1_intercept_efer_write);
	vcpu_args_set(self->vcpu, 2, self->svm_gva, l2_clear_svme);

	vcpu_run_to_l2(self->vcpu, AT_L2);
	vcpu_run_to_done(self->vcpu);
}

TEST_F(l2, emulated_svme_clear_is_intercepted)
{
	if (!is_forced_emulation_enabled)
		SKIP(return, "kvm.force_emulation_prefix is disabled");

	vcpu_arch_set_entry_point(self->vcpu, l1_intercept_efer_write);
	vcpu_args_set(self->vcpu, 2, self->svm_gva, l2_clear_svme_emulated);

	vcpu_run_to_l2(self->vcpu, AT_L2);
	vcpu_run_to_done(self->vcpu);
}

TEST_F(l2, rsm_that_clears_svme_shuts_down_l1)
{
	struct kvm_vcpu *vcpu = self->vcpu;
	u64 *efer;

	if (!kvm_has_cap(KVM_CAP_X86_SMM))
		SKIP(return, "KVM_CAP_X86_SMM not supported");

	setup_smi_stop(vcpu);
	run_to_l2(vcpu);
	inject_smi(vcpu);
	vcpu_run_to_port(vcpu, SMI_STOP_PORT);

	efer = addr_gpa2hva(vcpu->vm, vcpu_get_msr(vcpu, MSR_IA32_SMBASE) + SMRAM_EFER);
	TEST_ASSERT(*efer & EFER_SVME, "No EFER.SVME in SMRAM's EFER, 0x%lx", *efer);
	*efer &= ~EFER_SVME;

	vcpu_run(vcpu);
	sync_global_from_guest(vcpu->vm, nr_l1_resumes);
	TEST_ASSERT_EQ(nr_l1_resumes, 0);
	TEST_ASSERT_KVM_EXIT_REASON(vcpu, KVM_EXIT_SHUTDOWN);
	TEST_ASSERT(!vcpu_in_l2(vcpu), "vCPU still in guest mode");
}

int main(int argc, char *argv[])
{
	TEST_REQUIRE(kvm_cpu_has(X86_FEATURE_SVM));

	return test_harness_run(argc, argv);
}
