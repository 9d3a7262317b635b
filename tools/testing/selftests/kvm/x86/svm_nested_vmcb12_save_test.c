// SPDX-License-Identifier: GPL-2.0-only
#include "test_util.h"
#include "kvm_util.h"
#include "kvm_test_harness.h"
#include "processor.h"
#include "svm_util.h"

#define L2_PORT			8

#define CR3_PWT			BIT_ULL(3)
#define DR6_ACTIVE_LOW		0xffff0ff0ull
#define DR6_BS			BIT_ULL(14)

/* Userspace looks at L2, and changes it, at the port. */
static const u8 l2_code[] = {
	0xe6, L2_PORT,		/* out %al, $L2_PORT */
	0x0f, 0x01, 0xd9,	/* vmmcall */
};

static void l1_code(struct svm_test_data *svm)
{
	struct vmcb_save_area *save = &svm->vmcb->save;

	generic_svm_setup(svm, (void *)l2_code);

	/* Other than in L1, but so that L2 runs in the same way. */
	save->cr0 |= X86_CR0_AM;
	save->cr2 = 0x12345678;
	save->cr3 |= CR3_PWT;
	save->cr4 |= X86_CR4_TSD;
	save->efer ^= EFER_SCE;
	save->dr6 = DR6_ACTIVE_LOW | DR6_BS;
	save->gdtr.limit = 0x7ff;
	save->idtr.limit -= 16;
	save->cs.attrib |= SVM_SELECTOR_AVL_MASK;
	save->ss.attrib |= SVM_SELECTOR_AVL_MASK;
	save->ds.base = 0x12345000;
	save->es.limit = 0xffff;
	save->es.attrib &= ~SVM_SELECTOR_G_MASK;

	guest_regs.rax = 0x5a5a5a5a;
	run_guest(svm->vmcb, svm->vmcb_gpa);
	GUEST_ASSERT_EQ(svm->vmcb->control.exit_code, SVM_EXIT_VMMCALL);
	GUEST_DONE();
}

struct l2_state {
	struct kvm_debugregs debugregs;
	struct kvm_sregs sregs;
	struct kvm_regs regs;
};

static void get_l2(struct kvm_vcpu *vcpu, struct l2_state *l2)
{
	vcpu_debugregs_get(vcpu, &l2->debugregs);
	vcpu_sregs_get(vcpu, &l2->sregs);
	vcpu_regs_get(vcpu, &l2->regs);
}

static void change_l2(struct kvm_vcpu *vcpu, struct l2_state *l2)
{
	struct kvm_debugregs *debugregs = &l2->debugregs;
	struct kvm_sregs *sregs = &l2->sregs;
	struct kvm_regs *regs = &l2->regs;

	debugregs->dr6 ^= DR6_BS;
	vcpu_debugregs_set(vcpu, debugregs);

	sregs->cr0 ^= X86_CR0_AM;
	sregs->cr2 = ~sregs->cr2;
	sregs->cr3 ^= CR3_PWT;
	sregs->cr4 ^= X86_CR4_TSD;
	sregs->efer ^= EFER_SCE;
	sregs->gdt.base += 8;
	sregs->gdt.limit -= 8;
	sregs->idt.base += 16;
	sregs->idt.limit -= 16;
	sregs->cs.avl = 0;
	sregs->ss.avl = 0;
	sregs->ds.selector |= 3;
	sregs->ds.base += PAGE_SIZE;
	sregs->es.selector |= 3;
	sregs->es.limit -= PAGE_SIZE;
	vcpu_sregs_set(vcpu, sregs);

	regs->rflags ^= X86_EFLAGS_AC | X86_EFLAGS_ID;
	regs->rsp -= 8;
	regs->rax = ~regs->rax;
	vcpu_regs_set(vcpu, regs);
}

static void assert_vmcb12_has_l2(const struct vmcb_save_area *save, const struct l2_state *l2)
{
	const struct kvm_debugregs *debugregs = &l2->debugregs;
	const struct kvm_sregs *sregs = &l2->sregs;
	const struct kvm_regs *regs = &l2->regs;
	const struct {
		const char *name;
		u64 vmcb12;
		u64 l2;
	} fields[] = {
		{ "CR0", save->cr0, sregs->cr0 },
		{ "CR2", save->cr2, sregs->cr2 },
		{ "CR3", save->cr3, sregs->cr3 },
		{ "CR4", save->cr4, sregs->cr4 },
		{ "EFER", save->efer, sregs->efer },
		{ "DR6", save->dr6, debugregs->dr6 },
		{ "RFLAGS", save->rflags | X86_EFLAGS_FIXED, regs->rflags },
		{ "RSP", save->rsp, regs->rsp },
		{ "RAX", save->rax, regs->rax },
		{ "GDTR's base", save->gdtr.base, sregs->gdt.base },
		{ "GDTR's limit", save->gdtr.limit, sregs->gdt.limit },
		{ "IDTR's base", save->idtr.base, sregs->idt.base },
		{ "IDTR's limit", save->idtr.limit, sregs->idt.limit },
		{ "CS", save->cs.selector, sregs->cs.selector },
		{ "CS's AVL", !!(save->cs.attrib & SVM_SELECTOR_AVL_MASK), sregs->cs.avl },
		{ "SS", save->ss.selector, sregs->ss.selector },
		{ "SS's AVL", !!(save->ss.attrib & SVM_SELECTOR_AVL_MASK), sregs->ss.avl },
		{ "DS", save->ds.selector, sregs->ds.selector },
		{ "DS's base", save->ds.base, sregs->ds.base },
		{ "ES", save->es.selector, sregs->es.selector },
		{ "ES's limit", save->es.limit, sregs->es.limit },
	};
	int i;

	for (i = 0; i < ARRAY_SIZE(fields); i++)
		TEST_ASSERT(fields[i].vmcb12 == fields[i].l2, "%s is 0x%lx in VMCB12, 0x%lx in L2",
			    fields[i].name, fields[i].vmcb12, fields[i].l2);
}

KVM_ONE_VCPU_TEST_SUITE(vmcb12_save);

FIXTURE_VARIANT(vmcb12_save) {
	bool npt;
};

FIXTURE_VARIANT_ADD(vmcb12_save, no_npt) { };
FIXTURE_VARIANT_ADD(vmcb12_save, npt) { .npt = true };

TEST_F(vmcb12_save, is_loaded_by_vmrun_and_stored_by_vmexit)
{
	struct kvm_vcpu *vcpu = self->vcpu;
	const struct vmcb_save_area *save;
	struct svm_test_data *svm;
	struct l2_state l2;
	gva_t svm_gva;

	if (variant->npt && !kvm_cpu_has_npt())
		SKIP(return, "KVM doesn't support nested NPT");

	svm = __vcpu_alloc_svm(vcpu->vm, variant->npt, &svm_gva);
	save = &((struct vmcb *)svm->vmcb_hva)->save;
	vcpu_arch_set_entry_point(vcpu, l1_code);
	vcpu_args_set(vcpu, 1, svm_gva);

	vcpu_run_to_port(vcpu, L2_PORT);
	get_l2(vcpu, &l2);
	assert_vmcb12_has_l2(save, &l2);

	change_l2(vcpu, &l2);
	vcpu_run_to_done(vcpu);
	assert_vmcb12_has_l2(save, &l2);
}

int main(int argc, char *argv[])
{
	TEST_REQUIRE(kvm_cpu_has(X86_FEATURE_SVM));

	return test_harness_run(argc, argv);
}
