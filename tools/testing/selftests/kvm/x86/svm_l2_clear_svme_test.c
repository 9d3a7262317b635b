// SPDX-License-Identifier: GPL-2.0-only
#include <linux/compiler.h>

#include "test_util.h"
#include "kvm_util.h"
#include "kvm_test_harness.h"
#include "processor.h"
#include "smm.h"
#include "svm_util.h"

#define WRMSR_INSN		0x300f
#define WRMSR_INSN_SIZE		2
#define VMMCALL_INSN_SIZE	3

/* EFER's two bits in the MSRPM, in the vector for MSRs 0xc0000000 and up. */
#define MSRPM_EFER_BYTE		(0x800 + (MSR_EFER & 0x1fff) / 4)
#define MSRPM_EFER_READ		BIT(0)
#define MSRPM_EFER_WRITE	BIT(1)

#define INTERCEPT_ALL_EXCEPTIONS	-1u

#define READ_ONLY_GPA		0xc0000000ull
#define READ_ONLY_SLOT		10

#define SMRAM_GPA		0x1000000
/* EFER in the state save area of CPUs with long mode, from SMBASE on. */
#define SMRAM_EFER		0xfed0

/* Where the guest stops: at a ucall, or, in SMM, at an IN from the first port. */
enum {
	AT_SMI = 0xe,
	AT_L2 = 0x100,
	AT_L1,
};

static const u8 smi_handler[] = {
	0xe4, AT_SMI,		/* in $AT_SMI, %al */
	0x0f, 0xaa,		/* rsm */
};

/* What ran after L2's WRMSR, counted without a stack or any other register. */
u64 nr_l2_resumes;
u64 nr_l1_resumes;

static u64 nr_l2_wrmsrs;

/* For L2 to write back, as it may not be able to read it. */
static u64 l1_efer;

static bool vcpu_in_l2(struct kvm_vcpu *vcpu)
{
	return vcpu_svm_nested_flags(vcpu) & KVM_STATE_NESTED_GUEST_MODE;
}

static bool vcpu_svme(struct kvm_vcpu *vcpu)
{
	return vcpu_get_msr(vcpu, MSR_EFER) & EFER_SVME;
}

static void run_to_l2(struct kvm_vcpu *vcpu)
{
	vcpu_run_to_sync(vcpu, AT_L2);
	vcpu_run_complete_io(vcpu);
	TEST_ASSERT(vcpu_in_l2(vcpu), "L2 stopped, but vCPU isn't in guest mode");
}

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
		      u32 intercept_exceptions, u8 msrpm_efer)
{
	struct vmcb *vmcb = svm->vmcb;

	generic_svm_setup(svm, l2_code);
	WRITE_ONCE(l1_efer, rdmsr(MSR_EFER));
	vmcb->control.intercept |= intercept;
	vmcb->control.intercept_exceptions = intercept_exceptions;
	((u8 *)svm->msr)[MSRPM_EFER_BYTE] = msrpm_efer;

	enter_l2(svm->vmcb_gpa);
	GUEST_ASSERT_EQ(vmcb->control.exit_code, SVM_EXIT_VMMCALL);
	GUEST_DONE();
}

static void l2_stop_and_exit(void)
{
	GUEST_SYNC(AT_L2);
	vmmcall();
}

static void l1_after_reset(struct svm_test_data *svm)
{
	GUEST_ASSERT(!(rdmsr(MSR_EFER) & EFER_SVME));
	GUEST_SYNC(AT_L1);
	l1_run_l2(svm, l2_stop_and_exit, 0, 0, 0);
}

/* The state in which @vcpu has never run, but for SVM to be used by L1 anew. */
static void get_reset_state(struct kvm_vcpu *vcpu, gva_t svm_gva, struct kvm_sregs *sregs,
			    struct kvm_regs *regs)
{
	vcpu_sregs_get(vcpu, sregs);
	vcpu_regs_get(vcpu, regs);
	regs->rip = (gva_t)l1_after_reset;
	regs->rdi = svm_gva;
}

static void run_l1_after_reset(struct kvm_vcpu *vcpu)
{
	vcpu_run_to_sync(vcpu, AT_L1);
	TEST_ASSERT(!vcpu_in_l2(vcpu), "vCPU in guest mode with L1 running");
	run_to_l2(vcpu);
	vcpu_run_to_done(vcpu);
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
	u64 intercept;
	u32 intercept_exceptions;
	u8 msrpm_efer;
	bool npt;
};

FIXTURE_VARIANT_ADD(l2_clears_svme, not_intercepted) {
	.l2_code = l2_clear_svme,
};

FIXTURE_VARIANT_ADD(l2_clears_svme, not_intercepted_npt) {
	.l2_code = l2_clear_svme,
	.npt = true,
};

FIXTURE_VARIANT_ADD(l2_clears_svme, together_with_sce) {
	.l2_code = l2_clear_svme_toggle_sce,
};

FIXTURE_VARIANT_ADD(l2_clears_svme, efer_reads_intercepted) {
	.l2_code = l2_clear_svme,
	.intercept = BIT_ULL(INTERCEPT_MSR_PROT),
	.msrpm_efer = MSRPM_EFER_READ,
};

FIXTURE_VARIANT_ADD(l2_clears_svme, msrpm_not_used) {
	.l2_code = l2_clear_svme,
	.msrpm_efer = MSRPM_EFER_READ | MSRPM_EFER_WRITE,
};

FIXTURE_VARIANT_ADD(l2_clears_svme, shutdown_intercepted) {
	.l2_code = l2_clear_svme,
	.intercept = BIT_ULL(INTERCEPT_SHUTDOWN),
	.intercept_exceptions = INTERCEPT_ALL_EXCEPTIONS,
};

FIXTURE_VARIANT_ADD(l2_clears_svme, shutdown_intercepted_npt) {
	.l2_code = l2_clear_svme,
	.intercept = BIT_ULL(INTERCEPT_SHUTDOWN),
	.intercept_exceptions = INTERCEPT_ALL_EXCEPTIONS,
	.npt = true,
};

FIXTURE_VARIANT_ADD(l2_clears_svme, emulated) {
	.l2_code = l2_clear_svme_emulated,
};

FIXTURE_VARIANT_ADD(l2_clears_svme, emulated_npt) {
	.l2_code = l2_clear_svme_emulated,
	.npt = true,
};

FIXTURE_SETUP(l2_clears_svme)
{
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

	vcpu_alloc_svm(vm, &svm_gva);
	vcpu_alloc_svm(vm, &other_svm_gva);

	if (variant->npt)
		tdp_identity_map_default_memslots(vm);

	get_reset_state(self->vcpu, svm_gva, &self->reset_sregs, &self->reset_regs);

	vcpu_args_set(self->vcpu, 5, svm_gva, variant->l2_code, variant->intercept,
		      variant->intercept_exceptions, variant->msrpm_efer);
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

TEST_F(l2_clears_svme, shuts_down_l1)
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
	run_l1_after_reset(self->vcpu);
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

/* Whether it is executed or emulated, L2's WRMSR must not change anything. */
static void l1_intercept_efer_write(struct svm_test_data *svm, void (*l2_code)(void))
{
	struct vmcb *vmcb = svm->vmcb;
	u64 efer;

	generic_svm_setup(svm, l2_code);
	vmcb->control.intercept |= BIT_ULL(INTERCEPT_MSR_PROT);
	((u8 *)svm->msr)[MSRPM_EFER_BYTE] = MSRPM_EFER_WRITE;
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
	struct kvm_sregs reset_sregs;
	struct kvm_regs reset_regs;
};

FIXTURE_VARIANT(l2) {
	bool npt;
};

FIXTURE_VARIANT_ADD(l2, no_npt) {
};

FIXTURE_VARIANT_ADD(l2, npt) {
	.npt = true,
};

FIXTURE_SETUP(l2)
{
	struct kvm_vm *vm;

	if (variant->npt && !kvm_cpu_has_npt())
		SKIP(return, "KVM doesn't support nested NPT");

	vm = vm_create_with_one_vcpu(&self->vcpu, l1_run_l2);
	vm_enable_cap(vm, KVM_CAP_X86_TRIPLE_FAULT_EVENT, true);

	if (variant->npt)
		vm_enable_npt(vm);

	vcpu_alloc_svm(vm, &self->svm_gva);

	if (variant->npt)
		tdp_identity_map_default_memslots(vm);

	get_reset_state(self->vcpu, self->svm_gva, &self->reset_sregs, &self->reset_regs);
	vcpu_args_set(self->vcpu, 5, self->svm_gva, l2_stop_and_exit, 0, 0, 0);
}

FIXTURE_TEARDOWN(l2)
{
	kvm_vm_free(self->vcpu->vm);
}

static void no_change(struct kvm_vcpu *vcpu)
{
}

static void migrate_with_cpuid(struct kvm_vcpu **vcpu, void (*change)(struct kvm_vcpu *vcpu))
{
	struct kvm_x86_state *state = vcpu_save_state(*vcpu);
	struct kvm_vm *vm = (*vcpu)->vm;

	kvm_vm_release(vm);
	*vcpu = vm_recreate_with_one_vcpu(vm);
	vm_enable_cap(vm, KVM_CAP_X86_TRIPLE_FAULT_EVENT, true);
	change(*vcpu);
	vcpu_set_cpuid(*vcpu);
	vcpu_load_state(*vcpu, state);
	kvm_x86_state_cleanup(state);

	TEST_ASSERT(vcpu_in_l2(*vcpu), "vCPU not in guest mode after migration");
}

static void migrate(struct kvm_vcpu **vcpu)
{
	migrate_with_cpuid(vcpu, no_change);
}

TEST_F(l2, exits_to_l1_after_migration)
{
	run_to_l2(self->vcpu);
	migrate(&self->vcpu);
	vcpu_run_to_done(self->vcpu);
	TEST_ASSERT(vcpu_svme(self->vcpu), "L1 lost EFER.SVME");
}

TEST_F(l2, clears_svme_after_migration)
{
	vcpu_args_set(self->vcpu, 5, self->svm_gva, l2_clear_svme, 0, 0, 0);
	run_to_l2(self->vcpu);
	migrate(&self->vcpu);
	run_l2_to_shutdown(self->vcpu);
	TEST_ASSERT(!vcpu_in_l2(self->vcpu), "vCPU still in guest mode");
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

	run_to_l2(self->vcpu);
	migrate(&self->vcpu);
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
	struct kvm_nested_state state = {
		.flags = KVM_STATE_NESTED_GIF_SET,
		.format = KVM_STATE_NESTED_FORMAT_SVM,
		.size = sizeof(state),
	};

	vcpu_nested_state_set(vcpu, &state);
	TEST_ASSERT(!vcpu_in_l2(vcpu), "vCPU still in guest mode");
}

TEST_F(l2, cpuid_can_change_with_l2_gone)
{
	int i;

	run_to_l2(self->vcpu);
	migrate(&self->vcpu);
	leave_l2(self->vcpu);

	for (i = 0; i < ARRAY_SIZE(cpuid_changes); i++) {
		cpuid_changes[i].change(self->vcpu);
		vcpu_set_cpuid(self->vcpu);
	}
}

static void l1_stop(void)
{
	GUEST_SYNC(AT_L1);
}

static void l1_run_l2_with_vls(struct svm_test_data *svm)
{
	struct vmcb *vmcb = svm->vmcb;

	generic_svm_setup(svm, l2_stop_and_exit);
	vmcb->control.misc_ctl2 |= SVM_MISC2_ENABLE_V_VMLOAD_VMSAVE;
	enter_l2(svm->vmcb_gpa);
	GUEST_ASSERT_EQ(vmcb->control.exit_code, SVM_EXIT_VMMCALL);
	GUEST_DONE();
}

/*
 * With L2 active, CPUID goes back to what KVM supports, which it may not.  If
 * it does, VMLOAD and VMSAVE may take the addresses of the host from then on:
 * nothing that runs after it executes them.  A KVM that looks at what the CPU
 * gets finds that out at the next VMRUN, and all others have to survive it.
 */
static void undo_cpuid_change_in_l2(struct kvm_vcpu **vcpu,
				    void (*change)(struct kvm_vcpu *vcpu))
{
	int r;

	run_to_l2(*vcpu);
	migrate_with_cpuid(vcpu, change);

	r = __vcpu_ioctl(*vcpu, KVM_SET_CPUID2, kvm_get_supported_cpuid());
	TEST_ASSERT(!r || (r == -1 && errno == EINVAL),
		    "Change of CPUID in L2: wanted 0 or EINVAL, got %d, errno %d", r, errno);
	TEST_ASSERT(vcpu_in_l2(*vcpu), "vCPU left guest mode");
}

/* KVM intercepts VMLOAD and VMSAVE of L1 for the one vendor, not for the other. */
TEST_F(l2, cpuid_of_other_vendor_keeps_l1_from_host_memory)
{
	undo_cpuid_change_in_l2(&self->vcpu, change_vendor);
	leave_l2(self->vcpu);

	self->reset_sregs.efer |= EFER_SVME;
	self->reset_regs.rip = (gva_t)l1_stop;
	vcpu_sregs_set(self->vcpu, &self->reset_sregs);
	vcpu_regs_set(self->vcpu, &self->reset_regs);
	vcpu_run_to_sync(self->vcpu, AT_L1);
}

TEST_F(l2, toggles_other_efer_bits)
{
	vcpu_arch_set_entry_point(self->vcpu, l1_skip_vmmcalls);
	vcpu_args_set(self->vcpu, 3, self->svm_gva, l2_toggle_other_efer_bits, 4);

	run_to_l2(self->vcpu);
	vcpu_run_to_done(self->vcpu);
}

TEST_F(l2, gets_gp_for_svme_clear_with_illegal_bits)
{
	vcpu_arch_set_entry_point(self->vcpu, l1_skip_vmmcalls);
	vcpu_args_set(self->vcpu, 3, self->svm_gva, l2_clear_svme_with_fault, 3);

	run_to_l2(self->vcpu);
	vcpu_run_to_done(self->vcpu);
}

TEST_F(l2, svme_clear_is_intercepted)
{
	vcpu_arch_set_entry_point(self->vcpu, l1_intercept_efer_write);
	vcpu_args_set(self->vcpu, 2, self->svm_gva, l2_clear_svme);

	run_to_l2(self->vcpu);
	vcpu_run_to_done(self->vcpu);
}

TEST_F(l2, emulated_svme_clear_is_intercepted)
{
	if (!is_forced_emulation_enabled)
		SKIP(return, "kvm.force_emulation_prefix is disabled");

	vcpu_arch_set_entry_point(self->vcpu, l1_intercept_efer_write);
	vcpu_args_set(self->vcpu, 2, self->svm_gva, l2_clear_svme_emulated);

	run_to_l2(self->vcpu);
	vcpu_run_to_done(self->vcpu);
}

TEST_F(l2, rsm_that_clears_svme_shuts_down_l1)
{
	struct kvm_vcpu *vcpu = self->vcpu;
	u64 *efer;

	if (!kvm_has_cap(KVM_CAP_X86_SMM))
		SKIP(return, "KVM_CAP_X86_SMM not supported");

	setup_smram(vcpu->vm, vcpu, SMRAM_GPA, smi_handler, sizeof(smi_handler));
	run_to_l2(vcpu);
	inject_smi(vcpu);
	vcpu_run_to_io(vcpu, AT_SMI);

	efer = addr_gpa2hva(vcpu->vm, SMRAM_GPA + SMRAM_EFER);
	TEST_ASSERT(*efer & EFER_SVME, "No EFER.SVME in SMRAM's EFER, 0x%lx", *efer);
	*efer &= ~EFER_SVME;

	vcpu_run(vcpu);
	sync_global_from_guest(vcpu->vm, nr_l1_resumes);
	TEST_ASSERT_EQ(nr_l1_resumes, 0);
	TEST_ASSERT_KVM_EXIT_REASON(vcpu, KVM_EXIT_SHUTDOWN);
	TEST_ASSERT(!vcpu_in_l2(vcpu), "vCPU still in guest mode");
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

/* KVM_RUN takes the registers while the vCPU already "wants to run". */
static void l1_write_to_read_only_memory(u64 *mem)
{
	/* Have the page mapped before it is written to. */
	READ_ONCE(*mem);
	WRITE_ONCE(*mem, 1);
	GUEST_DONE();
}

/* The vCPU goes on as it is, i.e. with what KVM has loaded for L1. */
TEST_F(l2, userspace_clears_svme_and_memory_stays_read_only)
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
	vcpu_set_msr(vcpu, MSR_EFER, vcpu_get_msr(vcpu, MSR_EFER) & ~EFER_SVME);

	regs = self->reset_regs;
	regs.rip = (gva_t)l1_write_to_read_only_memory;
	regs.rdi = READ_ONLY_GPA;
	vcpu_regs_set(vcpu, &regs);
	vcpu_run(vcpu);

	TEST_ASSERT_KVM_EXIT_REASON(vcpu, KVM_EXIT_MMIO);
	TEST_ASSERT_EQ(vcpu->run->mmio.phys_addr, READ_ONLY_GPA);
	TEST_ASSERT(vcpu->run->mmio.is_write, "MMIO read from read-only memory");
}

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

/* For what makes KVM WARN where it goes wrong. */
FIXTURE(host_may_crash) {
	struct kvm_vcpu *vcpu;
};

FIXTURE_SETUP(host_may_crash)
{
	gva_t svm_gva;
	struct kvm_vm *vm;

	if (!kvm_cpu_has_npt() || !kvm_cpu_has(X86_FEATURE_V_VMSAVE_VMLOAD))
		SKIP(return, "KVM doesn't support nested NPT and V_VMSAVE_VMLOAD");

	vm = vm_create_with_one_vcpu(&self->vcpu, l1_run_l2_with_vls);
	vm_enable_npt(vm);
	vcpu_alloc_svm(vm, &svm_gva);
	tdp_identity_map_default_memslots(vm);
	vcpu_args_set(self->vcpu, 1, svm_gva);
}

FIXTURE_TEARDOWN(host_may_crash)
{
	kvm_vm_free(self->vcpu->vm);
}

/* KVM virtualizes VMLOAD and VMSAVE of L2 if L1 wants that and may have it. */
TEST_F(host_may_crash, cpuid_without_vls_keeps_l2_from_host_memory)
{
	undo_cpuid_change_in_l2(&self->vcpu, change_vls);
	vcpu_run_to_done(self->vcpu);
}

int main(int argc, char *argv[])
{
	TEST_REQUIRE(kvm_cpu_has(X86_FEATURE_SVM));

	return test_harness_run(argc, argv);
}
