/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * An L2 that stops at ports, with and without paging and NPT, and the ways in
 * which userspace has a vCPU leave it without a #VMEXIT.
 */
#ifndef SELFTEST_KVM_SVM_NESTED_LEAVE_H
#define SELFTEST_KVM_SVM_NESTED_LEAVE_H

#include "test_util.h"
#include "kvm_util.h"
#include "kvm_test_harness.h"
#include "processor.h"
#include "svm_util.h"

/* In seconds, for tests whose guest may hang where KVM gets it wrong. */
#define TIMEOUT			5

/*
 * A page that is not mapped, for code that runs without paging, in L2 or at a
 * SIPI, which takes it to be below 1 MiB.  The library leaves this one alone.
 */
#define LOW_MEMORY_GPA		0x1000
#define L2_OFFSET		0x100
#define CLEAR_SVME_OFFSET	0x200

#define L2_TSC_OFFSET		(-(1ull << 44))

/* Other than the host's. */
#define GUEST_XCR0		XFEATURE_MASK_FP

/* Ports, as not all of the guest's code can do ucalls. */
enum {
	AT_L2 = 8,
	AT_L2_NEXT,
	AT_L2_RESUMED,
	AT_SIPI,
	AT_RESET,
};

/*
 * All code for L2 is the same in 32-bit and in 64-bit mode.  String I/O is
 * emulated by KVM, which has to translate addresses as the CPU does.
 */
static const u8 l2_code[] = {
	0xe4, AT_L2,		/* in $AT_L2, %al */
	0x6e,			/* outsb, from here to AT_L2_NEXT */
	0x0f, 0x0b,		/* ud2 */
};

static const u8 clear_svme_code[] = {
	0xb9, 0x80, 0, 0, 0xc0,			/* mov $MSR_EFER, %ecx */
	0x0f, 0x32,				/* rdmsr */
	0x25, 0xff, 0xef, 0xff, 0xff,		/* and $~EFER_SVME, %eax */
	0x0f, 0x30,				/* wrmsr */
	0xe4, AT_L2_RESUMED,			/* in $AT_L2_RESUMED, %al */
};

static const u8 sipi_code[] = {
	0xba, AT_SIPI, 0,	/* mov $AT_SIPI, %dx */
	0x6e,			/* outsb */
	0xf4,			/* hlt */
};

/* Data that may not be executed, which is for paging with EFER.NX only. */
static u64 *nx_data;

static void l1_code(struct svm_test_data *svm, void *l2_rip, bool unpaged)
{
	struct vmcb *vmcb = svm->vmcb;

	generic_svm_setup(svm, l2_rip);
	vmcb->control.intercept |= BIT_ULL(INTERCEPT_SHUTDOWN);
	vmcb->control.intercept_exceptions = BIT(UD_VECTOR);
	vmcb->control.tsc_offset = L2_TSC_OFFSET;
	vmcb->save.cr0 |= X86_CR0_WP | X86_CR0_AM;
	vmcb->save.cr4 |= X86_CR4_TSD;
	vmcb->save.cr4 &= ~X86_CR4_OSXSAVE;
	vmcb->save.efer &= ~EFER_NX;

	if (unpaged) {
		vmcb->save.cr0 &= ~X86_CR0_PG;
		vmcb->save.efer &= ~(EFER_LME | EFER_LMA);
		vmcb->save.cs.attrib &= ~SVM_SELECTOR_L_MASK;
		vmcb->save.cs.attrib |= SVM_SELECTOR_DB_MASK;
	}

	guest_regs.rsi = (u64)l2_rip;
	guest_regs.rdx = AT_L2_NEXT;
	run_guest(vmcb, svm->vmcb_gpa);
	GUEST_SYNC(vmcb->control.exit_code);
}

struct l2_vm {
	struct kvm_vcpu *vcpu;
	struct kvm_vcpu *other_vcpu;
	struct kvm_sregs l1_sregs;
	struct kvm_regs l1_regs;
	struct kvm_regs l1_start_regs;
	gpa_t low_gpa;
};

static void write_l2_page(u8 *page)
{
	memcpy(page, sipi_code, sizeof(sipi_code));
	memcpy(page + L2_OFFSET, l2_code, sizeof(l2_code));
	memcpy(page + CLEAR_SVME_OFFSET, clear_svme_code, sizeof(clear_svme_code));
}

static void l2_vm_create(struct l2_vm *l2, bool npt, bool unpaged)
{
	struct kvm_xcrs xcrs = { .nr_xcrs = 1, .xcrs[0].value = GUEST_XCR0 };
	struct kvm_vcpu *vcpus[2];
	gva_t svm_gva, l2_gva;
	struct kvm_vm *vm;

	vm = vm_create_with_vcpus(ARRAY_SIZE(vcpus), l1_code, vcpus);
	vm_enable_cap(vm, KVM_CAP_EXCEPTION_PAYLOAD, true);
	l2->other_vcpu = vcpus[0];
	l2->vcpu = vcpus[1];

	l2_gva = vm_alloc_page(vm);
	write_l2_page(addr_gva2hva(vm, l2_gva));
	l2->low_gpa = vm_phy_page_alloc(vm, LOW_MEMORY_GPA, 0);
	TEST_ASSERT_EQ(l2->low_gpa, LOW_MEMORY_GPA);
	write_l2_page(addr_gpa2hva(vm, l2->low_gpa));

	nx_data = (u64 *)vm_alloc_page(vm);
	*vm_get_pte(vm, (gva_t)nx_data) |= PTE_NX_MASK(&vm->mmu);
	sync_global_to_guest(vm, nx_data);

	__vcpu_alloc_svm(vm, npt, &svm_gva);

	if (kvm_cpu_has(X86_FEATURE_XSAVE))
		vcpu_xcrs_set(l2->vcpu, &xcrs);

	vcpu_sregs_get(l2->vcpu, &l2->l1_sregs);
	vcpu_regs_get(l2->vcpu, &l2->l1_regs);
	vcpu_args_set(l2->vcpu, 3, svm_gva, L2_OFFSET + (unpaged ? l2->low_gpa : l2_gva),
		      unpaged);
	vcpu_regs_get(l2->vcpu, &l2->l1_start_regs);
}

static void run_to_l2(struct kvm_vcpu *vcpu)
{
	vcpu_run_to_port(vcpu, AT_L2);
	vcpu_run_complete_io(vcpu);
	TEST_ASSERT(vcpu_in_l2(vcpu), "L2 stopped, but vCPU isn't in guest mode");
}

static void run_to_l2_next(struct kvm_vcpu *vcpu)
{
	struct kvm_run *run = vcpu->run;

	vcpu_run_to_port(vcpu, AT_L2_NEXT);
	TEST_ASSERT_EQ(*((u8 *)run + run->io.data_offset), l2_code[0]);
}

static void leave_by_nested_state(struct kvm_vcpu *vcpu)
{
	vcpu_svm_nested_flags_set(vcpu, KVM_STATE_NESTED_GIF_SET);
}

static void leave_by_sregs(struct kvm_vcpu *vcpu)
{
	vcpu_set_svme_by_sregs(vcpu, false);
}

static void leave_by_msrs(struct kvm_vcpu *vcpu)
{
	vcpu_set_svme_by_msrs(vcpu, false);
}

FIXTURE(left_l2) {
	struct l2_vm l2;
};

FIXTURE_VARIANT(left_l2) {
	void (*leave)(struct kvm_vcpu *vcpu);
	bool npt;
	bool unpaged;
};

FIXTURE_VARIANT_ADD(left_l2, by_nested_state) { leave_by_nested_state };
FIXTURE_VARIANT_ADD(left_l2, by_nested_state_npt) { leave_by_nested_state, true };
FIXTURE_VARIANT_ADD(left_l2, by_nested_state_unpaged) { leave_by_nested_state, false, true };
FIXTURE_VARIANT_ADD(left_l2, by_nested_state_unpaged_npt) { leave_by_nested_state, true, true };
FIXTURE_VARIANT_ADD(left_l2, by_sregs) { leave_by_sregs };
FIXTURE_VARIANT_ADD(left_l2, by_sregs_npt) { leave_by_sregs, true };
FIXTURE_VARIANT_ADD(left_l2, by_sregs_unpaged) { leave_by_sregs, false, true };
FIXTURE_VARIANT_ADD(left_l2, by_sregs_unpaged_npt) { leave_by_sregs, true, true };
FIXTURE_VARIANT_ADD(left_l2, by_msrs) { leave_by_msrs };
FIXTURE_VARIANT_ADD(left_l2, by_msrs_npt) { leave_by_msrs, true };
FIXTURE_VARIANT_ADD(left_l2, by_msrs_unpaged) { leave_by_msrs, false, true };
FIXTURE_VARIANT_ADD(left_l2, by_msrs_unpaged_npt) { leave_by_msrs, true, true };

FIXTURE_SETUP(left_l2)
{
	if (variant->npt && !kvm_cpu_has_npt())
		SKIP(return, "KVM doesn't support nested NPT");

	l2_vm_create(&self->l2, variant->npt, variant->unpaged);
	run_to_l2(self->l2.vcpu);
}

FIXTURE_TEARDOWN(left_l2)
{
	kvm_vm_free(self->l2.vcpu->vm);
}

#endif /* SELFTEST_KVM_SVM_NESTED_LEAVE_H */
