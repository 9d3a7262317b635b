/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * KVM's own rules where the CPU relies on them, for the lab only: what has to
 * hold at each VMRUN, and what a switch of VMCBs must not lose.  A rule that is
 * broken says so in the kernel's log, once per process, and changes nothing.
 * Not looked at: whether the CPU is told of a change, i.e. VMCB clean bits.
 */
#ifndef __SVM_RULES_H
#define __SVM_RULES_H

#include <asm/fpu/xcr.h>

#define svm_rule(name, holds, fmt, ...)						\
do {										\
	static pid_t told;							\
										\
	if (unlikely(!(holds)) && told != current->tgid) {			\
		told = current->tgid;						\
		printk(KERN_WARNING "svm-rule: " name ": " fmt " (%s)\n", ##__VA_ARGS__, \
		       is_guest_mode(&svm->vcpu) ? "L2" : "L1");		\
	}									\
} while (0)

/* 7.1 renamed the one and moved the other. */
#ifdef SVM_MISC2_ENABLE_V_VMLOAD_VMSAVE
#define rules_vls_enabled(svm)	((svm)->vmcb->control.misc_ctl2 & SVM_MISC2_ENABLE_V_VMLOAD_VMSAVE)
#define rules_run_pending(svm)	((svm)->vcpu.arch.nested_run_pending)
#else
#define rules_vls_enabled(svm)	((svm)->vmcb->control.virt_ext & VIRTUAL_VMLOAD_VMSAVE_ENABLE_MASK)
#define rules_run_pending(svm)	((svm)->nested.nested_run_pending)
#endif

static bool svm_get_nmi_mask(struct kvm_vcpu *vcpu);

static inline bool rules_intercepts(struct vcpu_svm *svm, u32 bit)
{
	return vmcb_is_intercept(&svm->vmcb->control, bit);
}

/* The root is the MMU's, and the MMU's role is the vCPU's. */
static void rules_mmu(struct vcpu_svm *svm)
{
	struct kvm_vcpu *vcpu = &svm->vcpu;
	union kvm_mmu_page_role role = vcpu->arch.mmu->root_role;
	u64 root = vcpu->arch.mmu->root.hpa;
	u64 runs = npt_enabled ? svm->vmcb->control.nested_cr3 : svm->vmcb->save.cr3;

	svm_rule("mmu-root", VALID_PAGE(root) && !((root ^ runs) & PAGE_MASK & ~sme_me_mask),
		 "%s %llx, the MMU's root is %llx", npt_enabled ? "nested_cr3" : "cr3", runs, root);

	svm_rule("mmu-role", role.guest_mode == is_guest_mode(vcpu),
		 "the root is for guest_mode=%d", role.guest_mode);
}

/* The CPU's control registers are what KVM makes of those that it emulates by. */
static void rules_cpu(struct vcpu_svm *svm)
{
	struct kvm_vcpu *vcpu = &svm->vcpu;
	struct vmcb_save_area *save = &svm->vmcb->save;
	u64 cr0 = vcpu->arch.cr0, cr4 = vcpu->arch.cr4, efer = vcpu->arch.efer | EFER_SVME, runs;

	if (!npt_enabled) {
		if (!(cr0 & X86_CR0_PG))
			cr4 &= ~(X86_CR4_SMEP | X86_CR4_SMAP | X86_CR4_PKE);
		cr0 |= X86_CR0_PG | X86_CR0_WP;
		cr4 |= X86_CR4_PAE;
		efer |= EFER_NX;
		if (!(efer & EFER_LMA))
			efer &= ~EFER_LME;
	}
	cr4 |= cr4_read_shadow() & X86_CR4_MCE;

	/*
	 * TS and MP change without an exit, after which KVM may not have read them; ET is 1 for the CPU; the guest
	 * may have CD and NW, or not.
	 */
	svm_rule("cpu-cr0", !((save->cr0 ^ cr0) & ~(X86_CR0_TS | X86_CR0_MP | X86_CR0_ET | X86_CR0_CD | X86_CR0_NW)),
		 "%llx, by KVM's CR0 it is %llx", save->cr0, cr0);
	svm_rule("cpu-cr4", save->cr4 == cr4, "%llx, by KVM's CR4 it is %llx", save->cr4, cr4);

	/* Without paging, LME may be there or not. */
	runs = save->efer;
	if (!(save->cr0 & X86_CR0_PG)) {
		runs &= ~EFER_LME;
		efer &= ~EFER_LME;
	}
	svm_rule("cpu-efer", runs == efer, "%llx, by KVM's EFER it is %llx", runs, efer);

	if (boot_cpu_has(X86_FEATURE_XSAVE) && save->cr4 & X86_CR4_OSXSAVE)
		svm_rule("cpu-xcr0", xgetbv(XCR_XFEATURE_ENABLED_MASK) == vcpu->arch.xcr0,
			 "%llx, the guest's is %llx", xgetbv(XCR_XFEATURE_ENABLED_MASK), vcpu->arch.xcr0);
}

/* What the CPU is to leave to KVM. */
static void rules_intercepts_set(struct vcpu_svm *svm)
{
	struct kvm_vcpu *vcpu = &svm->vcpu;
	bool vmload = rules_intercepts(svm, INTERCEPT_VMLOAD), vmsave = rules_intercepts(svm, INTERCEPT_VMSAVE);
	bool stgi = rules_intercepts(svm, INTERCEPT_STGI), clgi = rules_intercepts(svm, INTERCEPT_CLGI);

	/* Not virtualised, they are given the host's physical addresses. */
	svm_rule("vls-bit", (vmload && vmsave) || (npt_enabled && rules_vls_enabled(svm)),
		 "VMLOAD and VMSAVE reach the host's memory: intercepts %d, %d, VLS %d", vmload, vmsave,
		 !!rules_vls_enabled(svm));

	svm_rule("insn-intercepts", (vcpu->arch.efer & EFER_SVME) || (vmload && vmsave && stgi && clgi),
		 "EFER.SVME=0, intercepts of VMLOAD %d, VMSAVE %d, STGI %d, CLGI %d", vmload, vmsave, stgi, clgi);

	/* An injection that is under way, or VMRUN, comes before the window. */
	svm_rule("gif-window", stgi || gif_set(svm) || rules_run_pending(svm) ||
		 kvm_test_request(KVM_REQ_EVENT, vcpu) ||
		 !((vcpu->arch.nmi_pending && !svm_get_nmi_mask(vcpu)) ||
		   (vcpu->arch.smi_pending && !is_smm(vcpu))),
		 "STGI is not intercepted, GIF=0, pending NMIs %d, SMI %d", vcpu->arch.nmi_pending,
		 vcpu->arch.smi_pending);
}

static void rules_events(struct vcpu_svm *svm)
{
	struct kvm_vcpu *vcpu = &svm->vcpu;

	svm_rule("l2-state", is_guest_mode(vcpu) || !(vcpu->arch.exception_vmexit.pending ||
						      rules_run_pending(svm) || svm->nmi_l1_to_l2),
		 "exception_vmexit %d, nested_run_pending %d, nmi_l1_to_l2 %d",
		 vcpu->arch.exception_vmexit.pending, rules_run_pending(svm), svm->nmi_l1_to_l2);
}

/* Whether a flush that was asked for while @vmcb was current is only done when it runs. */
static bool rules_flush_recorded(struct vcpu_svm *svm, struct kvm_vmcb_info *vmcb)
{
	if (!vmcb->ptr || vmcb->cpu != svm->vcpu.cpu || svm->vcpu.cpu < 0)
		return false;
	return vmcb->ptr->control.tlb_ctl != TLB_CONTROL_DO_NOTHING ||
	       vmcb->asid_generation != per_cpu_ptr(&svm_data, vmcb->cpu)->asid_generation;
}

static void rules_vmrun(struct kvm_vcpu *vcpu)
{
	struct vcpu_svm *svm = to_svm(vcpu);

	if (vcpu->arch.guest_state_protected)
		return;

	rules_mmu(svm);
	rules_cpu(svm);
	rules_intercepts_set(svm);
	rules_events(svm);

	/* L1 and L2 have one ASID. */
	svm_rule("asid-flush", !svm->rules.flush_recorded || svm->asid != svm->rules.asid ||
		 svm->current_vmcb->asid_generation != svm->rules.asid_generation ||
		 svm->vmcb->control.tlb_ctl != TLB_CONTROL_DO_NOTHING,
		 "a flush of ASID %d was recorded in the other VMCB, and is not done", svm->asid);
	svm->rules.flush_recorded = false;
	svm->rules.asid = svm->asid;
	svm->rules.asid_generation = svm->current_vmcb->asid_generation;
}

static void rules_switch_vmcb(struct vcpu_svm *svm, struct kvm_vmcb_info *to)
{
	if (svm->current_vmcb && svm->current_vmcb != to && rules_flush_recorded(svm, svm->current_vmcb))
		svm->rules.flush_recorded = true;
}

#endif
