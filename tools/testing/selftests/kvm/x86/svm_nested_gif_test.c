// SPDX-License-Identifier: GPL-2.0-only
#include "test_util.h"
#include "kvm_util.h"
#include "kvm_test_harness.h"
#include "processor.h"
#include "apic.h"
#include "svm_util.h"

#define IRQ_VECTOR		0x30
#define ICR_IRQ			(APIC_DM_FIXED | IRQ_VECTOR)

/* Enough for any event that KVM injects at, not after, the next VM-Entry. */
#define NR_SPINS		1000

#define NR_VMEXITS		4

enum {
	AT_L2,
	AT_CLGI,
	AT_STGI,
	AT_VMEXIT,
};

/* vcpu_gif() is L1's GIF; L2's virtual GIF, if it has one, is in vmcb12. */
static bool vcpu_l2_vgif(struct kvm_vcpu *vcpu)
{
	union svm_nested_state nested;
	struct vmcb *vmcb12 = (void *)nested.state.data.svm;

	vcpu_svm_nested_state_get(vcpu, &nested);
	TEST_ASSERT(nested.state.flags & KVM_STATE_NESTED_GUEST_MODE,
		    "vCPU not in L2, nested flags 0x%x", nested.state.flags);
	return vmcb12->control.int_ctl & V_GIF_MASK;
}

static void l2_clgi_stgi(void)
{
	GUEST_SYNC(AT_L2);
	clgi();
	GUEST_SYNC(AT_CLGI);
	stgi();
	GUEST_SYNC(AT_STGI);
	clgi();
	vmmcall();
}

static void l1_l2_gif(struct svm_test_data *svm, u32 int_ctl)
{
	generic_svm_setup(svm, l2_clgi_stgi);
	svm->vmcb->control.int_ctl |= int_ctl;
	run_guest(svm->vmcb, svm->vmcb_gpa);
	GUEST_ASSERT_EQ(svm->vmcb->control.exit_code, SVM_EXIT_VMMCALL);
	GUEST_SYNC(AT_VMEXIT);
}

KVM_ONE_VCPU_TEST_SUITE(l2_gif);

FIXTURE_VARIANT(l2_gif) {
	bool vgif;
};

FIXTURE_VARIANT_ADD(l2_gif, no_vgif) { };
FIXTURE_VARIANT_ADD(l2_gif, vgif) { .vgif = true };

TEST_F(l2_gif, clgi_and_stgi_act_on_the_right_gif)
{
	struct kvm_vcpu *vcpu = self->vcpu;
	bool vgif = variant->vgif;
	struct vmcb *vmcb12;
	gva_t svm_gva;

	if (vgif && !kvm_cpu_has(X86_FEATURE_VGIF))
		SKIP(return, "No virtual GIF for L2");

	vmcb12 = vcpu_alloc_svm(vcpu->vm, &svm_gva)->vmcb_hva;
	vcpu_arch_set_entry_point(vcpu, l1_l2_gif);
	vcpu_args_set(vcpu, 2, svm_gva, V_GIF_MASK | (vgif ? V_GIF_ENABLE_MASK : 0));

	vcpu_run_to_sync(vcpu, AT_L2);
	TEST_ASSERT_EQ(vcpu_gif(vcpu), true);
	TEST_ASSERT_EQ(vcpu_l2_vgif(vcpu), true);

	/* Without nested vGIF, V_GIF in vmcb12 is not KVM's to touch. */
	vcpu_run_to_sync(vcpu, AT_CLGI);
	TEST_ASSERT_EQ(vcpu_gif(vcpu), vgif);
	TEST_ASSERT_EQ(vcpu_l2_vgif(vcpu), !vgif);

	vcpu_run_to_sync(vcpu, AT_STGI);
	TEST_ASSERT_EQ(vcpu_gif(vcpu), true);
	TEST_ASSERT_EQ(vcpu_l2_vgif(vcpu), true);

	/* L2 exits with its GIF clear, and #VMEXIT clears L1's. */
	vcpu_run_to_sync(vcpu, AT_VMEXIT);
	TEST_ASSERT_EQ(vcpu_gif(vcpu), false);
	TEST_ASSERT_EQ(!!(vmcb12->control.int_ctl & V_GIF_MASK), !vgif);
}

enum gif_stage {
	GIF_CLEAR,
	GIF_OPENING,
	GIF_OPEN,
};

/* L2's, and what the host has it do. */
static u64 l2_stage;
static u64 l2_icr;
static bool l2_irqs_off;

static void force_vmexits(void)
{
	u32 eax, ebx, ecx, edx;
	int i;

	for (i = 0; i < NR_VMEXITS; i++)
		cpuid(0, &eax, &ebx, &ecx, &edx);
}

static void l2_event_code(void)
{
	int i;

	if (!l2_irqs_off)
		sti();
	clgi();
	x2apic_write_reg(APIC_ICR, APIC_INT_ASSERT | l2_icr);
	force_vmexits();

	/* Nothing exits on its own before the stage changes. */
	WRITE_ONCE(l2_stage, GIF_OPENING);
	stgi();
	for (i = 0; i < NR_SPINS; i++)
		barrier();
	WRITE_ONCE(l2_stage, GIF_OPEN);

	force_vmexits();
	vmmcall();
}

static void l1_l2_event(struct svm_test_data *svm, u64 intercept, u32 int_ctl)
{
	x2apic_enable();
	generic_svm_setup(svm, l2_event_code);
	svm->vmcb->control.intercept |= intercept;
	svm->vmcb->control.int_ctl |= int_ctl;
	if (l2_irqs_off)
		svm->vmcb->control.int_ctl |= V_INTR_MASKING_MASK;
	sti();
	run_guest(svm->vmcb, svm->vmcb_gpa);
	GUEST_DONE();
}

FIXTURE(l2_event) {
	struct kvm_vcpu *vcpu;
	struct vmcb *vmcb12;
	gva_t svm_gva;
};

FIXTURE_VARIANT(l2_event) {
	u64 icr;
	int intercept;
	u64 exit_code;
	/* With V_INTR_MASKING, IRQs obey RFLAGS.IF of L1, not of L2. */
	bool irqs_off;
};

FIXTURE_VARIANT_ADD(l2_event, nmi) { APIC_DM_NMI, INTERCEPT_NMI, SVM_EXIT_NMI };
FIXTURE_VARIANT_ADD(l2_event, smi) { APIC_DM_SMI, INTERCEPT_SMI, SVM_EXIT_SMI };
FIXTURE_VARIANT_ADD(l2_event, irq) { ICR_IRQ, INTERCEPT_INTR, SVM_EXIT_INTR };
FIXTURE_VARIANT_ADD(l2_event, irq_with_irqs_off) { ICR_IRQ, INTERCEPT_INTR, SVM_EXIT_INTR, true };
FIXTURE_VARIANT_ADD(l2_event, init) { APIC_DM_INIT, INTERCEPT_INIT, SVM_EXIT_INIT };

FIXTURE_SETUP(l2_event)
{
	if (variant->intercept == INTERCEPT_SMI && !kvm_has_cap(KVM_CAP_X86_SMM))
		SKIP(return, "KVM_CAP_X86_SMM not supported");

	vm_create_with_one_vcpu(&self->vcpu, l1_l2_event);
	self->vmcb12 = vcpu_alloc_svm(self->vcpu->vm, &self->svm_gva)->vmcb_hva;

	write_guest_global(self->vcpu->vm, l2_icr, variant->icr);
	write_guest_global(self->vcpu->vm, l2_irqs_off, variant->irqs_off);
}

FIXTURE_TEARDOWN(l2_event)
{
	kvm_vm_free(self->vcpu->vm);
}

/* Returns where L2 was when it exited to L1. */
static u64 l2_event_stage(struct kvm_vcpu *vcpu, gva_t svm_gva, int intercept, u32 int_ctl)
{
	vcpu_args_set(vcpu, 3, svm_gva, BIT_ULL(intercept), int_ctl);
	vcpu_run_to_done(vcpu);

	sync_global_from_guest(vcpu->vm, l2_stage);
	return l2_stage;
}

static void assert_exit(struct vmcb *vmcb12, u64 want_exit_code,
			u64 stage, u64 want_stage)
{
	u64 exit_code = vmcb12->control.exit_code;

	TEST_ASSERT(stage == want_stage && exit_code == want_exit_code,
		    "Wanted exit 0x%lx at stage %lu, got 0x%lx at stage %lu",
		    want_exit_code, want_stage, exit_code, stage);
}

TEST_F(l2_event, clgi_in_l2_holds_exit_until_stgi)
{
	u64 stage = l2_event_stage(self->vcpu, self->svm_gva, variant->intercept, 0);

	TEST_ASSERT(stage != GIF_CLEAR,
		    "L2 exited with code 0x%lx before STGI",
		    (u64)self->vmcb12->control.exit_code);
}

TEST_F(l2_event, clgi_in_l2_lets_it_exit_at_stgi)
{
	u64 stage = l2_event_stage(self->vcpu, self->svm_gva, variant->intercept, 0);

	assert_exit(self->vmcb12, variant->exit_code, stage, GIF_OPENING);
}

TEST_F(l2_event, virtual_gif_does_not_hold_exit)
{
	u64 stage;

	if (!kvm_cpu_has(X86_FEATURE_VGIF))
		SKIP(return, "No virtual GIF for L2");

	stage = l2_event_stage(self->vcpu, self->svm_gva, variant->intercept,
			       V_GIF_ENABLE_MASK | V_GIF_MASK);

	assert_exit(self->vmcb12, variant->exit_code, stage, GIF_CLEAR);
	TEST_ASSERT(!(self->vmcb12->control.int_ctl & V_GIF_MASK),
		    "CLGI in L2 did not clear V_GIF, int_ctl 0x%x",
		    self->vmcb12->control.int_ctl);
}

static u64 nr_vectors_0;
static u64 nr_irqs;

static void vector_0_handler(struct ex_regs *regs)
{
	nr_vectors_0++;
}

static void irq_handler(struct ex_regs *regs)
{
	nr_irqs++;
	x2apic_write_reg(APIC_EOI, 0);
}

static void send_irq(void)
{
	x2apic_write_reg(APIC_ICR, APIC_INT_ASSERT | ICR_IRQ);
	force_vmexits();
}

static void l2_spin(void)
{
	int i;

	for (i = 0; i < NR_SPINS; i++)
		barrier();
}

/* KVM asks for a window while GIF is 0, and may find that there is none for L1's IRQs. */
static void l2_stgi(void)
{
	clgi();
	sti();
	send_irq();
	stgi();
	l2_spin();
	vmmcall();
}

/* KVM asks for a window while RFLAGS.IF is 0, as it is at VMRUN ... */
static void l2_sti(void)
{
	send_irq();
	sti();
	l2_spin();
	vmmcall();
}

/* ... which does not open before L2 exits. */
static void l2_no_sti(void)
{
	send_irq();
	vmmcall();
}

KVM_ONE_VCPU_TEST_SUITE(l2_irq);

/* With V_INTR_MASKING, it is RFLAGS.IF of L1 that counts, not that of L2. */
FIXTURE_VARIANT(l2_irq) {
	void (*l2_code)(void);
	u32 int_ctl;
	bool l1_irqs_on;
	u64 intercept;
	u64 exit_code;
	u64 nr_irqs_in_l2;
};

static void l1_irq_code(struct svm_test_data *svm, FIXTURE_VARIANT(l2_irq) const *variant)
{
	struct vmcb *vmcb = svm->vmcb;

	x2apic_enable();
	generic_svm_setup(svm, variant->l2_code);
	vmcb->control.intercept |= variant->intercept;
	vmcb->control.int_ctl |= variant->int_ctl;
	if (variant->l1_irqs_on)
		sti();
	run_guest(vmcb, svm->vmcb_gpa);

	__GUEST_ASSERT(!nr_vectors_0, "Wanted no interrupt with vector 0 in L2, got %lu",
		       nr_vectors_0);
	__GUEST_ASSERT(!((vmcb->control.int_ctl ^ variant->int_ctl) & V_IRQ_MASK),
		       "Wanted V_IRQ in vmcb12 as it was, got int_ctl 0x%x, from 0x%x",
		       vmcb->control.int_ctl, variant->int_ctl);
	GUEST_ASSERT_EQ(vmcb->control.exit_code, variant->exit_code);
	GUEST_ASSERT_EQ(nr_irqs, variant->nr_irqs_in_l2);

	sti();
	stgi();
	force_vmexits();
	GUEST_ASSERT_EQ(nr_irqs, 1);
	GUEST_DONE();
}

FIXTURE_VARIANT_ADD(l2_irq, irqs_off_in_l1) {
	.l2_code = l2_stgi,
	.int_ctl = V_INTR_MASKING_MASK,
	.exit_code = SVM_EXIT_VMMCALL,
};

FIXTURE_VARIANT_ADD(l2_irq, irqs_off_in_l1_intercepted) {
	.l2_code = l2_stgi,
	.int_ctl = V_INTR_MASKING_MASK,
	.intercept = BIT_ULL(INTERCEPT_INTR),
	.exit_code = SVM_EXIT_VMMCALL,
};

FIXTURE_VARIANT_ADD(l2_irq, irqs_on_in_l1) {
	.l2_code = l2_stgi,
	.int_ctl = V_INTR_MASKING_MASK,
	.l1_irqs_on = true,
	.exit_code = SVM_EXIT_VMMCALL,
	.nr_irqs_in_l2 = 1,
};

FIXTURE_VARIANT_ADD(l2_irq, irqs_on_in_l1_intercepted) {
	.l2_code = l2_stgi,
	.int_ctl = V_INTR_MASKING_MASK,
	.l1_irqs_on = true,
	.intercept = BIT_ULL(INTERCEPT_INTR),
	.exit_code = SVM_EXIT_INTR,
};

/* A window of KVM's is nothing that L1 sees, not even if it intercepts its own. */
FIXTURE_VARIANT_ADD(l2_irq, vintr_irqs_off_in_l1) {
	.l2_code = l2_stgi,
	.int_ctl = V_INTR_MASKING_MASK,
	.intercept = BIT_ULL(INTERCEPT_VINTR),
	.exit_code = SVM_EXIT_VMMCALL,
};

FIXTURE_VARIANT_ADD(l2_irq, vintr_irqs_on_in_l1) {
	.l2_code = l2_stgi,
	.int_ctl = V_INTR_MASKING_MASK,
	.l1_irqs_on = true,
	.intercept = BIT_ULL(INTERCEPT_VINTR),
	.exit_code = SVM_EXIT_VMMCALL,
	.nr_irqs_in_l2 = 1,
};

FIXTURE_VARIANT_ADD(l2_irq, vintr_irqs_on_in_l1_intercepted) {
	.l2_code = l2_stgi,
	.int_ctl = V_INTR_MASKING_MASK,
	.l1_irqs_on = true,
	.intercept = BIT_ULL(INTERCEPT_VINTR) | BIT_ULL(INTERCEPT_INTR),
	.exit_code = SVM_EXIT_INTR,
};

FIXTURE_VARIANT_ADD(l2_irq, vintr_irqs_off_in_l2) {
	.l2_code = l2_no_sti,
	.intercept = BIT_ULL(INTERCEPT_VINTR),
	.exit_code = SVM_EXIT_VMMCALL,
};

FIXTURE_VARIANT_ADD(l2_irq, vintr_sti_in_l2) {
	.l2_code = l2_sti,
	.intercept = BIT_ULL(INTERCEPT_VINTR),
	.exit_code = SVM_EXIT_VMMCALL,
	.nr_irqs_in_l2 = 1,
};

FIXTURE_VARIANT_ADD(l2_irq, vintr_sti_in_l2_intercepted) {
	.l2_code = l2_sti,
	.intercept = BIT_ULL(INTERCEPT_VINTR) | BIT_ULL(INTERCEPT_INTR),
	.exit_code = SVM_EXIT_INTR,
};

FIXTURE_VARIANT_ADD(l2_irq, vintr_sti_in_l2_with_l1s_v_irq) {
	.l2_code = l2_sti,
	.int_ctl = V_IRQ_MASK | V_IGN_TPR_MASK,
	.intercept = BIT_ULL(INTERCEPT_VINTR),
	.exit_code = SVM_EXIT_VINTR,
	.nr_irqs_in_l2 = 1,
};

TEST_F(l2_irq, comes_as_itself_where_l1_wants_it)
{
	struct kvm_vcpu *vcpu = self->vcpu;
	gva_t svm_gva;

	vm_install_exception_handler(vcpu->vm, 0, vector_0_handler);
	vm_install_exception_handler(vcpu->vm, IRQ_VECTOR, irq_handler);
	vcpu_alloc_svm(vcpu->vm, &svm_gva);
	vcpu_arch_set_entry_point(vcpu, l1_irq_code);
	vcpu_args_set(vcpu, 2, svm_gva, variant);
	vcpu_run_to_done(vcpu);
}

static void l2_gp_with_init_pending(void)
{
	clgi();
	x2apic_write_reg(APIC_ICR, APIC_INT_ASSERT | APIC_DM_INIT);
	wrmsr(MSR_EFER, ~0ull);
}

static void l1_gp_with_init_pending(struct svm_test_data *svm)
{
	x2apic_enable();
	generic_svm_setup(svm, l2_gp_with_init_pending);
	svm->vmcb->control.intercept_exceptions |= BIT(GP_VECTOR);
	run_guest(svm->vmcb, svm->vmcb_gpa);
	GUEST_ASSERT_EQ(svm->vmcb->control.exit_code, SVM_EXIT_EXCP_BASE + GP_VECTOR);
	GUEST_DONE();
}

KVM_ONE_VCPU_TEST_SUITE(host_may_crash);

/* GIF=0 blocks INIT, but not the #VMEXIT of an exception. */
KVM_ONE_VCPU_TEST(host_may_crash, exception_in_l2_with_init_pending, l1_gp_with_init_pending)
{
	gva_t svm_gva;

	vcpu_alloc_svm(vcpu->vm, &svm_gva);
	vcpu_args_set(vcpu, 1, svm_gva);
	vcpu_run_to_done(vcpu);
}

int main(int argc, char *argv[])
{
	TEST_REQUIRE(kvm_cpu_has(X86_FEATURE_SVM));

	return test_harness_run(argc, argv);
}
