// SPDX-License-Identifier: GPL-2.0-only
#include "test_util.h"
#include "kvm_util.h"
#include "kvm_test_harness.h"
#include "processor.h"
#include "smm.h"
#include "svm_util.h"

#define NO_MEMORY_GPA		0xc0000000ul

enum {
	AT_SMI,
	AT_RSM,
};

static bool has_resumed;

static void stop_for_smi(void)
{
	GUEST_SYNC(AT_SMI);
	WRITE_ONCE(has_resumed, true);
	GUEST_SYNC(AT_RSM);
}

static void l2_code(void)
{
	stop_for_smi();
	vmmcall();
}

static void l1_code(struct svm_test_data *svm, bool in_l1)
{
	generic_svm_setup(svm, l2_code);

	if (in_l1) {
		stop_for_smi();
	} else {
		run_guest(svm->vmcb, svm->vmcb_gpa);
		GUEST_ASSERT_EQ(svm->vmcb->control.exit_code, SVM_EXIT_VMMCALL);
	}
	GUEST_DONE();
}

static struct svm_test_data *setup_l1(struct kvm_vcpu *vcpu, bool in_l1)
{
	struct svm_test_data *svm;
	gva_t svm_gva;

	svm = vcpu_alloc_svm(vcpu->vm, &svm_gva);
	vcpu_arch_set_entry_point(vcpu, l1_code);
	vcpu_args_set(vcpu, 2, svm_gva, in_l1);

	/* L1 doesn't initialize the host save area: only what KVM saves counts. */
	memset(svm->save_area_hva, 0xff, getpagesize());
	setup_smi_stop(vcpu);
	return svm;
}

static void raise_smi_in_l2(struct kvm_vcpu *vcpu)
{
	vcpu_run_to_l2(vcpu, AT_SMI);
	inject_smi(vcpu);
}

static void run_to_smi_in_l2(struct kvm_vcpu *vcpu)
{
	raise_smi_in_l2(vcpu);
	vcpu_run_to_port(vcpu, SMI_STOP_PORT);
	TEST_ASSERT(!vcpu_in_l2(vcpu), "vCPU in guest mode with the SMI handler running");
}

static void run_rsm_to_shutdown(struct kvm_vcpu *vcpu)
{
	int r = __vcpu_run(vcpu);

	TEST_ASSERT(!r, "KVM_RUN returned %d, errno %d", r, errno);
	TEST_ASSERT_KVM_EXIT_REASON(vcpu, KVM_EXIT_SHUTDOWN);
	TEST_ASSERT(!vcpu_in_l2(vcpu), "vCPU still in guest mode");
	sync_global_from_guest(vcpu->vm, has_resumed);
	TEST_ASSERT(!has_resumed, "L2 has resumed, and shut down only after that");
}

/* What vmcb01 has of the SMI handler, and would have of L1. */
static void assert_nothing_is_loaded(struct kvm_vcpu *vcpu, const struct kvm_sregs *handler)
{
	struct kvm_sregs after;

	vcpu_sregs_get(vcpu, &after);
	TEST_ASSERT_EQ(after.idt.base, handler->idt.base);
	TEST_ASSERT_EQ(after.idt.limit, handler->idt.limit);
	TEST_ASSERT_EQ(after.cs.selector, handler->cs.selector);
	TEST_ASSERT_EQ(after.ds.selector, handler->ds.selector);
}

KVM_ONE_VCPU_TEST_SUITE(smi);

FIXTURE_VARIANT(smi) {
	bool in_l1;
	u16 nested_flags;
};

FIXTURE_VARIANT_ADD(smi, in_l1) {
	.in_l1 = true,
	.nested_flags = KVM_STATE_NESTED_GIF_SET,
};

FIXTURE_VARIANT_ADD(smi, in_l2) {
	.nested_flags = KVM_STATE_NESTED_GIF_SET | KVM_STATE_NESTED_GUEST_MODE,
};

static void run_to_smi(struct kvm_vcpu *vcpu, FIXTURE_VARIANT(smi) const *variant)
{
	struct kvm_vcpu_events events;

	setup_l1(vcpu, variant->in_l1);

	vcpu_run_to_sync(vcpu, AT_SMI);
	TEST_ASSERT_EQ(vcpu_svm_nested_flags(vcpu), variant->nested_flags);

	inject_smi(vcpu);
	vcpu_run_to_port(vcpu, SMI_STOP_PORT);
	vcpu_events_get(vcpu, &events);
	TEST_ASSERT_EQ(events.smi.smm, 1);
}

TEST_F(smi, handler_runs_with_gif_set)
{
	run_to_smi(self->vcpu, variant);
	TEST_ASSERT_EQ(vcpu_svm_nested_flags(self->vcpu), KVM_STATE_NESTED_GIF_SET);
}

TEST_F(smi, rsm_resumes_with_gif_set)
{
	run_to_smi(self->vcpu, variant);
	vcpu_run_to_sync(self->vcpu, AT_RSM);
	TEST_ASSERT_EQ(vcpu_svm_nested_flags(self->vcpu), variant->nested_flags);

	vcpu_run_to_done(self->vcpu);
	TEST_ASSERT_EQ(vcpu_svm_nested_flags(self->vcpu),
		       variant->in_l1 ? KVM_STATE_NESTED_GIF_SET : 0);
}

KVM_ONE_VCPU_TEST_SUITE(smi_in_l2);

/* L1 has bits clear that KVM or the CPU wants set, whatever the guest has. */
KVM_ONE_VCPU_TEST(smi_in_l2, keeps_l1_control_registers, l1_code)
{
	struct kvm_sregs sregs, after;

	setup_l1(vcpu, false);
	vcpu_sregs_get(vcpu, &sregs);
	sregs.cr0 = (sregs.cr0 | X86_CR0_ET) & ~X86_CR0_WP;
	sregs.cr4 &= ~X86_CR4_MCE;
	sregs.efer &= ~EFER_NX;
	vcpu_sregs_set(vcpu, &sregs);

	run_to_smi_in_l2(vcpu);
	vcpu_run_to_sync(vcpu, AT_RSM);
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

	setup_l1(vcpu, false);
	raise_smi_in_l2(vcpu);
	vcpu_set_msr(vcpu, MSR_VM_HSAVE_PA, NO_MEMORY_GPA);

	r = __vcpu_run(vcpu);
	if (r) {
		TEST_ASSERT(errno == EIO, "KVM_RUN returned %d, errno %d", r, errno);
		return;
	}

	TEST_ASSERT_KVM_EXIT_REASON(vcpu, KVM_EXIT_IO);
	TEST_ASSERT_EQ(vcpu->run->io.port, SMI_STOP_PORT);
	TEST_ASSERT_EQ(vcpu_svm_nested_flags(vcpu), KVM_STATE_NESTED_GIF_SET);
}

KVM_ONE_VCPU_TEST_SUITE(rsm_to_l2);

/* What is cleared of vmcb12. */
FIXTURE_VARIANT(rsm_to_l2) {
	u32 asid;
	u64 intercept;
	u64 efer;
};

FIXTURE_VARIANT_ADD(rsm_to_l2, asid_0) { .asid = -1u };
FIXTURE_VARIANT_ADD(rsm_to_l2, vmrun_not_intercepted) { .intercept = BIT_ULL(INTERCEPT_VMRUN) };
FIXTURE_VARIANT_ADD(rsm_to_l2, efer_svme_clear) { .efer = EFER_SVME };

/*
 * What VMRUN refuses must not get in through SMM, either, and nothing of L1,
 * whose state is in the host save area, is loaded on the way.
 */
static void run_to_smi_with_invalid_vmcb12(struct kvm_vcpu *vcpu,
					   FIXTURE_VARIANT(rsm_to_l2) const *clear)
{
	struct vmcb *vmcb12 = setup_l1(vcpu, false)->vmcb_hva;

	run_to_smi_in_l2(vcpu);
	vmcb12->control.asid &= ~clear->asid;
	vmcb12->control.intercept &= ~clear->intercept;
	vmcb12->save.efer &= ~clear->efer;
}

TEST_F(rsm_to_l2, shuts_down_if_vmcb12_is_invalid)
{
	run_to_smi_with_invalid_vmcb12(self->vcpu, variant);
	run_rsm_to_shutdown(self->vcpu);
}

TEST_F(rsm_to_l2, loads_nothing_of_l1_if_vmcb12_is_invalid)
{
	struct kvm_sregs handler;

	run_to_smi_with_invalid_vmcb12(self->vcpu, variant);
	vcpu_sregs_get(self->vcpu, &handler);
	run_rsm_to_shutdown(self->vcpu);
	assert_nothing_is_loaded(self->vcpu, &handler);
}

/* Bits of a VMCB's save area. */
struct save_bits {
	u64 cr0;
	u64 cr4;
	u64 efer;
	u64 rflags;
};

/*
 * An SMI handler, or another vCPU, changes what RSM resumes: L1's state, which
 * KVM keeps in the host save area while the handler runs, or L2's in vmcb12.
 */
KVM_ONE_VCPU_TEST_SUITE(bad_rsm);

FIXTURE_VARIANT(bad_rsm) {
	struct save_bits clear;
	struct save_bits set;
	/* L2 instead of L1, without long mode; CR3 is only checked in L2. */
	bool l2_cr3;
};

FIXTURE_VARIANT_ADD(bad_rsm, l1_cr0_pe_clear) { .clear.cr0 = X86_CR0_PE };
FIXTURE_VARIANT_ADD(bad_rsm, l1_cr0_pg_clear) { .clear.cr0 = X86_CR0_PG };
FIXTURE_VARIANT_ADD(bad_rsm, l1_cr4_bit_63) { .set.cr4 = BIT_ULL(63) };
FIXTURE_VARIANT_ADD(bad_rsm, l1_efer_lma_without_lme) { .clear.efer = EFER_LME };
FIXTURE_VARIANT_ADD(bad_rsm, l1_efer_svme_clear) { .clear.efer = EFER_SVME };
FIXTURE_VARIANT_ADD(bad_rsm, l1_efer_bit_63) { .set.efer = BIT_ULL(63) };
FIXTURE_VARIANT_ADD(bad_rsm, l1_rflags_vm) { .set.rflags = X86_EFLAGS_VM };
FIXTURE_VARIANT_ADD(bad_rsm, l2_cr3_no_paging) { .clear.cr0 = X86_CR0_PG, .l2_cr3 = true };
FIXTURE_VARIANT_ADD(bad_rsm, l2_cr3_legacy_paging) { .clear.cr4 = X86_CR4_PAE, .l2_cr3 = true };
FIXTURE_VARIANT_ADD(bad_rsm, l2_cr3_pae_paging) { .l2_cr3 = true };

static void test_bad_rsm(struct kvm_vcpu *vcpu, FIXTURE_VARIANT(bad_rsm) const *bad)
{
	struct svm_test_data *svm = setup_l1(vcpu, false);
	struct vmcb *hsave = svm->save_area_hva;
	struct vmcb *vmcb12 = svm->vmcb_hva;
	struct vmcb_save_area *save = bad->l2_cr3 ? &vmcb12->save : &hsave->save;
	struct kvm_sregs handler;

	run_to_smi_in_l2(vcpu);
	TEST_ASSERT(hsave->save.efer & EFER_SVME,
		    "No EFER.SVME in the host save area, EFER is 0x%lx", hsave->save.efer);

	save->cr0 = (save->cr0 | bad->set.cr0) & ~bad->clear.cr0;
	save->cr4 = (save->cr4 | bad->set.cr4) & ~bad->clear.cr4;
	save->efer = (save->efer | bad->set.efer) & ~bad->clear.efer;
	save->rflags = (save->rflags | bad->set.rflags) & ~bad->clear.rflags;
	if (bad->l2_cr3) {
		save->efer &= ~(EFER_LME | EFER_LMA);
		save->cr3 |= BIT_ULL(63);
	}

	vcpu_sregs_get(vcpu, &handler);
	run_rsm_to_shutdown(vcpu);
	/* L2's CR3 is only looked at when L1's state is where L2 leaves it. */
	if (!bad->l2_cr3)
		assert_nothing_is_loaded(vcpu, &handler);
}

TEST_F(bad_rsm, shuts_down)
{
	test_bad_rsm(self->vcpu, variant);
}

/* KVM that gets this wrong WARNs. */
KVM_ONE_VCPU_TEST_SUITE(host_may_crash);

KVM_ONE_VCPU_TEST(host_may_crash, rsm_to_l1_without_pae, l1_code)
{
	FIXTURE_VARIANT(bad_rsm) l1_without_pae = { .clear.cr4 = X86_CR4_PAE };

	test_bad_rsm(vcpu, &l1_without_pae);
}

int main(int argc, char *argv[])
{
	TEST_REQUIRE(kvm_cpu_has(X86_FEATURE_SVM));
	TEST_REQUIRE(kvm_has_cap(KVM_CAP_X86_SMM));

	return test_harness_run(argc, argv);
}
