// SPDX-License-Identifier: GPL-2.0-only
#include <linux/compiler.h>
#include <linux/kvm_para.h>

#include "test_util.h"
#include "kvm_util.h"
#include "kvm_test_harness.h"
#include "processor.h"
#include "svm_util.h"

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

static u64 nr_uds;
static u64 ud_rip;

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
	u64 exit_code;
};

static void ud_handler(struct ex_regs *regs)
{
	nr_uds++;
	ud_rip = regs->rip;
	regs->rip += INSN_SIZE;
}

static void l1_code(struct svm_test_data *svm, u64 rax, u64 intercept,
		    u32 intercept_exceptions, u64 exit_code)
{
	u64 *gprs = (u64 *)&guest_regs;
	struct vmcb *vmcb = svm->vmcb;
	/* L2 gets as far as HLT only by way of its #UD handler. */
	bool is_ud_in_l2 = exit_code == SVM_EXIT_HLT;
	const u64 insn = (u64)l2_code.insn;
	int i;

	/* The other instructions take, and may use, the address of a page. */
	rax = rax ?: svm->msr_gpa;

	generic_svm_setup(svm, &l2_code);
	vmcb->control.intercept &= ~BIT_ULL(INTERCEPT_VMMCALL);
	vmcb->control.intercept |= BIT_ULL(INTERCEPT_HLT) | intercept;
	vmcb->control.intercept_exceptions = intercept_exceptions;

	for (i = 0; i < sizeof(guest_regs) / sizeof(*gprs); i++)
		gprs[i] = (u64)POISON << 32 | i;
	guest_regs.rax = rax;
	guest_regs.rflags = L2_RFLAGS;

	run_guest(vmcb, svm->vmcb_gpa);

	__GUEST_ASSERT(nr_uds == is_ud_in_l2,
		       "Wanted %u #UDs in L2, got %lu, the last at RIP 0x%lx (insn 0x%lx)",
		       is_ud_in_l2, nr_uds, ud_rip, insn);
	GUEST_ASSERT_EQ(vmcb->control.exit_code, exit_code);

	if (is_ud_in_l2) {
		GUEST_ASSERT_EQ(ud_rip, insn);
		GUEST_ASSERT_EQ(vmcb->save.rip, insn + INSN_SIZE);
	} else {
		GUEST_ASSERT_EQ(vmcb->save.rip, insn);
	}

	__GUEST_ASSERT(!memcmp(&l2_code, &l2_code_copy, sizeof(l2_code)),
		       "Instruction in L2 is now %x %x %x",
		       l2_code.insn[0], l2_code.insn[1], l2_code.insn[2]);

	GUEST_ASSERT_EQ(guest_regs.rax, rax);
	GUEST_ASSERT_EQ(vmcb->save.rsp, (u64)svm->stack);
	GUEST_ASSERT_EQ(guest_regs.rflags & ~X86_EFLAGS_RF, L2_RFLAGS);
	for (i = 0; i < sizeof(guest_regs) / sizeof(*gprs); i++) {
		if (&gprs[i] == &guest_regs.rax || &gprs[i] == &guest_regs.rflags)
			continue;

		__GUEST_ASSERT(gprs[i] == ((u64)POISON << 32 | i),
			       "GPR %d is 0x%lx after L2", i, gprs[i]);
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

FIXTURE_SETUP(l2_insn)
{
	struct l2_code code = {
		.prefix = { 0x90, 0x90, 0x90, 0x90, 0x90 },
		.insn = { 0x0f, 0x01, variant->opcode },
		.hlt = 0xf4,
	};
	struct kvm_vm *vm;

	if (variant->emulated && !is_forced_emulation_enabled)
		SKIP(return, "kvm.force_emulation_prefix is disabled");

	if (variant->disabled_quirks & ~(u64)kvm_check_cap(KVM_CAP_DISABLE_QUIRKS2))
		SKIP(return, "KVM can't disable quirks 0x%lx", variant->disabled_quirks);

	vm = vm_create_with_one_vcpu(&self->vcpu, l1_code);
	vm_enable_cap(vm, KVM_CAP_DISABLE_QUIRKS2, variant->disabled_quirks);
	vm_install_exception_handler(vm, UD_VECTOR, ud_handler);

	if (variant->emulated)
		memcpy(code.prefix, kvm_fep, sizeof(code.prefix));

	write_guest_global(vm, l2_code, code);
	write_guest_global(vm, l2_code_copy, code);

	vcpu_args_set(self->vcpu, 5, 0, variant->rax, variant->intercept,
		      variant->intercept_exceptions, variant->exit_code);
}

FIXTURE_TEARDOWN(l2_insn)
{
	kvm_vm_free(self->vcpu->vm);
}

static void run_l1(struct kvm_vcpu *vcpu, bool npt)
{
	struct ucall uc;
	gva_t svm_gva;

	if (npt)
		vm_enable_npt(vcpu->vm);

	vcpu_alloc_svm(vcpu->vm, &svm_gva);
	vcpu_args_set(vcpu, 1, svm_gva);

	if (npt)
		tdp_identity_map_default_memslots(vcpu->vm);

	vcpu_run(vcpu);
	TEST_ASSERT_KVM_EXIT_REASON(vcpu, KVM_EXIT_IO);
	if (get_ucall(vcpu, &uc) == UCALL_ABORT)
		REPORT_GUEST_ASSERT(uc);

	TEST_ASSERT_EQ(uc.cmd, UCALL_DONE);
}

TEST_F(l2_insn, no_npt)
{
	run_l1(self->vcpu, false);
}

TEST_F(l2_insn, npt)
{
	if (!kvm_cpu_has_npt())
		SKIP(return, "KVM doesn't support nested NPT");

	run_l1(self->vcpu, true);
}

int main(int argc, char *argv[])
{
	TEST_REQUIRE(kvm_cpu_has(X86_FEATURE_SVM));

	return test_harness_run(argc, argv);
}
