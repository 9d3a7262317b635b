// SPDX-License-Identifier: GPL-2.0-only
#include <linux/compiler.h>
#include <linux/kvm_para.h>

#include "test_util.h"
#include "kvm_util.h"
#include "kvm_test_harness.h"
#include "processor.h"
#include "svm_util.h"

#define NR_ROUNDS		3

#define INSN_SIZE		3
#define KVM_FEP_SIZE		5

#define INTERCEPT_ALL_EXCEPTIONS	-1u

/* No hypercall has this number. */
#define POISON			0x5a5a5a5aU

#define L2_RFLAGS		(X86_EFLAGS_CF | X86_EFLAGS_PF | X86_EFLAGS_AF | \
				 X86_EFLAGS_ZF | X86_EFLAGS_SF | X86_EFLAGS_OF | \
				 X86_EFLAGS_FIXED)

/* The third byte of the instruction, the first two are always 0f 01. */
enum svm_opcode {
	VMRUN	= 0xd8,
	VMMCALL	= 0xd9,
	VMLOAD	= 0xda,
	VMSAVE	= 0xdb,
	STGI	= 0xdc,
	CLGI	= 0xdd,
	INVLPGA	= 0xdf,
};

struct l2_code {
	u8 prefix[KVM_FEP_SIZE];
	u8 insn[INSN_SIZE];
	u8 hlt;
};

static const u8 kvm_fep[KVM_FEP_SIZE] = { 0x0f, 0x0b, 'k', 'v', 'm' };

/*
 * L2 is nothing but the instruction under test: L1 sets its registers before,
 * and gets them back after, as an intercepted HLT follows.
 */
static struct l2_code l2_code;
static struct l2_code l2_code_copy;

static u64 l2_round;
static u64 nr_uds;
static u64 ud_rip;

static void ud_handler(struct ex_regs *regs)
{
	nr_uds++;
	ud_rip = regs->rip;
	regs->rip += INSN_SIZE;
}

static void setup_l2(struct svm_test_data *svm, u64 rax)
{
	u64 *gprs = (u64 *)&guest_regs;
	int i;

	generic_svm_setup(svm, &l2_code);
	svm->vmcb->control.intercept |= BIT_ULL(INTERCEPT_HLT);

	for (i = 0; i < sizeof(guest_regs) / sizeof(*gprs); i++)
		gprs[i] = (u64)POISON << 32 | i;
	guest_regs.rax = rax;
	guest_regs.rflags = L2_RFLAGS;
}

static void assert_l2_registers(struct svm_test_data *svm, u64 rax, u64 rip)
{
	u64 *gprs = (u64 *)&guest_regs;
	int i;

	GUEST_ASSERT_EQ(svm->vmcb->save.rip, rip);
	GUEST_ASSERT_EQ(svm->vmcb->save.rsp, (u64)svm->stack);
	GUEST_ASSERT_EQ(guest_regs.rax, rax);
	GUEST_ASSERT_EQ(guest_regs.rflags & ~X86_EFLAGS_RF, L2_RFLAGS);
	for (i = 0; i < sizeof(guest_regs) / sizeof(*gprs); i++) {
		if (&gprs[i] == &guest_regs.rax || &gprs[i] == &guest_regs.rflags)
			continue;

		__GUEST_ASSERT(gprs[i] == ((u64)POISON << 32 | i),
			       "GPR %d is 0x%lx after L2", i, gprs[i]);
	}
}

/* The host looks at what GIF is at each of the two stops. */
static void run_l2(struct svm_test_data *svm, bool toggle_svme)
{
	u64 efer = rdmsr(MSR_EFER);

	nr_uds = 0;

	if (toggle_svme) {
		wrmsr(MSR_EFER, efer & ~EFER_SVME);
		wrmsr(MSR_EFER, efer);
	}

	run_guest(svm->vmcb, svm->vmcb_gpa);
	GUEST_SYNC(false);
	stgi();
	GUEST_SYNC(true);
}

FIXTURE(l2_insn) {
	struct kvm_vcpu *vcpu;
};

FIXTURE_VARIANT(l2_insn) {
	enum svm_opcode opcode;
	bool emulated;
	u64 rax;
	u64 intercept;
	u32 intercept_exceptions;
	u64 disabled_quirks;
	bool toggle_svme;
	/* L2 gets as far as HLT either way: by its #UD handler, or without. */
	bool executes;
	u64 exit_code;
};

/* A variant is constant data of the program, which the guest has a copy of. */
static void l1_insn_code(struct svm_test_data *svm,
			 FIXTURE_VARIANT(l2_insn) const *variant)
{
	struct vmcb *vmcb = svm->vmcb;
	bool is_hlt = variant->exit_code == SVM_EXIT_HLT;
	bool is_ud_in_l2 = is_hlt && !variant->executes;
	const u64 insn = (u64)l2_code.insn;
	/* The other instructions take, and may use, the address of a page. */
	u64 rax = variant->rax ?: svm->msr_gpa;

	for (l2_round = 0; l2_round < NR_ROUNDS; l2_round++) {
		setup_l2(svm, rax);
		vmcb->control.intercept &= ~BIT_ULL(INTERCEPT_VMMCALL);
		vmcb->control.intercept |= variant->intercept;
		vmcb->control.intercept_exceptions = variant->intercept_exceptions;

		run_l2(svm, variant->toggle_svme);

		__GUEST_ASSERT(nr_uds == is_ud_in_l2,
			       "Wanted %u #UDs in L2, got %lu, the last at RIP 0x%lx (insn 0x%lx)",
			       is_ud_in_l2, nr_uds, ud_rip, insn);
		if (is_ud_in_l2)
			GUEST_ASSERT_EQ(ud_rip, insn);

		GUEST_ASSERT_EQ(vmcb->control.exit_code, variant->exit_code);
		assert_l2_registers(svm, rax, is_hlt ? insn + INSN_SIZE : insn);

		__GUEST_ASSERT(!memcmp(&l2_code, &l2_code_copy, sizeof(l2_code)),
			       "Instruction in L2 is now %x %x %x",
			       l2_code.insn[0], l2_code.insn[1], l2_code.insn[2]);
	}

	GUEST_DONE();
}

FIXTURE_VARIANT_ADD(l2_insn, vmmcall_not_intercepted) {
	.opcode = VMMCALL,
	.rax = KVM_HC_VAPIC_POLL_IRQ,
	.exit_code = SVM_EXIT_HLT,
};

FIXTURE_VARIANT_ADD(l2_insn, vmmcall_not_intercepted_no_quirk) {
	.opcode = VMMCALL,
	.rax = KVM_HC_VAPIC_POLL_IRQ,
	.disabled_quirks = KVM_X86_QUIRK_FIX_HYPERCALL_INSN,
	.exit_code = SVM_EXIT_HLT,
};

FIXTURE_VARIANT_ADD(l2_insn, vmmcall_not_intercepted_unknown_nr) {
	.opcode = VMMCALL,
	.rax = POISON,
	.exit_code = SVM_EXIT_HLT,
};

FIXTURE_VARIANT_ADD(l2_insn, vmmcall_ud_intercepted) {
	.opcode = VMMCALL,
	.rax = KVM_HC_VAPIC_POLL_IRQ,
	.intercept_exceptions = BIT(UD_VECTOR),
	.exit_code = SVM_EXIT_EXCP_BASE + UD_VECTOR,
};

FIXTURE_VARIANT_ADD(l2_insn, vmmcall_ud_intercepted_no_quirk) {
	.opcode = VMMCALL,
	.rax = KVM_HC_VAPIC_POLL_IRQ,
	.intercept_exceptions = BIT(UD_VECTOR),
	.disabled_quirks = KVM_X86_QUIRK_FIX_HYPERCALL_INSN,
	.exit_code = SVM_EXIT_EXCP_BASE + UD_VECTOR,
};

FIXTURE_VARIANT_ADD(l2_insn, vmmcall_intercepted) {
	.opcode = VMMCALL,
	.rax = KVM_HC_VAPIC_POLL_IRQ,
	.intercept = BIT_ULL(INTERCEPT_VMMCALL),
	.exit_code = SVM_EXIT_VMMCALL,
};

FIXTURE_VARIANT_ADD(l2_insn, vmmcall_and_exceptions_intercepted) {
	.opcode = VMMCALL,
	.rax = KVM_HC_VAPIC_POLL_IRQ,
	.intercept = BIT_ULL(INTERCEPT_VMMCALL),
	.intercept_exceptions = INTERCEPT_ALL_EXCEPTIONS,
	.exit_code = SVM_EXIT_VMMCALL,
};

FIXTURE_VARIANT_ADD(l2_insn, vmmcall_and_exceptions_intercepted_no_quirk) {
	.opcode = VMMCALL,
	.rax = KVM_HC_VAPIC_POLL_IRQ,
	.intercept = BIT_ULL(INTERCEPT_VMMCALL),
	.intercept_exceptions = INTERCEPT_ALL_EXCEPTIONS,
	.disabled_quirks = KVM_X86_QUIRK_FIX_HYPERCALL_INSN,
	.exit_code = SVM_EXIT_VMMCALL,
};

FIXTURE_VARIANT_ADD(l2_insn, emulated_vmmcall_not_intercepted) {
	.opcode = VMMCALL,
	.emulated = true,
	.rax = KVM_HC_VAPIC_POLL_IRQ,
	.exit_code = SVM_EXIT_HLT,
};

FIXTURE_VARIANT_ADD(l2_insn, emulated_vmmcall_not_intercepted_no_quirk) {
	.opcode = VMMCALL,
	.emulated = true,
	.rax = KVM_HC_VAPIC_POLL_IRQ,
	.disabled_quirks = KVM_X86_QUIRK_FIX_HYPERCALL_INSN,
	.exit_code = SVM_EXIT_HLT,
};

FIXTURE_VARIANT_ADD(l2_insn, emulated_vmmcall_ud_intercepted) {
	.opcode = VMMCALL,
	.emulated = true,
	.rax = KVM_HC_VAPIC_POLL_IRQ,
	.intercept_exceptions = BIT(UD_VECTOR),
	.exit_code = SVM_EXIT_EXCP_BASE + UD_VECTOR,
};

FIXTURE_VARIANT_ADD(l2_insn, emulated_vmmcall_ud_intercepted_no_quirk) {
	.opcode = VMMCALL,
	.emulated = true,
	.rax = KVM_HC_VAPIC_POLL_IRQ,
	.intercept_exceptions = BIT(UD_VECTOR),
	.disabled_quirks = KVM_X86_QUIRK_FIX_HYPERCALL_INSN,
	.exit_code = SVM_EXIT_EXCP_BASE + UD_VECTOR,
};

FIXTURE_VARIANT_ADD(l2_insn, emulated_vmmcall_intercepted) {
	.opcode = VMMCALL,
	.emulated = true,
	.rax = KVM_HC_VAPIC_POLL_IRQ,
	.intercept = BIT_ULL(INTERCEPT_VMMCALL),
	.exit_code = SVM_EXIT_VMMCALL,
};

FIXTURE_VARIANT_ADD(l2_insn, emulated_vmmcall_and_exceptions_intercepted) {
	.opcode = VMMCALL,
	.emulated = true,
	.rax = KVM_HC_VAPIC_POLL_IRQ,
	.intercept = BIT_ULL(INTERCEPT_VMMCALL),
	.intercept_exceptions = INTERCEPT_ALL_EXCEPTIONS,
	.exit_code = SVM_EXIT_VMMCALL,
};

FIXTURE_VARIANT_ADD(l2_insn, emulated_vmmcall_and_exceptions_intercepted_no_quirk) {
	.opcode = VMMCALL,
	.emulated = true,
	.rax = KVM_HC_VAPIC_POLL_IRQ,
	.intercept = BIT_ULL(INTERCEPT_VMMCALL),
	.intercept_exceptions = INTERCEPT_ALL_EXCEPTIONS,
	.disabled_quirks = KVM_X86_QUIRK_FIX_HYPERCALL_INSN,
	.exit_code = SVM_EXIT_VMMCALL,
};

FIXTURE_VARIANT_ADD(l2_insn, vmrun_intercepted) {
	.opcode = VMRUN,
	.intercept = BIT_ULL(INTERCEPT_VMRUN),
	.intercept_exceptions = INTERCEPT_ALL_EXCEPTIONS,
	.exit_code = SVM_EXIT_VMRUN,
};

FIXTURE_VARIANT_ADD(l2_insn, vmload_intercepted) {
	.opcode = VMLOAD,
	.intercept = BIT_ULL(INTERCEPT_VMLOAD),
	.intercept_exceptions = INTERCEPT_ALL_EXCEPTIONS,
	.exit_code = SVM_EXIT_VMLOAD,
};

FIXTURE_VARIANT_ADD(l2_insn, vmsave_intercepted) {
	.opcode = VMSAVE,
	.intercept = BIT_ULL(INTERCEPT_VMSAVE),
	.intercept_exceptions = INTERCEPT_ALL_EXCEPTIONS,
	.exit_code = SVM_EXIT_VMSAVE,
};

FIXTURE_VARIANT_ADD(l2_insn, stgi_intercepted) {
	.opcode = STGI,
	.intercept = BIT_ULL(INTERCEPT_STGI),
	.intercept_exceptions = INTERCEPT_ALL_EXCEPTIONS,
	.exit_code = SVM_EXIT_STGI,
};

FIXTURE_VARIANT_ADD(l2_insn, clgi_intercepted) {
	.opcode = CLGI,
	.intercept = BIT_ULL(INTERCEPT_CLGI),
	.intercept_exceptions = INTERCEPT_ALL_EXCEPTIONS,
	.exit_code = SVM_EXIT_CLGI,
};

FIXTURE_VARIANT_ADD(l2_insn, invlpga_intercepted) {
	.opcode = INVLPGA,
	.intercept = BIT_ULL(INTERCEPT_INVLPGA),
	.intercept_exceptions = INTERCEPT_ALL_EXCEPTIONS,
	.exit_code = SVM_EXIT_INVLPGA,
};

FIXTURE_VARIANT_ADD(l2_insn, stgi_not_intercepted) {
	.opcode = STGI,
	.intercept_exceptions = INTERCEPT_ALL_EXCEPTIONS,
	.executes = true,
	.exit_code = SVM_EXIT_HLT,
};

FIXTURE_VARIANT_ADD(l2_insn, stgi_not_intercepted_svme_toggled) {
	.opcode = STGI,
	.intercept_exceptions = INTERCEPT_ALL_EXCEPTIONS,
	.toggle_svme = true,
	.executes = true,
	.exit_code = SVM_EXIT_HLT,
};

FIXTURE_VARIANT_ADD(l2_insn, clgi_not_intercepted) {
	.opcode = CLGI,
	.intercept_exceptions = INTERCEPT_ALL_EXCEPTIONS,
	.executes = true,
	.exit_code = SVM_EXIT_HLT,
};

FIXTURE_VARIANT_ADD(l2_insn, clgi_not_intercepted_svme_toggled) {
	.opcode = CLGI,
	.intercept_exceptions = INTERCEPT_ALL_EXCEPTIONS,
	.toggle_svme = true,
	.executes = true,
	.exit_code = SVM_EXIT_HLT,
};

FIXTURE_VARIANT_ADD(l2_insn, invlpga_not_intercepted) {
	.opcode = INVLPGA,
	.intercept_exceptions = INTERCEPT_ALL_EXCEPTIONS,
	.executes = true,
	.exit_code = SVM_EXIT_HLT,
};

FIXTURE_VARIANT_ADD(l2_insn, invlpga_not_intercepted_svme_toggled) {
	.opcode = INVLPGA,
	.intercept_exceptions = INTERCEPT_ALL_EXCEPTIONS,
	.toggle_svme = true,
	.executes = true,
	.exit_code = SVM_EXIT_HLT,
};

static void write_l2_code(struct kvm_vm *vm, enum svm_opcode opcode, bool emulated)
{
	struct l2_code code = {
		.prefix = { 0x90, 0x90, 0x90, 0x90, 0x90 },
		.insn = { 0x0f, 0x01, opcode },
		.hlt = 0xf4,
	};

	if (emulated)
		memcpy(code.prefix, kvm_fep, sizeof(code.prefix));

	write_guest_global(vm, l2_code, code);
	write_guest_global(vm, l2_code_copy, code);
}

static gva_t alloc_svm(struct kvm_vm *vm, bool npt)
{
	gva_t svm_gva;

	if (npt)
		vm_enable_npt(vm);

	vcpu_alloc_svm(vm, &svm_gva);

	if (npt)
		tdp_identity_map_default_memslots(vm);

	return svm_gva;
}

static void run_l1(struct kvm_vcpu *vcpu)
{
	struct guest_stop stop;
	u16 flags;

	while ((stop = vcpu_run_to_stop(vcpu)).type == GUEST_STOP_SYNC) {
		flags = vcpu_svm_nested_flags(vcpu);
		TEST_ASSERT(flags == (stop.val ? KVM_STATE_NESTED_GIF_SET : 0),
			    "Nested flags 0x%x %s", flags,
			    stop.val ? "after STGI in L1" : "after #VMEXIT");
	}
	TEST_ASSERT_EQ(stop.type, GUEST_STOP_DONE);
	sync_global_from_guest(vcpu->vm, l2_round);
	TEST_ASSERT_EQ(l2_round, NR_ROUNDS);
}

FIXTURE_SETUP(l2_insn)
{
	struct kvm_vm *vm;

	if (variant->emulated && !is_forced_emulation_enabled)
		SKIP(return, "kvm.force_emulation_prefix is disabled");

	if (variant->disabled_quirks & ~(u64)kvm_check_cap(KVM_CAP_DISABLE_QUIRKS2))
		SKIP(return, "KVM can't disable quirks 0x%lx", variant->disabled_quirks);

	vm = vm_create_with_one_vcpu(&self->vcpu, l1_insn_code);
	vm_enable_cap(vm, KVM_CAP_DISABLE_QUIRKS2, variant->disabled_quirks);
	vm_install_exception_handler(vm, UD_VECTOR, ud_handler);
	write_l2_code(vm, variant->opcode, variant->emulated);
}

FIXTURE_TEARDOWN(l2_insn)
{
	kvm_vm_free(self->vcpu->vm);
}

static void test_insn(struct kvm_vcpu *vcpu, FIXTURE_VARIANT(l2_insn) const *variant,
		      bool npt)
{
	vcpu_args_set(vcpu, 2, alloc_svm(vcpu->vm, npt), variant);
	run_l1(vcpu);
}

TEST_F(l2_insn, no_npt)
{
	test_insn(self->vcpu, variant, false);
}

TEST_F(l2_insn, npt)
{
	if (!kvm_cpu_has_npt())
		SKIP(return, "KVM doesn't support nested NPT");

	test_insn(self->vcpu, variant, true);
}

/*
 * State that VMLOAD and VMSAVE move, and that neither L1 nor L2 uses.  TR and
 * LDTR are moved too, but are left as they are: L1 has to live on with them.
 */
static const u32 vmload_fields[] = {
	offsetof(struct vmcb, save.fs.base),
	offsetof(struct vmcb, save.gs.base),
	offsetof(struct vmcb, save.kernel_gs_base),
	offsetof(struct vmcb, save.star),
	offsetof(struct vmcb, save.lstar),
	offsetof(struct vmcb, save.cstar),
	offsetof(struct vmcb, save.sfmask),
	offsetof(struct vmcb, save.sysenter_cs),
	offsetof(struct vmcb, save.sysenter_esp),
	offsetof(struct vmcb, save.sysenter_eip),
};

/* Below 64KiB with any index added, i.e. valid for each of the fields. */
enum vmload_values {
	VALUES_OF_L2	= 0x1000,
	VALUES_OF_PAGE0	= 0x2000,
	VALUES_OF_PAGE1	= 0x3000,
};

static u64 *vmload_field(struct vmcb *vmcb, int i)
{
	return (void *)vmcb + vmload_fields[i];
}

static void set_vmload_fields(struct vmcb *vmcb, enum vmload_values values)
{
	int i;

	for (i = 0; i < ARRAY_SIZE(vmload_fields); i++)
		*vmload_field(vmcb, i) = values + i;
}

static void assert_vmload_fields(struct vmcb *vmcb, const char *name,
				 enum vmload_values values)
{
	int i;

	for (i = 0; i < ARRAY_SIZE(vmload_fields); i++)
		__GUEST_ASSERT(*vmload_field(vmcb, i) == values + i,
			       "Wanted 0x%x in field 0x%x of %s, got 0x%lx, round %lu",
			       values + i, vmload_fields[i], name,
			       *vmload_field(vmcb, i), l2_round);
}

/* Two adjacent pages, each of which is at the other's address in L2's NPT. */
static struct vmcb *pages;
static gpa_t page0_gpa;

FIXTURE(l2_vmload_vmsave) {
	struct kvm_vcpu *vcpu;
};

FIXTURE_VARIANT(l2_vmload_vmsave) {
	enum svm_opcode opcode;
	bool vls;
	bool toggle_svme;
};

static void l1_vmload_vmsave_code(struct svm_test_data *svm,
				  FIXTURE_VARIANT(l2_vmload_vmsave) const *variant)
{
	bool is_vmload = variant->opcode == VMLOAD;
	struct vmcb *page0 = (void *)pages, *page1 = (void *)pages + PAGE_SIZE;
	struct vmcb *vmcb = svm->vmcb;
	enum vmload_values want_l2 = VALUES_OF_L2;
	enum vmload_values want_page0 = VALUES_OF_PAGE0;
	enum vmload_values want_page1 = VALUES_OF_PAGE1;

	/* Only if virtual, L2's address goes through its NPT: it gets page 1. */
	if (is_vmload)
		want_l2 = variant->vls ? VALUES_OF_PAGE1 : VALUES_OF_PAGE0;
	else if (variant->vls)
		want_page1 = VALUES_OF_L2;
	else
		want_page0 = VALUES_OF_L2;

	for (l2_round = 0; l2_round < NR_ROUNDS; l2_round++) {
		setup_l2(svm, page0_gpa);
		vmcb->control.intercept_exceptions = INTERCEPT_ALL_EXCEPTIONS;
		if (variant->vls)
			vmcb->control.misc_ctl2 |= SVM_MISC2_ENABLE_V_VMLOAD_VMSAVE;

		/* TR and LDTR have to be valid wherever L2 loads them from. */
		memcpy(page0, vmcb, sizeof(*vmcb));
		memcpy(page1, vmcb, sizeof(*vmcb));
		set_vmload_fields(page0, VALUES_OF_PAGE0);
		set_vmload_fields(page1, VALUES_OF_PAGE1);

		/* L1 loads L2's values before VMRUN, and saves them after. */
		set_vmload_fields(vmcb, VALUES_OF_L2);

		run_l2(svm, variant->toggle_svme);

		GUEST_ASSERT_EQ(vmcb->control.exit_code, SVM_EXIT_HLT);
		assert_l2_registers(svm, page0_gpa, (u64)&l2_code.hlt);

		assert_vmload_fields(page0, "page 0", want_page0);
		assert_vmload_fields(page1, "page 1", want_page1);
		assert_vmload_fields(vmcb, "L2", want_l2);
	}

	GUEST_DONE();
}

FIXTURE_VARIANT_ADD(l2_vmload_vmsave, vmload) {
	.opcode = VMLOAD,
};

FIXTURE_VARIANT_ADD(l2_vmload_vmsave, vmload_svme_toggled) {
	.opcode = VMLOAD,
	.toggle_svme = true,
};

FIXTURE_VARIANT_ADD(l2_vmload_vmsave, vmload_virtual) {
	.opcode = VMLOAD,
	.vls = true,
};

FIXTURE_VARIANT_ADD(l2_vmload_vmsave, vmload_virtual_svme_toggled) {
	.opcode = VMLOAD,
	.vls = true,
	.toggle_svme = true,
};

FIXTURE_VARIANT_ADD(l2_vmload_vmsave, vmsave) {
	.opcode = VMSAVE,
};

FIXTURE_VARIANT_ADD(l2_vmload_vmsave, vmsave_svme_toggled) {
	.opcode = VMSAVE,
	.toggle_svme = true,
};

FIXTURE_VARIANT_ADD(l2_vmload_vmsave, vmsave_virtual) {
	.opcode = VMSAVE,
	.vls = true,
};

FIXTURE_VARIANT_ADD(l2_vmload_vmsave, vmsave_virtual_svme_toggled) {
	.opcode = VMSAVE,
	.vls = true,
	.toggle_svme = true,
};

FIXTURE_SETUP(l2_vmload_vmsave)
{
	struct kvm_vm *vm;

	if (variant->vls && !kvm_cpu_has(X86_FEATURE_V_VMSAVE_VMLOAD))
		SKIP(return, "KVM doesn't support virtual VMLOAD/VMSAVE for L2");

	vm = vm_create_with_one_vcpu(&self->vcpu, l1_vmload_vmsave_code);
	write_l2_code(vm, variant->opcode, false);

	pages = (void *)vm_alloc_pages(vm, 2);
	page0_gpa = addr_gva2gpa(vm, (gva_t)pages);
	sync_global_to_guest(vm, pages);
	sync_global_to_guest(vm, page0_gpa);
}

FIXTURE_TEARDOWN(l2_vmload_vmsave)
{
	kvm_vm_free(self->vcpu->vm);
}

static void test_vmload_vmsave(struct kvm_vcpu *vcpu,
			       FIXTURE_VARIANT(l2_vmload_vmsave) const *variant, bool npt)
{
	gva_t svm_gva = alloc_svm(vcpu->vm, npt);
	u64 *pte0, *pte1, pte;

	if (npt) {
		pte0 = tdp_get_pte(vcpu->vm, page0_gpa);
		pte1 = tdp_get_pte(vcpu->vm, page0_gpa + PAGE_SIZE);
		pte = *pte0;
		*pte0 = *pte1;
		*pte1 = pte;
	}

	vcpu_args_set(vcpu, 2, svm_gva, variant);
	run_l1(vcpu);
}

TEST_F(l2_vmload_vmsave, no_npt)
{
	if (variant->vls)
		SKIP(return, "Virtual VMLOAD/VMSAVE needs nested paging");

	test_vmload_vmsave(self->vcpu, variant, false);
}

TEST_F(l2_vmload_vmsave, npt)
{
	if (!kvm_cpu_has_npt())
		SKIP(return, "KVM doesn't support nested NPT");

	test_vmload_vmsave(self->vcpu, variant, true);
}

int main(int argc, char *argv[])
{
	TEST_REQUIRE(kvm_cpu_has(X86_FEATURE_SVM));

	return test_harness_run(argc, argv);
}
