// SPDX-License-Identifier: GPL-2.0-only
#include <linux/compiler.h>

#include "test_util.h"
#include "kvm_util.h"
#include "kvm_test_harness.h"
#include "processor.h"
#include "apic.h"
#include "svm_util.h"

#define X86_FEATURE_VNMI	KVM_X86_CPU_FEATURE(0x8000000A, 0, EDX, 25)

#define V_NMI_ENABLE_MASK	BIT(26)

#define PAT_RESERVED_TYPE	0x0707070707070702ULL

#define DR7_L0			BIT(0)
#define DR7_AFTER_VMEXIT	0x400

/* Memory that userspace can take away while L2 is active. */
#define VMCB12_GPA		0xc0000000ull
#define VMCB12_SLOT		10
#define SPARE_GPA		0xd0000000ull
#define SPARE_SLOT		11

/* A value that is in no VMCB field, and in no register, of its own accord. */
#define POISON			0x5a5a5a5aU

#define L1_RFLAGS		(X86_EFLAGS_CF | X86_EFLAGS_PF | X86_EFLAGS_AF | \
				 X86_EFLAGS_ZF | X86_EFLAGS_SF | X86_EFLAGS_DF | \
				 X86_EFLAGS_OF | X86_EFLAGS_FIXED)

enum {
	AT_VMRUN,
	AT_VMEXIT,
	AT_GIF_SET,
	AT_L2,
	AT_L2_AFTER_EVENT,
};

u64 l1_rsp;
u64 l1_vmexit_rip;
u64 stgi_end;

static u64 nr_l2_runs;
static u64 nr_nmis;
static u64 nmi_rip;

static void nmi_handler(struct ex_regs *regs)
{
	nr_nmis++;
	nmi_rip = regs->rip;
}

static void l2_code(void)
{
	nr_l2_runs++;
	vmmcall();
}

static void setup_broken_vmcb(struct svm_test_data *svm, void (*break_vmcb)(struct vmcb *vmcb))
{
	struct vmcb *vmcb = svm->vmcb;

	generic_svm_setup(svm, l2_code);
	vmcb->save.rax = POISON;
	vmcb->control.exit_code = POISON;
	vmcb->control.exit_info_1 = POISON;
	vmcb->control.exit_info_2 = POISON;
	vmcb->control.event_inj = SVM_EVTINJ_VALID | SVM_EVTINJ_TYPE_EXEPT | UD_VECTOR;
	vmcb->control.event_inj_err = POISON;

	break_vmcb(vmcb);
}

/* Leaves what VMRUN did to L1's registers in guest_regs. */
static noinline u64 vmrun_with_patterns(u64 vmcb_gpa)
{
	u64 rax;

	asm volatile("mov %%rsp, l1_rsp\n\t"
		     "mov %%rsp, " GUEST_REG(rsp) "\n\t"
		     GUEST_SWITCH_GPR_ASM(rbx)
		     GUEST_SWITCH_GPR_ASM(rcx)
		     GUEST_SWITCH_GPR_ASM(rdx)
		     GUEST_SWITCH_GPR_ASM(rbp)
		     GUEST_SWITCH_GPR_ASM(rsi)
		     GUEST_SWITCH_GPR_ASM(rdi)
		     GUEST_SWITCH_GPR_ASM(r8)
		     GUEST_SWITCH_GPR_ASM(r9)
		     GUEST_SWITCH_GPR_ASM(r10)
		     GUEST_SWITCH_GPR_ASM(r11)
		     GUEST_SWITCH_GPR_ASM(r12)
		     GUEST_SWITCH_GPR_ASM(r13)
		     GUEST_SWITCH_GPR_ASM(r14)
		     GUEST_SWITCH_GPR_ASM(r15)
		     "pushq %[rflags]\n\t"
		     "popfq\n\t"
		     "vmrun %%rax\n\t"
		     GUEST_SWITCH_GPR_ASM(rsp)
		     "pushfq\n\t"
		     "popq " GUEST_REG(rflags) "\n\t"
		     "cld\n\t"
		     GUEST_SWITCH_GPR_ASM(rbx)
		     GUEST_SWITCH_GPR_ASM(rcx)
		     GUEST_SWITCH_GPR_ASM(rdx)
		     GUEST_SWITCH_GPR_ASM(rbp)
		     GUEST_SWITCH_GPR_ASM(rsi)
		     GUEST_SWITCH_GPR_ASM(rdi)
		     GUEST_SWITCH_GPR_ASM(r8)
		     GUEST_SWITCH_GPR_ASM(r9)
		     GUEST_SWITCH_GPR_ASM(r10)
		     GUEST_SWITCH_GPR_ASM(r11)
		     GUEST_SWITCH_GPR_ASM(r12)
		     GUEST_SWITCH_GPR_ASM(r13)
		     GUEST_SWITCH_GPR_ASM(r14)
		     GUEST_SWITCH_GPR_ASM(r15)
		     : "=a" (rax)
		     : "0" (vmcb_gpa), [rflags] "i" (L1_RFLAGS), GUEST_REGS_OFFSETS
		     : "cc", "memory");

	return rax;
}

static void vmrun_failure(struct svm_test_data *svm)
{
	struct vmcb_control_area *ctrl = &svm->vmcb->control;
	u64 *gprs = (u64 *)&guest_regs;
	u64 rax;
	int i;

	for (i = 0; i < sizeof(guest_regs) / sizeof(*gprs); i++)
		gprs[i] = (u64)POISON << 32 | i;

	rax = vmrun_with_patterns(svm->vmcb_gpa);

	GUEST_ASSERT_EQ(rax, svm->vmcb_gpa);
	GUEST_ASSERT_EQ(guest_regs.rsp, l1_rsp);
	GUEST_ASSERT_EQ(guest_regs.rflags, L1_RFLAGS);
	for (i = 0; i < sizeof(guest_regs) / sizeof(*gprs); i++) {
		if (&gprs[i] == &guest_regs.rsp || &gprs[i] == &guest_regs.rflags)
			continue;

		__GUEST_ASSERT(gprs[i] == ((u64)POISON << 32 | i),
			       "GPR %d is 0x%lx after VMRUN", i, gprs[i]);
	}

	GUEST_ASSERT_EQ(ctrl->exit_code, SVM_EXIT_ERR);
	GUEST_ASSERT_EQ(ctrl->exit_info_1, 0);
	GUEST_ASSERT_EQ(ctrl->exit_info_2, 0);
	GUEST_ASSERT_EQ(nr_l2_runs, 0);
}

static void run_l2(struct svm_test_data *svm)
{
	generic_svm_setup(svm, l2_code);
	run_guest(svm->vmcb, svm->vmcb_gpa);
	GUEST_ASSERT_EQ(svm->vmcb->control.exit_code, SVM_EXIT_VMMCALL);
	GUEST_ASSERT_EQ(nr_l2_runs, 1);
	nr_l2_runs = 0;
}

static void fail(struct svm_test_data *svm, void (*break_vmcb)(struct vmcb *vmcb), bool gif)
{
	u64 cr0, cr3, cr4, efer;

	setup_broken_vmcb(svm, break_vmcb);
	nr_nmis = 0;

	if (!gif) {
		clgi();
		x2apic_write_reg(APIC_ICR, APIC_INT_ASSERT | APIC_DM_NMI);
	}

	cr0 = get_cr0();
	cr3 = get_cr3();
	cr4 = get_cr4();
	efer = rdmsr(MSR_EFER);

	GUEST_SYNC(AT_VMRUN);
	vmrun_failure(svm);
	GUEST_SYNC(AT_VMEXIT);

	GUEST_ASSERT_EQ(get_cr0(), cr0);
	GUEST_ASSERT_EQ(get_cr3(), cr3);
	GUEST_ASSERT_EQ(get_cr4(), cr4);
	GUEST_ASSERT_EQ(rdmsr(MSR_EFER), efer);

	if (gif)
		x2apic_write_reg(APIC_ICR, APIC_INT_ASSERT | APIC_DM_NMI);

	/* The NMI must stay pending across exits to KVM and to userspace. */
	rdmsr(MSR_EFER);
	GUEST_SYNC(AT_VMEXIT);
	GUEST_ASSERT_EQ(READ_ONCE(nr_nmis), 0);

	asm volatile("movq $1f, stgi_end\n\t"
		     "stgi\n\t"
		     "1:"
		     : : : "memory");

	GUEST_ASSERT_EQ(nr_nmis, 1);
	GUEST_ASSERT_EQ(nmi_rip, stgi_end);

	GUEST_SYNC(AT_GIF_SET);
	GUEST_ASSERT_EQ(READ_ONCE(nr_nmis), 1);
}

static void l1_code(struct svm_test_data *svm, void (*break_vmcb)(struct vmcb *vmcb))
{
	x2apic_enable();

	fail(svm, break_vmcb, true);
	run_l2(svm);

	fail(svm, break_vmcb, false);
	run_l2(svm);

	GUEST_DONE();
}

FIXTURE(vmrun_failure) {
	struct kvm_vcpu *vcpu;
	struct vmcb *vmcb12;
};

FIXTURE_VARIANT(vmrun_failure) {
	void (*break_vmcb)(struct vmcb *vmcb);
	bool npt;
	bool vnmi;
	u64 disabled_quirks;
};

#define VMRUN_FAILURE(name, breakage, ...)		\
static void break_##name(struct vmcb *vmcb)		\
{							\
	breakage;					\
}							\
							\
FIXTURE_VARIANT_ADD(vmrun_failure, name) {		\
	.break_vmcb = break_##name,			\
	__VA_ARGS__					\
}

static u64 maxphyaddr_bit(void)
{
	return BIT_ULL(this_cpu_property(X86_PROPERTY_MAX_PHY_ADDR));
}

static void inject(struct vmcb *vmcb, u32 type, u8 vector)
{
	vmcb->control.event_inj = SVM_EVTINJ_VALID | type | vector;
}

static void clear_long_mode(struct vmcb *vmcb)
{
	vmcb->save.efer &= ~(EFER_LME | EFER_LMA);
}

VMRUN_FAILURE(asid_0, vmcb->control.asid = 0);
VMRUN_FAILURE(vmrun_not_intercepted,
	      vmcb->control.intercept &= ~BIT_ULL(INTERCEPT_VMRUN));
VMRUN_FAILURE(ncr3_bit_63, vmcb->control.nested_cr3 |= BIT_ULL(63), .npt = true);
VMRUN_FAILURE(ncr3_maxphyaddr, vmcb->control.nested_cr3 |= maxphyaddr_bit(), .npt = true);
VMRUN_FAILURE(msrpm_starts_above_maxphyaddr,
	      vmcb->control.msrpm_base_pa = maxphyaddr_bit());
VMRUN_FAILURE(msrpm_ends_above_maxphyaddr,
	      vmcb->control.msrpm_base_pa = maxphyaddr_bit() - PAGE_SIZE);
VMRUN_FAILURE(iopm_starts_above_maxphyaddr,
	      vmcb->control.iopm_base_pa = maxphyaddr_bit());
VMRUN_FAILURE(iopm_ends_above_maxphyaddr,
	      vmcb->control.iopm_base_pa = maxphyaddr_bit() - 2 * PAGE_SIZE);
VMRUN_FAILURE(vnmi_without_nmi_intercept,
	      vmcb->control.int_ctl |= V_NMI_ENABLE_MASK, .vnmi = true);

VMRUN_FAILURE(inject_type_1, inject(vmcb, 1 << SVM_EVTINJ_TYPE_SHIFT, UD_VECTOR));
VMRUN_FAILURE(inject_type_5, inject(vmcb, 5 << SVM_EVTINJ_TYPE_SHIFT, UD_VECTOR));
VMRUN_FAILURE(inject_type_6, inject(vmcb, 6 << SVM_EVTINJ_TYPE_SHIFT, UD_VECTOR));
VMRUN_FAILURE(inject_type_7, inject(vmcb, 7 << SVM_EVTINJ_TYPE_SHIFT, UD_VECTOR));
VMRUN_FAILURE(inject_nmi_vector_as_exception,
	      inject(vmcb, SVM_EVTINJ_TYPE_EXEPT, NMI_VECTOR));
VMRUN_FAILURE(inject_reserved_exception, inject(vmcb, SVM_EVTINJ_TYPE_EXEPT, 31));
VMRUN_FAILURE(inject_exception_32, inject(vmcb, SVM_EVTINJ_TYPE_EXEPT, 32));

VMRUN_FAILURE(efer_svme_clear, vmcb->save.efer &= ~EFER_SVME);
VMRUN_FAILURE(efer_bit_9, vmcb->save.efer |= BIT_ULL(9));
VMRUN_FAILURE(efer_bit_63, vmcb->save.efer |= BIT_ULL(63));
VMRUN_FAILURE(cr0_nw_without_cd,
	      vmcb->save.cr0 &= ~X86_CR0_CD;
	      vmcb->save.cr0 |= X86_CR0_NW);
VMRUN_FAILURE(cr0_bit_32, vmcb->save.cr0 |= BIT_ULL(32));
VMRUN_FAILURE(cr0_bit_63, vmcb->save.cr0 |= BIT_ULL(63));
VMRUN_FAILURE(cr3_bit_63, vmcb->save.cr3 |= BIT_ULL(63));
VMRUN_FAILURE(cr3_maxphyaddr, vmcb->save.cr3 |= maxphyaddr_bit());
VMRUN_FAILURE(cr3_maxphyaddr_with_npt, vmcb->save.cr3 |= maxphyaddr_bit(), .npt = true);
VMRUN_FAILURE(cr4_vmxe, vmcb->save.cr4 |= X86_CR4_VMXE);
VMRUN_FAILURE(cr4_bit_15, vmcb->save.cr4 |= BIT_ULL(15));
VMRUN_FAILURE(cr4_bit_63, vmcb->save.cr4 |= BIT_ULL(63));
VMRUN_FAILURE(dr6_bit_32, vmcb->save.dr6 |= BIT_ULL(32));
VMRUN_FAILURE(dr6_bit_63, vmcb->save.dr6 |= BIT_ULL(63));
VMRUN_FAILURE(dr7_bit_32, vmcb->save.dr7 |= BIT_ULL(32));
VMRUN_FAILURE(dr7_bit_63, vmcb->save.dr7 |= BIT_ULL(63));
VMRUN_FAILURE(long_mode_without_pae, vmcb->save.cr4 &= ~X86_CR4_PAE);
VMRUN_FAILURE(long_mode_without_pe, vmcb->save.cr0 &= ~X86_CR0_PE);
VMRUN_FAILURE(long_mode_cs_l_and_d, vmcb->save.cs.attrib |= SVM_SELECTOR_DB_MASK);
VMRUN_FAILURE(gpat_reserved_type, vmcb->save.g_pat = PAT_RESERVED_TYPE,
	      .npt = true, .disabled_quirks = KVM_X86_QUIRK_NESTED_SVM_SHARED_PAT);

/* KVM notices the ones below only when it has already left L1. */
VMRUN_FAILURE(late_cr3_no_paging,
	      clear_long_mode(vmcb);
	      vmcb->save.cr0 &= ~X86_CR0_PG;
	      vmcb->save.cr4 ^= X86_CR4_TSD;
	      vmcb->save.cr3 |= maxphyaddr_bit());
VMRUN_FAILURE(late_cr3_no_paging_with_npt,
	      clear_long_mode(vmcb);
	      vmcb->save.cr0 &= ~X86_CR0_PG;
	      vmcb->save.cr4 ^= X86_CR4_TSD;
	      vmcb->save.cr3 |= maxphyaddr_bit(), .npt = true);
VMRUN_FAILURE(late_cr3_legacy_paging,
	      clear_long_mode(vmcb);
	      vmcb->save.cr4 &= ~X86_CR4_PAE;
	      vmcb->save.cr3 |= BIT_ULL(63));
/* L1's PML4Es, taken as PDPTEs, have the reserved bit 1 set. */
VMRUN_FAILURE(late_pae_pdpte_bit_1, clear_long_mode(vmcb));
VMRUN_FAILURE(late_msrpm_without_memory,
	      vmcb->control.intercept |= BIT_ULL(INTERCEPT_MSR_PROT);
	      vmcb->control.msrpm_base_pa = maxphyaddr_bit() / 2);
VMRUN_FAILURE(late_msrpm_without_memory_with_npt,
	      vmcb->control.intercept |= BIT_ULL(INTERCEPT_MSR_PROT);
	      vmcb->control.msrpm_base_pa = maxphyaddr_bit() / 2, .npt = true);

FIXTURE_SETUP(vmrun_failure)
{
	gva_t svm_gva;
	struct kvm_vm *vm;

	if (variant->npt && !kvm_cpu_has_npt())
		SKIP(return, "KVM doesn't support nested NPT");

	if (variant->vnmi && !kvm_cpu_has(X86_FEATURE_VNMI))
		SKIP(return, "KVM doesn't support nested vNMI");

	if (variant->disabled_quirks & ~(u64)kvm_check_cap(KVM_CAP_DISABLE_QUIRKS2))
		SKIP(return, "KVM can't disable quirks 0x%lx", variant->disabled_quirks);

	vm = vm_create_with_one_vcpu(&self->vcpu, l1_code);
	if (variant->disabled_quirks)
		vm_enable_cap(vm, KVM_CAP_DISABLE_QUIRKS2, variant->disabled_quirks);

	vm_install_exception_handler(vm, NMI_VECTOR, nmi_handler);

	if (variant->npt)
		vm_enable_npt(vm);

	self->vmcb12 = vcpu_alloc_svm(vm, &svm_gva)->vmcb_hva;
	vcpu_args_set(self->vcpu, 2, svm_gva, variant->break_vmcb);

	if (variant->npt)
		tdp_identity_map_default_memslots(vm);
}

FIXTURE_TEARDOWN(vmrun_failure)
{
	kvm_vm_free(self->vcpu->vm);
}

TEST_F(vmrun_failure, clears_gif_and_keeps_registers)
{
	struct kvm_vcpu *vcpu = self->vcpu;
	u64 gif_before[] = { KVM_STATE_NESTED_GIF_SET, 0 };
	int i;

	for (i = 0; i < ARRAY_SIZE(gif_before); i++) {
		vcpu_run_to_sync(vcpu, AT_VMRUN);
		TEST_ASSERT_EQ(vcpu_svm_nested_flags(vcpu), gif_before[i]);

		vcpu_run_to_sync(vcpu, AT_VMEXIT);
		TEST_ASSERT_EQ(vcpu_svm_nested_flags(vcpu), 0);

		vcpu_run_to_sync(vcpu, AT_VMEXIT);
		TEST_ASSERT_EQ(vcpu_svm_nested_flags(vcpu), 0);

		vcpu_run_to_sync(vcpu, AT_GIF_SET);
		TEST_ASSERT_EQ(vcpu_svm_nested_flags(vcpu), KVM_STATE_NESTED_GIF_SET);
	}

	vcpu_run_to_done(vcpu);
}

TEST_F(vmrun_failure, clears_eventinj)
{
	vcpu_run_to_sync(self->vcpu, AT_VMRUN);
	TEST_ASSERT(self->vmcb12->control.event_inj & SVM_EVTINJ_VALID,
		    "VMRUN has no event to inject");

	vcpu_run_to_sync(self->vcpu, AT_VMEXIT);
	TEST_ASSERT_EQ(self->vmcb12->control.event_inj, 0);
	TEST_ASSERT_EQ(self->vmcb12->control.event_inj_err, 0);
}

KVM_ONE_VCPU_TEST_SUITE(breakpoints);

static void test_breakpoints(struct kvm_vcpu *vcpu, void (*break_vmcb)(struct vmcb *vmcb))
{
	struct kvm_debugregs regs;
	gva_t svm_gva;

	vcpu_alloc_svm(vcpu->vm, &svm_gva);
	vcpu_args_set(vcpu, 2, svm_gva, break_vmcb);
	vcpu_run_to_sync(vcpu, AT_VMRUN);

	vcpu_debugregs_get(vcpu, &regs);
	regs.dr7 |= DR7_L0;
	vcpu_debugregs_set(vcpu, &regs);

	vcpu_run_to_sync(vcpu, AT_VMEXIT);
	vcpu_debugregs_get(vcpu, &regs);
	TEST_ASSERT_EQ(regs.dr7, DR7_AFTER_VMEXIT);
}

KVM_ONE_VCPU_TEST(breakpoints, are_off_after_early_vmrun_failure, l1_code)
{
	test_breakpoints(vcpu, break_asid_0);
}

KVM_ONE_VCPU_TEST(breakpoints, are_off_after_late_vmrun_failure, l1_code)
{
	test_breakpoints(vcpu, break_late_msrpm_without_memory);
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
	vcpu_run_to_sync(vcpu, AT_L2);

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

/* L2's own VMRUN, of the VMCB that L1 left in RAX. */
extern u8 l2_vmrun[];
asm("l2_vmrun: vmrun %rax; ud2");

static void l1_run_l2_that_fails(struct svm_test_data *svm, struct svm_test_data *l2_svm)
{
	struct vmcb *vmcb = svm->vmcb;

	setup_broken_vmcb(l2_svm, break_asid_0);

	generic_svm_setup(svm, l2_vmrun);
	guest_regs.rax = l2_svm->vmcb_gpa;
	run_guest(vmcb, svm->vmcb_gpa);

	GUEST_ASSERT_EQ(vmcb->control.exit_code, SVM_EXIT_VMRUN);
	GUEST_ASSERT_EQ(vmcb->save.rip, (u64)l2_vmrun);
	GUEST_ASSERT_EQ(vmcb->save.rax, l2_svm->vmcb_gpa);
	GUEST_ASSERT_EQ(l2_svm->vmcb->control.exit_code, POISON);
	GUEST_DONE();
}

KVM_ONE_VCPU_TEST_SUITE(vmrun_in_l2);

KVM_ONE_VCPU_TEST(vmrun_in_l2, is_vmexit_of_vmrun, l1_run_l2_that_fails)
{
	gva_t svm_gva, l2_svm_gva;

	vcpu_alloc_svm(vcpu->vm, &svm_gva);
	vcpu_alloc_svm(vcpu->vm, &l2_svm_gva);
	vcpu_args_set(vcpu, 2, svm_gva, l2_svm_gva);

	vcpu_run_to_done(vcpu);
}

/* L1 is not to get as far as its UD2. */
static noinline void vmrun_for_the_last_time(u64 vmcb_gpa)
{
	asm volatile("mov %%rsp, l1_rsp\n\t"
		     "movq $1f, l1_vmexit_rip\n\t"
		     "vmrun %%rax\n\t"
		     "1: ud2"
		     : : "a" (vmcb_gpa) : "memory");
}

static void l2_vmmcall(void)
{
	GUEST_SYNC(AT_L2);
	vmmcall();
}

static void l2_await_event(void)
{
	GUEST_SYNC(AT_L2);
	GUEST_SYNC(AT_L2_AFTER_EVENT);
}

static void l1_run_l2_to_vmexit_failure(struct svm_test_data *svm, void (*l2)(void),
					u64 intercept)
{
	svm->vmcb = (void *)VMCB12_GPA;
	svm->vmcb_gpa = VMCB12_GPA;

	generic_svm_setup(svm, l2);
	svm->vmcb->control.intercept |= intercept;
	vmrun_for_the_last_time(svm->vmcb_gpa);
}

static void delete_vmcb12(struct kvm_vcpu *vcpu)
{
	vm_mem_region_delete(vcpu->vm, VMCB12_SLOT);
}

/* What #VMEXIT restores is in the save area of KVM's nested state. */
static void edit_host_state(struct kvm_vcpu *vcpu, u64 cr3_bits)
{
	union svm_nested_state nested;
	struct vmcb *vmcb = (void *)nested.state.data.svm;

	vcpu_svm_nested_state_get(vcpu, &nested);
	vmcb->save.efer &= ~(EFER_LME | EFER_LMA);
	vmcb->save.cr3 |= cr3_bits;
	vcpu_nested_state_set(vcpu, &nested.state);

	/* KVM's page tables of before VMRUN go with the memslot. */
	vm_userspace_mem_region_add(vcpu->vm, VM_MEM_SRC_ANONYMOUS, SPARE_GPA, SPARE_SLOT, 1, 0);
	vm_mem_region_delete(vcpu->vm, SPARE_SLOT);
}

static void set_host_cr3_bit_63(struct kvm_vcpu *vcpu)
{
	edit_host_state(vcpu, BIT_ULL(63));
}

/* L1's PML4Es, taken as PDPTEs, have the reserved bit 1 set. */
static void set_host_pae_paging(struct kvm_vcpu *vcpu)
{
	edit_host_state(vcpu, 0);
}

static void raise_nmi(struct kvm_vcpu *vcpu)
{
	vcpu_ioctl(vcpu, KVM_NMI, NULL);
}

static void raise_triple_fault(struct kvm_vcpu *vcpu)
{
	struct kvm_vcpu_events events;

	vcpu_events_get(vcpu, &events);
	events.flags |= KVM_VCPUEVENT_VALID_TRIPLE_FAULT;
	events.triple_fault.pending = true;
	vcpu_events_set(vcpu, &events);
}

FIXTURE(vmexit_failure) {
	struct kvm_vcpu *vcpu;
};

FIXTURE_VARIANT(vmexit_failure) {
	void (*cause)(struct kvm_vcpu *vcpu);
	void (*l2_code)(void);
	void (*raise_event)(struct kvm_vcpu *vcpu);
	u64 intercept;
};

FIXTURE_VARIANT_ADD(vmexit_failure, vmcb12_gone_on_vmmcall) {
	.cause = delete_vmcb12,
	.l2_code = l2_vmmcall,
};

FIXTURE_VARIANT_ADD(vmexit_failure, vmcb12_gone_on_nmi) {
	.cause = delete_vmcb12,
	.l2_code = l2_await_event,
	.raise_event = raise_nmi,
	.intercept = BIT_ULL(INTERCEPT_NMI),
};

FIXTURE_VARIANT_ADD(vmexit_failure, vmcb12_gone_on_shutdown) {
	.cause = delete_vmcb12,
	.l2_code = l2_await_event,
	.raise_event = raise_triple_fault,
	.intercept = BIT_ULL(INTERCEPT_SHUTDOWN),
};

FIXTURE_VARIANT_ADD(vmexit_failure, host_cr3_bit_63) {
	.cause = set_host_cr3_bit_63,
	.l2_code = l2_vmmcall,
};

FIXTURE_VARIANT_ADD(vmexit_failure, host_pae_pdpte_bit_1) {
	.cause = set_host_pae_paging,
	.l2_code = l2_vmmcall,
};

static struct kvm_vcpu *create_vcpu(void)
{
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;

	vm = vm_create_with_one_vcpu(&vcpu, l1_run_l2_to_vmexit_failure);
	vm_userspace_mem_region_add(vm, VM_MEM_SRC_ANONYMOUS, VMCB12_GPA, VMCB12_SLOT, 1, 0);
	virt_map(vm, VMCB12_GPA, VMCB12_GPA, 1);
	return vcpu;
}

FIXTURE_SETUP(vmexit_failure)
{
	if (variant->raise_event == raise_triple_fault &&
	    !kvm_has_cap(KVM_CAP_X86_TRIPLE_FAULT_EVENT))
		SKIP(return, "KVM_CAP_X86_TRIPLE_FAULT_EVENT not supported");

	/* With shadow paging, a KVM that gets it wrong may run L1 on that CR3. */
	if (variant->cause == set_host_pae_paging && !kvm_cpu_has_npt())
		SKIP(return, "Not safe without NPT");

	self->vcpu = create_vcpu();
	if (variant->raise_event == raise_triple_fault)
		vm_enable_cap(self->vcpu->vm, KVM_CAP_X86_TRIPLE_FAULT_EVENT, true);
}

FIXTURE_TEARDOWN(vmexit_failure)
{
	kvm_vm_free(self->vcpu->vm);
}

static void assert_no_event(struct kvm_vcpu *vcpu)
{
	struct kvm_vcpu_events events;

	vcpu_events_get(vcpu, &events);
	TEST_ASSERT(!events.exception.injected && !events.exception.pending &&
		    !events.interrupt.injected && !events.nmi.injected,
		    "Event in L1: exception %u (injected %u, pending %u), IRQ %u, NMI %u",
		    events.exception.nr, events.exception.injected,
		    events.exception.pending, events.interrupt.injected,
		    events.nmi.injected);
}

static void test_vmexit_failure(struct kvm_vcpu *vcpu,
				FIXTURE_VARIANT(vmexit_failure) const *variant, bool npt)
{
	bool has_vmcb12 = variant->cause != delete_vmcb12;
	struct kvm_vm *vm = vcpu->vm;
	struct kvm_regs regs;
	struct vmcb *vmcb;
	gva_t svm_gva;

	if (npt)
		vm_enable_npt(vm);

	vcpu_alloc_svm(vm, &svm_gva);
	vcpu_args_set(vcpu, 3, svm_gva, variant->l2_code, variant->intercept);

	if (npt)
		tdp_identity_map_default_memslots(vm);

	vcpu_run_to_sync(vcpu, AT_L2);
	vcpu_run_complete_io(vcpu);
	TEST_ASSERT(vcpu_svm_nested_flags(vcpu) & KVM_STATE_NESTED_GUEST_MODE,
		    "L2 stopped, but vCPU isn't in guest mode");

	variant->cause(vcpu);
	if (variant->raise_event)
		variant->raise_event(vcpu);

	vcpu_run(vcpu);
	TEST_ASSERT_KVM_EXIT_REASON(vcpu, KVM_EXIT_SHUTDOWN);

	/* The rest of the #VMEXIT has taken place. */
	assert_no_event(vcpu);
	TEST_ASSERT_EQ(vcpu_svm_nested_flags(vcpu), 0);
	TEST_ASSERT(vcpu_get_msr(vcpu, MSR_EFER) & EFER_SVME, "L1 lost EFER.SVME");

	sync_global_from_guest(vm, l1_rsp);
	sync_global_from_guest(vm, l1_vmexit_rip);
	vcpu_regs_get(vcpu, &regs);
	TEST_ASSERT_EQ(regs.rip, l1_vmexit_rip);
	TEST_ASSERT_EQ(regs.rsp, l1_rsp);

	if (has_vmcb12) {
		vmcb = addr_gpa2hva(vm, VMCB12_GPA);
		TEST_ASSERT_EQ(vmcb->control.exit_code, SVM_EXIT_VMMCALL);
	}
}

TEST_F(vmexit_failure, shuts_down_l1)
{
	test_vmexit_failure(self->vcpu, variant, false);
}

TEST_F(vmexit_failure, shuts_down_l1_npt)
{
	if (!kvm_cpu_has_npt())
		SKIP(return, "KVM doesn't support nested NPT");

	if (variant->cause != delete_vmcb12)
		SKIP(return, "NPT is for a host in long mode");

	test_vmexit_failure(self->vcpu, variant, true);
}

/* For what may have the CPU use page tables that KVM has freed. */
FIXTURE(host_may_crash) {
	struct kvm_vcpu *vcpu;
};

FIXTURE_SETUP(host_may_crash)
{
	self->vcpu = create_vcpu();
}

FIXTURE_TEARDOWN(host_may_crash)
{
	kvm_vm_free(self->vcpu->vm);
}

/* Userspace need not care for the shutdown of an L1 that can't be resumed. */
static void test_run_after_shutdown(struct kvm_vcpu *vcpu,
				    void (*cause)(struct kvm_vcpu *vcpu))
{
	FIXTURE_VARIANT(vmexit_failure) failure = {
		.cause = cause,
		.l2_code = l2_vmmcall,
	};

	test_vmexit_failure(vcpu, &failure, false);

	vcpu_run(vcpu);
	TEST_ASSERT(vcpu->run->exit_reason != KVM_EXIT_FAIL_ENTRY,
		    "The CPU refuses to run L1, reason 0x%llx",
		    vcpu->run->fail_entry.hardware_entry_failure_reason);
}

TEST_F(host_may_crash, l1_without_legal_cr3_can_run)
{
	test_run_after_shutdown(self->vcpu, set_host_cr3_bit_63);
}

TEST_F(host_may_crash, l1_without_legal_pdptes_can_run)
{
	test_run_after_shutdown(self->vcpu, set_host_pae_paging);
}

int main(int argc, char *argv[])
{
	TEST_REQUIRE(kvm_cpu_has(X86_FEATURE_SVM));

	return test_harness_run(argc, argv);
}
