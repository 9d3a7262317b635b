// SPDX-License-Identifier: GPL-2.0-only
#include "svm_nested_leave.h"

/* What no code in here changes, or depends on. */
#define USER_RFLAGS		(X86_EFLAGS_AC | X86_EFLAGS_ID)

/* No breakpoint is enabled: bits 8 and 9 do nothing. */
#define USER_DR7		0xd0700

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
};

static struct guest_view view;

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

	/* KVM answers for CR4 and EFER; what the CPU has shows in what it does. */
	view.nx_vector = kvm_asm_safe("testb $0, (%[data])", [data] "r" (nx_data));
	view.xgetbv_vector = xgetbv_safe(0, &view.xcr0);
	GUEST_DONE();
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

	vcpu_run_to_done(vcpu);
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

	regs.rip = (gva_t)guest_take_view;
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
TEST_F_TIMEOUT(left_l2, cpu_agrees_with_kvm, TIMEOUT)
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
	user.regs.rip = (gva_t)guest_take_view;
	vcpu_regs_set(vcpu, &user.regs);
	compare_guest_view(vcpu, &user);
}

int main(int argc, char *argv[])
{
	TEST_REQUIRE(kvm_cpu_has(X86_FEATURE_SVM));

	return test_harness_run(argc, argv);
}
