// SPDX-License-Identifier: GPL-2.0-only
/*
 * Moves a VM from one kvm-amd to another, for "migrate", which exchanges the module in between:
 *
 *   migrate points			prints NAME|OVER|WHAT of each point that a VM is saved at; with
 *					$LAB_LIST anywhere
 *   migrate save POINT FILE		runs a guest to POINT, and writes its memory and vCPU to FILE
 *   migrate restore POINT FILE [OVER]	loads FILE into a new VM, or, as "loadvm" does, into one that is
 *					running what OVER, another FILE, has saved, and runs it on
 *
 * Prints what became of it: "= saved", "= not saved: WHY", "= goes on", or "= " and what was refused, what
 * the guest finds other than it should be, and where it ends; or "= none" if KVM has no such VM.  If an
 * assertion fails, nothing was found out.
 */
#include <sys/time.h>

#include "test_util.h"
#include "kvm_util.h"
#include "processor.h"
#include "apic.h"
#include "smm.h"
#include "svm_util.h"

#define RESET_PAGE_GPA		0xfffff000
#define RESET_PAGE_SLOT		10

/* In L2 without long mode, linear addresses are GPAs; L1 maps the memory as well. */
#define L2_MEM_GPA		0x10000000ul
#define L2_MEM_SLOT		11
#define L2_MEM			((struct l2_memory *)L2_MEM_GPA)
#define L2_VALUE		0x5a5a5a5aU
#define L2_TSC_OFFSET		BIT_ULL(40)

/* Present, writable, accessed, dirty, large. */
#define L2_PDE			0xe3

/* What L1 injects, and what comes by the APIC. */
#define INTR_VECTOR		0x31
#define IRQ_VECTOR		0x32

#define PATTERN			0x5a5aa5a5
#define NO_VALUE		-1ull
#define NR_SPINS		1000
#define NR_VMEXITS		4

/* Where the guest stops: the port of its I/O, EXIT() of another reason, or what became of KVM_RUN otherwise. */
enum {
	AT_POINT	= 0x10,		/* to be saved */
	AT_STEP,			/* before the point's @step */
	AT_L2,				/* L2, past the point */
	AT_DIFFERENCE,			/* has a text in RDI, and a value in RSI */
	AT_RESET,			/* the reset vector */
	AT_END,
	EXIT_BASE	= 0x100,
	HANGS		= 0x200,
	FAILS,
};

#define EXIT(reason)	(EXIT_BASE + (reason))

enum gif_stage {
	GIF_CLEAR,
	GIF_OPENING,
	GIF_OPEN,
};

struct l2_memory {
	u64 pdpt[512];
	u64 pd[512];
	u8 code[PAGE_SIZE];
	u64 data[512];
};

/* All that there is of a vCPU, in KVM's structures. */
struct state {
	u8 cpuid[sizeof(struct kvm_cpuid2) + 256 * sizeof(struct kvm_cpuid_entry2)];
	u8 apic_base[sizeof(struct kvm_msrs) + sizeof(struct kvm_msr_entry)];
	u8 msrs[sizeof(struct kvm_msrs) + 512 * sizeof(struct kvm_msr_entry)];
	struct kvm_lapic_state lapic;
	struct kvm_sregs2 sregs;
	union svm_nested_state nested;
	struct kvm_regs regs;
	struct kvm_xsave xsave;
	struct kvm_xcrs xcrs;
	struct kvm_vcpu_events events;
	struct kvm_mp_state mp_state;
	struct kvm_debugregs debugregs;
};

struct point {
	const char *name;
	const char *what;
	void (*l1)(struct svm_test_data *svm, const struct point *p);
	/* L2's code, or what it has in CR0 and CR4 if it runs without long mode. */
	void (*l2)(void);
	u64 l2_cr0;
	u64 l2_cr4;
	bool npt;
	/* What L1 has in vmcb12, and what L2 has to exit with. */
	u64 intercept;
	u32 exceptions;
	u32 event_inj;
	u64 exit_code;
	/* The event that the guest sends itself with GIF=0. */
	u32 icr;
	/* The point is in the handler of what L1 injects. */
	bool stop_in_handler;
	/* The point is behind this instruction, shortly after AT_STEP. */
	u8 step[3];
	/* What userspace does to the vCPU before it is saved, and to what it has saved. */
	void (*pend)(struct kvm_vcpu *vcpu);
	void (*edit)(struct state *state);
	/* The point of the VM that it is loaded over. */
	const char *over;
	/* Where the guest has to end, if not AT_END; and whether L2 has to go on before. */
	int end;
	bool l2_first;
};

/* The guest's. */
static u64 nr_events;
static u64 event_rip;
static u64 stage;
static bool stop_in_handler;
static u32 l2_icr;

/* The host's: what it has to say. */
static char said[1000];

static noinline void stop(u16 port, const char *text, u64 value)
{
	asm volatile("outb %%al, %%dx" : : "a" (0), "d" (port), "D" (text), "S" (value) : "memory");
}

#define check(cond, text, value)				\
do {								\
	if (!(cond))						\
		stop(AT_DIFFERENCE, text, value);		\
} while (0)

/* Where the VM is saved, by L1 or L2, with state in it that KVM has different ioctls for. */
static noinline void at_point(void)
{
	u64 xmm, dr0, xcr0 = xgetbv(0);

	wrmsr(MSR_LSTAR, PATTERN);
	asm volatile("mov %0, %%dr0" : : "r" (PATTERN + 0ul));
	asm volatile("movq %[in], %%xmm9\n\t"
		     "outb %%al, %%dx\n\t"
		     "movq %%xmm9, %[out]"
		     : [out] "=r" (xmm) : [in] "r" (PATTERN + 0ul), "d" (AT_POINT) : "xmm9", "memory");
	asm volatile("mov %%dr0, %0" : "=r" (dr0));
	check(xmm == PATTERN, "XMM9 is", xmm);
	check(dr0 == PATTERN, "DR0 is", dr0);
	check(rdmsr(MSR_LSTAR) == PATTERN, "LSTAR is", rdmsr(MSR_LSTAR));
	check(xgetbv(0) == xcr0, "XCR0 is", xgetbv(0));
}

static void event_handler(struct ex_regs *regs)
{
	nr_events++;
	event_rip = regs->rip;
	if (regs->vector == IRQ_VECTOR)
		x2apic_write_reg(APIC_EOI, 0);
	if (stop_in_handler)
		at_point();
}

static void force_vmexits(void)
{
	u32 eax, ebx, ecx, edx;
	int i;

	for (i = 0; i < NR_VMEXITS; i++)
		cpuid(0, &eax, &ebx, &ecx, &edx);
}

/* Nothing in here exits on its own: an event that isn't there in the end comes too late. */
static void stgi_and_spin(void)
{
	int i;

	WRITE_ONCE(stage, GIF_OPENING);
	stgi();
	for (i = 0; i < NR_SPINS; i++)
		barrier();
	WRITE_ONCE(stage, GIF_OPEN);
}

static void l1_without_svm(struct svm_test_data *svm, const struct point *p)
{
	u64 gpa = svm->vmcb_gpa;

	at_point();
	check(kvm_asm_safe("vmload %%rax", "a" (gpa)) == UD_VECTOR, "no #UD: VMLOAD", NO_VALUE);
	check(kvm_asm_safe("vmsave %%rax", "a" (gpa)) == UD_VECTOR, "no #UD: VMSAVE", NO_VALUE);
	check(kvm_asm_safe("stgi") == UD_VECTOR, "no #UD: STGI", NO_VALUE);
	check(kvm_asm_safe("clgi") == UD_VECTOR, "no #UD: CLGI", NO_VALUE);
}

static void l1_run_l2(struct svm_test_data *svm, const struct point *p)
{
	struct vmcb_control_area *ctrl = &svm->vmcb->control;
	struct vmcb_save_area *save = &svm->vmcb->save;
	u64 cr0, cr3, cr4, cr4_after, efer, tsc, hsave;

	/* What KVM or the host may want set, but the guest has clear. */
	asm volatile("mov %0, %%cr0" : : "r" (get_cr0() & ~X86_CR0_WP));
	set_cr4(get_cr4() & ~X86_CR4_MCE);

	generic_svm_setup(svm, p->l2);
	ctrl->intercept |= p->intercept;
	ctrl->intercept_exceptions |= p->exceptions;
	ctrl->event_inj = p->event_inj;
	ctrl->tsc_offset = L2_TSC_OFFSET;
	if (p->intercept & BIT_ULL(INTERCEPT_INTR))
		ctrl->int_ctl |= V_INTR_MASKING_MASK;
	if (p->l2_cr0) {
		save->cs.attrib &= ~SVM_SELECTOR_L_MASK;
		save->cs.attrib |= SVM_SELECTOR_DB_MASK;
		save->rip = (u64)L2_MEM->code;
		save->rsp = (u64)&L2_MEM->code[PAGE_SIZE];
		save->cr0 = p->l2_cr0;
		save->cr3 = p->l2_cr0 & X86_CR0_PG ? (u64)L2_MEM->pdpt : 0;
		save->cr4 = p->l2_cr4;
		save->efer = EFER_SVME;
		guest_regs.rbx = (u64)L2_MEM->data;
		guest_regs.rdx = L2_VALUE;
	}
	stop_in_handler = p->stop_in_handler;
	sti();

	cr0 = get_cr0();
	cr3 = get_cr3();
	cr4 = get_cr4();
	efer = rdmsr(MSR_EFER);
	hsave = rdmsr(MSR_VM_HSAVE_PA);
	tsc = rdtsc();

	if (p->step[0] && p->event_inj)
		stop(AT_STEP, NULL, 0);
	run_guest(svm->vmcb, svm->vmcb_gpa);

	/* Without CR4.OSFXSR, there is no SSE. */
	cr4_after = get_cr4();
	set_cr4(cr4);
	check(cr4_after == cr4, "L1's CR4 has changed by", cr4_after ^ cr4);
	check(get_cr0() == cr0, "L1's CR0 has changed by", get_cr0() ^ cr0);
	check(get_cr3() == cr3, "L1's CR3 has changed by", get_cr3() ^ cr3);
	check(rdmsr(MSR_EFER) == efer, "L1's EFER has changed by", rdmsr(MSR_EFER) ^ efer);
	check(rdmsr(MSR_VM_HSAVE_PA) == hsave, "VM_HSAVE_PA is", rdmsr(MSR_VM_HSAVE_PA));
	check(rdtsc() - tsc < L2_TSC_OFFSET / 2, "L1's TSC has changed by", rdtsc() - tsc);
	check(stage != GIF_OPEN, "L2 does not exit at STGI", NO_VALUE);
	check(stage == GIF_OPEN || (u32)ctrl->exit_code == (u32)p->exit_code, "L2 exits with", ctrl->exit_code);
	check(!p->l2_cr0 || READ_ONCE(L2_MEM->data[0]) == L2_VALUE, "L2 has written", L2_MEM->data[0]);

	/* GIF=0 after a #VMEXIT. */
	x2apic_write_reg(APIC_ICR, APIC_INT_ASSERT | APIC_DM_FIXED | IRQ_VECTOR);
	nr_events = 0;
	force_vmexits();
	check(!nr_events, "GIF is set after #VMEXIT", NO_VALUE);
}

static void l2_stop(void)
{
	u64 tsc = rdtsc();

	at_point();
	check(rdtsc() - tsc < L2_TSC_OFFSET / 2, "L2's TSC has changed by", rdtsc() - tsc);
	stop(AT_L2, NULL, 0);
	vmmcall();
}

static void l2_with_event(void)
{
	check(nr_events == 1, "events that reach L2:", nr_events);
	check(event_rip == (u64)l2_with_event, "the event returns to", event_rip);
	vmmcall();
}

static void l1_then_l2(struct svm_test_data *svm, const struct point *p)
{
	set_svme(true);
	at_point();
	l1_run_l2(svm, p);
}

static void l1_gif_event(struct svm_test_data *svm, const struct point *p)
{
	set_svme(true);
	sti();
	clgi();
	x2apic_write_reg(APIC_ICR, APIC_INT_ASSERT | p->icr);
	force_vmexits();
	at_point();
	force_vmexits();
	check(!nr_events, "the event comes before STGI", NO_VALUE);
	stgi_and_spin();
	check(p->end != AT_RESET, "INIT is not taken at STGI", NO_VALUE);
	check(p->end == AT_RESET || nr_events == 1, "events at STGI:", nr_events);
	nr_events = 0;
	force_vmexits();
	check(!nr_events, "events later:", nr_events);
}

/* Nothing is pending when the VM is saved. */
static void l1_gif_without_svme(struct svm_test_data *svm, const struct point *p)
{
	set_svme(true);
	clgi();
	set_svme(false);
	at_point();
	set_svme(true);
	x2apic_write_reg(APIC_ICR, APIC_INT_ASSERT | p->icr);
	force_vmexits();
	check(!nr_events, "GIF is set", NO_VALUE);
	stgi_and_spin();
	check(nr_events == 1, "events at STGI:", nr_events);
}

static void l2_gif_event(void)
{
	clgi();
	x2apic_write_reg(APIC_ICR, APIC_INT_ASSERT | l2_icr);
	force_vmexits();
	at_point();
	force_vmexits();
	stgi_and_spin();
	vmmcall();
}

static void l1_l2_gif_event(struct svm_test_data *svm, const struct point *p)
{
	l2_icr = p->icr;
	l1_run_l2(svm, p);
	check(stage != GIF_CLEAR, "L2 exits before STGI", NO_VALUE);
}

static void l2_clear_svme(void)
{
	u64 efer = rdmsr(MSR_EFER) & ~EFER_SVME;

	stop(AT_STEP, NULL, 0);
	wrmsr(MSR_EFER, efer);
	check(false, "L2's code goes on", NO_VALUE);
	stop(AT_END, NULL, 0);
}

static void l1_main(struct svm_test_data *svm, const struct point *p)
{
	x2apic_enable();
	p->l1(svm, p);
	stop(AT_END, NULL, 0);
}

static void pend_triple_fault(struct kvm_vcpu *vcpu)
{
	struct kvm_vcpu_events events;

	vcpu_events_get(vcpu, &events);
	events.flags |= KVM_VCPUEVENT_VALID_TRIPLE_FAULT;
	events.triple_fault.pending = true;
	vcpu_events_set(vcpu, &events);
}

static void pend_exception(struct kvm_vcpu *vcpu)
{
	struct kvm_vcpu_events events;

	vcpu_events_get(vcpu, &events);
	events.flags |= KVM_VCPUEVENT_VALID_PAYLOAD;
	events.exception.pending = true;
	events.exception.nr = GP_VECTOR;
	events.exception.has_error_code = true;
	vcpu_events_set(vcpu, &events);
}

static int run(struct kvm_vcpu *vcpu);

static void pend_rsm(struct kvm_vcpu *vcpu)
{
	int where;

	inject_smi(vcpu);
	where = run(vcpu);
	TEST_ASSERT(where == SMI_STOP_PORT, "Wanted the SMI handler, got 0x%x", where);
	vcpu_run_complete_io(vcpu);
}

/* KVM looks at CR3 on #VMEXIT only, if L1 uses PAE paging. */
static void edit_l1_cr3(struct state *state)
{
	struct vmcb *vmcb = (void *)state->nested.state.data.svm;

	vmcb->save.efer &= ~(EFER_LME | EFER_LMA);
	vmcb->save.cr3 |= BIT_ULL(63);
}

#define VMRUN			{ 0x0f, 0x01, 0xd8 }
#define WRMSR			{ 0x0f, 0x30 }
#define EVENT(type, vector)	(SVM_EVTINJ_VALID | SVM_EVTINJ_TYPE_##type | (vector))
#define L2_CR0			(X86_CR0_PE | X86_CR0_ET | X86_CR0_NE)

static const struct point points[] = {
	{ "svme0", "L1 with EFER.SVME=0", l1_without_svm },
	{ "l1", "L1, which runs L2 later", l1_then_l2, l2_stop, .exit_code = SVM_EXIT_VMMCALL },
	{ "l2", "L2 active", l1_run_l2, l2_stop, .exit_code = SVM_EXIT_VMMCALL },
	{ "l2-npt", "L2 active, with NPT of L1's", l1_run_l2, l2_stop, .npt = true,
	  .exit_code = SVM_EXIT_VMMCALL },
	{ "l2-unpaged", "L2 active, without paging", l1_run_l2, .l2_cr0 = L2_CR0,
	  .exit_code = SVM_EXIT_VMMCALL },
	{ "l2-pae", "L2 active, with PAE paging", l1_run_l2, .l2_cr0 = L2_CR0 | X86_CR0_PG,
	  .l2_cr4 = X86_CR4_PAE, .exit_code = SVM_EXIT_VMMCALL },
	{ "vmrun-nmi", "VMRUN executed, L2 has yet to run, EVENTINJ: NMI", l1_run_l2, l2_with_event,
	  .event_inj = EVENT(NMI, NMI_VECTOR), .exit_code = SVM_EXIT_VMMCALL, .step = VMRUN },
	{ "vmrun-intr", "the same, EVENTINJ: external interrupt", l1_run_l2, l2_with_event,
	  .event_inj = EVENT(INTR, INTR_VECTOR), .exit_code = SVM_EXIT_VMMCALL, .step = VMRUN },
	{ "vmrun-illegal", "the same, EVENTINJ: illegal, VMRUN has to fail", l1_run_l2, l2_with_event,
	  .event_inj = EVENT(EXEPT, 31), .exit_code = SVM_EXIT_ERR, .step = VMRUN },
	{ "eventinj", "L2 active, in the handler of what L1 has injected", l1_run_l2, l2_with_event,
	  .event_inj = EVENT(NMI, NMI_VECTOR), .exit_code = SVM_EXIT_VMMCALL, .stop_in_handler = true },
	{ "gif0-nmi", "GIF=0, NMI pending", l1_gif_event, .icr = APIC_DM_NMI },
	{ "gif0-smi", "GIF=0, SMI pending", l1_gif_event, .icr = APIC_DM_SMI },
	{ "gif0-irq", "GIF=0, IRQ pending", l1_gif_event, .icr = APIC_DM_FIXED | IRQ_VECTOR },
	{ "gif0-init", "GIF=0, INIT pending", l1_gif_event, .icr = APIC_DM_INIT, .end = AT_RESET },
	{ "gif0-svme0", "GIF=0, EFER.SVME=0", l1_gif_without_svme, .icr = APIC_DM_NMI },
	{ "l2-gif0-irq", "L2 active, GIF=0, IRQ for L1 pending", l1_l2_gif_event, l2_gif_event,
	  .icr = APIC_DM_FIXED | IRQ_VECTOR, .intercept = BIT_ULL(INTERCEPT_INTR), .exit_code = SVM_EXIT_INTR },
	{ "l2-gif0-init", "L2 active, GIF=0, INIT for L1 pending", l1_l2_gif_event, l2_gif_event,
	  .icr = APIC_DM_INIT, .intercept = BIT_ULL(INTERCEPT_INIT), .exit_code = SVM_EXIT_INIT },
	{ "smm", "SMM, entered from L2", l1_run_l2, l2_stop, .exit_code = SVM_EXIT_VMMCALL, .pend = pend_rsm },
	{ "l2-exception", "L2 active, an exception pending that L1 intercepts", l1_run_l2, l2_stop,
	  .exceptions = BIT(GP_VECTOR), .exit_code = SVM_EXIT_EXCP_BASE + GP_VECTOR, .pend = pend_exception },
	{ "l2-triple-fault", "L2 active, a triple fault pending that L1 intercepts", l1_run_l2, l2_stop,
	  .intercept = BIT_ULL(INTERCEPT_SHUTDOWN), .exit_code = SVM_EXIT_SHUTDOWN, .pend = pend_triple_fault },
	{ "l2-clears-svme", "L2 has cleared EFER.SVME", l1_run_l2, l2_clear_svme, .step = WRMSR,
	  .end = EXIT(KVM_EXIT_SHUTDOWN) },
	{ "l1-cr3", "L2 active, L1's CR3 illegal", l1_run_l2, l2_stop, .edit = edit_l1_cr3,
	  .end = EXIT(KVM_EXIT_SHUTDOWN), .l2_first = true },
	{ "loadvm", "L1, loaded over an active L2", l1_then_l2, l2_stop, .exit_code = SVM_EXIT_VMMCALL,
	  .over = "l2" },
	{ "loadvm-unpaged", "L1, loaded over an active L2 without paging", l1_then_l2, l2_stop,
	  .exit_code = SVM_EXIT_VMMCALL, .over = "l2-unpaged" },
	{ "loadvm-svme0", "L1 with EFER.SVME=0, loaded over the same", l1_without_svm, .over = "svme0" },
};

static const struct point *find_point(const char *name)
{
	int i;

	for (i = 0; i < ARRAY_SIZE(points); i++) {
		if (!strcmp(points[i].name, name))
			return &points[i];
	}
	TEST_FAIL("No point '%s'", name);
}

/* Adds to what is said. */
static void __printf(1, 2) add(const char *fmt, ...)
{
	size_t len = strlen(said);
	va_list args;

	if (len && said[len - 1] != ' ')
		len += snprintf(said + len, sizeof(said) - len, "; ");
	va_start(args, fmt);
	vsnprintf(said + len, sizeof(said) - len, fmt, args);
	va_end(args);
}

/* In L2 without long mode. */
static const u8 l2_code[] = {
	0xe6, AT_POINT,		/* out %al, $AT_POINT */
	0x89, 0x13,		/* mov %edx, (%ebx) */
	0xe6, AT_L2,		/* out %al, $AT_L2 */
	0x0f, 0x01, 0xd9,	/* vmmcall */
};

static void enable_caps(struct kvm_vm *vm)
{
	vm_enable_cap(vm, KVM_CAP_EXCEPTION_PAYLOAD, true);
	vm_enable_cap(vm, KVM_CAP_X86_TRIPLE_FAULT_EVENT, true);
}

/* The VM of any point has the same layout, so that one can be loaded over another. */
static struct kvm_vcpu *create(const struct point *p)
{
	static const u8 reset_handler[] = { 0xe6, AT_RESET };
	const int nr_pages = sizeof(struct l2_memory) / PAGE_SIZE;
	struct l2_memory *mem;
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;
	gva_t svm_gva;
	int i;

	vm = vm_create_with_one_vcpu(&vcpu, l1_main);
	enable_caps(vm);
	vm_install_exception_handler(vm, NMI_VECTOR, event_handler);
	vm_install_exception_handler(vm, INTR_VECTOR, event_handler);
	vm_install_exception_handler(vm, IRQ_VECTOR, event_handler);
	setup_smi_stop(vcpu);

	vm_userspace_mem_region_add(vm, VM_MEM_SRC_ANONYMOUS, RESET_PAGE_GPA, RESET_PAGE_SLOT, 1, 0);
	memcpy(addr_gpa2hva(vm, RESET_PAGE_GPA + 0xff0), reset_handler, sizeof(reset_handler));

	vm_userspace_mem_region_add(vm, VM_MEM_SRC_ANONYMOUS, L2_MEM_GPA, L2_MEM_SLOT, nr_pages, 0);
	virt_map(vm, L2_MEM_GPA, L2_MEM_GPA, nr_pages);
	mem = addr_gpa2hva(vm, L2_MEM_GPA);
	mem->pdpt[0] = (L2_MEM_GPA + offsetof(struct l2_memory, pd)) | BIT(0);
	for (i = 0; i < 512; i++)
		mem->pd[i] = (u64)i << 21 | L2_PDE;
	memcpy(mem->code, l2_code, sizeof(l2_code));

	__vcpu_alloc_svm(vm, p->npt, &svm_gva);
	vcpu_args_set(vcpu, 2, svm_gva, p);
	return vcpu;
}

/* Runs the vCPU to its next exit, a port or EXIT(). */
static int run_to_exit(struct kvm_vcpu *vcpu)
{
	if (!__vcpu_run(vcpu))
		return vcpu->run->exit_reason == KVM_EXIT_IO ? vcpu->run->io.port : EXIT(vcpu->run->exit_reason);
	if (errno == EINTR)
		return HANGS;
	add("KVM_RUN: %s", strerrorname_np(errno));
	return FAILS;
}

/* Runs it to its next stop, but for SMIs and differences, which are noted. */
static int run(struct kvm_vcpu *vcpu)
{
	struct kvm_regs regs;
	int where;

	for (;;) {
		where = run_to_exit(vcpu);
		switch (where) {
		case SMI_STOP_PORT:
			/* Before STGI, whoever waits for an SMI wants to know. */
			if (!*(u64 *)addr_gva2hva(vcpu->vm, (gva_t)&stage))
				return SMI_STOP_PORT;
			(*(u64 *)addr_gva2hva(vcpu->vm, (gva_t)&nr_events))++;
			break;
		case AT_DIFFERENCE:
			vcpu_regs_get(vcpu, &regs);
			if (regs.rsi != NO_VALUE)
				add("%s 0x%llx", (char *)regs.rdi, regs.rsi);
			else
				add("%s", (char *)regs.rdi);
			break;
		default:
			return where;
		}
	}
}

static void add_stop(int where)
{
	if (where == HANGS)
		add("the guest hangs");
	else if (where == AT_END)
		add("the guest goes on");
	else if (where == AT_RESET)
		add("the vCPU is reset");
	else if (where >= EXIT_BASE && where < HANGS)
		add("%s", exit_reason_str(where - EXIT_BASE));
	else if (where != FAILS)
		add("the guest stops at 0x%x", where);
}

/* Steps over @insn, which isn't far; returns AT_POINT, or where the guest ends instead. */
static int step(struct kvm_vcpu *vcpu, const u8 *insn)
{
	struct kvm_guest_debug debug = { .control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP };
	struct kvm_regs regs;
	bool there = false;
	int where;

	vcpu_run_complete_io(vcpu);
	vcpu_guest_debug_set(vcpu, &debug);
	do {
		vcpu_regs_get(vcpu, &regs);
		there = !memcmp(addr_gva2hva(vcpu->vm, regs.rip), insn, insn[2] ? 3 : 2);
		where = run_to_exit(vcpu);
	} while (where == EXIT(KVM_EXIT_DEBUG) && !there);
	debug.control = 0;
	vcpu_guest_debug_set(vcpu, &debug);
	return where == EXIT(KVM_EXIT_DEBUG) ? AT_POINT : where;
}

struct part {
	const char *name;
	unsigned long request;
	size_t at;
};

#define PART(request, member)	{ #request, request, offsetof(struct state, member) }

/* The order of QEMU's kvm_arch_get_registers(). */
static const struct part get_order[] = {
	PART(KVM_GET_VCPU_EVENTS, events), PART(KVM_GET_MP_STATE, mp_state), PART(KVM_GET_REGS, regs),
	PART(KVM_GET_XSAVE, xsave), PART(KVM_GET_XCRS, xcrs), PART(KVM_GET_SREGS2, sregs), PART(KVM_GET_MSRS, msrs),
	PART(KVM_GET_MSRS, apic_base), PART(KVM_GET_LAPIC, lapic), PART(KVM_GET_DEBUGREGS, debugregs),
	PART(KVM_GET_NESTED_STATE, nested), PART(KVM_GET_CPUID2, cpuid),
};

/*
 * CPUID is set when QEMU creates the vCPU, the APIC by kvm_apic_put() when its state has been received; the rest is
 * the order of kvm_arch_put_registers() (target/i386/kvm/kvm.c), which gives up at the first that is refused.
 */
static const struct part set_order[] = {
	PART(KVM_SET_CPUID2, cpuid), PART(KVM_SET_MSRS, apic_base), PART(KVM_SET_LAPIC, lapic),
	PART(KVM_SET_SREGS2, sregs), PART(KVM_SET_NESTED_STATE, nested), PART(KVM_SET_REGS, regs),
	PART(KVM_SET_XSAVE, xsave), PART(KVM_SET_XCRS, xcrs), PART(KVM_SET_MSRS, msrs),
	PART(KVM_SET_VCPU_EVENTS, events), PART(KVM_SET_MP_STATE, mp_state), PART(KVM_SET_DEBUGREGS, debugregs),
};

static void get_state(struct kvm_vcpu *vcpu, struct state *state)
{
	const struct kvm_msr_list *list = kvm_get_msr_index_list();
	struct kvm_msrs *msrs = (void *)state->msrs;
	struct kvm_msrs *apic_base = (void *)state->apic_base;
	int i, r;

	memset(state, 0, sizeof(*state));
	state->nested.state.size = sizeof(state->nested);
	((struct kvm_cpuid2 *)state->cpuid)->nent = 256;
	apic_base->nmsrs = 1;
	apic_base->entries[0].index = MSR_IA32_APICBASE;
	for (i = 0; i < list->nmsrs && msrs->nmsrs < 512; i++) {
		struct {
			struct kvm_msrs head;
			struct kvm_msr_entry entry;
		} one = { { .nmsrs = 1 }, { .index = list->indices[i] } };

		if (ioctl(vcpu->fd, KVM_GET_MSRS, &one) == 1)
			msrs->entries[msrs->nmsrs++].index = list->indices[i];
	}

	for (i = 0; i < ARRAY_SIZE(get_order); i++) {
		r = ioctl(vcpu->fd, get_order[i].request, (void *)state + get_order[i].at);
		TEST_ASSERT(r >= 0, "%s: %s", get_order[i].name, strerrorname_np(errno));
	}
}

/* Returns what is refused, or NULL. */
static const struct part *put_state(struct kvm_vcpu *vcpu, struct state *state, bool has_run)
{
	int i, r;

	for (i = has_run; i < ARRAY_SIZE(set_order); i++) {
		void *data = (void *)state + set_order[i].at;

		r = ioctl(vcpu->fd, set_order[i].request, data);
		if (set_order[i].request == KVM_SET_MSRS && r >= 0 && r < ((struct kvm_msrs *)data)->nmsrs) {
			add("MSR 0x%x", ((struct kvm_msrs *)data)->entries[r].index);
			errno = EINVAL;
			r = -1;
		}
		if (r < 0)
			return &set_order[i];
	}
	return NULL;
}

/* FILE is the vCPU, and all pages that aren't empty, with their address. */
static void write_file(struct kvm_vm *vm, struct state *state, const char *name)
{
	static const u8 empty[PAGE_SIZE];
	struct userspace_mem_region *region;
	FILE *file = fopen(name, "w");
	int ctr;
	u64 at;

	TEST_ASSERT(file && fwrite(state, sizeof(*state), 1, file) == 1, "Cannot write %s", name);
	hash_for_each(vm->regions.slot_hash, ctr, region, slot_node) {
		for (at = 0; at < region->region.memory_size; at += PAGE_SIZE) {
			u64 gpa = region->region.guest_phys_addr + at;

			if (!memcmp(region->host_mem + at, empty, PAGE_SIZE))
				continue;
			TEST_ASSERT(fwrite(&gpa, sizeof(gpa), 1, file) == 1 &&
				    fwrite(region->host_mem + at, PAGE_SIZE, 1, file) == 1,
				    "Cannot write %s", name);
		}
	}
	TEST_ASSERT(!fclose(file), "Cannot write %s", name);
}

static void read_file(struct kvm_vm *vm, struct state *state, const char *name)
{
	struct userspace_mem_region *region;
	FILE *file = fopen(name, "r");
	int ctr;
	u64 gpa;

	TEST_ASSERT(file && fread(state, sizeof(*state), 1, file) == 1, "Cannot read %s", name);
	hash_for_each(vm->regions.slot_hash, ctr, region, slot_node)
		memset(region->host_mem, 0, region->region.memory_size);
	while (fread(&gpa, sizeof(gpa), 1, file) == 1)
		TEST_ASSERT(fread(addr_gpa2hva(vm, gpa), PAGE_SIZE, 1, file) == 1, "Cannot read %s", name);
	fclose(file);
}

static void save(const struct point *p, const char *file)
{
	static struct state state;
	struct kvm_vcpu *vcpu;
	int where;

	vcpu = create(p);
	where = run(vcpu);
	if (where == AT_STEP)
		where = step(vcpu, p->step);
	if (where != AT_POINT)
		add_stop(where);
	if (said[0]) {
		printf("= not saved: %s\n", said);
		return;
	}
	vcpu_run_complete_io(vcpu);
	if (p->pend)
		p->pend(vcpu);

	get_state(vcpu, &state);
	if (p->edit)
		p->edit(&state);
	write_file(vcpu->vm, &state, file);
	printf("= saved\n");
}

static void restore(const struct point *p, const char *file, const char *over)
{
	struct kvm_vcpu *vcpu = create(p);
	struct kvm_vm *vm = vcpu->vm;
	static struct state state, reset;
	const struct part *refused;
	bool l2_went_on = false;
	int where;

	kvm_vm_release(vm);
	vcpu = vm_recreate_with_one_vcpu(vm);
	enable_caps(vm);

	if (over) {
		get_state(vcpu, &reset);
		read_file(vm, &state, over);
		refused = put_state(vcpu, &state, false);
		TEST_ASSERT(!refused, "OVER: %s: %s", refused ? refused->name : "", strerrorname_np(errno));
		where = run(vcpu);
		TEST_ASSERT(where == AT_L2 || where == AT_END, "OVER: stops at 0x%x", where);
		vcpu_run_complete_io(vcpu);
		said[0] = 0;
		/* First of all, QEMU resets the VM. */
		refused = put_state(vcpu, &reset, true);
		TEST_ASSERT(!refused, "Reset: %s: %s", refused ? refused->name : "", strerrorname_np(errno));
	}

	read_file(vm, &state, file);
	refused = put_state(vcpu, &state, over);
	if (refused)
		add("%s: %s; as QEMU 7.2 goes on: ", refused->name, strerrorname_np(errno));

	do {
		where = run(vcpu);
		l2_went_on |= where == AT_L2;
	} while (where == AT_POINT || where == AT_L2);
	if (p->l2_first && !l2_went_on)
		add("L2 does not go on");
	if (refused || where != (p->end ?: AT_END))
		add_stop(where);
	if (where == AT_RESET && *(u64 *)addr_gva2hva(vm, (gva_t)&stage) == GIF_CLEAR)
		add("the event comes before STGI");
	printf("= %s\n", said[0] ? said : "goes on");
}

static void on_alarm(int signal)
{
}

int main(int argc, char *argv[])
{
	/* All takes half a second.  From then on, KVM_RUN is interrupted until it is noticed. */
	const struct itimerval patience = { .it_value.tv_sec = 2, .it_interval.tv_sec = 1 };
	const struct sigaction action = { .sa_handler = on_alarm };
	int i;

	sigaction(SIGALRM, &action, NULL);
	setitimer(ITIMER_REAL, &patience, NULL);
	if (argc >= 4 && find_point(argv[2])->npt && !kvm_cpu_has_npt()) {
		printf("= none\n");
		return 0;
	}

	if (argc == 2 && !strcmp(argv[1], "points")) {
		for (i = 0; i < ARRAY_SIZE(points); i++)
			printf("%s|%s|%s\n", points[i].name, points[i].over ?: "", points[i].what);
	} else if (argc == 4 && !strcmp(argv[1], "save")) {
		save(find_point(argv[2]), argv[3]);
	} else if (argc >= 4 && !strcmp(argv[1], "restore")) {
		restore(find_point(argv[2]), argv[3], argv[4]);
	} else {
		TEST_FAIL("Usage: migrate points | save POINT FILE | restore POINT FILE [OVER]");
	}
	return 0;
}
