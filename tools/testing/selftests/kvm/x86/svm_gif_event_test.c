// SPDX-License-Identifier: GPL-2.0-only
#include "test_util.h"
#include "kvm_util.h"
#include "kvm_test_harness.h"
#include "processor.h"
#include "apic.h"
#include "smm.h"
#include "svm_util.h"

#define IRQ_VECTOR		0x30

#define RESET_PAGE_GPA		0xfffff000
#define RESET_PAGE_SLOT		10
#define RESET_STOP_PORT		0xf

/* Enough for any event that KVM injects at, not after, the next VM-Entry. */
#define NR_SPINS		1000

#define NR_VMEXITS		4

enum {
	AT_RAISE,
	AT_STEP,
	AT_SVME_CLEAR,
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

/* The reset vector and SMM stop at SMI_STOP_PORT for the host to log the event. */
static const u8 reset_handler[] = {
	0xe4, SMI_STOP_PORT,	/* in $SMI_STOP_PORT, %al */
	0xe4, RESET_STOP_PORT,	/* in $RESET_STOP_PORT, %al */
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

static void run_past_events(struct kvm_vcpu *vcpu)
{
	struct guest_stop stop = vcpu_run_to_stop(vcpu);

	while (stop.type == GUEST_STOP_IO && stop.val == SMI_STOP_PORT) {
		log_event(vm_event_log(vcpu->vm));
		stop = vcpu_run_to_stop(vcpu);
	}
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

FIXTURE_VARIANT_ADD(gif_event, nmi) { .icr = APIC_INT_ASSERT | APIC_DM_NMI };
FIXTURE_VARIANT_ADD(gif_event, nmi_ioctl) { .raise = raise_nmi };
FIXTURE_VARIANT_ADD(gif_event, smi) { .icr = APIC_INT_ASSERT | APIC_DM_SMI, .is_smi = true };
FIXTURE_VARIANT_ADD(gif_event, smi_ioctl) { .raise = raise_smi, .is_smi = true };
FIXTURE_VARIANT_ADD(gif_event, irq) { .icr = APIC_INT_ASSERT | APIC_DM_FIXED | IRQ_VECTOR };
FIXTURE_VARIANT_ADD(gif_event, irq_msi) { .raise = raise_irq };
FIXTURE_VARIANT_ADD(gif_event, init) { .icr = APIC_INT_ASSERT | APIC_DM_INIT };

FIXTURE_SETUP(gif_event)
{
	struct kvm_vm *vm;

	if (variant->is_smi && !kvm_has_cap(KVM_CAP_X86_SMM))
		SKIP(return, "KVM_CAP_X86_SMM not supported");

	vm = vm_create_with_one_vcpu(&self->vcpu, l1_gif_event);
	vm_install_exception_handler(vm, NMI_VECTOR, nmi_handler);
	vm_install_exception_handler(vm, IRQ_VECTOR, irq_handler);

	if (variant->is_smi)
		setup_smi_stop(self->vcpu);

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

	vcpu_set_svme_by_sregs(self->vcpu, false);
	vcpu_set_svme_by_sregs(self->vcpu, true);

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

	vcpu_set_svme_by_sregs(self->vcpu, false);
	vcpu_run_to_sync(self->vcpu, AT_SVME_CLEAR);
	vcpu_set_svme_by_sregs(self->vcpu, true);

	expect_gif_event_at_stgi(self->vcpu);
}

TEST_F(gif_event, save_restore_then_stgi)
{
	pend_gif_event(self->vcpu, variant->icr, variant->raise, NULL);
	self->vcpu = vcpu_migrate(self->vcpu, NULL);
	expect_gif_event_at_stgi(self->vcpu);
}

int main(int argc, char *argv[])
{
	TEST_REQUIRE(kvm_cpu_has(X86_FEATURE_SVM));

	return test_harness_run(argc, argv);
}
