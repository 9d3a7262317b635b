/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A guest that executes one of the SVM instructions, and asserts that it #UDs or
 * does its work, as EFER.SVME says; for the tests that change EFER.SVME.
 */
#ifndef SELFTEST_KVM_SVM_INSN_H
#define SELFTEST_KVM_SVM_INSN_H

#include "apic.h"
#include "kvm_test_harness.h"
#include "kvm_util.h"
#include "processor.h"
#include "svm_util.h"
#include "test_util.h"

#define NR_ROUNDS	3

#define STGI_LENGTH	3

#define POISON		0xa5
#define POISON_U64	0xa5a5a5a5a5a5a5a5ull

/*
 * MSRs that VMLOAD and VMSAVE move: two values for each that are valid on every
 * CPU, and the bits that must be moved.  KVM leaves it to the CPU to drop bits
 * 63:32 of a SYSENTER_ESP that comes out of a VMCB, so those are not tested.
 */
static const struct vmload_msr {
	u32 msr;
	u32 field;
	u64 a, b;
	u64 moved;
} vmload_msrs[] = {
#define VMLOAD_MSR(_msr, _field, _a, _b, _moved)				\
	{ _msr, offsetof(struct vmcb, save._field), _a, _b, _moved }
	VMLOAD_MSR(MSR_STAR, star, 0x0023001000000000, 0x0033002000000000, -1ull),
	VMLOAD_MSR(MSR_LSTAR, lstar, 0x710000001000, 0x0e0000002000, -1ull),
	VMLOAD_MSR(MSR_CSTAR, cstar, 0x710000001100, 0x0e0000002200, -1ull),
	VMLOAD_MSR(MSR_SYSCALL_MASK, sfmask, 0x100, 0x200, -1ull),
	VMLOAD_MSR(MSR_KERNEL_GS_BASE, kernel_gs_base, 0x710000001110, 0x0e0000002220, -1ull),
	VMLOAD_MSR(MSR_IA32_SYSENTER_CS, sysenter_cs, 0x10, 0x20, -1ull),
	VMLOAD_MSR(MSR_IA32_SYSENTER_ESP, sysenter_esp, 0x710000001300, 0x2300, -1u),
	VMLOAD_MSR(MSR_IA32_SYSENTER_EIP, sysenter_eip, 0x710000001400, 0x0e0000002400, -1u),
};

/* Commands of the host for the next round of the guest's loop. */
static bool svme;
static bool l1_writes_efer;

static int nr_nmis;
static u64 nmi_offset;

static void guest_nmi_handler(struct ex_regs *regs)
{
	nr_nmis++;

	/* R10 has the address of the instruction run by kvm_asm_safe(). */
	nmi_offset = regs->rip - regs->r10;
}

static void send_nmi_to_self(void)
{
	WRITE_ONCE(nr_nmis, 0);
	x2apic_write_reg(APIC_ICR, APIC_INT_ASSERT | APIC_DM_NMI);
}

/* VMLOAD, VMSAVE and VMRUN access the VMCB behind the compiler's back. */
#define svm_insn_safe(insn, rax)						\
({										\
	u8 __vector;								\
										\
	barrier();								\
	__vector = kvm_asm_safe(insn, "a"(rax), "c"(0));			\
	barrier();								\
	__vector;								\
})

static void assert_vector(u8 got)
{
	u8 want = svme ? 0 : UD_VECTOR;

	__GUEST_ASSERT(got == want, "Wanted %s with EFER.SVME=%u, got %s",
		       ex_str(want), svme, ex_str(got));
}

/* Exits without a change to any GPR, as L1 does not switch GPRs around VMRUN. */
static void l2_guest_code(void)
{
	asm volatile("vmmcall");
}

static void guest_vmrun(struct svm_test_data *svm)
{
	struct vmcb *vmcb = svm->vmcb;

	if (svme)
		generic_svm_setup(svm, l2_guest_code);

	vmcb->control.exit_code = POISON_U64;
	assert_vector(svm_insn_safe("vmrun %%rax", svm->vmcb_gpa));

	GUEST_ASSERT_EQ(vmcb->control.exit_code, svme ? SVM_EXIT_VMMCALL : POISON_U64);

	/* #VMEXIT cleared GIF, which would block the INIT or SMI of the host. */
	if (svme)
		stgi();
}

static void assert_moved(const struct vmload_msr *m, u64 got, u64 want)
{
	/*
	 * It depends on the CPU if bits 63:32 of SYSENTER_{ESP,EIP} exist.  For
	 * an Intel-compatible vCPU, KVM has them, but does not move them.
	 */
	if (!this_cpu_is_intel()) {
		got &= m->moved;
		want &= m->moved;
	}

	__GUEST_ASSERT(got == want, "MSR 0x%x with EFER.SVME=%u: wanted 0x%lx, got 0x%lx",
		       m->msr, svme, want, got);
}

static void guest_vmload(struct svm_test_data *svm)
{
	u64 old[ARRAY_SIZE(vmload_msrs)];
	const struct vmload_msr *m;
	int i;

	/* FS, GS, TR and LDTR are loaded as well, give them back as they are. */
	if (svme)
		generic_svm_setup(svm, l2_guest_code);

	for (i = 0, m = vmload_msrs; i < ARRAY_SIZE(vmload_msrs); i++, m++) {
		*(u64 *)((void *)svm->vmcb + m->field) = m->b;
		wrmsr(m->msr, m->a);
		old[i] = rdmsr(m->msr);
	}

	assert_vector(svm_insn_safe("vmload %%rax", svm->vmcb_gpa));

	for (i = 0, m = vmload_msrs; i < ARRAY_SIZE(vmload_msrs); i++, m++)
		assert_moved(m, rdmsr(m->msr), svme ? m->b & m->moved : old[i]);
}

static void guest_vmsave(struct svm_test_data *svm)
{
	const struct vmload_msr *m;
	int i;

	memset(&svm->vmcb->save, POISON, sizeof(svm->vmcb->save));
	for (i = 0, m = vmload_msrs; i < ARRAY_SIZE(vmload_msrs); i++, m++)
		wrmsr(m->msr, m->a);

	assert_vector(svm_insn_safe("vmsave %%rax", svm->vmcb_gpa));

	for (i = 0, m = vmload_msrs; i < ARRAY_SIZE(vmload_msrs); i++, m++)
		assert_moved(m, *(u64 *)((void *)svm->vmcb + m->field),
			     svme ? m->a & m->moved : POISON_U64);
}

static void guest_stgi(struct svm_test_data *svm)
{
	if (svme) {
		clgi();
		send_nmi_to_self();
		GUEST_ASSERT_EQ(READ_ONCE(nr_nmis), 0);
	}

	/* With SVME=0 there is only the #UD to be seen, GIF is already set. */
	assert_vector(svm_insn_safe("stgi", 0));

	if (svme) {
		GUEST_ASSERT_EQ(READ_ONCE(nr_nmis), 1);
		GUEST_ASSERT_EQ(READ_ONCE(nmi_offset), STGI_LENGTH);
	}
}

static void guest_clgi(struct svm_test_data *svm)
{
	assert_vector(svm_insn_safe("clgi", 0));

	send_nmi_to_self();
	GUEST_ASSERT_EQ(READ_ONCE(nr_nmis), svme ? 0 : 1);

	if (svme) {
		stgi();
		GUEST_ASSERT_EQ(READ_ONCE(nr_nmis), 1);
	}
}

static void guest_invlpga(struct svm_test_data *svm)
{
	/* Whether or not a TLB entry was dropped is not visible to software. */
	assert_vector(svm_insn_safe("invlpga %%rax, %%ecx", svm));
}

static void guest_code(struct svm_test_data *svm, void (*guest_insn)(struct svm_test_data *))
{
	x2apic_enable();

	for (;;) {
		if (l1_writes_efer)
			set_svme(svme);

		GUEST_ASSERT_EQ(!!(rdmsr(MSR_EFER) & EFER_SVME), svme);
		guest_insn(svm);
		GUEST_SYNC(svme);
	}
}

FIXTURE(svm_insn) {
	struct kvm_vcpu *vcpu;
};

FIXTURE_VARIANT(svm_insn) {
	void (*guest_insn)(struct svm_test_data *svm);
};

FIXTURE_VARIANT_ADD(svm_insn, vmrun) { .guest_insn = guest_vmrun };
FIXTURE_VARIANT_ADD(svm_insn, vmload) { .guest_insn = guest_vmload };
FIXTURE_VARIANT_ADD(svm_insn, vmsave) { .guest_insn = guest_vmsave };
FIXTURE_VARIANT_ADD(svm_insn, stgi) { .guest_insn = guest_stgi };
FIXTURE_VARIANT_ADD(svm_insn, clgi) { .guest_insn = guest_clgi };
FIXTURE_VARIANT_ADD(svm_insn, invlpga) { .guest_insn = guest_invlpga };

static struct kvm_vcpu *create_vcpu(void (*guest_insn)(struct svm_test_data *svm))
{
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm = vm_create_with_one_vcpu(&vcpu, guest_code);
	gva_t svm_gva;

	vcpu_alloc_svm(vm, &svm_gva);
	vcpu_args_set(vcpu, 2, svm_gva, guest_insn);
	vm_install_exception_handler(vm, NMI_VECTOR, guest_nmi_handler);
	return vcpu;
}

FIXTURE_SETUP(svm_insn)
{
	if (!kvm_cpu_has(X86_FEATURE_SVM))
		SKIP(return, "SVM is not supported");

	self->vcpu = create_vcpu(variant->guest_insn);
}

FIXTURE_TEARDOWN(svm_insn)
{
	kvm_vm_free(self->vcpu->vm);
}

static void run_insn(struct kvm_vcpu *vcpu, bool want_svme)
{
	write_guest_global(vcpu->vm, svme, want_svme);
	vcpu_run_to_sync(vcpu, want_svme);
}

/*
 * KVM_SET_CPUID2 makes KVM drop the intercepts that SVME=1 has no need for, even
 * if setting SVME did not, i.e. whatever clears SVME next has to bring them back.
 */
static void set_svme_then_cpuid(struct kvm_vcpu *vcpu)
{
	vcpu_set_svme_by_sregs(vcpu, true);
	vcpu_set_cpuid(vcpu);
}

#endif /* SELFTEST_KVM_SVM_INSN_H */
