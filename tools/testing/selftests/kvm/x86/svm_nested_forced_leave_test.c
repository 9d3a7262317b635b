// SPDX-License-Identifier: GPL-2.0-only
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include <linux/compiler.h>

#include "test_util.h"
#include "kvm_util.h"
#include "kvm_test_harness.h"
#include "processor.h"
#include "apic.h"
#include "svm_util.h"

/*
 * A page that is not mapped, for code that runs without paging, in L2 or at a
 * SIPI, which takes it to be below 1 MiB.  The library leaves this one alone.
 */
#define LOW_MEMORY_GPA		0x1000
#define L2_OFFSET		0x100
#define CLEAR_SVME_OFFSET	0x200

#define RESET_PAGE_GPA		0xfffff000
#define RESET_PAGE_SLOT		10

#define L2_TSC_OFFSET		(-(1ull << 44))

/* Other than the host's. */
#define GUEST_XCR0		XFEATURE_MASK_FP

/* What no code in here changes, or depends on. */
#define USER_RFLAGS		(X86_EFLAGS_AC | X86_EFLAGS_ID)

/* No breakpoint is enabled: bits 8 and 9 do nothing. */
#define USER_DR7		0xd0700

#define XEN_HYPERCALL_MSR	0x40000200
#define UPCALL_VECTOR		0x30

/* Where the guest stops: at a ucall or, in code that can't do those, at a port. */
enum {
	AT_L2 = 8,
	AT_L2_NEXT,
	AT_L2_RESUMED,
	AT_SIPI,
	AT_RESET,
	AT_VIEW = 0x100,
	AT_NMI,
	AT_L1,
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

static const u8 reset_code[] = {
	0xe4, AT_RESET,		/* in $AT_RESET, %al */
	0xf4,			/* hlt */
};

/* The CPU's registers, read by the guest itself. */
struct guest_view {
	u64 cr0;
	u64 efer;
	u64 rflags;
	u64 dr7;
	struct desc_ptr gdt;
	struct desc_ptr idt;
	u16 es;
	u8 nx_vector;
	u8 xgetbv_vector;
	u64 xcr0;
	u64 tsc_before;
	u64 tsc_msr;
	u64 tsc_after;
};

static struct guest_view view;

/* Data that may not be executed, which is for paging with EFER.NX only. */
static u64 *nx_data;

static void guest_take_view(void)
{
	asm volatile("pushfq\n\t"
		     "popq %0" : "=r" (view.rflags) : : "memory");
	view.cr0 = get_cr0();
	view.efer = rdmsr(MSR_EFER);
	asm volatile("mov %%dr7, %0" : "=r" (view.dr7));
	view.gdt = get_gdt();
	view.idt = get_idt();
	view.es = get_es();

	view.tsc_before = rdtsc();
	view.tsc_msr = rdmsr(MSR_IA32_TSC);
	view.tsc_after = rdtsc();

	/* KVM answers for CR4 and EFER; what the CPU has shows in what it does. */
	view.nx_vector = kvm_asm_safe("testb $0, (%[data])", [data] "r" (nx_data));
	view.xgetbv_vector = xgetbv_safe(0, &view.xcr0);
	GUEST_SYNC(AT_VIEW);
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

static void l1_send_init_and_sipi(u32 apic_id, u8 vector)
{
	u64 dest = (u64)apic_id << 32 | APIC_INT_ASSERT;

	x2apic_enable();
	x2apic_write_reg(APIC_ICR, dest | APIC_DM_INIT);
	x2apic_write_reg(APIC_ICR, dest | APIC_DM_STARTUP | vector);
	GUEST_DONE();
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

	if (npt)
		vm_enable_npt(vm);

	vcpu_alloc_svm(vm, &svm_gva);
	l2_gva = vm_alloc_page(vm);
	write_l2_page(addr_gva2hva(vm, l2_gva));
	l2->low_gpa = vm_phy_page_alloc(vm, LOW_MEMORY_GPA, 0);
	TEST_ASSERT_EQ(l2->low_gpa, LOW_MEMORY_GPA);
	write_l2_page(addr_gpa2hva(vm, l2->low_gpa));

	nx_data = (u64 *)vm_alloc_page(vm);
	*vm_get_pte(vm, (gva_t)nx_data) |= PTE_NX_MASK(&vm->mmu);
	sync_global_to_guest(vm, nx_data);

	if (npt)
		tdp_identity_map_default_memslots(vm);

	if (kvm_cpu_has(X86_FEATURE_XSAVE))
		vcpu_xcrs_set(l2->vcpu, &xcrs);

	vcpu_sregs_get(l2->vcpu, &l2->l1_sregs);
	vcpu_regs_get(l2->vcpu, &l2->l1_regs);
	l2->l1_regs.rip = (gva_t)guest_take_view;
	vcpu_args_set(l2->vcpu, 3, svm_gva, L2_OFFSET + (unpaged ? l2->low_gpa : l2_gva),
		      unpaged);
	vcpu_regs_get(l2->vcpu, &l2->l1_start_regs);
}

static bool vcpu_in_l2(struct kvm_vcpu *vcpu)
{
	return vcpu_svm_nested_flags(vcpu) & KVM_STATE_NESTED_GUEST_MODE;
}

static void run_to_l2(struct kvm_vcpu *vcpu)
{
	vcpu_run_to_io(vcpu, AT_L2);
	vcpu_run_complete_io(vcpu);
	TEST_ASSERT(vcpu_in_l2(vcpu), "L2 stopped, but vCPU isn't in guest mode");
}

static void run_to_l2_next(struct kvm_vcpu *vcpu)
{
	struct kvm_run *run = vcpu->run;

	vcpu_run_to_io(vcpu, AT_L2_NEXT);
	TEST_ASSERT_EQ(*((u8 *)run + run->io.data_offset), l2_code[0]);
}

static void leave_by_nested_state(struct kvm_vcpu *vcpu)
{
	struct kvm_nested_state state = {
		.flags = KVM_STATE_NESTED_GIF_SET,
		.format = KVM_STATE_NESTED_FORMAT_SVM,
		.size = sizeof(state),
	};

	vcpu_nested_state_set(vcpu, &state);
}

static void leave_by_sregs(struct kvm_vcpu *vcpu)
{
	struct kvm_sregs sregs;

	vcpu_sregs_get(vcpu, &sregs);
	sregs.efer &= ~EFER_SVME;
	vcpu_sregs_set(vcpu, &sregs);
}

static void leave_by_msrs(struct kvm_vcpu *vcpu)
{
	vcpu_set_msr(vcpu, MSR_EFER, vcpu_get_msr(vcpu, MSR_EFER) & ~EFER_SVME);
}

FIXTURE(left_l2) {
	struct l2_vm l2;
};

FIXTURE_VARIANT(left_l2) {
	void (*leave)(struct kvm_vcpu *vcpu);
	bool npt;
	bool unpaged;
};

#define LEFT_L2_VARIANTS(way)						\
static void leave_by_##way(struct kvm_vcpu *vcpu);			\
									\
FIXTURE_VARIANT_ADD(left_l2, by_##way) {				\
	.leave = leave_by_##way,					\
};									\
									\
FIXTURE_VARIANT_ADD(left_l2, by_##way##_npt) {				\
	.leave = leave_by_##way,					\
	.npt = true,							\
};									\
									\
FIXTURE_VARIANT_ADD(left_l2, by_##way##_unpaged) {			\
	.leave = leave_by_##way,					\
	.unpaged = true,						\
};									\
									\
FIXTURE_VARIANT_ADD(left_l2, by_##way##_unpaged_npt) {			\
	.leave = leave_by_##way,					\
	.npt = true,							\
	.unpaged = true,						\
}

LEFT_L2_VARIANTS(nested_state);
LEFT_L2_VARIANTS(sregs);
LEFT_L2_VARIANTS(msrs);

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

struct user_view {
	struct kvm_regs regs;
	struct kvm_sregs sregs;
	struct kvm_debugregs debugregs;
	struct kvm_vcpu_events events;
};

static void take_user_view(struct kvm_vcpu *vcpu, struct user_view *user)
{
	vcpu_regs_get(vcpu, &user->regs);
	vcpu_sregs_get(vcpu, &user->sregs);
	vcpu_debugregs_get(vcpu, &user->debugregs);
	vcpu_events_get(vcpu, &user->events);
}

static void assert_same(const char *what, const void *before, const void *after, size_t size)
{
	const u8 *b = before, *a = after;
	size_t i;

	for (i = 0; i < size; i++)
		TEST_ASSERT(b[i] == a[i], "%s: byte %lu is 0x%x in L2, 0x%x after it",
			    what, i, b[i], a[i]);
}

/* Leave L2, which can change EFER.SVME, but nothing else that userspace sees. */
static void leave_and_compare(struct kvm_vcpu *vcpu, void (*leave)(struct kvm_vcpu *vcpu),
			      struct user_view *after)
{
	struct user_view before;

	take_user_view(vcpu, &before);
	if (leave != leave_by_nested_state)
		before.sregs.efer &= ~EFER_SVME;

	leave(vcpu);
	TEST_ASSERT(!vcpu_in_l2(vcpu), "vCPU still in guest mode");

	take_user_view(vcpu, after);
	assert_same("CS", &before.sregs.cs, &after->sregs.cs, sizeof(struct kvm_segment));
	assert_same("SS", &before.sregs.ss, &after->sregs.ss, sizeof(struct kvm_segment));
	assert_same("GDT", &before.sregs.gdt, &after->sregs.gdt, sizeof(struct kvm_dtable));
	assert_same("IDT", &before.sregs.idt, &after->sregs.idt, sizeof(struct kvm_dtable));
	assert_same("sregs", &before.sregs, &after->sregs, sizeof(struct kvm_sregs));
	TEST_ASSERT_EQ(before.regs.rflags, after->regs.rflags);
	assert_same("regs", &before.regs, &after->regs, sizeof(struct kvm_regs));
	assert_same("debugregs", &before.debugregs, &after->debugregs,
		    sizeof(struct kvm_debugregs));
	assert_same("events", &before.events, &after->events, sizeof(struct kvm_vcpu_events));
}

/* The guest has to see what userspace sees. */
static void compare_guest_view(struct kvm_vcpu *vcpu, const struct user_view *user)
{
	const u64 efer = user->sregs.efer, cr4 = user->sregs.cr4;

	vcpu_run_to_sync(vcpu, AT_VIEW);
	sync_global_from_guest(vcpu->vm, view);

	if (cr4 & X86_CR4_OSXSAVE)
		TEST_ASSERT(!view.xgetbv_vector && view.xcr0 == GUEST_XCR0,
			    "XGETBV: vector %u, XCR0 0x%lx", view.xgetbv_vector, view.xcr0);
	else
		TEST_ASSERT(view.xgetbv_vector == UD_VECTOR,
			    "XGETBV runs with CR4.OSXSAVE clear, XCR0 0x%lx", view.xcr0);
	TEST_ASSERT_EQ(view.nx_vector, efer & EFER_NX ? 0 : PF_VECTOR);
	TEST_ASSERT_EQ(view.cr0 | X86_CR0_ET, user->sregs.cr0 | X86_CR0_ET);
	TEST_ASSERT_EQ(view.efer, efer);
	TEST_ASSERT_EQ(view.rflags & USER_RFLAGS, user->regs.rflags & USER_RFLAGS);
	TEST_ASSERT_EQ(view.dr7, user->debugregs.dr7);
	TEST_ASSERT_EQ(view.gdt.address, user->sregs.gdt.base);
	TEST_ASSERT_EQ(view.gdt.size, user->sregs.gdt.limit);
	TEST_ASSERT_EQ(view.idt.address, user->sregs.idt.base);
	TEST_ASSERT_EQ(view.idt.size, user->sregs.idt.limit);
	TEST_ASSERT_EQ(view.es, user->sregs.es.selector);
}

static gva_t copy_guest_page(struct kvm_vm *vm, gva_t from)
{
	gva_t to = vm_alloc_page(vm);

	memcpy(addr_gva2hva(vm, to), addr_gva2hva(vm, from), vm->page_size);
	return to;
}

/* As by a VMM that resets the vCPU, or loads a snapshot, with L2 active. */
TEST_F(left_l2, keeps_what_userspace_has_set)
{
	struct kvm_sregs sregs = self->l2.l1_sregs;
	struct kvm_regs regs = self->l2.l1_regs;
	struct kvm_vcpu *vcpu = self->l2.vcpu;
	struct kvm_debugregs debugregs;
	struct user_view user;

	regs.rflags |= USER_RFLAGS;
	vcpu_regs_set(vcpu, &regs);

	vcpu_debugregs_get(vcpu, &debugregs);
	debugregs.dr7 = USER_DR7;
	vcpu_debugregs_set(vcpu, &debugregs);

	sregs.cr0 |= X86_CR0_MP;
	sregs.cr4 |= X86_CR4_DE;
	sregs.efer |= EFER_SVME;
	sregs.efer &= ~EFER_NX;
	sregs.idt.base = copy_guest_page(vcpu->vm, sregs.idt.base);
	sregs.idt.limit -= 16;
	sregs.gdt.base = copy_guest_page(vcpu->vm, sregs.gdt.base);
	sregs.gdt.limit = 0x7ff;
	sregs.cs.avl = 1;
	sregs.ss.avl = 1;
	sregs.ds.base = 0x12345000;
	sregs.es.selector |= 3;
	sregs.es.limit = 0xffff;
	sregs.es.g = 0;
	vcpu_sregs_set(vcpu, &sregs);

	leave_and_compare(vcpu, variant->leave, &user);
	TEST_ASSERT_EQ(user.regs.rflags, regs.rflags);
	TEST_ASSERT_EQ(user.debugregs.dr7, USER_DR7);
	TEST_ASSERT_EQ(user.sregs.idt.base, sregs.idt.base);
	TEST_ASSERT_EQ(user.sregs.gdt.base, sregs.gdt.base);
	compare_guest_view(vcpu, &user);
}

TEST_F(left_l2, keeps_cpl_and_interrupt_shadow)
{
	struct kvm_vcpu *vcpu = self->l2.vcpu;
	struct kvm_vcpu_events events;
	struct kvm_sregs sregs;
	struct user_view user;

	vcpu_sregs_get(vcpu, &sregs);
	sregs.cs.dpl = 3;
	sregs.ss.dpl = 3;
	vcpu_sregs_set(vcpu, &sregs);

	vcpu_events_get(vcpu, &events);
	events.flags |= KVM_VCPUEVENT_VALID_SHADOW;
	events.interrupt.shadow = KVM_X86_SHADOW_INT_STI;
	vcpu_events_set(vcpu, &events);

	leave_and_compare(vcpu, variant->leave, &user);
	TEST_ASSERT_EQ(user.sregs.ss.dpl, 3);
	TEST_ASSERT(user.events.interrupt.shadow, "Interrupt shadow is gone");
}

/* L2's control registers, that is, which differ from L1's. */
TEST_F(left_l2, cpu_agrees_with_kvm)
{
	struct kvm_vcpu *vcpu = self->l2.vcpu;
	struct user_view user;

	variant->leave(vcpu);
	take_user_view(vcpu, &user);
	run_to_l2_next(vcpu);
	TEST_ASSERT(!vcpu_in_l2(vcpu), "vCPU still in guest mode");
	if (variant->unpaged)
		return;

	vcpu_run_complete_io(vcpu);
	user.regs = self->l2.l1_regs;
	vcpu_regs_set(vcpu, &user.regs);
	compare_guest_view(vcpu, &user);
}

TEST_F(left_l2, has_l1s_tsc_offset)
{
	struct kvm_vcpu *vcpu = self->l2.vcpu;

	variant->leave(vcpu);
	vcpu_sregs_set(vcpu, &self->l2.l1_sregs);
	vcpu_regs_set(vcpu, &self->l2.l1_regs);
	vcpu_run_to_sync(vcpu, AT_VIEW);

	sync_global_from_guest(vcpu->vm, view);
	TEST_ASSERT(view.tsc_msr >= view.tsc_before && view.tsc_msr <= view.tsc_after,
		    "RDMSR of the TSC is 0x%lx, between RDTSCs of 0x%lx and 0x%lx",
		    view.tsc_msr, view.tsc_before, view.tsc_after);
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
TEST_F(left_l2, loses_page_that_userspace_has_replaced)
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
	copy[vm->page_size - 1] = 0xaa;

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
	vcpu_run_to_sync(vcpu, 0xaa);
}

/* An exception of L2 that is due to exit to L1, as L1 intercepts it, is L2's. */
TEST_F(left_l2, forgets_exception_for_l1)
{
	struct kvm_vcpu *vcpu = self->l2.vcpu;
	union svm_nested_state nested;
	struct kvm_vcpu_events events;

	vcpu_svm_nested_state_get(vcpu, &nested);

	vcpu_events_get(vcpu, &events);
	events.flags |= KVM_VCPUEVENT_VALID_PAYLOAD;
	events.exception.pending = true;
	events.exception.nr = UD_VECTOR;
	vcpu_events_set(vcpu, &events);

	/* KVM_RUN finds out that L1 intercepts it. */
	vcpu_run_complete_io(vcpu);
	vcpu_events_get(vcpu, &events);
	TEST_ASSERT_EQ(events.exception.pending, 1);

	variant->leave(vcpu);
	vcpu_events_get(vcpu, &events);
	TEST_ASSERT(!events.exception.pending && !events.exception.injected,
		    "L2's exception %u is pending after it", events.exception.nr);

	vcpu_set_msr(vcpu, MSR_EFER, vcpu_get_msr(vcpu, MSR_EFER) | EFER_SVME);
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

FIXTURE_VARIANT_ADD(active_l2, no_npt) {
};

FIXTURE_VARIANT_ADD(active_l2, npt) {
	.npt = true,
};

FIXTURE_VARIANT_ADD(active_l2, unpaged) {
	.unpaged = true,
};

FIXTURE_VARIANT_ADD(active_l2, unpaged_npt) {
	.npt = true,
	.unpaged = true,
};

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

TEST_F(active_l2, ends_with_init_and_sipi)
{
	struct kvm_vcpu *vcpu = self->l2.vcpu, *sender = self->l2.other_vcpu;
	struct kvm_sregs sregs;

	vcpu_arch_set_entry_point(sender, l1_send_init_and_sipi);
	vcpu_args_set(sender, 2, vcpu->id, self->l2.low_gpa >> 12);
	vcpu_run_to_done(sender);

	vcpu_run_to_io(vcpu, AT_SIPI);
	TEST_ASSERT(!vcpu_in_l2(vcpu), "vCPU still in guest mode");
	vcpu_sregs_get(vcpu, &sregs);
	TEST_ASSERT_EQ(sregs.cs.base, self->l2.low_gpa);
	TEST_ASSERT_EQ(sregs.efer, 0);
	TEST_ASSERT(!(sregs.cr0 & (X86_CR0_PE | X86_CR0_PG)), "CR0 is 0x%llx", sregs.cr0);
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
TEST_F(active_l2, does_not_run_on_after_it_has_cleared_svme)
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
	TEST_ASSERT(!(vcpu_get_msr(vcpu, MSR_EFER) & EFER_SVME), "EFER.SVME still set");

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
TEST_F(host_may_crash, triple_fault_before_l2_has_run)
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
