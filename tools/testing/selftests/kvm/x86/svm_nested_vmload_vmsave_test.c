// SPDX-License-Identifier: GPL-2.0-only
#include "test_util.h"
#include "kvm_util.h"
#include "kvm_test_harness.h"
#include "processor.h"
#include "svm_util.h"

#define NR_ROUNDS		3

#define INSN_SIZE		3

#define L2_RFLAGS		(X86_EFLAGS_CF | X86_EFLAGS_FIXED)

/* L2's only instructions, with the address in RAX; L1 intercepts HLT. */
static const u8 l2_vmload[] = {
	0x0f, 0x01, 0xda,	/* vmload %rax */
	0xf4,			/* hlt */
};

static const u8 l2_vmsave[] = {
	0x0f, 0x01, 0xdb,	/* vmsave %rax */
	0xf4,			/* hlt */
};

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
			       "Wanted 0x%x in field 0x%x of %s, got 0x%lx",
			       values + i, vmload_fields[i], name, *vmload_field(vmcb, i));
}

/* Two adjacent pages, each of which is at the other's address in L2's NPT. */
static struct vmcb *pages;
static gpa_t page0_gpa;

FIXTURE(l2_vmload_vmsave) {
	struct kvm_vcpu *vcpu;
};

FIXTURE_VARIANT(l2_vmload_vmsave) {
	const u8 *l2_code;
	bool vls;
	bool toggle_svme;
};

static void l1_vmload_vmsave_code(struct svm_test_data *svm,
				  FIXTURE_VARIANT(l2_vmload_vmsave) const *variant)
{
	bool is_vmload = variant->l2_code == l2_vmload;
	struct vmcb *page0 = (void *)pages, *page1 = (void *)pages + PAGE_SIZE;
	struct vmcb *vmcb = svm->vmcb;
	enum vmload_values want_l2 = VALUES_OF_L2;
	enum vmload_values want_page0 = VALUES_OF_PAGE0;
	enum vmload_values want_page1 = VALUES_OF_PAGE1;
	int i;

	/* Only if virtual, L2's address goes through its NPT: it gets page 1. */
	if (is_vmload)
		want_l2 = variant->vls ? VALUES_OF_PAGE1 : VALUES_OF_PAGE0;
	else if (variant->vls)
		want_page1 = VALUES_OF_L2;
	else
		want_page0 = VALUES_OF_L2;

	for (i = 0; i < NR_ROUNDS; i++) {
		generic_svm_setup(svm, (void *)variant->l2_code);
		vmcb->control.intercept |= BIT_ULL(INTERCEPT_HLT);
		vmcb->control.intercept_exceptions = -1u;
		if (variant->vls)
			vmcb->control.misc_ctl2 |= SVM_MISC2_ENABLE_V_VMLOAD_VMSAVE;

		/* TR and LDTR have to be valid wherever L2 loads them from. */
		memcpy(page0, vmcb, sizeof(*vmcb));
		memcpy(page1, vmcb, sizeof(*vmcb));
		set_vmload_fields(page0, VALUES_OF_PAGE0);
		set_vmload_fields(page1, VALUES_OF_PAGE1);

		/* L1 loads L2's values before VMRUN, and saves them after. */
		set_vmload_fields(vmcb, VALUES_OF_L2);

		guest_regs_poison();
		guest_regs.rax = page0_gpa;
		guest_regs.rflags = L2_RFLAGS;

		if (variant->toggle_svme) {
			set_svme(false);
			set_svme(true);
		}

		run_guest(vmcb, svm->vmcb_gpa);
		stgi();

		GUEST_ASSERT_EQ(vmcb->control.exit_code, SVM_EXIT_HLT);
		GUEST_ASSERT_EQ(vmcb->save.rip, (u64)variant->l2_code + INSN_SIZE);
		GUEST_ASSERT_EQ(vmcb->save.rsp, (u64)svm->stack);
		GUEST_ASSERT_EQ(guest_regs.rax, page0_gpa);
		GUEST_ASSERT_EQ(guest_regs.rflags & ~X86_EFLAGS_RF, L2_RFLAGS);
		assert_guest_regs_poisoned();

		assert_vmload_fields(page0, "page 0", want_page0);
		assert_vmload_fields(page1, "page 1", want_page1);
		assert_vmload_fields(vmcb, "L2", want_l2);
	}

	GUEST_DONE();
}

#define L2_INSN(name)		FIXTURE_VARIANT_ADD(l2_vmload_vmsave, name)

L2_INSN(vmload) { l2_vmload };
L2_INSN(vmload_svme_toggled) { l2_vmload, .toggle_svme = true };
L2_INSN(vmload_virtual) { l2_vmload, .vls = true };
L2_INSN(vmload_virtual_svme_toggled) { l2_vmload, .vls = true, .toggle_svme = true };
L2_INSN(vmsave) { l2_vmsave };
L2_INSN(vmsave_svme_toggled) { l2_vmsave, .toggle_svme = true };
L2_INSN(vmsave_virtual) { l2_vmsave, .vls = true };
L2_INSN(vmsave_virtual_svme_toggled) { l2_vmsave, .vls = true, .toggle_svme = true };

FIXTURE_SETUP(l2_vmload_vmsave)
{
	struct kvm_vm *vm;

	if (variant->vls && !kvm_cpu_has(X86_FEATURE_V_VMSAVE_VMLOAD))
		SKIP(return, "KVM doesn't support virtual VMLOAD/VMSAVE for L2");

	vm = vm_create_with_one_vcpu(&self->vcpu, l1_vmload_vmsave_code);
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
	u64 *pte0, *pte1, pte;
	gva_t svm_gva;

	__vcpu_alloc_svm(vcpu->vm, npt, &svm_gva);
	if (npt) {
		pte0 = tdp_get_pte(vcpu->vm, page0_gpa);
		pte1 = tdp_get_pte(vcpu->vm, page0_gpa + PAGE_SIZE);
		pte = *pte0;
		*pte0 = *pte1;
		*pte1 = pte;
	}

	vcpu_args_set(vcpu, 2, svm_gva, variant);
	vcpu_run_to_done(vcpu);
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
