// SPDX-License-Identifier: GPL-2.0-only
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "apic.h"
#include "svm_nested_leave.h"

#define RESET_PAGE_GPA		0xfffff000
#define RESET_PAGE_SLOT		10

#define XEN_HYPERCALL_MSR	0x40000200
#define UPCALL_VECTOR		0x30
#define NEW_BYTE		0xaa

/* Stops at ucalls, besides those at ports. */
enum {
	AT_TSC,
	AT_NMI,
	AT_L1,
};

/* In the order in which the guest has read them. */
static u64 tscs[3];

static void guest_read_tscs(void)
{
	tscs[0] = rdtsc();
	tscs[1] = rdmsr(MSR_IA32_TSC);
	tscs[2] = rdtsc();
	GUEST_SYNC(AT_TSC);
}

static void guest_read_byte(u8 *byte)
{
	GUEST_SYNC(READ_ONCE(*byte));
}

static void nmi_handler(struct ex_regs *regs)
{
	GUEST_SYNC(AT_NMI);
}

static void l1_set_gif(void)
{
	stgi();
	GUEST_SYNC(AT_L1);
}

static void l1_send_init_and_sipi(u32 apic_id, u8 vector)
{
	u64 dest = (u64)apic_id << 32 | APIC_INT_ASSERT;

	x2apic_enable();
	x2apic_write_reg(APIC_ICR, dest | APIC_DM_INIT);
	x2apic_write_reg(APIC_ICR, dest | APIC_DM_STARTUP | vector);
	GUEST_DONE();
}

static const u8 reset_code[] = {
	0xe4, AT_RESET,		/* in $AT_RESET, %al */
	0xf4,			/* hlt */
};

TEST_F(left_l2, has_l1s_tsc_offset)
{
	struct kvm_vcpu *vcpu = self->l2.vcpu;

	variant->leave(vcpu);
	vcpu_sregs_set(vcpu, &self->l2.l1_sregs);
	self->l2.l1_regs.rip = (gva_t)guest_read_tscs;
	vcpu_regs_set(vcpu, &self->l2.l1_regs);
	vcpu_run_to_sync(vcpu, AT_TSC);

	sync_global_from_guest(vcpu->vm, tscs);
	TEST_ASSERT(tscs[1] >= tscs[0] && tscs[1] <= tscs[2],
		    "RDMSR of the TSC is 0x%lx, between RDTSCs of 0x%lx and 0x%lx",
		    tscs[1], tscs[0], tscs[2]);
}

/* KVM does all that is to be done before it runs the vCPU, and then doesn't. */
static void run_with_signal_pending(struct kvm_vcpu *vcpu)
{
	struct {
		struct kvm_signal_mask mask;
		u8 sigset[8];
	} none = { .mask.len = sizeof(none.sigset) };
	sigset_t set;
	int sig;

	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	sigprocmask(SIG_BLOCK, &set, NULL);
	vcpu_ioctl(vcpu, KVM_SET_SIGNAL_MASK, &none.mask);

	raise(SIGUSR1);
	TEST_ASSERT(__vcpu_run(vcpu) == -1 && errno == EINTR,
		    "KVM_RUN with a signal pending: wanted EINTR, errno is %d", errno);
	sigwait(&set, &sig);
}

/*
 * L1 and L2 share an ASID: a TLB flush that KVM has noted in the VMCB of L2 has
 * to come before L1 runs, so that the guest loses a page that userspace unmaps.
 */
TEST_F_TIMEOUT(left_l2, loses_page_that_userspace_has_replaced, TIMEOUT)
{
	struct kvm_vcpu *vcpu = self->l2.vcpu;
	struct kvm_vm *vm = vcpu->vm;
	struct kvm_regs regs;
	u8 *hva, *copy;
	gva_t page;

	if (variant->unpaged)
		SKIP(return, "Without paging, L1's code doesn't run with L2's registers");

	/* Once more, as KVM takes a new ASID after L2 has run first. */
	leave_by_nested_state(vcpu);
	self->l2.l1_sregs.efer |= EFER_SVME;
	vcpu_sregs_set(vcpu, &self->l2.l1_sregs);
	vcpu_regs_set(vcpu, &self->l2.l1_start_regs);
	run_to_l2(vcpu);

	/* L2 has its own code in the TLB. */
	vcpu_regs_get(vcpu, &regs);
	page = regs.rip & ~(vm->page_size - 1ull);
	hva = addr_gva2hva(vm, page);
	copy = malloc(vm->page_size);
	memcpy(copy, hva, vm->page_size);
	copy[vm->page_size - 1] = NEW_BYTE;

	TEST_ASSERT(mmap(hva, vm->page_size, PROT_READ | PROT_WRITE,
			 MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == hva,
		    "mmap() failed, errno %d", errno);
	memcpy(hva, copy, vm->page_size);
	free(copy);
	run_with_signal_pending(vcpu);

	variant->leave(vcpu);
	self->l2.l1_regs.rip = (gva_t)guest_read_byte;
	self->l2.l1_regs.rdi = page + vm->page_size - 1;
	vcpu_regs_set(vcpu, &self->l2.l1_regs);
	vcpu_run_to_sync(vcpu, NEW_BYTE);
}

/* An exception of L2 that is due to exit to L1, as L1 intercepts it, is L2's. */
static void queue_ud_for_l1(struct kvm_vcpu *vcpu, bool with_init)
{
	struct kvm_vcpu_events events;

	vcpu_events_get(vcpu, &events);
	events.flags |= KVM_VCPUEVENT_VALID_PAYLOAD;
	events.exception.pending = true;
	events.exception.nr = UD_VECTOR;
	events.smi.latched_init = with_init;
	vcpu_events_set(vcpu, &events);

	/* KVM_RUN finds out that L1 intercepts it. */
	vcpu_run_complete_io(vcpu);
}

TEST_F(left_l2, forgets_exception_for_l1)
{
	struct kvm_vcpu *vcpu = self->l2.vcpu;
	union svm_nested_state nested;
	struct kvm_vcpu_events events;

	vcpu_svm_nested_state_get(vcpu, &nested);

	queue_ud_for_l1(vcpu, false);
	vcpu_events_get(vcpu, &events);
	TEST_ASSERT_EQ(events.exception.pending, 1);

	variant->leave(vcpu);
	vcpu_events_get(vcpu, &events);
	TEST_ASSERT(!events.exception.pending && !events.exception.injected,
		    "L2's exception %u is pending after it", events.exception.nr);

	vcpu_set_svme_by_msrs(vcpu, true);
	vcpu_nested_state_set(vcpu, &nested.state);
	run_to_l2_next(vcpu);
	TEST_ASSERT(vcpu_in_l2(vcpu), "L2 stopped, but vCPU isn't in guest mode");
}

FIXTURE(active_l2) {
	struct l2_vm l2;
};

FIXTURE_VARIANT(active_l2) {
	bool npt;
	bool unpaged;
};

FIXTURE_VARIANT_ADD(active_l2, no_npt) { };
FIXTURE_VARIANT_ADD(active_l2, npt) { .npt = true };
FIXTURE_VARIANT_ADD(active_l2, unpaged) { .unpaged = true };
FIXTURE_VARIANT_ADD(active_l2, unpaged_npt) { .npt = true, .unpaged = true };

FIXTURE_SETUP(active_l2)
{
	if (variant->npt && !kvm_cpu_has_npt())
		SKIP(return, "KVM doesn't support nested NPT");

	l2_vm_create(&self->l2, variant->npt, variant->unpaged);
	run_to_l2(self->l2.vcpu);
}

FIXTURE_TEARDOWN(active_l2)
{
	kvm_vm_free(self->l2.vcpu->vm);
}

TEST_F_TIMEOUT(active_l2, ends_with_init_and_sipi, TIMEOUT)
{
	struct kvm_vcpu *vcpu = self->l2.vcpu, *sender = self->l2.other_vcpu;
	struct kvm_sregs sregs;

	/* A vCPU that starts elsewhere than at the SIPI's vector halts. */
	memset(addr_gpa2hva(vcpu->vm, 0), 0xf4, vcpu->vm->page_size);

	vcpu_arch_set_entry_point(sender, l1_send_init_and_sipi);
	vcpu_args_set(sender, 2, vcpu->id, self->l2.low_gpa >> 12);
	vcpu_run_to_done(sender);

	vcpu_run_to_port(vcpu, AT_SIPI);
	TEST_ASSERT(!vcpu_in_l2(vcpu), "vCPU still in guest mode");
	vcpu_sregs_get(vcpu, &sregs);
	TEST_ASSERT_EQ(sregs.cs.base, self->l2.low_gpa);
	TEST_ASSERT_EQ(sregs.efer, 0);
	TEST_ASSERT(!(sregs.cr0 & (X86_CR0_PE | X86_CR0_PG)), "CR0 is 0x%llx", sregs.cr0);
}

/* GIF=1, and L1 doesn't intercept INIT: the exception is gone with L2. */
TEST_F(active_l2, ends_with_init_before_its_exception_exits)
{
	struct kvm_vcpu *vcpu = self->l2.vcpu;
	struct kvm_mp_state mp_state;

	queue_ud_for_l1(vcpu, true);
	vcpu_mp_state_get(vcpu, &mp_state);
	TEST_ASSERT_EQ(mp_state.mp_state, KVM_MP_STATE_INIT_RECEIVED);
	TEST_ASSERT(!vcpu_in_l2(vcpu), "vCPU still in guest mode");
}

/* KVM_SET_SREGS looks at CR3 only with EFER.LME and CR0.PG set. */
TEST_F(active_l2, is_refused_with_illegal_cr3)
{
	struct kvm_vcpu *vcpu = self->l2.vcpu;
	union svm_nested_state nested;
	struct kvm_sregs sregs;
	int r;

	vcpu_svm_nested_state_get(vcpu, &nested);
	leave_by_nested_state(vcpu);

	vcpu_sregs_get(vcpu, &sregs);
	sregs.cr0 &= ~X86_CR0_PG;
	sregs.efer &= ~(EFER_LME | EFER_LMA);
	sregs.cr3 |= BIT_ULL(63);
	sregs.cs.l = 0;
	sregs.cs.db = 1;
	vcpu_sregs_set(vcpu, &sregs);

	r = __vcpu_nested_state_set(vcpu, &nested.state);
	TEST_ASSERT(r == -1 && errno == EINVAL,
		    "Nested state with illegal CR3: wanted EINVAL, got %d, errno %d", r, errno);
	TEST_ASSERT(!vcpu_in_l2(vcpu), "vCPU in guest mode, without anything to run on");
}

/* L2 must not get L1's place, whatever userspace makes of the shutdown. */
TEST_F_TIMEOUT(active_l2, does_not_run_on_after_it_has_cleared_svme, TIMEOUT)
{
	struct kvm_vcpu *vcpu = self->l2.vcpu;
	struct kvm_run *run = vcpu->run;
	struct kvm_regs regs;

	vm_userspace_mem_region_add(vcpu->vm, VM_MEM_SRC_ANONYMOUS, RESET_PAGE_GPA,
				    RESET_PAGE_SLOT, 1, 0);
	memcpy(addr_gpa2hva(vcpu->vm, RESET_PAGE_GPA + 0xff0), reset_code, sizeof(reset_code));

	vcpu_regs_get(vcpu, &regs);
	regs.rip = (regs.rip & PAGE_MASK) + CLEAR_SVME_OFFSET;
	vcpu_regs_set(vcpu, &regs);

	vcpu_run(vcpu);
	TEST_ASSERT_KVM_EXIT_REASON(vcpu, KVM_EXIT_SHUTDOWN);
	TEST_ASSERT(!vcpu_in_l2(vcpu), "vCPU still in guest mode");
	TEST_ASSERT(!vcpu_svme(vcpu), "EFER.SVME still set");

	vcpu_run(vcpu);
	TEST_ASSERT(run->exit_reason != KVM_EXIT_IO || run->io.port == AT_RESET,
		    "IO with port 0x%x after the shutdown", run->io.port);
}

/* For what makes KVM WARN, or worse, where it goes wrong. */
FIXTURE(host_may_crash) {
	struct l2_vm l2;
};

FIXTURE_SETUP(host_may_crash)
{
	l2_vm_create(&self->l2, false, false);
	run_to_l2(self->l2.vcpu);
}

FIXTURE_TEARDOWN(host_may_crash)
{
	kvm_vm_free(self->l2.vcpu->vm);
}

/* Userspace can claim that L2 has yet to run, and have it shut down before. */
TEST_F_TIMEOUT(host_may_crash, triple_fault_before_l2_has_run, TIMEOUT)
{
	struct kvm_vcpu *vcpu = self->l2.vcpu;
	union svm_nested_state nested;
	struct kvm_vcpu_events events;

	if (!kvm_has_cap(KVM_CAP_X86_TRIPLE_FAULT_EVENT))
		SKIP(return, "KVM_CAP_X86_TRIPLE_FAULT_EVENT not supported");

	vm_enable_cap(vcpu->vm, KVM_CAP_X86_TRIPLE_FAULT_EVENT, true);

	vcpu_svm_nested_state_get(vcpu, &nested);
	nested.state.flags |= KVM_STATE_NESTED_RUN_PENDING;
	vcpu_nested_state_set(vcpu, &nested.state);

	vcpu_events_get(vcpu, &events);
	events.flags |= KVM_VCPUEVENT_VALID_TRIPLE_FAULT;
	events.triple_fault.pending = true;
	vcpu_events_set(vcpu, &events);

	vcpu_run_to_sync(vcpu, SVM_EXIT_SHUTDOWN);
	TEST_ASSERT(!vcpu_in_l2(vcpu), "vCPU still in guest mode");

	/* Events wait for a VMRUN to complete, which there is none of in L1. */
	vm_install_exception_handler(vcpu->vm, NMI_VECTOR, nmi_handler);
	vcpu_ioctl(vcpu, KVM_NMI, NULL);
	self->l2.l1_regs.rip = (gva_t)l1_set_gif;
	vcpu_regs_set(vcpu, &self->l2.l1_regs);
	vcpu_run_to_sync(vcpu, AT_NMI);
}

static void exit_in_l2_with_xen_vcpu_info(void)
{
	struct kvm_xen_hvm_attr vector = {
		.type = KVM_XEN_ATTR_TYPE_UPCALL_VECTOR,
		.u.vector = UPCALL_VECTOR,
	};
	struct kvm_xen_vcpu_attr vcpu_info = {
		.type = KVM_XEN_VCPU_ATTR_TYPE_VCPU_INFO,
	};
	struct kvm_xen_hvm_config config = { .msr = XEN_HYPERCALL_MSR };
	struct l2_vm l2;
	struct kvm_vm *vm;
	int r;

	l2_vm_create(&l2, false, false);
	vm = l2.vcpu->vm;

	vm_ioctl(vm, KVM_XEN_HVM_CONFIG, &config);
	vm_ioctl(vm, KVM_XEN_HVM_SET_ATTR, &vector);
	vcpu_info.u.gpa = vm_phy_page_alloc(vm, LOW_MEMORY_GPA, 0);
	vcpu_ioctl(l2.vcpu, KVM_XEN_VCPU_SET_ATTR, &vcpu_info);

	run_to_l2(l2.vcpu);

	/* KVM would have to look for the page again. */
	r = madvise(addr_gpa2hva(vm, vcpu_info.u.gpa), vm->page_size, MADV_DONTNEED);
	TEST_ASSERT(!r, "madvise() failed, errno %d", errno);
	_exit(0);
}

/* At exit, a task's memory goes before its vCPUs. */
TEST_F(host_may_crash, exit_in_l2_with_xen_vcpu_info)
{
	int status = -1;
	pid_t pid, r;

	if (!(kvm_check_cap(KVM_CAP_XEN_HVM) & KVM_XEN_HVM_CONFIG_SHARED_INFO))
		SKIP(return, "KVM_CAP_XEN_HVM not supported");

	pid = fork();
	TEST_ASSERT(pid >= 0, "fork() failed, errno %d", errno);
	if (!pid)
		exit_in_l2_with_xen_vcpu_info();

	r = waitpid(pid, &status, 0);
	TEST_ASSERT(r == pid && !status, "waitpid() returned %d, status 0x%x, errno %d",
		    r, status, errno);

	run_to_l2_next(self->l2.vcpu);
}

int main(int argc, char *argv[])
{
	TEST_REQUIRE(kvm_cpu_has(X86_FEATURE_SVM));

	return test_harness_run(argc, argv);
}
