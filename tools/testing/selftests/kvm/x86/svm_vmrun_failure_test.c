// SPDX-License-Identifier: GPL-2.0-only
#include "test_util.h"
#include "kvm_util.h"
#include "kvm_test_harness.h"
#include "processor.h"
#include "apic.h"
#include "svm_util.h"

#define X86_FEATURE_VNMI	KVM_X86_CPU_FEATURE(0x8000000A, 0, EDX, 25)
#define V_NMI_ENABLE_MASK	BIT(26)

#define LONG_MODE		(EFER_LME | EFER_LMA)

#define DR7_L0			BIT(0)
#define DR7_AFTER_VMEXIT	0x400

/* A value that is in no VMCB field, and in no register, of its own accord. */
#define POISON			0x5a5a5a5aU

#define L1_RFLAGS		(X86_EFLAGS_CF | X86_EFLAGS_PF | X86_EFLAGS_AF | \
				 X86_EFLAGS_ZF | X86_EFLAGS_SF | X86_EFLAGS_DF | \
				 X86_EFLAGS_OF | X86_EFLAGS_FIXED)

/* What makes VMRUN fail: bits of a VMCB that are cleared, and then set. */
struct vmcb_edit {
	size_t offset;
	u64 clear;
	u64 set;
	/* Add the first address that is above MAXPHYADDR to what is set. */
	bool above_maxphyaddr;
};

#define NR_EDITS		4
#define EDITS(edits...)		((const struct vmcb_edit[NR_EDITS]) { edits })

#define CLEAR(field, bits)	{ offsetof(struct vmcb, field), bits }
#define SET(field, bits)	{ offsetof(struct vmcb, field), 0, bits }
#define VALUE(field, value)	{ offsetof(struct vmcb, field), -1ull, value }
#define SET_ABOVE(field)	{ offsetof(struct vmcb, field), 0, 0, true }
#define ABOVE(field, value)	{ offsetof(struct vmcb, field), -1ull, value, true }
#define INJECT(type, vector)								\
	{ offsetof(struct vmcb, control.event_inj), -1u, SVM_EVTINJ_VALID | (type) | (vector) }

enum {
	AT_VMRUN,
	AT_VMEXIT,
	AT_GIF_SET,
};

u64 l1_rsp;
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

static void edit_vmcb(struct vmcb *vmcb, const struct vmcb_edit *edit)
{
	u64 *field = (void *)vmcb + edit->offset;

	*field = (*field & ~edit->clear) | edit->set;
	if (edit->above_maxphyaddr)
		*field += BIT_ULL(this_cpu_property(X86_PROPERTY_MAX_PHY_ADDR));
}

static void setup_broken_vmcb(struct svm_test_data *svm, const struct vmcb_edit *edits)
{
	struct vmcb *vmcb = svm->vmcb;
	int i;

	generic_svm_setup(svm, l2_code);
	vmcb->save.rax = POISON;
	vmcb->control.exit_code = POISON;
	vmcb->control.exit_info_1 = POISON;
	vmcb->control.exit_info_2 = POISON;
	vmcb->control.event_inj = SVM_EVTINJ_VALID | SVM_EVTINJ_TYPE_EXEPT | UD_VECTOR;
	vmcb->control.event_inj_err = POISON;

	for (i = 0; i < NR_EDITS; i++)
		edit_vmcb(vmcb, &edits[i]);
}

/* Leaves what VMRUN did to L1's registers in guest_regs. */
static noinline u64 vmrun_with_patterns(u64 vmcb_gpa)
{
	u64 rax;

	asm volatile("mov %%rsp, l1_rsp\n\t"
		     "mov %%rsp, " GUEST_REG(rsp) "\n\t"
		     "call svm_switch_gprs\n\t"
		     "pushq %[rflags]\n\t"
		     "popfq\n\t"
		     "vmrun %%rax\n\t"
		     GUEST_SWITCH_GPR_ASM(rsp)
		     "pushfq\n\t"
		     "popq " GUEST_REG(rflags) "\n\t"
		     "cld\n\t"
		     "call svm_switch_gprs\n\t"
		     : "=a" (rax)
		     : "0" (vmcb_gpa), [rflags] "i" (L1_RFLAGS), GUEST_REGS_OFFSETS
		     : "cc", "memory");

	return rax;
}

static void vmrun_failure(struct svm_test_data *svm)
{
	struct vmcb_control_area *ctrl = &svm->vmcb->control;
	u64 rax;

	guest_regs_poison();
	rax = vmrun_with_patterns(svm->vmcb_gpa);

	GUEST_ASSERT_EQ(rax, svm->vmcb_gpa);
	GUEST_ASSERT_EQ(guest_regs.rsp, l1_rsp);
	GUEST_ASSERT_EQ(guest_regs.rflags, L1_RFLAGS);
	assert_guest_regs_poisoned();

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

static void fail(struct svm_test_data *svm, const struct vmcb_edit *edits, bool gif)
{
	u64 cr0, cr3, cr4, efer;

	setup_broken_vmcb(svm, edits);
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

static void l1_code(struct svm_test_data *svm, const struct vmcb_edit *edits)
{
	x2apic_enable();

	fail(svm, edits, true);
	run_l2(svm);

	fail(svm, edits, false);
	run_l2(svm);

	GUEST_DONE();
}

FIXTURE(vmrun_failure) {
	struct kvm_vcpu *vcpu;
	struct vmcb *vmcb12;
};

FIXTURE_VARIANT(vmrun_failure) {
	const struct vmcb_edit *edits;
	bool npt;
	bool vnmi;
	u64 disabled_quirks;
};

#define VMRUN_FAILURE(name)	FIXTURE_VARIANT_ADD(vmrun_failure, name)

static const struct vmcb_edit asid_0[NR_EDITS] = { CLEAR(control.asid, -1u) };

VMRUN_FAILURE(asid_0) { asid_0 };
VMRUN_FAILURE(vmrun_not_intercepted) { EDITS(CLEAR(control.intercept, BIT_ULL(INTERCEPT_VMRUN))) };
VMRUN_FAILURE(ncr3_bit_63) { EDITS(SET(control.nested_cr3, BIT_ULL(63))), .npt = true };
VMRUN_FAILURE(ncr3_maxphyaddr) { EDITS(SET_ABOVE(control.nested_cr3)), .npt = true };
VMRUN_FAILURE(msrpm_starts_above_maxphyaddr) { EDITS(ABOVE(control.msrpm_base_pa, 0)) };
VMRUN_FAILURE(msrpm_ends_above_maxphyaddr) { EDITS(ABOVE(control.msrpm_base_pa, -PAGE_SIZE)) };
VMRUN_FAILURE(iopm_starts_above_maxphyaddr) { EDITS(ABOVE(control.iopm_base_pa, 0)) };
VMRUN_FAILURE(iopm_ends_above_maxphyaddr) { EDITS(ABOVE(control.iopm_base_pa, -2 * PAGE_SIZE)) };

VMRUN_FAILURE(vnmi_without_nmi_intercept) {
	EDITS(SET(control.int_ctl, V_NMI_ENABLE_MASK)),
	.vnmi = true,
};

VMRUN_FAILURE(inject_type_1) { EDITS(INJECT(1 << SVM_EVTINJ_TYPE_SHIFT, UD_VECTOR)) };
VMRUN_FAILURE(inject_type_5) { EDITS(INJECT(5 << SVM_EVTINJ_TYPE_SHIFT, UD_VECTOR)) };
VMRUN_FAILURE(inject_type_6) { EDITS(INJECT(6 << SVM_EVTINJ_TYPE_SHIFT, UD_VECTOR)) };
VMRUN_FAILURE(inject_type_7) { EDITS(INJECT(7 << SVM_EVTINJ_TYPE_SHIFT, UD_VECTOR)) };
VMRUN_FAILURE(inject_nmi_vector_as_exception) { EDITS(INJECT(SVM_EVTINJ_TYPE_EXEPT, NMI_VECTOR)) };
VMRUN_FAILURE(inject_reserved_exception) { EDITS(INJECT(SVM_EVTINJ_TYPE_EXEPT, 31)) };
VMRUN_FAILURE(inject_exception_32) { EDITS(INJECT(SVM_EVTINJ_TYPE_EXEPT, 32)) };

VMRUN_FAILURE(efer_svme_clear) { EDITS(CLEAR(save.efer, EFER_SVME)) };
VMRUN_FAILURE(efer_bit_9) { EDITS(SET(save.efer, BIT_ULL(9))) };
VMRUN_FAILURE(efer_bit_63) { EDITS(SET(save.efer, BIT_ULL(63))) };
VMRUN_FAILURE(cr0_nw_without_cd) { EDITS(CLEAR(save.cr0, X86_CR0_CD), SET(save.cr0, X86_CR0_NW)) };
VMRUN_FAILURE(cr0_bit_32) { EDITS(SET(save.cr0, BIT_ULL(32))) };
VMRUN_FAILURE(cr0_bit_63) { EDITS(SET(save.cr0, BIT_ULL(63))) };
VMRUN_FAILURE(cr3_bit_63) { EDITS(SET(save.cr3, BIT_ULL(63))) };
VMRUN_FAILURE(cr3_maxphyaddr) { EDITS(SET_ABOVE(save.cr3)) };
VMRUN_FAILURE(cr3_maxphyaddr_with_npt) { EDITS(SET_ABOVE(save.cr3)), .npt = true };
VMRUN_FAILURE(cr4_vmxe) { EDITS(SET(save.cr4, X86_CR4_VMXE)) };
VMRUN_FAILURE(cr4_bit_15) { EDITS(SET(save.cr4, BIT_ULL(15))) };
VMRUN_FAILURE(cr4_bit_63) { EDITS(SET(save.cr4, BIT_ULL(63))) };
VMRUN_FAILURE(dr6_bit_32) { EDITS(SET(save.dr6, BIT_ULL(32))) };
VMRUN_FAILURE(dr6_bit_63) { EDITS(SET(save.dr6, BIT_ULL(63))) };
VMRUN_FAILURE(dr7_bit_32) { EDITS(SET(save.dr7, BIT_ULL(32))) };
VMRUN_FAILURE(dr7_bit_63) { EDITS(SET(save.dr7, BIT_ULL(63))) };
VMRUN_FAILURE(long_mode_without_pae) { EDITS(CLEAR(save.cr4, X86_CR4_PAE)) };
VMRUN_FAILURE(long_mode_without_pe) { EDITS(CLEAR(save.cr0, X86_CR0_PE)) };
VMRUN_FAILURE(long_mode_cs_l_and_d) { EDITS(SET(save.cs.attrib, SVM_SELECTOR_DB_MASK)) };

/* PA0 has type 2, which is reserved. */
VMRUN_FAILURE(gpat_reserved_type) {
	EDITS(VALUE(save.g_pat, 0x0707070707070702ull)),
	.npt = true,
	.disabled_quirks = KVM_X86_QUIRK_NESTED_SVM_SHARED_PAT,
};

/* KVM notices the ones below only when it has already left L1. */
static const struct vmcb_edit late_cr3_no_paging[NR_EDITS] = {
	CLEAR(save.efer, LONG_MODE),
	CLEAR(save.cr0, X86_CR0_PG),
	SET(save.cr4, X86_CR4_TSD),
	SET_ABOVE(save.cr3),
};

static const struct vmcb_edit late_cr3_legacy_paging[NR_EDITS] = {
	CLEAR(save.efer, LONG_MODE),
	CLEAR(save.cr4, X86_CR4_PAE),
	SET(save.cr3, BIT_ULL(63)),
};

static const struct vmcb_edit late_msrpm_without_memory[NR_EDITS] = {
	SET(control.intercept, BIT_ULL(INTERCEPT_MSR_PROT)),
	ABOVE(control.msrpm_base_pa, -2 * PAGE_SIZE),
};

VMRUN_FAILURE(late_cr3_no_paging) { late_cr3_no_paging };
VMRUN_FAILURE(late_cr3_no_paging_with_npt) { late_cr3_no_paging, .npt = true };
VMRUN_FAILURE(late_cr3_legacy_paging) { late_cr3_legacy_paging };
/* L1's PML4Es, taken as PDPTEs, have the reserved bit 1 set. */
VMRUN_FAILURE(late_pae_pdpte_bit_1) { EDITS(CLEAR(save.efer, LONG_MODE)) };
VMRUN_FAILURE(late_msrpm_without_memory) { late_msrpm_without_memory };
VMRUN_FAILURE(late_msrpm_without_memory_with_npt) { late_msrpm_without_memory, .npt = true };

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

	self->vmcb12 = __vcpu_alloc_svm(vm, variant->npt, &svm_gva)->vmcb_hva;
	vcpu_args_set(self->vcpu, 2, svm_gva, variant->edits);
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

static void test_breakpoints(struct kvm_vcpu *vcpu, const struct vmcb_edit *edits)
{
	struct kvm_debugregs regs;
	gva_t svm_gva;

	vcpu_alloc_svm(vcpu->vm, &svm_gva);
	vcpu_args_set(vcpu, 2, svm_gva, edits);
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
	test_breakpoints(vcpu, asid_0);
}

KVM_ONE_VCPU_TEST(breakpoints, are_off_after_late_vmrun_failure, l1_code)
{
	test_breakpoints(vcpu, late_msrpm_without_memory);
}

int main(int argc, char *argv[])
{
	TEST_REQUIRE(kvm_cpu_has(X86_FEATURE_SVM));

	return test_harness_run(argc, argv);
}
