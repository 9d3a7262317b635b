// SPDX-License-Identifier: GPL-2.0-only
#include <linux/compiler.h>

#include "test_util.h"
#include "kvm_util.h"
#include "kvm_test_harness.h"
#include "processor.h"
#include "smm.h"
#include "svm_util.h"

#define SMRAM_GPA		0x1000000

#define NO_MEMORY_GPA		0xc0000000ul

/* Where the guest stops: at a ucall, or, in SMM, at an IN from the first port. */
enum {
	AT_SMI = 0xe,
	AT_L2 = 0x100,
};

static const u8 smi_handler[] = {
	0xe4, AT_SMI,		/* in $AT_SMI, %al */
	0x0f, 0xaa,		/* rsm */
};

static bool l2_has_resumed;

static void l2_code(void)
{
	GUEST_SYNC(AT_L2);
	WRITE_ONCE(l2_has_resumed, true);
	vmmcall();
}

static void l1_code(struct svm_test_data *svm)
{
	generic_svm_setup(svm, l2_code);
	run_guest(svm->vmcb, svm->vmcb_gpa);
	GUEST_ASSERT_EQ(svm->vmcb->control.exit_code, SVM_EXIT_VMMCALL);
	GUEST_DONE();
}

static bool vcpu_in_l2(struct kvm_vcpu *vcpu)
{
	return vcpu_svm_nested_flags(vcpu) & KVM_STATE_NESTED_GUEST_MODE;
}

static struct svm_test_data *setup_l1(struct kvm_vcpu *vcpu)
{
	struct svm_test_data *svm;
	gva_t svm_gva;

	svm = vcpu_alloc_svm(vcpu->vm, &svm_gva);
	vcpu_args_set(vcpu, 1, svm_gva);

	/* L1 doesn't initialize the host save area: only what KVM saves counts. */
	memset(svm->save_area_hva, 0xff, getpagesize());
	setup_smram(vcpu->vm, vcpu, SMRAM_GPA, smi_handler, sizeof(smi_handler));
	return svm;
}

static void raise_smi_in_l2(struct kvm_vcpu *vcpu)
{
	vcpu_run_to_sync(vcpu, AT_L2);
	TEST_ASSERT(vcpu_in_l2(vcpu), "L2 stopped, but vCPU isn't in guest mode");
	inject_smi(vcpu);
}

static void run_to_smi_in_l2(struct kvm_vcpu *vcpu)
{
	raise_smi_in_l2(vcpu);
	vcpu_run_to_io(vcpu, AT_SMI);
	TEST_ASSERT(!vcpu_in_l2(vcpu), "vCPU in guest mode with the SMI handler running");
}

KVM_ONE_VCPU_TEST_SUITE(smi_in_l2);

/* L1 has bits clear that KVM or the CPU wants set, whatever the guest has. */
KVM_ONE_VCPU_TEST(smi_in_l2, keeps_l1_control_registers, l1_code)
{
	struct kvm_sregs sregs, after;

	setup_l1(vcpu);
	vcpu_sregs_get(vcpu, &sregs);
	sregs.cr0 = (sregs.cr0 | X86_CR0_ET) & ~X86_CR0_WP;
	sregs.cr4 &= ~X86_CR4_MCE;
	sregs.efer &= ~EFER_NX;
	vcpu_sregs_set(vcpu, &sregs);

	run_to_smi_in_l2(vcpu);
	vcpu_run_to_done(vcpu);

	vcpu_sregs_get(vcpu, &after);
	TEST_ASSERT_EQ(after.cr0, sregs.cr0);
	TEST_ASSERT_EQ(after.cr3, sregs.cr3);
	TEST_ASSERT_EQ(after.cr4, sregs.cr4);
	TEST_ASSERT_EQ(after.efer, sregs.efer | EFER_SVME);
}

/* KVM has nowhere to save L1's state to, and may kill the VM. */
KVM_ONE_VCPU_TEST(smi_in_l2, without_host_save_area_has_gif_set_or_no_handler, l1_code)
{
	int r;

	setup_l1(vcpu);
	raise_smi_in_l2(vcpu);
	vcpu_set_msr(vcpu, MSR_VM_HSAVE_PA, NO_MEMORY_GPA);

	r = __vcpu_run(vcpu);
	if (r) {
		TEST_ASSERT(errno == EIO, "KVM_RUN returned %d, errno %d", r, errno);
		return;
	}

	TEST_ASSERT_KVM_EXIT_REASON(vcpu, KVM_EXIT_IO);
	TEST_ASSERT_EQ(vcpu->run->io.port, AT_SMI);
	TEST_ASSERT_EQ(vcpu_svm_nested_flags(vcpu), KVM_STATE_NESTED_GIF_SET);
}

/*
 * An SMI handler, or another vCPU, changes what RSM resumes: L1's state, which
 * KVM keeps in the host save area while the handler runs, or L2's in vmcb12.
 */
static void test_bad_rsm(struct kvm_vcpu *vcpu,
			 void (*edit)(struct vmcb_save_area *l1, struct vmcb_save_area *l2))
{
	struct svm_test_data *svm = setup_l1(vcpu);
	struct vmcb *hsave = svm->save_area_hva;
	struct vmcb *vmcb12 = svm->vmcb_hva;
	int r;

	run_to_smi_in_l2(vcpu);
	TEST_ASSERT(hsave->save.efer & EFER_SVME,
		    "No EFER.SVME in the host save area, EFER is 0x%lx", hsave->save.efer);
	edit(&hsave->save, &vmcb12->save);

	r = __vcpu_run(vcpu);
	TEST_ASSERT(!r, "KVM_RUN returned %d, errno %d", r, errno);
	TEST_ASSERT_KVM_EXIT_REASON(vcpu, KVM_EXIT_SHUTDOWN);
	TEST_ASSERT(!vcpu_in_l2(vcpu), "vCPU still in guest mode");
	sync_global_from_guest(vcpu->vm, l2_has_resumed);
	TEST_ASSERT(!l2_has_resumed, "L2 has resumed, and shut down only after that");
}

FIXTURE(bad_rsm) {
	struct kvm_vcpu *vcpu;
};

FIXTURE_VARIANT(bad_rsm) {
	void (*edit)(struct vmcb_save_area *l1, struct vmcb_save_area *l2);
};

#define BAD_RSM(name, edits...)							\
static void edit_##name(struct vmcb_save_area *l1, struct vmcb_save_area *l2)	\
{										\
	edits;									\
}										\
										\
FIXTURE_VARIANT_ADD(bad_rsm, name) {						\
	.edit = edit_##name,							\
}

BAD_RSM(l1_cr0_pe_clear, l1->cr0 &= ~X86_CR0_PE);
BAD_RSM(l1_cr0_pg_clear, l1->cr0 &= ~X86_CR0_PG);
BAD_RSM(l1_cr4_bit_63, l1->cr4 |= BIT_ULL(63));
BAD_RSM(l1_efer_lma_without_lme, l1->efer &= ~EFER_LME);
BAD_RSM(l1_efer_svme_clear, l1->efer &= ~EFER_SVME);
BAD_RSM(l1_efer_bit_63, l1->efer |= BIT_ULL(63));
BAD_RSM(l1_rflags_vm, l1->rflags |= X86_EFLAGS_VM);

static void clear_long_mode(struct vmcb_save_area *save)
{
	save->efer &= ~(EFER_LME | EFER_LMA);
}

/* CR3 is only checked when the vCPU is in L2 already. */
BAD_RSM(l2_cr3_no_paging,
	clear_long_mode(l2);
	l2->cr0 &= ~X86_CR0_PG;
	l2->cr3 |= BIT_ULL(63));
BAD_RSM(l2_cr3_legacy_paging,
	clear_long_mode(l2);
	l2->cr4 &= ~X86_CR4_PAE;
	l2->cr3 |= BIT_ULL(63));
BAD_RSM(l2_cr3_pae_paging,
	clear_long_mode(l2);
	l2->cr3 |= BIT_ULL(63));

FIXTURE_SETUP(bad_rsm)
{
	vm_create_with_one_vcpu(&self->vcpu, l1_code);
}

FIXTURE_TEARDOWN(bad_rsm)
{
	kvm_vm_free(self->vcpu->vm);
}

TEST_F(bad_rsm, shuts_down)
{
	test_bad_rsm(self->vcpu, variant->edit);
}

static void clear_l1_pae(struct vmcb_save_area *l1, struct vmcb_save_area *l2)
{
	l1->cr4 &= ~X86_CR4_PAE;
}

/* KVM that gets this wrong WARNs. */
KVM_ONE_VCPU_TEST_SUITE(host_may_crash);

KVM_ONE_VCPU_TEST(host_may_crash, rsm_to_l1_without_pae, l1_code)
{
	test_bad_rsm(vcpu, clear_l1_pae);
}

int main(int argc, char *argv[])
{
	TEST_REQUIRE(kvm_cpu_has(X86_FEATURE_SVM));
	TEST_REQUIRE(kvm_has_cap(KVM_CAP_X86_SMM));

	return test_harness_run(argc, argv);
}
