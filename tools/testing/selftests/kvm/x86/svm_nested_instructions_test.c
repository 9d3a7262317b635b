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

#define SVM_EXIT_UD		(SVM_EXIT_EXCP_BASE + UD_VECTOR)

/* No hypercall, and no exit code, has this number. */
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
	SKINIT	= 0xde,
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

/* The host looks at what GIF is at each of the two stops. */
static void run_l2(struct svm_test_data *svm, bool toggle_svme)
{
	nr_uds = 0;

	if (toggle_svme) {
		set_svme(false);
		set_svme(true);
	}

	run_guest(svm->vmcb, svm->vmcb_gpa);
	GUEST_SYNC(false);
	stgi();
	GUEST_SYNC(true);
}

FIXTURE(l2_insn) {
	struct kvm_vcpu *vcpu;
};

/* Of L2's instruction, of the quirk that patches VMMCALL, and of what L1 does before VMRUN. */
enum l2_insn_flags {
	EMULATE		= BIT(0),
	UNKNOWN_NR	= BIT(1),
	NO_QUIRK	= BIT(2),
	TOGGLE_SVME	= BIT(3),
	/* L1 has no such instruction, so its intercept is for nothing. */
	NOT_IN_CPUID	= BIT(4),
};

FIXTURE_VARIANT(l2_insn) {
	enum svm_opcode opcode;
	/* Where L2 ends: at its HLT, or before, as L1 intercepts what has this exit code. */
	u64 exit_code;
	u32 intercept_exceptions;
	u32 flags;
};

/* A variant is constant data of the program, which the guest has a copy of. */
static void l1_insn_code(struct svm_test_data *svm,
			 FIXTURE_VARIANT(l2_insn) const *variant)
{
	struct vmcb *vmcb = svm->vmcb;
	bool is_vmmcall = variant->opcode == VMMCALL;
	bool is_hlt = variant->exit_code == SVM_EXIT_HLT;
	bool is_ud_in_l2 = is_hlt && (is_vmmcall || variant->flags & NOT_IN_CPUID);
	const u64 insn = (u64)l2_code.insn;
	u64 rax;

	/* The other instructions take, and may use, the address of a page. */
	rax = is_vmmcall ? KVM_HC_VAPIC_POLL_IRQ : svm->msr_gpa;
	if (variant->flags & UNKNOWN_NR)
		rax = POISON;

	for (l2_round = 0; l2_round < NR_ROUNDS; l2_round++) {
		generic_svm_setup(svm, &l2_code);
		vmcb->control.intercept &= ~BIT_ULL(INTERCEPT_VMMCALL);
		vmcb->control.intercept |= BIT_ULL(INTERCEPT_HLT);
		vmcb->control.intercept_exceptions = variant->intercept_exceptions;

		/* Exit codes of instructions are in the order of their intercepts. */
		if (variant->exit_code >= SVM_EXIT_INTR)
			vmcb->control.intercept |= BIT_ULL(variant->exit_code - SVM_EXIT_INTR);
		if (variant->flags & NOT_IN_CPUID)
			vmcb->control.intercept |= BIT_ULL(INTERCEPT_SKINIT);

		guest_regs_poison();
		guest_regs.rax = rax;
		guest_regs.rflags = L2_RFLAGS;

		run_l2(svm, variant->flags & TOGGLE_SVME);

		__GUEST_ASSERT(nr_uds == is_ud_in_l2,
			       "Wanted %u #UDs in L2, got %lu, the last at RIP 0x%lx (insn 0x%lx)",
			       is_ud_in_l2, nr_uds, ud_rip, insn);
		if (is_ud_in_l2)
			GUEST_ASSERT_EQ(ud_rip, insn);

		GUEST_ASSERT_EQ(vmcb->control.exit_code, variant->exit_code);
		GUEST_ASSERT_EQ(vmcb->save.rip, is_hlt ? insn + INSN_SIZE : insn);
		GUEST_ASSERT_EQ(vmcb->save.rsp, (u64)svm->stack);
		GUEST_ASSERT_EQ(guest_regs.rax, rax);
		GUEST_ASSERT_EQ(guest_regs.rflags & ~X86_EFLAGS_RF, L2_RFLAGS);
		assert_guest_regs_poisoned();

		__GUEST_ASSERT(!memcmp(&l2_code, &l2_code_copy, sizeof(l2_code)),
			       "Instruction in L2 is now %x %x %x",
			       l2_code.insn[0], l2_code.insn[1], l2_code.insn[2]);
	}

	GUEST_DONE();
}

#define UD			BIT(UD_VECTOR)
#define ALL			-1u

#define L2_INSN(name)		FIXTURE_VARIANT_ADD(l2_insn, name)

L2_INSN(vmmcall_not_intercepted) { VMMCALL, SVM_EXIT_HLT };
L2_INSN(vmmcall_not_intercepted_no_quirk) { VMMCALL, SVM_EXIT_HLT, 0, NO_QUIRK };
L2_INSN(vmmcall_not_intercepted_unknown_nr) { VMMCALL, SVM_EXIT_HLT, 0, UNKNOWN_NR };
L2_INSN(vmmcall_ud_intercepted) { VMMCALL, SVM_EXIT_UD, UD };
L2_INSN(vmmcall_ud_intercepted_no_quirk) { VMMCALL, SVM_EXIT_UD, UD, NO_QUIRK };
L2_INSN(vmmcall_intercepted) { VMMCALL, SVM_EXIT_VMMCALL };
L2_INSN(vmmcall_and_exceptions_intercepted) { VMMCALL, SVM_EXIT_VMMCALL, ALL };
L2_INSN(vmmcall_and_exceptions_intercepted_no_quirk) { VMMCALL, SVM_EXIT_VMMCALL, ALL, NO_QUIRK };
L2_INSN(emulated_vmmcall_not_intercepted) { VMMCALL, SVM_EXIT_HLT, 0, EMULATE };
L2_INSN(emulated_vmmcall_not_intercepted_no_quirk) { VMMCALL, SVM_EXIT_HLT, 0, EMULATE | NO_QUIRK };
L2_INSN(emulated_vmmcall_ud_intercepted) { VMMCALL, SVM_EXIT_UD, UD, EMULATE };
L2_INSN(emulated_vmmcall_ud_intercepted_no_quirk) { VMMCALL, SVM_EXIT_UD, UD, EMULATE | NO_QUIRK };
L2_INSN(emulated_vmmcall_intercepted) { VMMCALL, SVM_EXIT_VMMCALL, 0, EMULATE };
L2_INSN(emulated_vmmcall_and_exceptions_intercepted) { VMMCALL, SVM_EXIT_VMMCALL, ALL, EMULATE };
L2_INSN(emulated_vmmcall_and_exceptions_intercepted_no_quirk) {
	VMMCALL, SVM_EXIT_VMMCALL, ALL, EMULATE | NO_QUIRK
};

L2_INSN(vmrun_intercepted) { VMRUN, SVM_EXIT_VMRUN, ALL };
L2_INSN(vmload_intercepted) { VMLOAD, SVM_EXIT_VMLOAD, ALL };
L2_INSN(vmsave_intercepted) { VMSAVE, SVM_EXIT_VMSAVE, ALL };
L2_INSN(stgi_intercepted) { STGI, SVM_EXIT_STGI, ALL };
L2_INSN(clgi_intercepted) { CLGI, SVM_EXIT_CLGI, ALL };
L2_INSN(invlpga_intercepted) { INVLPGA, SVM_EXIT_INVLPGA, ALL };
L2_INSN(stgi_not_intercepted) { STGI, SVM_EXIT_HLT, ALL };
L2_INSN(stgi_not_intercepted_svme_toggled) { STGI, SVM_EXIT_HLT, ALL, TOGGLE_SVME };
L2_INSN(clgi_not_intercepted) { CLGI, SVM_EXIT_HLT, ALL };
L2_INSN(clgi_not_intercepted_svme_toggled) { CLGI, SVM_EXIT_HLT, ALL, TOGGLE_SVME };
L2_INSN(invlpga_not_intercepted) { INVLPGA, SVM_EXIT_HLT, ALL };
L2_INSN(invlpga_not_intercepted_svme_toggled) { INVLPGA, SVM_EXIT_HLT, ALL, TOGGLE_SVME };
L2_INSN(skinit_intercepted) { SKINIT, SVM_EXIT_HLT, 0, NOT_IN_CPUID };
L2_INSN(skinit_and_ud_intercepted) { SKINIT, SVM_EXIT_UD, UD, NOT_IN_CPUID };

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
	u64 quirks = variant->flags & NO_QUIRK ? KVM_X86_QUIRK_FIX_HYPERCALL_INSN : 0;
	struct kvm_vm *vm;

	if (variant->flags & EMULATE && !is_forced_emulation_enabled)
		SKIP(return, "kvm.force_emulation_prefix is disabled");

	if (quirks & ~(u64)kvm_check_cap(KVM_CAP_DISABLE_QUIRKS2))
		SKIP(return, "KVM can't disable quirks 0x%lx", quirks);

	vm = vm_create_with_one_vcpu(&self->vcpu, l1_insn_code);
	vm_enable_cap(vm, KVM_CAP_DISABLE_QUIRKS2, quirks);
	vm_install_exception_handler(vm, UD_VECTOR, ud_handler);
	write_l2_code(vm, variant->opcode, variant->flags & EMULATE);
}

FIXTURE_TEARDOWN(l2_insn)
{
	kvm_vm_free(self->vcpu->vm);
}

static void test_insn(struct kvm_vcpu *vcpu, FIXTURE_VARIANT(l2_insn) const *variant,
		      bool npt)
{
	gva_t svm_gva;

	__vcpu_alloc_svm(vcpu->vm, npt, &svm_gva);
	vcpu_args_set(vcpu, 2, svm_gva, variant);
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
 * L1 intercepts only VMRUN, and CPL comes before that.  KVM intercepts #GP on CPUs that
 * raise it for some addresses that aren't wrong, and has to give L2 those that are due.
 */
KVM_ONE_VCPU_TEST_SUITE(l2_gp);

FIXTURE_VARIANT(l2_gp) {
	enum svm_opcode opcode;
	u8 cpl;
	/* In addition to a legal one. */
	u64 rax;
};

static u64 gp_rip, gp_error_code = POISON;

static void gp_handler(struct ex_regs *regs)
{
	gp_rip = regs->rip;
	gp_error_code = regs->error_code;
	vmmcall();
}

static void l1_gp_code(struct svm_test_data *svm, FIXTURE_VARIANT(l2_gp) const *variant)
{
	struct vmcb *vmcb = svm->vmcb;

	generic_svm_setup(svm, l2_code.insn);
	vmcb->save.cpl = variant->cpl;
	vmcb->save.cs.attrib |= variant->cpl << SVM_SELECTOR_DPL_SHIFT;
	vmcb->save.ss.attrib |= variant->cpl << SVM_SELECTOR_DPL_SHIFT;
	guest_regs.rax = svm->msr_gpa | variant->rax;
	guest_regs.rflags = X86_EFLAGS_FIXED;
	run_guest(vmcb, svm->vmcb_gpa);

	GUEST_ASSERT_EQ(vmcb->control.exit_code, SVM_EXIT_VMMCALL);
	GUEST_ASSERT_EQ(gp_rip, (u64)l2_code.insn);
	GUEST_ASSERT_EQ(gp_error_code, 0);
	GUEST_DONE();
}

FIXTURE_VARIANT_ADD(l2_gp, vmrun_at_cpl3) { VMRUN, 3 };
FIXTURE_VARIANT_ADD(l2_gp, vmload_at_cpl3) { VMLOAD, 3 };
FIXTURE_VARIANT_ADD(l2_gp, vmsave_at_cpl3) { VMSAVE, 3 };
FIXTURE_VARIANT_ADD(l2_gp, vmload_of_illegal_rax) { VMLOAD, 0, BIT_ULL(63) };
FIXTURE_VARIANT_ADD(l2_gp, vmsave_of_illegal_rax) { VMSAVE, 0, BIT_ULL(63) };

static void allow_user_access(struct kvm_vm *vm, gva_t gva)
{
	u64 *pte = &vm->mmu.pgd;
	int level;

	for (level = vm->mmu.pgtable_levels; level; level--) {
		pte = addr_gpa2hva(vm, PTE_GET_PA(*pte));
		pte += gva >> (PAGE_SHIFT + 9 * (level - 1)) & 511;
		*pte |= PTE_USER_MASK(&vm->mmu);
	}
}

TEST_F(l2_gp, is_not_a_vmexit)
{
	struct kvm_vcpu *vcpu = self->vcpu;
	struct kvm_vm *vm = vcpu->vm;
	struct svm_test_data *svm;
	gva_t svm_gva;

	svm = vcpu_alloc_svm(vm, &svm_gva);
	vcpu_arch_set_entry_point(vcpu, l1_gp_code);
	vcpu_args_set(vcpu, 2, svm_gva, variant);
	vm_install_exception_handler(vm, GP_VECTOR, gp_handler);
	write_l2_code(vm, variant->opcode, false);
	allow_user_access(vm, (gva_t)&l2_code);

	/* RSP for CPL 0, in the TSS. */
	memcpy(addr_gva2hva(vm, vm->arch.tss) + 4, &svm->stack, sizeof(svm->stack));

	vcpu_run_to_done(vcpu);
}

/* L2's own VMRUN, of the VMCB that L1 left in RAX, and that VMRUN would fail for. */
extern u8 l2_vmrun[];
asm("l2_vmrun: vmrun %rax; ud2");

static void l1_run_l2_that_fails(struct svm_test_data *svm, struct svm_test_data *l2_svm)
{
	struct vmcb *vmcb = svm->vmcb;

	generic_svm_setup(l2_svm, l2_vmrun);
	l2_svm->vmcb->control.asid = 0;
	l2_svm->vmcb->control.exit_code = POISON;

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

int main(int argc, char *argv[])
{
	TEST_REQUIRE(kvm_cpu_has(X86_FEATURE_SVM));

	return test_harness_run(argc, argv);
}
