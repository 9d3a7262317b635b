/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A vCPU whose L1 and L2 execute an operation of svm_nested_model.h each time that it
 * runs, and an L2 in legacy mode as well.
 */
#ifndef SELFTEST_KVM_SVM_NESTED_RANDOM_H
#define SELFTEST_KVM_SVM_NESTED_RANDOM_H

#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "test_util.h"
#include "kvm_util.h"
#include "kvm_test_harness.h"
#include "processor.h"
#include "apic.h"
#include "smm.h"
#include "svm_util.h"
#include "svm_nested_model.h"

#define IRQ_VECTOR		0x30
#define INTR_VECTOR		0x31

#define RESET_PAGE_GPA		0xfffff000
#define RESET_PAGE_SLOT		10
#define IO_PORT			0x20
#define PDPTE_ACCESSED		BIT(5)

#define NR_SPINS		200
#define CODE_SIZE		64
#define LENGTH			500
/* In seconds: for an operation, and to minimise a sequence. */
#define TIMEOUT			2
#define MINIMISE_TIMEOUT	10

/* Shared with the host. */
static struct {
	u32 stage;
	u32 exit_stage;
	u32 vector;
	u32 taken[NR_EVENTS][NR_STAGES];
	void *code[2];
	struct desc_ptr no_idt;
} shared;

static void irq_handler(struct ex_regs *regs)
{
	shared.taken[IRQ][shared.stage]++;
	x2apic_write_reg(APIC_EOI, 0);
}

static void nmi_handler(struct ex_regs *regs)
{
	shared.taken[NMI][shared.stage]++;
}

static void injected_handler(struct ex_regs *regs)
{
	shared.taken[INJECTED][shared.stage]++;
}

static void fault_handler(struct ex_regs *regs)
{
	shared.vector = regs->vector;
	regs->rip = (regs->rip & PAGE_MASK) + CODE_SIZE;
}

/* VMRUN leaves L2's registers but for RSP, and what is below RSP may be in use. */
static noinline void execute(void *code)
{
	asm volatile("lea -128(%%rsp), %%rsp\n\t"
		     "push %%rbp\n\t"
		     "call *%0\n\t"
		     "pop %%rbp\n\t"
		     "lea 128(%%rsp), %%rsp\n\t"
		     : "+a" (code)
		     : : "rbx", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11",
			 "r12", "r13", "r14", "r15", "cc", "memory");
}

/* As L1 doesn't know if L2 was in the handler of an NMI when it exited. */
static noinline void unblock_nmis(void)
{
	asm volatile("lea -128(%%rsp), %%rsp\n\t"
		     "mov %%rsp, %%rcx\n\t"
		     "mov %%ss, %%eax\n\t"
		     "push %%rax\n\t"
		     "push %%rcx\n\t"
		     "pushfq\n\t"
		     "mov %%cs, %%eax\n\t"
		     "push %%rax\n\t"
		     "lea 1f(%%rip), %%rax\n\t"
		     "push %%rax\n\t"
		     "iretq\n\t"
		     "1: lea 128(%%rsp), %%rsp\n\t"
		     : : : "rax", "rcx", "cc", "memory");
}

/* Nothing exits to KVM on its own while the stage is AT_OP, but for the operation. */
static void guest_loop(u16 port)
{
	int i;

	for (;;) {
		for (i = 0; i < NR_SPINS; i++)
			barrier();
		WRITE_ONCE(shared.stage, LATE);
		asm volatile("outb %%al, %%dx" : : "a" (0), "d" (port) : "memory");
		WRITE_ONCE(shared.stage, AT_OP);
		execute(shared.code[port - AT_L1]);
		if (port == AT_L1) {
			WRITE_ONCE(shared.exit_stage, shared.stage);
			unblock_nmis();
		}
	}
}

static void l2_code(void)
{
	guest_loop(AT_L2);
}

static void l1_code(struct svm_test_data *svm, struct svm_test_data *data)
{
	x2apic_enable();
	generic_svm_setup(data, l2_code);
	generic_svm_setup(svm, l2_code);
	set_svme(false);
	guest_loop(AT_L1);
}

struct sequence {
	int nr;
	struct op ops[LENGTH];
};

/* Shared with the child that runs a sequence. */
static struct result {
	struct sequence seq;
	bool differs;
	/* It is an interrupt more than there should be. */
	bool twice;
	char what[200];
} *result;

static struct kvm_vcpu *vcpu;
static typeof(shared) *sh;
static struct svm_test_data *svm, *data;
static struct vmcb good_vmcb;
static u8 *code[2], *legacy_code;
static gpa_t legacy_gpa, stage_gpa;
static u64 *pdptes;
static enum kind in_smm;
static bool left_out[NR_KINDS];
static u64 nr_ops;

/* Of L1, at its first stop, and where it has stopped last. */
static struct kvm_regs start_regs, l1_regs;
static struct kvm_sregs start_sregs, l1_sregs;
static struct kvm_lapic_state start_lapic;
static u64 rsp[2];

static void __printf(1, 2) __noreturn differ(const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	vsnprintf(result->what, sizeof(result->what), fmt, args);
	va_end(args);
	result->differs = true;
	_exit(0);
}

#define check(what, got, want)							\
do {										\
	u64 __got = (got), __want = (want);					\
										\
	if (__got != __want)							\
		differ("%s is 0x%lx, not 0x%lx", what, __got, __want);		\
} while (0)

/* What VMRUN refuses: bits that are cleared, and set. */
static const struct {
	size_t offset;
	u64 clear;
	u64 set;
} bad_vmcbs[NR_BAD] = {
#define FIELD(field, clear, set)	{ offsetof(struct vmcb, field), clear, set }
	[ASID_0]	= FIELD(control.asid, -1u, 0),
	[NO_VMRUN]	= FIELD(control.intercept, BIT_ULL(INTERCEPT_VMRUN), 0),
	[TYPE_1]	= FIELD(control.event_inj, -1u, SVM_EVTINJ_VALID | 0x100 | UD_VECTOR),
	[NMI_EXCEPTION]	= FIELD(control.event_inj, -1u, SVM_EVTINJ_VALID |
				SVM_EVTINJ_TYPE_EXEPT | NMI_VECTOR),
	[NO_SVME]	= FIELD(save.efer, EFER_SVME, 0),
	[NW_NOT_CD]	= FIELD(save.cr0, X86_CR0_CD, X86_CR0_NW),
	[CR4_63]	= FIELD(save.cr4, 0, BIT_ULL(63)),
	[DR7_63]	= FIELD(save.dr7, 0, BIT_ULL(63)),
	[CR3_63]	= FIELD(save.cr3, 0, BIT_ULL(63)),
};

static void write_vmcb(struct model *m, u64 arg)
{
	static const u32 inject[] = {
		[AN_NMI] = SVM_EVTINJ_VALID | SVM_EVTINJ_TYPE_NMI,
		[AN_INTR] = SVM_EVTINJ_VALID | SVM_EVTINJ_TYPE_INTR | INTR_VECTOR,
		[A_DE] = SVM_EVTINJ_VALID | SVM_EVTINJ_TYPE_EXEPT | DE_VECTOR,
	};
	struct vmcb *vmcb = svm->vmcb_hva;
	struct vmcb_control_area *ctrl = &vmcb->control;
	struct vmcb_save_area *save = &vmcb->save;
	struct own own = vmcb_own(m, arg);
	u64 *field;

	*vmcb = good_vmcb;
	if (!(arg & VMCB_NPT))
		ctrl->misc_ctl &= ~SVM_MISC_ENABLE_NP;
	if (arg & VMCB_VLS)
		ctrl->misc_ctl2 |= SVM_MISC2_ENABLE_V_VMLOAD_VMSAVE;
	ctrl->int_ctl = (arg & VMCB_MASKING ? V_INTR_MASKING_MASK : 0) |
			(arg & VMCB_VGIF ? V_GIF_ENABLE_MASK : 0) |
			(vmcb_gif(arg) ? V_GIF_MASK : 0) |
			(vmcb_virq(arg) ? V_IRQ_MASK | V_IGN_TPR_MASK | V_INTR_PRIO_MASK : 0);
	ctrl->int_vector = INTR_VECTOR;
	ctrl->intercept = vmcb_intercepts(arg);
	ctrl->intercept_exceptions = vmcb_exceptions(arg);
	ctrl->event_inj = arg & VMCB_LEGACY ? 0 : inject[INJECT_OF(arg)];

	save->cr0 = own.cr0;
	save->cr3 = own.cr3;
	save->cr4 = own.cr4;
	save->efer = own.efer;
	save->rflags = X86_EFLAGS_FIXED | (own.irqs_on ? X86_EFLAGS_IF : 0);
	if (arg & VMCB_LEGACY) {
		save->cs.attrib ^= SVM_SELECTOR_L_MASK | SVM_SELECTOR_DB_MASK;
		save->rip = legacy_gpa;
	}

	if (BAD_OF(arg) < NR_BAD) {
		field = (void *)vmcb + bad_vmcbs[BAD_OF(arg)].offset;
		*field &= ~bad_vmcbs[BAD_OF(arg)].clear;
		*field |= bad_vmcbs[BAD_OF(arg)].set;
	}
}

static u8 *put_bytes(u8 *p, const void *bytes, size_t size)
{
	return memcpy(p, bytes, size) + size;
}

#define put(p, bytes...)	put_bytes(p, (u8[]){ bytes }, sizeof((u8[]){ bytes }))

static u8 *put32(u8 *p, u32 val)
{
	return put_bytes(p, &val, sizeof(val));
}

/* The same in long mode and in legacy mode. */
static void put_op(u8 *p, const struct op *op, u32 rax, bool long_mode)
{
	static const u8 opcodes[NR_KINDS] = {
		[VMRUN] = 0xd8, [VMMCALL] = 0xd9, [VMLOAD] = 0xda, [VMSAVE] = 0xdb,
		[STGI] = 0xdc, [CLGI] = 0xdd, [SKINIT] = 0xde, [INVLPGA] = 0xdf,
	};
	static const u32 icr[] = {
		APIC_DM_INIT, APIC_DM_SMI, APIC_DM_NMI, APIC_DM_FIXED | IRQ_VECTOR,
	};
	u8 *end = p + CODE_SIZE;

	switch (op->kind) {
	case EFER:
	case SCE:
		p = put(p, 0xb9);					/* mov $MSR_EFER, %ecx */
		p = put32(p, MSR_EFER);
		p = put(p, 0x0f, 0x32);					/* rdmsr */
		/* xor, or, and $, %eax */
		p = put(p, op->kind == SCE ? 0x35 : op->arg ? 0x0d : 0x25);
		p = put32(p, op->kind == SCE ? EFER_SCE : op->arg ? EFER_SVME : ~EFER_SVME);
		p = put(p, 0x0f, 0x30);					/* wrmsr */
		break;
	case TSD:							/* xor $X86_CR4_TSD, %cr4 */
		p = put(p, 0x0f, 0x20, 0xe0, 0x83, 0xf0, X86_CR4_TSD, 0x0f, 0x22, 0xe0);
		break;
	case WP:							/* xor $X86_CR0_WP, %cr0 */
		p = put(p, 0x0f, 0x20, 0xc0, 0x35, 0, 0, 1, 0, 0x0f, 0x22, 0xc0);
		break;
	case HSAVE:
	case SEND_INIT ... SEND_IRQ:
		p = put(p, 0x31, 0xd2, 0xb9);			/* xor %edx, %edx; mov $, %ecx */
		p = put32(p, op->kind == HSAVE ? MSR_VM_HSAVE_PA : APIC_BASE_MSR + 0x30);
		p = put(p, 0xb8);					/* mov $, %eax */
		p = put32(p, op->kind != HSAVE ? APIC_INT_ASSERT | icr[op->kind - SEND_INIT] :
			     op->arg ? svm->save_area_gpa : 0);
		p = put(p, 0x0f, 0x30);					/* wrmsr */
		break;
	case STI:
	case CLI:
		p = put(p, op->kind == STI ? 0xfb : 0xfa);
		break;
	case CPUID:
		p = put(p, 0x0f, 0xa2);
		break;
	case IO:
		p = put(p, 0xe6, IO_PORT);				/* outb %al, $IO_PORT */
		break;
	case TRIPLE_FAULT:
		if (long_mode) {
			p = put(p, 0x0f, 0x01, 0x1c, 0x25);		/* lidt shared.no_idt */
			p = put32(p, (u64)&shared.no_idt);
		}
		fallthrough;
	case UD2:
		p = put(p, 0x0f, 0x0b);
		break;
	case VMRUN ... INVLPGA:
		p = put(p, 0x31, 0xc9, 0xb8);			/* xor %ecx, %ecx; mov $, %eax */
		p = put32(p, rax);
		p = put(p, 0x0f, 0x01, opcodes[op->kind]);
		break;
	default:
		break;
	}
	memset(p, 0x90, end - p);					/* nop */
}

/*
 * QEMU's CPU sets the accessed bit of PDPTEs, which must be zero, whenever it walks page
 * tables for PAE, and KVM refuses them when it loads them again.  All is below 1 GiB.
 */
static u8 *put_clear_accessed(u8 *p, gpa_t pae_cr3)
{
	p = put(p, 0x80, 0x25);						/* andb $, first PDPTE */
	p = put32(p, pae_cr3);
	return put(p, (u8)~PDPTE_ACCESSED);
}

static u8 *put_stage(u8 *p, enum stage stage)
{
	p = put(p, 0xc7, 0x05);						/* movl $, shared.stage */
	p = put32(p, stage_gpa);
	return put32(p, stage);
}

/*
 * L1 and L2 in long mode call it, L2 in legacy mode has it in a guest_loop() of its own.
 * While L2 is active, L1's is VMRUN, behind which it goes on.
 */
static void write_code(struct model *m, const struct op *op, u32 rax)
{
	u8 *p = legacy_code;

	put_op(code[m->l2], op, rax, true);
	put(code[m->l2] + CODE_SIZE, 0xc3);				/* ret */

	p = put(p, 0xb9);						/* mov $NR_SPINS, %ecx */
	p = put32(p, NR_SPINS);
	p = put(p, 0xe2, 0xfe);						/* 1: loop 1b */
	p = put_stage(p, LATE);
	p = put(p, 0xe6, AT_L2);					/* outb %al, $AT_L2 */
	p = put_clear_accessed(p, m->pae_cr3);
	p = put_stage(p, AT_OP);
	p = put_clear_accessed(p, m->pae_cr3);
	put_op(p, op, rax, false);
	p = put(p + CODE_SIZE, 0xe9);					/* jmp legacy_code */
	put32(p, legacy_code - (p + 4));
}

static void set_as_is(enum kind kind)
{
	static const struct {
		u64 get, set;
	} ioctls[NR_KINDS] = {
#define AS_IS(name)	{ KVM_GET_##name, KVM_SET_##name }
		[SREGS] = AS_IS(SREGS), [SREGS2] = AS_IS(SREGS2), [REGS] = AS_IS(REGS),
		[NESTED] = AS_IS(NESTED_STATE), [EVENTS] = AS_IS(VCPU_EVENTS),
		[LAPIC] = AS_IS(LAPIC), [MP_STATE] = AS_IS(MP_STATE),
		[DEBUGREGS] = AS_IS(DEBUGREGS), [XSAVE] = AS_IS(XSAVE), [XCRS] = AS_IS(XCRS),
	};
	static union {
		struct kvm_nested_state nested;
		u8 bytes[3 * PAGE_SIZE];
	} buffer;
	int get, set = 0;

	if (kind == MIGRATE) {
		vcpu = vcpu_migrate(vcpu, NULL);
	} else if (kind == SET_CPUID) {
		vcpu_set_cpuid(vcpu);
	} else if (ioctls[kind].get) {
		buffer.nested.size = sizeof(buffer);
		get = ioctl(vcpu->fd, ioctls[kind].get, &buffer);
		if (!get)
			set = ioctl(vcpu->fd, ioctls[kind].set, &buffer);
		if (get || set)
			differ("%s: %d, %d, errno %d", kinds[kind].name, get, set, errno);
	}
}

static void check_svm(struct model *m)
{
	u16 flags = vcpu_svm_nested_flags(vcpu);

	check("guest mode", !!(flags & KVM_STATE_NESTED_GUEST_MODE), m->l2);
	check("GIF", !!(flags & KVM_STATE_NESTED_GIF_SET), m->gif);
	check("EFER.SVME", vcpu_svme(vcpu), has_svme(m));
}

/* As L1 or L2 had them last, whichever the vCPU has. */
static void check_regs_of(struct model *m, bool l2)
{
	const struct own *own = &m->own[l2];
	struct kvm_sregs sregs;
	struct kvm_regs regs;

	vcpu_sregs_get(vcpu, &sregs);
	check("CR0", sregs.cr0, own->cr0);
	check("CR3", sregs.cr3, own->cr3);
	check("CR4", sregs.cr4, own->cr4);
	check("EFER", sregs.efer, own->efer);

	vcpu_regs_get(vcpu, &regs);
	check("RFLAGS.IF", !!(regs.rflags & X86_EFLAGS_IF), own->irqs_on);
	if (!l2 || !(m->vmcb & VMCB_LEGACY)) {
		rsp[l2] = rsp[l2] ?: regs.rsp;
		check("RSP", regs.rsp, rsp[l2]);
	}
	if (!l2) {
		l1_regs = regs;
		l1_sregs = sregs;
	}
}

static void check_regs(struct model *m)
{
	check_regs_of(m, m->l2);
}

/* As userspace resets a vCPU, whatever it was doing. */
static void reset_vcpu(void)
{
	struct kvm_vcpu_events events = {
		.flags = KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SHADOW |
			 KVM_VCPUEVENT_VALID_SMM,
	};

	vcpu_events_set(vcpu, &events);
	vcpu_sregs_set(vcpu, &start_sregs);
	vcpu_regs_set(vcpu, &start_regs);
	vcpu_set_msr(vcpu, MSR_VM_HSAVE_PA, svm->save_area_gpa);
	vcpu_ioctl(vcpu, KVM_SET_LAPIC, &start_lapic);
	vcpu_svm_nested_flags_set(vcpu, KVM_STATE_NESTED_GIF_SET);
}

/* "SMM has EFER=0", and GIF=1, without which SMIs are not taken. */
static void stop_in_smm(void)
{
	struct model smm = { .gif = true };

	sh->taken[SMI][sh->stage]++;
	check_svm(&smm);
	set_as_is(in_smm);
	check_svm(&smm);
}

static int run_to_stop(void)
{
	struct kvm_run *run;
	struct ucall uc;
	int port;

	for (;;) {
		alarm(TIMEOUT);
		if (__vcpu_run(vcpu))
			differ("KVM_RUN: errno %d", errno);

		run = vcpu->run;
		if (run->exit_reason == KVM_EXIT_SHUTDOWN)
			return AT_SHUTDOWN;
		if (run->exit_reason != KVM_EXIT_IO)
			differ("KVM_RUN: %s", exit_reason_str(run->exit_reason));
		port = run->io.port;
		if (get_ucall(vcpu, &uc) == UCALL_ABORT)
			differ("guest: %.180s", uc.buffer);

		pdptes[0] &= ~PDPTE_ACCESSED;
		vcpu_run_complete_io(vcpu);
		if (port == SMI_STOP_PORT)
			stop_in_smm();
		else if (port != IO_PORT)
			return port;
	}
}

#endif /* SELFTEST_KVM_SVM_NESTED_RANDOM_H */
