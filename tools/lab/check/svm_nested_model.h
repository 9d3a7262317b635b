/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What L1, L2 and userspace can do, and a model of what has to come of it: of a vCPU
 * with SVM, its GIF and events, by AMD's manual (APM, volume 2, chapter 15), and where
 * that leaves it to KVM, by Documentation/virt/kvm/x86/nested-svm.rst.  Quotes are the
 * APM's rules in short.
 */
#ifndef SELFTEST_KVM_SVM_NESTED_MODEL_H
#define SELFTEST_KVM_SVM_NESTED_MODEL_H

#include "processor.h"
#include "svm_util.h"

enum { L1, L2 };

/* Where the vCPU stops: at ports, but for KVM_EXIT_SHUTDOWN. */
enum {
	AT_L1 = 0x10,
	AT_L2,
	AT_RESET,
	AT_SHUTDOWN,
};

/* In the order in which they are taken.  INJECTED is what EVENTINJ has. */
enum event { INIT, SMI, NMI, IRQ, INJECTED, NR_EVENTS };

/* When: as the vCPU goes on, at its operation, or at an exit to KVM after that. */
enum stage { BEFORE, AT_OP, LATE, NR_STAGES };

enum kind {
	/* Instructions of L1 or L2, whichever the vCPU is in. */
	NOP, EFER, SCE, TSD, WP, HSAVE, VMRUN, VMMCALL, VMLOAD, VMSAVE, STGI, CLGI, SKINIT,
	INVLPGA, STI, CLI, SEND_INIT, SEND_SMI, SEND_NMI, SEND_IRQ, CPUID, IO, UD2, TRIPLE_FAULT,
	/* Userspace's, while the vCPU is stopped. */
	SREGS_EFER, MSRS_EFER, SET_GIF, RAISE_SMI, RAISE_NMI, RAISE_IRQ, IN_SMM, DIRTY_LOG,
	/* ... what it reads is set as it is. */
	SREGS, SREGS2, REGS, NESTED, EVENTS, LAPIC, MP_STATE, DEBUGREGS, XSAVE, XCRS, SET_CPUID,
	MIGRATE,
	NR_KINDS,
};

struct op {
	enum kind kind;
	u64 arg;
};

/* How often, and how many arguments there are. */
static const struct {
	const char *name;
	u32 weight;
	u64 nr_args;
} kinds[NR_KINDS] = {
	[NOP]		= { "nop", 4 },
	[EFER]		= { "efer", 3, 2 },		/* EFER.SVME is 0 or 1 */
	[SCE]		= { "sce", 2 },			/* EFER.SCE, CR4.TSD, CR0.WP change */
	[TSD]		= { "tsd", 2 },
	[WP]		= { "wp", 2 },
	[HSAVE]		= { "hsave", 1, 2 },		/* VM_HSAVE_PA is 0, or not */
	[VMRUN]		= { "vmrun", 12, BIT_ULL(33) },
	[VMMCALL]	= { "vmmcall", 3 },
	[VMLOAD]	= { "vmload", 4 },
	[VMSAVE]	= { "vmsave", 4 },
	[STGI]		= { "stgi", 12 },
	[CLGI]		= { "clgi", 8 },
	[SKINIT]	= { "skinit", 1 },
	[INVLPGA]	= { "invlpga", 3 },
	[STI]		= { "sti", 5 },
	[CLI]		= { "cli", 4 },
	[SEND_INIT]	= { "init", 2 },		/* sent to itself, by ICR */
	[SEND_SMI]	= { "smi", 4 },
	[SEND_NMI]	= { "nmi", 6 },
	[SEND_IRQ]	= { "irq", 8 },
	[CPUID]		= { "cpuid", 3 },
	[IO]		= { "io", 3 },
	[UD2]		= { "ud2", 2 },
	[TRIPLE_FAULT]	= { "triple-fault", 1 },
	[SREGS_EFER]	= { "sregs-efer", 3, 2 },	/* EFER.SVME is 0 or 1 */
	[MSRS_EFER]	= { "msrs-efer", 3, 2 },
	[SET_GIF]	= { "set-gif", 3, 2 },		/* nested state of L1 with GIF=0 or 1 */
	[RAISE_SMI]	= { "raise-smi", 3 },
	[RAISE_NMI]	= { "raise-nmi", 4 },
	[RAISE_IRQ]	= { "raise-irq", 4 },
	[IN_SMM]	= { "in-smm", 2, NR_KINDS },	/* what to do at the next SMIs */
	[DIRTY_LOG]	= { "dirty-log", 1, 2 },
	[SREGS]		= { "sregs", 3 },
	[SREGS2]	= { "sregs2", 3 },
	[REGS]		= { "regs", 2 },
	[NESTED]	= { "nested", 4 },
	[EVENTS]	= { "events", 3 },
	[LAPIC]		= { "lapic", 2 },
	[MP_STATE]	= { "mp-state", 2 },
	[DEBUGREGS]	= { "debugregs", 1 },
	[XSAVE]		= { "xsave", 1 },
	[XCRS]		= { "xcrs", 1 },
	[SET_CPUID]	= { "cpuid2", 2 },
	[MIGRATE]	= { "migrate", 1 },
};

/* VMRUN's argument is what L1 has in VMCB12: bits, intercepts, and numbers. */
#define VMCB_NPT	BIT(0)
#define VMCB_MASKING	BIT(1)
#define VMCB_VGIF	BIT(2)
#define VMCB_GIF	BIT(3)		/* V_GIF */
#define VMCB_VLS	BIT(4)
#define VMCB_IF		BIT(5)
#define VMCB_UD		BIT(6)		/* intercepts of exceptions */
#define VMCB_GP		BIT(7)
#define VMCB_LEGACY	BIT(29)		/* no long mode: no paging, or PAE paging */
#define VMCB_PAE	BIT(30)
#define VMCB_VIRQ	BIT_ULL(31)
#define VMCB_VINTR	BIT_ULL(32)	/* its intercept */

#define VMCB_INTERCEPTS		GENMASK(22, 6)
#define VMCB_INTERCEPT(i)	BIT(8 + (i))

static const u8 intercepts[] = {
	INTERCEPT_INTR, INTERCEPT_NMI, INTERCEPT_SMI, INTERCEPT_INIT, INTERCEPT_VMMCALL,
	INTERCEPT_VMLOAD, INTERCEPT_VMSAVE, INTERCEPT_STGI, INTERCEPT_CLGI, INTERCEPT_INVLPGA,
	INTERCEPT_CPUID, INTERCEPT_IOIO_PROT, INTERCEPT_MSR_PROT, INTERCEPT_SKINIT,
	INTERCEPT_SHUTDOWN,
};

enum inject { NOTHING, AN_NMI, AN_INTR, A_DE };

#define VMCB_INJECT	GENMASK(24, 23)
#define INJECT_OF(vmcb)	(((vmcb) & VMCB_INJECT) >> 23)

/* What VMRUN refuses, if there is something with this number. */
enum bad {
	NONE, ASID_0, NO_VMRUN, TYPE_1, NMI_EXCEPTION, NO_SVME, NW_NOT_CD, CR4_63, DR7_63, CR3_63,
	MISALIGNED, NR_BAD,
};

#define VMCB_BAD	GENMASK(28, 25)
#define BAD_OF(vmcb)	(((vmcb) & VMCB_BAD) >> 25)

#define NO_EXIT		0x5a5a5a5aU

struct model {
	/* The vCPU, and what L1 and L2 have of their own. */
	bool l2;
	bool gif;
	bool hsave;
	bool pending[NR_EVENTS];
	struct own {
		u64 cr0, cr3, cr4, efer;
		bool irqs_on;
	} own[2];
	/* VMCB12. */
	u64 vmcb;
	bool v_gif;
	bool v_irq;

	/* Constants: where L1 starts, and page tables for PAE. */
	struct own start;
	u64 pae_cr3;

	/* What comes of an operation: stop, exception, #VMEXIT, events. */
	enum stage stage;
	int stop;
	u32 vector;
	u32 exit_code;
	enum stage exit_stage;
	u32 taken[NR_EVENTS][NR_STAGES];
	bool moved;
};

static bool has_svme(struct model *m)
{
	return m->own[L1].efer & EFER_SVME;
}

static u64 vmcb_intercepts(u64 vmcb)
{
	u64 intercept = BIT_ULL(INTERCEPT_VMRUN);
	int i;

	for (i = 0; i < ARRAY_SIZE(intercepts); i++) {
		if (vmcb & VMCB_INTERCEPT(i))
			intercept |= BIT_ULL(intercepts[i]);
	}
	if (vmcb & VMCB_VINTR)
		intercept |= BIT_ULL(INTERCEPT_VINTR);

	/* KVM's errata: with V_GIF=0, an interrupt may wait. */
	if (vmcb & VMCB_VGIF && !(vmcb & VMCB_MASKING))
		intercept |= BIT_ULL(INTERCEPT_CLGI);

	/* No IDT; and KVM's errata: SVM instructions want paging. */
	if (vmcb & VMCB_LEGACY)
		intercept |= BIT_ULL(INTERCEPT_INTR) | BIT_ULL(INTERCEPT_NMI) |
			     GENMASK_ULL(INTERCEPT_CLGI, INTERCEPT_VMRUN) |
			     BIT_ULL(INTERCEPT_INVLPGA);
	return intercept;
}

static u64 vmcb_exceptions(u64 vmcb)
{
	if (vmcb & VMCB_LEGACY)
		return BIT(UD_VECTOR) | BIT(GP_VECTOR);

	return (vmcb & VMCB_UD ? BIT(UD_VECTOR) : 0) | (vmcb & VMCB_GP ? BIT(GP_VECTOR) : 0);
}

/* KVM's errata, as above. */
static bool vmcb_gif(u64 vmcb)
{
	return vmcb & VMCB_GIF || (vmcb & VMCB_VGIF && !(vmcb & VMCB_MASKING));
}

static bool vmcb_virq(u64 vmcb)
{
	return vmcb & VMCB_VIRQ && !(vmcb & VMCB_LEGACY);
}

/* In long mode, L2 has L1's registers. */
static struct own vmcb_own(struct model *m, u64 vmcb)
{
	struct own own = m->own[L1];

	if (vmcb & VMCB_LEGACY) {
		if (!(vmcb & VMCB_PAE))
			own.cr0 &= ~X86_CR0_PG;
		own.cr3 = vmcb & VMCB_PAE ? m->pae_cr3 : 0;
		own.efer &= ~(EFER_LME | EFER_LMA);
	}
	own.irqs_on = vmcb & VMCB_IF;
	return own;
}

/* "Processor initialization: EFER.SVME=0, GIF=1", and nothing is pending.  L1 starts anew. */
static void model_reset(struct model *m, int stop)
{
	m->l2 = false;
	m->gif = true;
	m->hsave = true;
	memset(m->pending, 0, sizeof(m->pending));
	m->own[L1] = m->start;
	m->stop = stop;
}

/* "#VMEXIT clears GIF and reloads the host's CR0, CR3, CR4, EFER, RFLAGS, RSP." */
static void model_vmexit(struct model *m, u32 exit_code)
{
	m->l2 = false;
	m->gif = false;
	m->exit_code = exit_code;
	m->exit_stage = m->stage;
}

/* The operation ends where L2 is left, or the vCPU is reset. */
static bool model_is_over(struct model *m)
{
	return m->exit_code != NO_EXIT || m->stop > AT_L2;
}

/* "If the guest's VMCB has an intercept, what is intercepted is a #VMEXIT instead." */
static bool model_intercepts(struct model *m, int intercept)
{
	if (!m->l2 || !(vmcb_intercepts(m->vmcb) & BIT_ULL(intercept)))
		return false;

	model_vmexit(m, SVM_EXIT_INTR + intercept);
	return true;
}

/* "Exception intercepts: #VMEXIT(EXCP_BASE + vector)" before there is a handler. */
static void model_exception(struct model *m, u8 vector)
{
	if (m->l2 && vmcb_exceptions(m->vmcb) & BIT(vector))
		model_vmexit(m, SVM_EXIT_EXCP_BASE + vector);
	else
		m->vector = vector;
}

/* "With V_INTR_MASKING, the host's RFLAGS.IF masks interrupts"; handlers have IF=0. */
static bool model_irqs_on(struct model *m, bool in_handler)
{
	if (m->l2 && m->vmcb & VMCB_MASKING)
		return m->own[L1].irqs_on;

	return m->own[m->l2].irqs_on && !in_handler;
}

/* "A virtual interrupt is taken if the guest's RFLAGS.IF and V_GIF, or GIF, are 1." */
static bool model_virq_is_on(struct model *m, bool in_handler)
{
	return m->l2 && m->v_irq && m->own[L2].irqs_on && !in_handler &&
	       (m->vmcb & VMCB_VGIF ? m->v_gif : m->gif);
}

/*
 * Between two instructions: "GIF=0 holds INIT, SMI, NMI and interrupts pending.  What
 * is intercepted exits before it is taken, and stays pending.  An NMI blocks others up
 * to IRET."  @handlers are those entered whose first instruction hasn't run yet: of what
 * L2 has not begun to handle when it exits, L1 sees nothing.
 */
static void model_take_events(struct model *m, enum inject inject)
{
	enum event handlers[NR_EVENTS + 1];
	bool nmi_blocked = false;
	int nr = 0;

	if (inject)
		handlers[nr++] = inject == AN_NMI ? NMI : INJECTED;

	for (;;) {
		if (m->gif && m->pending[INIT]) {
			if (!model_intercepts(m, INTERCEPT_INIT))
				model_reset(m, AT_RESET);
			return;
		} else if (m->gif && m->pending[SMI]) {
			if (model_intercepts(m, INTERCEPT_SMI))
				return;
			m->pending[SMI] = false;
			m->taken[SMI][m->stage]++;
		} else if (m->gif && m->pending[NMI] && !nmi_blocked) {
			if (model_intercepts(m, INTERCEPT_NMI))
				return;
			m->pending[NMI] = false;
			nmi_blocked = true;
			handlers[nr++] = NMI;
		} else if (m->gif && m->pending[IRQ] && model_irqs_on(m, nr)) {
			if (model_intercepts(m, INTERCEPT_INTR))
				return;
			m->pending[IRQ] = false;
			handlers[nr++] = IRQ;
		} else if (model_virq_is_on(m, nr)) {
			if (model_intercepts(m, INTERCEPT_VINTR))
				return;
			m->v_irq = false;
			handlers[nr++] = INJECTED;
		} else if (nr) {
			nmi_blocked = false;
			m->taken[handlers[--nr]][m->stage]++;
		} else {
			return;
		}
	}
}

/*
 * "VMRUN is #UD if EFER.SVME=0, #GP if rAX is not the address of a page", and for KVM,
 * if VM_HSAVE_PA is 0.  "If the guest's state is illegal, #VMEXIT(INVALID)", which has
 * GIF=0 as any.  "Otherwise GIF is set", and EVENTINJ's event precedes those pending.
 */
static void model_vmrun(struct model *m, u64 vmcb)
{
	enum bad bad = BAD_OF(vmcb);

	if (!has_svme(m)) {
		model_exception(m, UD_VECTOR);
	} else if (!m->hsave || bad == MISALIGNED) {
		model_exception(m, GP_VECTOR);
	} else if (bad != NONE && bad < NR_BAD) {
		model_vmexit(m, (u32)SVM_EXIT_ERR);
	} else {
		m->own[L2] = vmcb_own(m, vmcb);
		m->vmcb = vmcb;
		m->v_gif = vmcb_gif(vmcb);
		m->v_irq = vmcb_virq(vmcb);
		m->l2 = true;
		m->gif = true;
		model_take_events(m, vmcb & VMCB_LEGACY ? NOTHING : INJECT_OF(vmcb));
	}
}

/* "SVM instructions are #UD if EFER.SVME=0."  Returns true if there is more to it. */
static bool model_svm_insn(struct model *m, int intercept)
{
	if (has_svme(m))
		return !model_intercepts(m, intercept);

	model_exception(m, UD_VECTOR);
	return false;
}

/* "STGI sets GIF, CLGI clears it", in L2 with virtual GIF: V_GIF. */
static void model_set_gif(struct model *m, int intercept, bool gif)
{
	if (!model_svm_insn(m, intercept))
		return;

	if (m->l2 && m->vmcb & VMCB_VGIF)
		m->v_gif = gif;
	else
		m->gif = gif;
}

/*
 * "GIF is not affected" by EFER.SVME.  "Undefined if it is cleared while a guest runs":
 * KVM shuts L1 down if L1 doesn't intercept the write, with an INIT.
 */
static void model_write_efer(struct model *m, u64 efer)
{
	if (model_intercepts(m, INTERCEPT_MSR_PROT))
		return;

	if (m->l2 && !(efer & EFER_SVME))
		model_reset(m, AT_SHUTDOWN);
	else
		m->own[m->l2].efer = efer;
}

/* #UD without an IDT is #GP, #DF and "shutdown, which may be intercepted". */
static void model_triple_fault(struct model *m)
{
	if (m->l2 && vmcb_exceptions(m->vmcb) & BIT(UD_VECTOR))
		model_exception(m, UD_VECTOR);
	else if (m->l2 && vmcb_exceptions(m->vmcb) & BIT(GP_VECTOR))
		model_exception(m, GP_VECTOR);
	else if (!model_intercepts(m, INTERCEPT_SHUTDOWN))
		model_reset(m, AT_SHUTDOWN);
}

static void model_execute(struct model *m, const struct op *op)
{
	struct own *own = &m->own[m->l2];

	switch (op->kind) {
	case EFER:
		return model_write_efer(m, efer_set_svme(own->efer, op->arg));
	case SCE:
		return model_write_efer(m, own->efer ^ EFER_SCE);
	case TSD:
		own->cr4 ^= X86_CR4_TSD;
		return;
	case WP:
		own->cr0 ^= X86_CR0_WP;
		return;
	case HSAVE:
		m->hsave = op->arg;
		return;
	case VMRUN:
		/* "VMRUN has to be intercepted", or VMRUN itself is refused. */
		if (!model_intercepts(m, INTERCEPT_VMRUN))
			model_vmrun(m, op->arg);
		return;
	case VMMCALL:
		/* L1's calls are KVM's.  "#UD if VMMCALL is not intercepted." */
		if (m->l2 && !model_intercepts(m, INTERCEPT_VMMCALL))
			model_exception(m, UD_VECTOR);
		return;
	case VMLOAD:
		m->moved = model_svm_insn(m, INTERCEPT_VMLOAD);
		return;
	case VMSAVE:
		m->moved = model_svm_insn(m, INTERCEPT_VMSAVE);
		return;
	case STGI:
		return model_set_gif(m, INTERCEPT_STGI, true);
	case CLGI:
		return model_set_gif(m, INTERCEPT_CLGI, false);
	case INVLPGA:
		model_svm_insn(m, INTERCEPT_INVLPGA);
		return;
	case SKINIT:
		/* "#UD if not supported", which comes before the intercept. */
	case UD2:
		return model_exception(m, UD_VECTOR);
	case STI:
	case CLI:
		own->irqs_on = op->kind == STI;
		return;
	case SEND_INIT ... SEND_IRQ:
		m->pending[INIT + op->kind - SEND_INIT] = true;
		return;
	case CPUID:
		model_intercepts(m, INTERCEPT_CPUID);
		return;
	case IO:
		model_intercepts(m, INTERCEPT_IOIO_PROT);
		return;
	case TRIPLE_FAULT:
		return model_triple_fault(m);
	default:
		return;
	}
}

static void model_guest(struct model *m, const struct op *op)
{
	m->stop = AT_L1;
	m->vector = 0;
	m->exit_code = NO_EXIT;
	memset(m->taken, 0, sizeof(m->taken));
	m->moved = false;

	m->stage = BEFORE;
	model_take_events(m, NOTHING);
	m->stage = AT_OP;
	if (!model_is_over(m))
		model_execute(m, op);
	if (!model_is_over(m))
		model_take_events(m, NOTHING);
	if (!model_is_over(m) || m->exit_code != NO_EXIT)
		m->stop = m->l2 ? AT_L2 : AT_L1;
}

/* KVM's documentation: L2 is left, with GIF=1, or GIF as userspace loads it. */
static void model_userspace(struct model *m, const struct op *op)
{
	switch (op->kind) {
	case SREGS_EFER ... MSRS_EFER:
		m->own[L1].efer = efer_set_svme(m->own[L1].efer, op->arg);
		m->own[L2].efer = efer_set_svme(m->own[L2].efer, op->arg);
		if (m->l2 && !op->arg) {
			m->l2 = false;
			m->gif = true;
		}
		return;
	case SET_GIF:
		m->l2 = false;
		m->gif = op->arg;
		return;
	case RAISE_SMI ... RAISE_IRQ:
		m->pending[SMI + op->kind - RAISE_SMI] = true;
		return;
	default:
		return;
	}
}

/* What is left out, as there is no telling what should come of it, or KVM's errata say so. */
static bool model_has(struct model *m, const struct op *op)
{
	switch (op->kind) {
	case SEND_NMI:
	case RAISE_NMI:
		/* KVM has up to two NMIs pending. */
		return !m->pending[NMI];
	case HSAVE:
		/* L1 would not survive L2's. */
		return !m->l2;
	case VMRUN:
		/* CPUs differ in whether they look at rAX before an intercept. */
		return (!m->l2 && has_svme(m)) || BAD_OF(op->arg) != MISALIGNED;
	case IN_SMM:
		return op->arg == NOP || op->arg >= SREGS;
	case MP_STATE:
	case MIGRATE:
		/* KVM_GET_MP_STATE takes an INIT that does not have to wait. */
		return !m->gif || !m->pending[INIT];
	default:
		return true;
	}
}

#endif /* SELFTEST_KVM_SVM_NESTED_MODEL_H */
