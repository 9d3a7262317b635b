// SPDX-License-Identifier: GPL-2.0-only
#include "test_util.h"
#include "kvm_util.h"
#include "kvm_test_harness.h"
#include "processor.h"
#include "svm_util.h"

/* Memory that userspace can take away while L2 is active. */
#define VMCB12_GPA		0xc0000000ull
#define VMCB12_SLOT		10
#define SPARE_GPA		0xd0000000ull
#define SPARE_SLOT		11

/* In seconds, for tests whose guest may hang where KVM gets it wrong. */
#define TIMEOUT			5

enum {
	AT_L2,
	AT_L2_AFTER_EVENT,
};

u64 l1_rsp;
u64 l1_vmexit_rip;

/* L1 is not to get as far as its UD2. */
static noinline void vmrun_for_the_last_time(u64 vmcb_gpa)
{
	asm volatile("mov %%rsp, l1_rsp\n\t"
		     "movq $1f, l1_vmexit_rip\n\t"
		     "vmrun %%rax\n\t"
		     "1: ud2"
		     : : "a" (vmcb_gpa) : "memory");
}

static void l2_vmmcall(void)
{
	GUEST_SYNC(AT_L2);
	vmmcall();
}

static void l2_await_event(void)
{
	GUEST_SYNC(AT_L2);
	GUEST_SYNC(AT_L2_AFTER_EVENT);
}

static void l1_run_l2_to_vmexit_failure(struct svm_test_data *svm, void (*l2)(void),
					u64 intercept)
{
	svm->vmcb = (void *)VMCB12_GPA;
	svm->vmcb_gpa = VMCB12_GPA;

	generic_svm_setup(svm, l2);
	svm->vmcb->control.intercept |= intercept;
	vmrun_for_the_last_time(svm->vmcb_gpa);
}

static void delete_vmcb12(struct kvm_vcpu *vcpu)
{
	vm_mem_region_delete(vcpu->vm, VMCB12_SLOT);
}

/* What #VMEXIT restores is in the save area of KVM's nested state. */
static void edit_host_state(struct kvm_vcpu *vcpu, u64 cr3_bits)
{
	union svm_nested_state nested;
	struct vmcb *vmcb = (void *)nested.state.data.svm;

	vcpu_svm_nested_state_get(vcpu, &nested);
	vmcb->save.efer &= ~(EFER_LME | EFER_LMA);
	vmcb->save.cr3 |= cr3_bits;
	vcpu_nested_state_set(vcpu, &nested.state);

	/* KVM's page tables of before VMRUN go with the memslot. */
	vm_userspace_mem_region_add(vcpu->vm, VM_MEM_SRC_ANONYMOUS, SPARE_GPA, SPARE_SLOT, 1, 0);
	vm_mem_region_delete(vcpu->vm, SPARE_SLOT);
}

static void set_host_cr3_bit_63(struct kvm_vcpu *vcpu)
{
	edit_host_state(vcpu, BIT_ULL(63));
}

/* L1's PML4Es, taken as PDPTEs, have the reserved bit 1 set. */
static void set_host_pae_paging(struct kvm_vcpu *vcpu)
{
	edit_host_state(vcpu, 0);
}

static void raise_nmi(struct kvm_vcpu *vcpu)
{
	vcpu_ioctl(vcpu, KVM_NMI, NULL);
}

static void raise_triple_fault(struct kvm_vcpu *vcpu)
{
	struct kvm_vcpu_events events;

	vcpu_events_get(vcpu, &events);
	events.flags |= KVM_VCPUEVENT_VALID_TRIPLE_FAULT;
	events.triple_fault.pending = true;
	vcpu_events_set(vcpu, &events);
}

FIXTURE(vmexit_failure) {
	struct kvm_vcpu *vcpu;
};

FIXTURE_VARIANT(vmexit_failure) {
	void (*cause)(struct kvm_vcpu *vcpu);
	void (*raise_event)(struct kvm_vcpu *vcpu);
	u64 intercept;
};

FIXTURE_VARIANT_ADD(vmexit_failure, vmcb12_gone_on_vmmcall) { .cause = delete_vmcb12 };

FIXTURE_VARIANT_ADD(vmexit_failure, vmcb12_gone_on_nmi) {
	.cause = delete_vmcb12,
	.raise_event = raise_nmi,
	.intercept = BIT_ULL(INTERCEPT_NMI),
};

FIXTURE_VARIANT_ADD(vmexit_failure, vmcb12_gone_on_shutdown) {
	.cause = delete_vmcb12,
	.raise_event = raise_triple_fault,
	.intercept = BIT_ULL(INTERCEPT_SHUTDOWN),
};

FIXTURE_VARIANT_ADD(vmexit_failure, host_cr3_bit_63) { .cause = set_host_cr3_bit_63 };
FIXTURE_VARIANT_ADD(vmexit_failure, host_pae_pdpte_bit_1) { .cause = set_host_pae_paging };

static struct kvm_vcpu *create_vcpu(void)
{
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;

	vm = vm_create_with_one_vcpu(&vcpu, l1_run_l2_to_vmexit_failure);
	vm_userspace_mem_region_add(vm, VM_MEM_SRC_ANONYMOUS, VMCB12_GPA, VMCB12_SLOT, 1, 0);
	virt_map(vm, VMCB12_GPA, VMCB12_GPA, 1);
	return vcpu;
}

FIXTURE_SETUP(vmexit_failure)
{
	if (variant->raise_event == raise_triple_fault &&
	    !kvm_has_cap(KVM_CAP_X86_TRIPLE_FAULT_EVENT))
		SKIP(return, "KVM_CAP_X86_TRIPLE_FAULT_EVENT not supported");

	/* With shadow paging, a KVM that gets it wrong may run L1 on that CR3. */
	if (variant->cause == set_host_pae_paging && !kvm_cpu_has_npt())
		SKIP(return, "Not safe without NPT");

	self->vcpu = create_vcpu();
	if (variant->raise_event == raise_triple_fault)
		vm_enable_cap(self->vcpu->vm, KVM_CAP_X86_TRIPLE_FAULT_EVENT, true);
}

FIXTURE_TEARDOWN(vmexit_failure)
{
	kvm_vm_free(self->vcpu->vm);
}

static void assert_no_event(struct kvm_vcpu *vcpu)
{
	struct kvm_vcpu_events events;

	vcpu_events_get(vcpu, &events);
	TEST_ASSERT(!events.exception.injected && !events.exception.pending &&
		    !events.interrupt.injected && !events.nmi.injected,
		    "Event in L1: exception %u (injected %u, pending %u), IRQ %u, NMI %u",
		    events.exception.nr, events.exception.injected,
		    events.exception.pending, events.interrupt.injected,
		    events.nmi.injected);
}

static void test_vmexit_failure(struct kvm_vcpu *vcpu,
				FIXTURE_VARIANT(vmexit_failure) const *variant, bool npt)
{
	bool has_vmcb12 = variant->cause != delete_vmcb12;
	struct kvm_vm *vm = vcpu->vm;
	struct kvm_regs regs;
	struct vmcb *vmcb;
	gva_t svm_gva;

	__vcpu_alloc_svm(vm, npt, &svm_gva);
	vcpu_args_set(vcpu, 3, svm_gva, variant->raise_event ? l2_await_event : l2_vmmcall,
		      variant->intercept);
	vcpu_run_to_l2(vcpu, AT_L2);

	variant->cause(vcpu);
	if (variant->raise_event)
		variant->raise_event(vcpu);

	vcpu_run(vcpu);
	TEST_ASSERT_KVM_EXIT_REASON(vcpu, KVM_EXIT_SHUTDOWN);

	/* The rest of the #VMEXIT has taken place. */
	assert_no_event(vcpu);
	TEST_ASSERT_EQ(vcpu_svm_nested_flags(vcpu), 0);
	TEST_ASSERT(vcpu_svme(vcpu), "L1 lost EFER.SVME");

	sync_global_from_guest(vm, l1_rsp);
	sync_global_from_guest(vm, l1_vmexit_rip);
	vcpu_regs_get(vcpu, &regs);
	TEST_ASSERT_EQ(regs.rip, l1_vmexit_rip);
	TEST_ASSERT_EQ(regs.rsp, l1_rsp);

	if (has_vmcb12) {
		vmcb = addr_gpa2hva(vm, VMCB12_GPA);
		TEST_ASSERT_EQ(vmcb->control.exit_code, SVM_EXIT_VMMCALL);
	}
}

TEST_F(vmexit_failure, shuts_down_l1)
{
	test_vmexit_failure(self->vcpu, variant, false);
}

TEST_F(vmexit_failure, shuts_down_l1_npt)
{
	if (!kvm_cpu_has_npt())
		SKIP(return, "KVM doesn't support nested NPT");

	if (variant->cause != delete_vmcb12)
		SKIP(return, "NPT is for a host in long mode");

	test_vmexit_failure(self->vcpu, variant, true);
}

/* For what may have the CPU use page tables that KVM has freed. */
FIXTURE(host_may_crash) {
	struct kvm_vcpu *vcpu;
};

FIXTURE_SETUP(host_may_crash)
{
	self->vcpu = create_vcpu();
}

FIXTURE_TEARDOWN(host_may_crash)
{
	kvm_vm_free(self->vcpu->vm);
}

/* Userspace need not care for the shutdown of an L1 that can't be resumed. */
static void test_run_after_shutdown(struct kvm_vcpu *vcpu,
				    void (*cause)(struct kvm_vcpu *vcpu))
{
	FIXTURE_VARIANT(vmexit_failure) failure = { .cause = cause };

	test_vmexit_failure(vcpu, &failure, false);

	vcpu_run(vcpu);
	TEST_ASSERT(vcpu->run->exit_reason != KVM_EXIT_FAIL_ENTRY,
		    "The CPU refuses to run L1, reason 0x%llx",
		    vcpu->run->fail_entry.hardware_entry_failure_reason);
}

TEST_F_TIMEOUT(host_may_crash, l1_without_legal_cr3_can_run, TIMEOUT)
{
	test_run_after_shutdown(self->vcpu, set_host_cr3_bit_63);
}

TEST_F_TIMEOUT(host_may_crash, l1_without_legal_pdptes_can_run, TIMEOUT)
{
	test_run_after_shutdown(self->vcpu, set_host_pae_paging);
}

int main(int argc, char *argv[])
{
	TEST_REQUIRE(kvm_cpu_has(X86_FEATURE_SVM));

	return test_harness_run(argc, argv);
}
