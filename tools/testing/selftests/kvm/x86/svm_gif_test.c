// SPDX-License-Identifier: GPL-2.0-only
#include <linux/compiler.h>

#include "test_util.h"
#include "kvm_util.h"
#include "kvm_test_harness.h"
#include "processor.h"
#include "apic.h"
#include "smm.h"
#include "svm_util.h"

#define IRQ_VECTOR		0x30

#define SMRAM_GPA		0x1000000
#define RESET_PAGE_GPA		0xfffff000
#define RESET_PAGE_SLOT		10

/* Enough for any event that KVM injects at, not after, the next VM-Entry. */
#define NR_SPINS		1000

#define NR_VMEXITS		4

/*
 * Where the guest stops: at a ucall, or, in code that can't do ucalls (SMM and
 * the reset vector), at an IN from one of the first two ports.
 */
enum {
	AT_EVENT = 0xe,
	AT_RESET = 0xf,
	AT_RAISE = 0x100,
	AT_STEP,
	AT_L2,
	AT_CLGI,
	AT_STGI,
	AT_SVME_CLEAR,
	AT_SVME_SET,
	AT_VMEXIT,
	AT_NMI,
	AT_NMI_END,
};

enum gif_stage {
	GIF_CLEAR,
	GIF_OPENING,
	GIF_OPEN,
};

/* Shared with the host, which logs the events whose handlers can't. */
struct event_log {
	u64 stage;
	u64 nr_events;
	u64 first_event_stage;
};

static struct event_log event_log;

static const u8 smi_handler[] = {
	0xe4, AT_EVENT,		/* in $AT_EVENT, %al */
	0x0f, 0xaa,		/* rsm */
};

static const u8 reset_handler[] = {
	0xe4, AT_EVENT,		/* in $AT_EVENT, %al */
	0xe4, AT_RESET,		/* in $AT_RESET, %al */
};

static void log_event(struct event_log *log)
{
	if (!log->nr_events++)
		log->first_event_stage = log->stage;
}

static struct event_log *vm_event_log(struct kvm_vm *vm)
{
	return addr_gva2hva(vm, (gva_t)&event_log);
}

/* SMM and the reset vector stop at AT_EVENT for the host to log the event. */
static void run_past_events(struct kvm_vcpu *vcpu)
{
	struct guest_stop stop = vcpu_run_to_stop(vcpu);

	while (stop.type == GUEST_STOP_IO && stop.val == AT_EVENT) {
		log_event(vm_event_log(vcpu->vm));
		stop = vcpu_run_to_stop(vcpu);
	}
}

/* L1's GIF; L2's virtual GIF, if it has one, is in vmcb12. */
static bool vcpu_gif(struct kvm_vcpu *vcpu)
{
	return vcpu_svm_nested_flags(vcpu) & KVM_STATE_NESTED_GIF_SET;
}

static bool vcpu_l2_vgif(struct kvm_vcpu *vcpu)
{
	union svm_nested_state nested;
	struct vmcb *vmcb12 = (void *)nested.state.data.svm;

	vcpu_svm_nested_state_get(vcpu, &nested);
	TEST_ASSERT(nested.state.flags & KVM_STATE_NESTED_GUEST_MODE,
		    "vCPU not in L2, nested flags 0x%x", nested.state.flags);
	return vmcb12->control.int_ctl & V_GIF_MASK;
}

static bool vcpu_svme(struct kvm_vcpu *vcpu)
{
	struct kvm_sregs sregs;

	vcpu_sregs_get(vcpu, &sregs);
	return sregs.efer & EFER_SVME;
}

static void set_svme_by_sregs(struct kvm_vcpu *vcpu, bool svme)
{
	struct kvm_sregs sregs;

	vcpu_sregs_get(vcpu, &sregs);
	sregs.efer = svme ? sregs.efer | EFER_SVME : sregs.efer & ~EFER_SVME;
	vcpu_sregs_set(vcpu, &sregs);
}

static void set_svme_by_msrs(struct kvm_vcpu *vcpu, bool svme)
{
	u64 efer = vcpu_get_msr(vcpu, MSR_EFER);

	vcpu_set_msr(vcpu, MSR_EFER, svme ? efer | EFER_SVME : efer & ~EFER_SVME);
}

static void set_svme(bool svme)
{
	u64 efer = rdmsr(MSR_EFER);

	wrmsr(MSR_EFER, svme ? efer | EFER_SVME : efer & ~EFER_SVME);
}

static void nmi_handler(struct ex_regs *regs)
{
	log_event(&event_log);
}

static void irq_handler(struct ex_regs *regs)
{
	log_event(&event_log);
	x2apic_write_reg(APIC_EOI, 0);
}

static void force_vmexits(void)
{
	u32 eax, ebx, ecx, edx;
	int i;

	for (i = 0; i < NR_VMEXITS; i++)
		cpuid(0, &eax, &ebx, &ecx, &edx);
}

/*
 * An event that KVM fails to deliver at STGI may turn up at a later VM-Exit.
 * Nothing in here exits on its own, so an event that is not logged when the
 * stage changes is late.
 */
static void stgi_and_spin(void)
{
	int i;

	WRITE_ONCE(event_log.stage, GIF_OPENING);
	stgi();
	for (i = 0; i < NR_SPINS; i++)
		barrier();
	WRITE_ONCE(event_log.stage, GIF_OPEN);
}

static void l1_gif_event(u64 icr, void (*step)(void))
{
	x2apic_enable();
	set_svme(true);
	sti();
	clgi();

	GUEST_SYNC(AT_RAISE);
	if (icr)
		x2apic_write_reg(APIC_ICR, icr);
	force_vmexits();

	GUEST_SYNC(AT_STEP);
	if (step)
		step();

	stgi_and_spin();
	force_vmexits();
	GUEST_DONE();
}

static void raise_nmi(struct kvm_vcpu *vcpu)
{
	vcpu_ioctl(vcpu, KVM_NMI, NULL);
}

static void raise_smi(struct kvm_vcpu *vcpu)
{
	vcpu_ioctl(vcpu, KVM_SMI, NULL);
}

static void raise_irq(struct kvm_vcpu *vcpu)
{
	struct kvm_msi msi = {
		.address_lo = APIC_DEFAULT_GPA,
		.data = IRQ_VECTOR,
	};

	TEST_ASSERT_EQ(__vm_ioctl(vcpu->vm, KVM_SIGNAL_MSI, &msi), 1);
}

FIXTURE(gif_event) {
	struct kvm_vcpu *vcpu;
};

FIXTURE_VARIANT(gif_event) {
	u64 icr;
	void (*raise)(struct kvm_vcpu *vcpu);
	bool is_smi;
};

FIXTURE_VARIANT_ADD(gif_event, nmi) {
	.icr = APIC_INT_ASSERT | APIC_DM_NMI,
};

FIXTURE_VARIANT_ADD(gif_event, nmi_ioctl) {
	.raise = raise_nmi,
};

FIXTURE_VARIANT_ADD(gif_event, smi) {
	.icr = APIC_INT_ASSERT | APIC_DM_SMI,
	.is_smi = true,
};

FIXTURE_VARIANT_ADD(gif_event, smi_ioctl) {
	.raise = raise_smi,
	.is_smi = true,
};

FIXTURE_VARIANT_ADD(gif_event, irq) {
	.icr = APIC_INT_ASSERT | APIC_DM_FIXED | IRQ_VECTOR,
};

FIXTURE_VARIANT_ADD(gif_event, irq_msi) {
	.raise = raise_irq,
};

FIXTURE_VARIANT_ADD(gif_event, init) {
	.icr = APIC_INT_ASSERT | APIC_DM_INIT,
};

FIXTURE_SETUP(gif_event)
{
	struct kvm_vm *vm;

	if (variant->is_smi && !kvm_has_cap(KVM_CAP_X86_SMM))
		SKIP(return, "KVM_CAP_X86_SMM not supported");

	vm = vm_create_with_one_vcpu(&self->vcpu, l1_gif_event);
	vm_install_exception_handler(vm, NMI_VECTOR, nmi_handler);
	vm_install_exception_handler(vm, IRQ_VECTOR, irq_handler);

	if (variant->is_smi)
		setup_smram(vm, self->vcpu, SMRAM_GPA, smi_handler, sizeof(smi_handler));

	vm_userspace_mem_region_add(vm, VM_MEM_SRC_ANONYMOUS, RESET_PAGE_GPA,
				    RESET_PAGE_SLOT, 1, 0);
	memcpy(addr_gpa2hva(vm, RESET_PAGE_GPA + 0xff0), reset_handler,
	       sizeof(reset_handler));
}

FIXTURE_TEARDOWN(gif_event)
{
	kvm_vm_free(self->vcpu->vm);
}

/*
 * Raise the event with GIF=0 and run to where only guest_step() and what the
 * caller does lie between the vCPU and STGI.
 */
static void pend_gif_event(struct kvm_vcpu *vcpu, u64 icr,
			   void (*raise)(struct kvm_vcpu *vcpu),
			   void (*guest_step)(void))
{
	struct event_log *log = vm_event_log(vcpu->vm);

	vcpu_args_set(vcpu, 2, icr, guest_step);

	vcpu_run_to_sync(vcpu, AT_RAISE);
	TEST_ASSERT(!vcpu_gif(vcpu), "GIF still set after CLGI");
	if (raise)
		raise(vcpu);

	vcpu_run_to_sync(vcpu, AT_STEP);
	TEST_ASSERT(!log->nr_events, "Event delivered with GIF=0");
	TEST_ASSERT(!vcpu_gif(vcpu), "GIF set without STGI");
}

static void expect_gif_event_at_stgi(struct kvm_vcpu *vcpu)
{
	struct event_log *log = vm_event_log(vcpu->vm);

	run_past_events(vcpu);
	TEST_ASSERT(log->nr_events == 1 && log->first_event_stage == GIF_OPENING,
		    "Wanted 1 event at stage %u, got %lu, first at stage %lu (guest at stage %lu)",
		    GIF_OPENING, log->nr_events, log->first_event_stage, log->stage);
}

TEST_F(gif_event, stgi)
{
	pend_gif_event(self->vcpu, variant->icr, variant->raise, NULL);
	expect_gif_event_at_stgi(self->vcpu);
}

static void step_write_efer_same_svme(void)
{
	u64 efer = rdmsr(MSR_EFER);

	wrmsr(MSR_EFER, efer ^ EFER_SCE);
	wrmsr(MSR_EFER, efer);
}

TEST_F(gif_event, efer_write_same_svme_then_stgi)
{
	pend_gif_event(self->vcpu, variant->icr, variant->raise, step_write_efer_same_svme);
	expect_gif_event_at_stgi(self->vcpu);
}

/* Nothing may exit between setting SVME and STGI. */
static void step_clear_and_set_svme(void)
{
	set_svme(false);
	force_vmexits();
	set_svme(true);
}

TEST_F(gif_event, svme_cleared_and_set_then_stgi)
{
	pend_gif_event(self->vcpu, variant->icr, variant->raise, step_clear_and_set_svme);
	expect_gif_event_at_stgi(self->vcpu);
}

TEST_F(gif_event, sregs_same_efer_then_stgi)
{
	struct kvm_sregs sregs;

	pend_gif_event(self->vcpu, variant->icr, variant->raise, NULL);

	vcpu_sregs_get(self->vcpu, &sregs);
	vcpu_sregs_set(self->vcpu, &sregs);

	expect_gif_event_at_stgi(self->vcpu);
}

TEST_F(gif_event, sregs_svme_cleared_and_set_then_stgi)
{
	pend_gif_event(self->vcpu, variant->icr, variant->raise, NULL);

	set_svme_by_sregs(self->vcpu, false);
	set_svme_by_sregs(self->vcpu, true);

	expect_gif_event_at_stgi(self->vcpu);
}

static void step_sync_with_host(void)
{
	GUEST_SYNC(AT_SVME_CLEAR);
}

/* With a run in between, in which the intercepts are those of SVME=0. */
TEST_F(gif_event, sregs_svme_cleared_run_and_set_then_stgi)
{
	pend_gif_event(self->vcpu, variant->icr, variant->raise, step_sync_with_host);

	set_svme_by_sregs(self->vcpu, false);
	vcpu_run_to_sync(self->vcpu, AT_SVME_CLEAR);
	set_svme_by_sregs(self->vcpu, true);

	expect_gif_event_at_stgi(self->vcpu);
}

TEST_F(gif_event, save_restore_then_stgi)
{
	struct kvm_x86_state *state;
	struct kvm_lapic_state lapic;
	struct kvm_vm *vm = self->vcpu->vm;

	pend_gif_event(self->vcpu, variant->icr, variant->raise, NULL);

	state = vcpu_save_state(self->vcpu);
	vcpu_ioctl(self->vcpu, KVM_GET_LAPIC, &lapic);
	kvm_vm_release(vm);

	self->vcpu = vm_recreate_with_one_vcpu(vm);
	vcpu_load_state(self->vcpu, state);
	vcpu_ioctl(self->vcpu, KVM_SET_LAPIC, &lapic);
	kvm_x86_state_cleanup(state);

	expect_gif_event_at_stgi(self->vcpu);
}

static void l1_toggle_svme(bool gif, bool by_wrmsr)
{
	set_svme(true);
	if (!gif)
		clgi();
	GUEST_SYNC(AT_CLGI);

	if (by_wrmsr)
		set_svme(false);
	GUEST_SYNC(AT_SVME_CLEAR);

	if (by_wrmsr)
		set_svme(true);
	GUEST_SYNC(AT_SVME_SET);

	stgi();
	GUEST_SYNC(AT_STGI);
}

FIXTURE(svme_toggle) {
	struct kvm_vcpu *vcpu;
};

FIXTURE_VARIANT(svme_toggle) {
	/* NULL: by WRMSR in L1. */
	void (*set_svme)(struct kvm_vcpu *vcpu, bool svme);
};

FIXTURE_VARIANT_ADD(svme_toggle, wrmsr) {
};

FIXTURE_VARIANT_ADD(svme_toggle, set_sregs) {
	.set_svme = set_svme_by_sregs,
};

FIXTURE_VARIANT_ADD(svme_toggle, set_msrs) {
	.set_svme = set_svme_by_msrs,
};

FIXTURE_SETUP(svme_toggle)
{
	vm_create_with_one_vcpu(&self->vcpu, l1_toggle_svme);
}

FIXTURE_TEARDOWN(svme_toggle)
{
	kvm_vm_free(self->vcpu->vm);
}

static void test_svme_toggle(struct kvm_vcpu *vcpu, bool gif,
			     void (*set_svme)(struct kvm_vcpu *vcpu, bool svme))
{
	vcpu_args_set(vcpu, 2, gif, !set_svme);

	vcpu_run_to_sync(vcpu, AT_CLGI);
	TEST_ASSERT_EQ(vcpu_gif(vcpu), gif);

	if (set_svme) {
		set_svme(vcpu, false);
		TEST_ASSERT_EQ(vcpu_gif(vcpu), gif);
	}
	vcpu_run_to_sync(vcpu, AT_SVME_CLEAR);
	TEST_ASSERT_EQ(vcpu_svme(vcpu), false);
	TEST_ASSERT_EQ(vcpu_gif(vcpu), gif);

	if (set_svme) {
		set_svme(vcpu, true);
		TEST_ASSERT_EQ(vcpu_gif(vcpu), gif);
	}
	vcpu_run_to_sync(vcpu, AT_SVME_SET);
	TEST_ASSERT_EQ(vcpu_svme(vcpu), true);
	TEST_ASSERT_EQ(vcpu_gif(vcpu), gif);

	vcpu_run_to_sync(vcpu, AT_STGI);
	TEST_ASSERT_EQ(vcpu_gif(vcpu), true);
}

TEST_F(svme_toggle, keeps_gif_clear)
{
	test_svme_toggle(self->vcpu, false, variant->set_svme);
}

TEST_F(svme_toggle, keeps_gif_set)
{
	test_svme_toggle(self->vcpu, true, variant->set_svme);
}

static void l1_gif_insns_without_svme(void)
{
	u8 vector;

	GUEST_SYNC(AT_STEP);

	vector = kvm_asm_safe("stgi");
	GUEST_ASSERT_EQ(vector, UD_VECTOR);
	vector = kvm_asm_safe("clgi");
	GUEST_ASSERT_EQ(vector, UD_VECTOR);
	GUEST_DONE();
}

FIXTURE(nested_state_without_svme) {
	struct kvm_vcpu *vcpu;
};

FIXTURE_VARIANT(nested_state_without_svme) {
	u16 flags;
};

FIXTURE_VARIANT_ADD(nested_state_without_svme, gif_clear) {
};

FIXTURE_VARIANT_ADD(nested_state_without_svme, gif_set) {
	.flags = KVM_STATE_NESTED_GIF_SET,
};

FIXTURE_SETUP(nested_state_without_svme)
{
	vm_create_with_one_vcpu(&self->vcpu, l1_gif_insns_without_svme);
}

FIXTURE_TEARDOWN(nested_state_without_svme)
{
	kvm_vm_free(self->vcpu->vm);
}

static void set_nested_flags(struct kvm_vcpu *vcpu, u16 flags)
{
	union svm_nested_state nested = {
		.state = {
			.flags = flags,
			.format = KVM_STATE_NESTED_FORMAT_SVM,
			.size = sizeof(nested.state),
		},
	};

	vcpu_nested_state_set(vcpu, &nested.state);
}

TEST_F(nested_state_without_svme, is_returned_as_set)
{
	TEST_ASSERT_EQ(vcpu_svme(self->vcpu), false);

	set_nested_flags(self->vcpu, variant->flags);
	TEST_ASSERT_EQ(vcpu_svm_nested_flags(self->vcpu), variant->flags);

	/* The other way round, so that neither value is what it was anyway. */
	set_nested_flags(self->vcpu, variant->flags ^ KVM_STATE_NESTED_GIF_SET);
	TEST_ASSERT_EQ(vcpu_svm_nested_flags(self->vcpu),
		       variant->flags ^ KVM_STATE_NESTED_GIF_SET);
}

TEST_F(nested_state_without_svme, keeps_stgi_and_clgi_ud)
{
	vcpu_run_to_sync(self->vcpu, AT_STEP);
	TEST_ASSERT_EQ(vcpu_svme(self->vcpu), false);

	set_nested_flags(self->vcpu, variant->flags);

	vcpu_run_to_done(self->vcpu);
	TEST_ASSERT_EQ(vcpu_svm_nested_flags(self->vcpu), variant->flags);
}

static void l2_sync(void)
{
	GUEST_SYNC(AT_L2);
	vmmcall();
}

static void l1_forced_leave(struct svm_test_data *svm, bool l1_gif)
{
	generic_svm_setup(svm, l2_sync);
	if (!l1_gif)
		clgi();
	run_guest(svm->vmcb, svm->vmcb_gpa);
	GUEST_DONE();
}

static void leave_by_sregs(struct kvm_vcpu *vcpu)
{
	set_svme_by_sregs(vcpu, false);
}

static void leave_by_msrs(struct kvm_vcpu *vcpu)
{
	set_svme_by_msrs(vcpu, false);
}

static void leave_by_smm(struct kvm_vcpu *vcpu)
{
	struct kvm_vcpu_events events;

	vcpu_events_get(vcpu, &events);
	events.smi.smm = true;
	events.flags |= KVM_VCPUEVENT_VALID_SMM;
	vcpu_events_set(vcpu, &events);
}

FIXTURE(forced_leave) {
	struct kvm_vcpu *vcpu;
	gva_t svm_gva;
};

FIXTURE_VARIANT(forced_leave) {
	void (*leave)(struct kvm_vcpu *vcpu);
	bool is_smm;
};

FIXTURE_VARIANT_ADD(forced_leave, set_sregs) {
	.leave = leave_by_sregs,
};

FIXTURE_VARIANT_ADD(forced_leave, set_msrs) {
	.leave = leave_by_msrs,
};

FIXTURE_VARIANT_ADD(forced_leave, set_events_smm) {
	.leave = leave_by_smm,
	.is_smm = true,
};

FIXTURE_SETUP(forced_leave)
{
	if (variant->is_smm && !kvm_has_cap(KVM_CAP_X86_SMM))
		SKIP(return, "KVM_CAP_X86_SMM not supported");

	vm_create_with_one_vcpu(&self->vcpu, l1_forced_leave);
	vcpu_alloc_svm(self->vcpu->vm, &self->svm_gva);
}

FIXTURE_TEARDOWN(forced_leave)
{
	kvm_vm_free(self->vcpu->vm);
}

/*
 * VMRUN sets GIF, so that whatever GIF was in L1 before, it is '1' in the
 * state that the vCPU is forced out of.
 */
static void test_forced_leave(struct kvm_vcpu *vcpu, gva_t svm_gva, bool l1_gif,
			      void (*leave)(struct kvm_vcpu *vcpu))
{
	vcpu_args_set(vcpu, 2, svm_gva, l1_gif);

	vcpu_run_to_sync(vcpu, AT_L2);
	TEST_ASSERT_EQ(vcpu_svm_nested_flags(vcpu),
		       KVM_STATE_NESTED_GUEST_MODE | KVM_STATE_NESTED_GIF_SET);

	leave(vcpu);
	TEST_ASSERT_EQ(vcpu_svm_nested_flags(vcpu), KVM_STATE_NESTED_GIF_SET);
}

TEST_F(forced_leave, gif_set_if_l1_vmrun_with_gif_set)
{
	test_forced_leave(self->vcpu, self->svm_gva, true, variant->leave);
}

TEST_F(forced_leave, gif_set_if_l1_vmrun_with_gif_clear)
{
	test_forced_leave(self->vcpu, self->svm_gva, false, variant->leave);
}

static void raise_and_step(void)
{
	GUEST_SYNC(AT_RAISE);
	GUEST_SYNC(AT_STEP);
}

static void l2_raise_and_step(void)
{
	raise_and_step();
	vmmcall();
}

static void l1_smi(struct svm_test_data *svm, bool in_l2)
{
	generic_svm_setup(svm, l2_raise_and_step);

	if (in_l2) {
		run_guest(svm->vmcb, svm->vmcb_gpa);
		GUEST_ASSERT_EQ(svm->vmcb->control.exit_code, SVM_EXIT_VMMCALL);
	} else {
		raise_and_step();
	}
	GUEST_DONE();
}

FIXTURE(smi) {
	struct kvm_vcpu *vcpu;
};

FIXTURE_VARIANT(smi) {
	bool in_l2;
};

FIXTURE_VARIANT_ADD(smi, in_l1) {
};

FIXTURE_VARIANT_ADD(smi, in_l2) {
	.in_l2 = true,
};

FIXTURE_SETUP(smi)
{
	struct kvm_vm *vm;
	gva_t svm_gva;

	if (!kvm_has_cap(KVM_CAP_X86_SMM))
		SKIP(return, "KVM_CAP_X86_SMM not supported");

	vm = vm_create_with_one_vcpu(&self->vcpu, l1_smi);
	vcpu_alloc_svm(vm, &svm_gva);
	vcpu_args_set(self->vcpu, 2, svm_gva, variant->in_l2);
	setup_smram(vm, self->vcpu, SMRAM_GPA, smi_handler, sizeof(smi_handler));
}

FIXTURE_TEARDOWN(smi)
{
	kvm_vm_free(self->vcpu->vm);
}

static void run_to_smi_handler(struct kvm_vcpu *vcpu, u16 nested_flags)
{
	struct kvm_vcpu_events events;

	vcpu_run_to_sync(vcpu, AT_RAISE);
	TEST_ASSERT_EQ(vcpu_svm_nested_flags(vcpu), nested_flags);

	raise_smi(vcpu);
	vcpu_run_to_io(vcpu, AT_EVENT);
	vcpu_events_get(vcpu, &events);
	TEST_ASSERT_EQ(events.smi.smm, 1);
}

static u16 smi_nested_flags(bool in_l2)
{
	return KVM_STATE_NESTED_GIF_SET | (in_l2 ? KVM_STATE_NESTED_GUEST_MODE : 0);
}

TEST_F(smi, handler_runs_with_gif_set)
{
	run_to_smi_handler(self->vcpu, smi_nested_flags(variant->in_l2));
	TEST_ASSERT_EQ(vcpu_svm_nested_flags(self->vcpu), KVM_STATE_NESTED_GIF_SET);
}

TEST_F(smi, rsm_resumes_with_gif_set)
{
	run_to_smi_handler(self->vcpu, smi_nested_flags(variant->in_l2));

	vcpu_run_to_sync(self->vcpu, AT_STEP);
	TEST_ASSERT_EQ(vcpu_svm_nested_flags(self->vcpu), smi_nested_flags(variant->in_l2));

	vcpu_run_to_done(self->vcpu);
	TEST_ASSERT_EQ(vcpu_gif(self->vcpu), !variant->in_l2);
}

FIXTURE(rsm_to_l2) {
	struct kvm_vcpu *vcpu;
	struct vmcb *vmcb12;
};

FIXTURE_VARIANT(rsm_to_l2) {
	void (*break_vmcb)(struct vmcb *vmcb);
};

static void clear_asid(struct vmcb *vmcb)
{
	vmcb->control.asid = 0;
}

FIXTURE_VARIANT_ADD(rsm_to_l2, asid_0) {
	.break_vmcb = clear_asid,
};

static void clear_vmrun_intercept(struct vmcb *vmcb)
{
	vmcb->control.intercept &= ~BIT_ULL(INTERCEPT_VMRUN);
}

FIXTURE_VARIANT_ADD(rsm_to_l2, vmrun_not_intercepted) {
	.break_vmcb = clear_vmrun_intercept,
};

static void clear_efer_svme(struct vmcb *vmcb)
{
	vmcb->save.efer &= ~EFER_SVME;
}

FIXTURE_VARIANT_ADD(rsm_to_l2, efer_svme_clear) {
	.break_vmcb = clear_efer_svme,
};

FIXTURE_SETUP(rsm_to_l2)
{
	struct kvm_vm *vm;
	gva_t svm_gva;

	if (!kvm_has_cap(KVM_CAP_X86_SMM))
		SKIP(return, "KVM_CAP_X86_SMM not supported");

	vm = vm_create_with_one_vcpu(&self->vcpu, l1_smi);
	self->vmcb12 = vcpu_alloc_svm(vm, &svm_gva)->vmcb_hva;
	vcpu_args_set(self->vcpu, 2, svm_gva, true);
	setup_smram(vm, self->vcpu, SMRAM_GPA, smi_handler, sizeof(smi_handler));
}

FIXTURE_TEARDOWN(rsm_to_l2)
{
	kvm_vm_free(self->vcpu->vm);
}

/* What VMRUN refuses must not get in through SMM, either. */
TEST_F(rsm_to_l2, shuts_down_if_vmcb12_is_invalid)
{
	run_to_smi_handler(self->vcpu, smi_nested_flags(true));
	variant->break_vmcb(self->vmcb12);

	vcpu_run(self->vcpu);
	TEST_ASSERT_KVM_EXIT_REASON(self->vcpu, KVM_EXIT_SHUTDOWN);
	TEST_ASSERT(!(vcpu_svm_nested_flags(self->vcpu) & KVM_STATE_NESTED_GUEST_MODE),
		    "vCPU in guest mode");
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

FIXTURE(l2_gif) {
	struct kvm_vcpu *vcpu;
	struct vmcb *vmcb12;
};

FIXTURE_VARIANT(l2_gif) {
	bool vgif;
};

FIXTURE_VARIANT_ADD(l2_gif, no_vgif) {
};

FIXTURE_VARIANT_ADD(l2_gif, vgif) {
	.vgif = true,
};

FIXTURE_SETUP(l2_gif)
{
	u32 int_ctl = V_GIF_MASK | (variant->vgif ? V_GIF_ENABLE_MASK : 0);
	struct svm_test_data *svm;
	gva_t svm_gva;

	if (variant->vgif && !kvm_cpu_has(X86_FEATURE_VGIF))
		SKIP(return, "No virtual GIF for L2");

	vm_create_with_one_vcpu(&self->vcpu, l1_l2_gif);
	svm = vcpu_alloc_svm(self->vcpu->vm, &svm_gva);
	self->vmcb12 = svm->vmcb_hva;
	vcpu_args_set(self->vcpu, 2, svm_gva, int_ctl);
}

FIXTURE_TEARDOWN(l2_gif)
{
	kvm_vm_free(self->vcpu->vm);
}

TEST_F(l2_gif, clgi_and_stgi_act_on_the_right_gif)
{
	struct kvm_vcpu *vcpu = self->vcpu;
	bool vgif = variant->vgif;

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
	TEST_ASSERT_EQ(!!(self->vmcb12->control.int_ctl & V_GIF_MASK), !vgif);
}

static u64 l2_icr;
static bool l2_irqs_off;

static void l2_event_code(void)
{
	if (!l2_irqs_off)
		sti();
	clgi();
	x2apic_write_reg(APIC_ICR, l2_icr);
	force_vmexits();
	stgi_and_spin();
	force_vmexits();
	vmmcall();
}

static void l1_l2_event(struct svm_test_data *svm, u64 intercept, u32 int_ctl)
{
	x2apic_enable();
	generic_svm_setup(svm, l2_event_code);
	svm->vmcb->control.intercept |= intercept;
	svm->vmcb->control.int_ctl |= int_ctl;
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
	bool is_smi;
	/* V_INTR_MASKING: IRQs obey RFLAGS.IF of L1, not of L2, which clears it. */
	u32 int_ctl;
};

FIXTURE_VARIANT_ADD(l2_event, nmi) {
	.icr = APIC_INT_ASSERT | APIC_DM_NMI,
	.intercept = INTERCEPT_NMI,
	.exit_code = SVM_EXIT_NMI,
};

FIXTURE_VARIANT_ADD(l2_event, smi) {
	.icr = APIC_INT_ASSERT | APIC_DM_SMI,
	.intercept = INTERCEPT_SMI,
	.exit_code = SVM_EXIT_SMI,
	.is_smi = true,
};

FIXTURE_VARIANT_ADD(l2_event, irq) {
	.icr = APIC_INT_ASSERT | APIC_DM_FIXED | IRQ_VECTOR,
	.intercept = INTERCEPT_INTR,
	.exit_code = SVM_EXIT_INTR,
};

FIXTURE_VARIANT_ADD(l2_event, irq_with_irqs_off) {
	.icr = APIC_INT_ASSERT | APIC_DM_FIXED | IRQ_VECTOR,
	.intercept = INTERCEPT_INTR,
	.exit_code = SVM_EXIT_INTR,
	.int_ctl = V_INTR_MASKING_MASK,
};

FIXTURE_VARIANT_ADD(l2_event, init) {
	.icr = APIC_INT_ASSERT | APIC_DM_INIT,
	.intercept = INTERCEPT_INIT,
	.exit_code = SVM_EXIT_INIT,
};

FIXTURE_SETUP(l2_event)
{
	struct svm_test_data *svm;

	if (variant->is_smi && !kvm_has_cap(KVM_CAP_X86_SMM))
		SKIP(return, "KVM_CAP_X86_SMM not supported");

	vm_create_with_one_vcpu(&self->vcpu, l1_l2_event);
	svm = vcpu_alloc_svm(self->vcpu->vm, &self->svm_gva);
	self->vmcb12 = svm->vmcb_hva;

	l2_icr = variant->icr;
	l2_irqs_off = variant->int_ctl & V_INTR_MASKING_MASK;
	sync_global_to_guest(self->vcpu->vm, l2_icr);
	sync_global_to_guest(self->vcpu->vm, l2_irqs_off);
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

	return vm_event_log(vcpu->vm)->stage;
}

TEST_F(l2_event, clgi_in_l2_holds_exit_until_stgi)
{
	u64 stage = l2_event_stage(self->vcpu, self->svm_gva, variant->intercept,
				   variant->int_ctl);

	TEST_ASSERT(stage != GIF_CLEAR,
		    "L2 exited with code 0x%lx before STGI",
		    (u64)self->vmcb12->control.exit_code);
}

TEST_F(l2_event, clgi_in_l2_lets_it_exit_at_stgi)
{
	u64 stage = l2_event_stage(self->vcpu, self->svm_gva, variant->intercept,
				   variant->int_ctl);

	TEST_ASSERT(stage == GIF_OPENING &&
		    self->vmcb12->control.exit_code == variant->exit_code,
		    "Wanted exit 0x%lx at stage %u, got 0x%lx at stage %lu",
		    variant->exit_code, GIF_OPENING,
		    (u64)self->vmcb12->control.exit_code, stage);
}

TEST_F(l2_event, virtual_gif_does_not_hold_exit)
{
	u64 stage;

	if (!kvm_cpu_has(X86_FEATURE_VGIF))
		SKIP(return, "No virtual GIF for L2");

	stage = l2_event_stage(self->vcpu, self->svm_gva, variant->intercept,
			       variant->int_ctl | V_GIF_ENABLE_MASK | V_GIF_MASK);

	TEST_ASSERT(stage == GIF_CLEAR &&
		    self->vmcb12->control.exit_code == variant->exit_code,
		    "Wanted exit 0x%lx at stage %u, got 0x%lx at stage %lu",
		    variant->exit_code, GIF_CLEAR,
		    (u64)self->vmcb12->control.exit_code, stage);
	TEST_ASSERT(!(self->vmcb12->control.int_ctl & V_GIF_MASK),
		    "CLGI in L2 did not clear V_GIF, int_ctl 0x%x",
		    self->vmcb12->control.int_ctl);
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

static void nmi_handler_with_stops(struct ex_regs *regs)
{
	log_event(&event_log);
	GUEST_SYNC(AT_NMI);
	GUEST_SYNC(AT_NMI_END);
}

static void l1_nmi_for_l2(struct svm_test_data *svm)
{
	generic_svm_setup(svm, l2_sync);
	svm->vmcb->control.intercept |= BIT_ULL(INTERCEPT_INIT);

	/* Userspace brings the vCPU back here for the NMIs. */
	GUEST_SYNC(AT_RAISE);
	if (!READ_ONCE(event_log.nr_events))
		run_guest(svm->vmcb, svm->vmcb_gpa);
	GUEST_DONE();
}

static void set_init_pending(struct kvm_vcpu *vcpu, bool pending)
{
	struct kvm_vcpu_events events;

	vcpu_events_get(vcpu, &events);
	events.smi.latched_init = pending;
	events.flags |= KVM_VCPUEVENT_VALID_SMM;
	vcpu_events_set(vcpu, &events);
}

/* KVM_GET_MP_STATE takes a pending INIT, without running the vCPU. */
static void leave_by_init(struct kvm_vcpu *vcpu)
{
	struct kvm_mp_state mp_state;

	set_init_pending(vcpu, true);
	vcpu_mp_state_get(vcpu, &mp_state);
	set_init_pending(vcpu, false);
}

static void leave_by_nested_state(struct kvm_vcpu *vcpu)
{
	set_nested_flags(vcpu, 0);
}

FIXTURE(nmi_for_l2) {
	struct kvm_vcpu *vcpu;
};

FIXTURE_VARIANT(nmi_for_l2) {
	void (*leave)(struct kvm_vcpu *vcpu);
};

FIXTURE_VARIANT_ADD(nmi_for_l2, vmexit) {
	.leave = leave_by_init,
};

FIXTURE_VARIANT_ADD(nmi_for_l2, forced_leave) {
	.leave = leave_by_nested_state,
};

FIXTURE_SETUP(nmi_for_l2)
{
	struct kvm_vm *vm;
	gva_t svm_gva;

	if (!kvm_has_cap(KVM_CAP_X86_SMM))
		SKIP(return, "KVM_CAP_X86_SMM not supported");

	vm = vm_create_with_one_vcpu(&self->vcpu, l1_nmi_for_l2);
	vm_install_exception_handler(vm, NMI_VECTOR, nmi_handler_with_stops);
	vcpu_alloc_svm(vm, &svm_gva);
	vcpu_args_set(self->vcpu, 1, svm_gva);
}

FIXTURE_TEARDOWN(nmi_for_l2)
{
	kvm_vm_free(self->vcpu->vm);
}

/* L2 is left before it runs with the NMI that L1 injects: it is L2's, and gone. */
TEST_F(nmi_for_l2, is_not_taken_for_l1s)
{
	struct kvm_vcpu *vcpu = self->vcpu;
	union svm_nested_state nested;
	struct vmcb *vmcb12 = (void *)nested.state.data.svm;
	struct kvm_regs l1_regs;

	vcpu_run_to_sync(vcpu, AT_RAISE);
	vcpu_run_complete_io(vcpu);
	vcpu_regs_get(vcpu, &l1_regs);

	vcpu_run_to_sync(vcpu, AT_L2);
	vcpu_run_complete_io(vcpu);
	vcpu_svm_nested_state_get(vcpu, &nested);
	vmcb12->control.event_inj = SVM_EVTINJ_VALID | SVM_EVTINJ_TYPE_NMI;
	vcpu_nested_state_set(vcpu, &nested.state);

	variant->leave(vcpu);
	TEST_ASSERT_EQ(vcpu_svm_nested_flags(vcpu), 0);

	set_nested_flags(vcpu, KVM_STATE_NESTED_GIF_SET);
	vcpu_regs_set(vcpu, &l1_regs);

	/* The second NMI has to wait for the IRET of the first. */
	raise_nmi(vcpu);
	vcpu_run_to_sync(vcpu, AT_NMI);
	raise_nmi(vcpu);
	vcpu_run_to_sync(vcpu, AT_NMI_END);
	TEST_ASSERT_EQ(vm_event_log(vcpu->vm)->nr_events, 1);

	vcpu_run_to_sync(vcpu, AT_NMI);
	vcpu_run_to_sync(vcpu, AT_NMI_END);
	vcpu_run_to_done(vcpu);
	TEST_ASSERT_EQ(vm_event_log(vcpu->vm)->nr_events, 2);
}

int main(int argc, char *argv[])
{
	TEST_REQUIRE(kvm_cpu_has(X86_FEATURE_SVM));

	return test_harness_run(argc, argv);
}
