// SPDX-License-Identifier: GPL-2.0-only
#include "apic.h"
#include "kvm_test_harness.h"
#include "kvm_util.h"
#include "processor.h"
#include "smm.h"
#include "svm_util.h"
#include "test_util.h"

#define NR_ROUNDS	3

#define STGI_LENGTH	3

#define POISON		0xa5
#define POISON_U64	0xa5a5a5a5a5a5a5a5ull

#define SMRAM_GPA	0x1000000
#define SMI_PORT	0x80

/* Runs in real mode, and tells the host that SMM was reached. */
static const u8 smi_handler[] = {
	0xe4, SMI_PORT,		/* in $SMI_PORT, %al */
	0x0f, 0xaa,		/* rsm */
};

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
	x2apic_write_reg(APIC_ICR, APIC_DEST_SELF | APIC_INT_ASSERT | APIC_DM_NMI);
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

static u64 efer_set_svme(u64 efer, bool set)
{
	return set ? efer | EFER_SVME : efer & ~EFER_SVME;
}

static void guest_code(struct svm_test_data *svm, void (*guest_insn)(struct svm_test_data *))
{
	x2apic_enable();

	for (;;) {
		if (l1_writes_efer)
			wrmsr(MSR_EFER, efer_set_svme(rdmsr(MSR_EFER), svme));

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

FIXTURE_VARIANT_ADD(svm_insn, vmrun) {
	.guest_insn = guest_vmrun,
};

FIXTURE_VARIANT_ADD(svm_insn, vmload) {
	.guest_insn = guest_vmload,
};

FIXTURE_VARIANT_ADD(svm_insn, vmsave) {
	.guest_insn = guest_vmsave,
};

FIXTURE_VARIANT_ADD(svm_insn, stgi) {
	.guest_insn = guest_stgi,
};

FIXTURE_VARIANT_ADD(svm_insn, clgi) {
	.guest_insn = guest_clgi,
};

FIXTURE_VARIANT_ADD(svm_insn, invlpga) {
	.guest_insn = guest_invlpga,
};

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
	struct ucall uc;

	write_guest_global(vcpu->vm, svme, want_svme);
	vcpu_run(vcpu);
	TEST_ASSERT_KVM_EXIT_REASON(vcpu, KVM_EXIT_IO);
	TEST_ASSERT_EQ(get_ucall(vcpu, &uc), UCALL_SYNC);
	TEST_ASSERT_EQ(uc.args[1], want_svme);
}

static void set_svme_by_wrmsr(struct kvm_vcpu *vcpu, bool set)
{
	/* The guest does it, see run_insn() for the value. */
	write_guest_global(vcpu->vm, l1_writes_efer, true);
}

static void set_svme_by_sregs(struct kvm_vcpu *vcpu, bool set)
{
	struct kvm_sregs sregs;

	vcpu_sregs_get(vcpu, &sregs);
	sregs.efer = efer_set_svme(sregs.efer, set);
	vcpu_sregs_set(vcpu, &sregs);
}

static void set_svme_by_sregs2(struct kvm_vcpu *vcpu, bool set)
{
	struct kvm_sregs2 sregs2;

	vcpu_ioctl(vcpu, KVM_GET_SREGS2, &sregs2);
	sregs2.efer = efer_set_svme(sregs2.efer, set);
	vcpu_ioctl(vcpu, KVM_SET_SREGS2, &sregs2);
}

static void set_svme_by_set_msrs(struct kvm_vcpu *vcpu, bool set)
{
	vcpu_set_msr(vcpu, MSR_EFER, efer_set_svme(vcpu_get_msr(vcpu, MSR_EFER), set));
}

static void set_svme_by_sync_regs(struct kvm_vcpu *vcpu, bool set)
{
	struct kvm_sregs *sregs = &vcpu->run->s.regs.sregs;

	vcpu_sregs_get(vcpu, sregs);
	sregs->efer = efer_set_svme(sregs->efer, set);
	vcpu->run->kvm_dirty_regs = KVM_SYNC_X86_SREGS;
}

/*
 * KVM_SET_CPUID2 makes KVM drop the intercepts that SVME=1 has no need for, even
 * if setting SVME did not, i.e. whatever clears SVME next has to bring them back.
 */
static void set_svme_then_cpuid(struct kvm_vcpu *vcpu)
{
	set_svme_by_sregs(vcpu, true);
	vcpu_set_cpuid(vcpu);
}

static void run_rounds(struct kvm_vcpu *vcpu, void (*set_svme)(struct kvm_vcpu *vcpu, bool set))
{
	int i;

	for (i = 0; i < NR_ROUNDS; i++) {
		set_svme(vcpu, true);
		run_insn(vcpu, true);

		set_svme(vcpu, false);
		run_insn(vcpu, false);
	}
}

static void test_toggles(struct kvm_vcpu *vcpu, void (*set_svme)(struct kvm_vcpu *vcpu, bool set))
{
	set_svme_then_cpuid(vcpu);
	run_rounds(vcpu, set_svme);
}

TEST_F(svm_insn, svme_never_set)
{
	run_insn(self->vcpu, false);
}

/* As with nested=0, where KVM doesn't support SVM, but the CPU still does. */
static void test_no_svm(void (*guest_insn)(struct svm_test_data *svm))
{
	struct kvm_vcpu *vcpu = create_vcpu(guest_insn);

	vcpu_clear_cpuid_feature(vcpu, X86_FEATURE_SVM);
	run_insn(vcpu, false);
	kvm_vm_free(vcpu->vm);
}

TEST(no_svm_vmrun_invlpga)
{
	test_no_svm(guest_vmrun);
	test_no_svm(guest_invlpga);
}

TEST(no_svm_vmload_vmsave)
{
	test_no_svm(guest_vmload);
	test_no_svm(guest_vmsave);
}

TEST(no_svm_stgi_clgi)
{
	test_no_svm(guest_stgi);
	test_no_svm(guest_clgi);
}

TEST_F(svm_insn, toggled_by_wrmsr)
{
	test_toggles(self->vcpu, set_svme_by_wrmsr);
}

TEST_F(svm_insn, toggled_by_sregs)
{
	test_toggles(self->vcpu, set_svme_by_sregs);
}

TEST_F(svm_insn, toggled_by_sregs2)
{
	if (!kvm_has_cap(KVM_CAP_SREGS2))
		SKIP(return, "KVM_CAP_SREGS2 is not supported");

	test_toggles(self->vcpu, set_svme_by_sregs2);
}

TEST_F(svm_insn, toggled_by_set_msrs)
{
	test_toggles(self->vcpu, set_svme_by_set_msrs);
}

TEST_F(svm_insn, toggled_by_sync_regs)
{
	if (!(kvm_check_cap(KVM_CAP_SYNC_REGS) & KVM_SYNC_X86_SREGS))
		SKIP(return, "KVM_SYNC_X86_SREGS is not supported");

	test_toggles(self->vcpu, set_svme_by_sync_regs);
}

static void set_intel_cpuid(struct kvm_vcpu *vcpu)
{
	struct kvm_cpuid_entry2 *entry = vcpu_get_cpuid_entry(vcpu, 0);

	memcpy(&entry->ebx, "Genu", 4);
	memcpy(&entry->edx, "ineI", 4);
	memcpy(&entry->ecx, "ntel", 4);
	vcpu_set_cpuid(vcpu);
}

TEST_F(svm_insn, intel_cpuid_toggled_by_wrmsr)
{
	set_intel_cpuid(self->vcpu);
	test_toggles(self->vcpu, set_svme_by_wrmsr);
}

TEST_F(svm_insn, intel_cpuid_set_before_svme)
{
	set_intel_cpuid(self->vcpu);
	run_rounds(self->vcpu, set_svme_by_sregs);
}

TEST_F(svm_insn, intel_cpuid_set_after_svme)
{
	set_svme_by_sregs(self->vcpu, true);
	set_intel_cpuid(self->vcpu);
	run_rounds(self->vcpu, set_svme_by_sregs);
}

/* What a VMM does for a reset, in whatever state the vCPU is. */
static void test_svme_already_cleared(struct kvm_vcpu *vcpu, struct kvm_regs *regs,
				      struct kvm_sregs *sregs)
{
	TEST_ASSERT_EQ(vcpu_get_msr(vcpu, MSR_EFER) & EFER_SVME, 0);

	sregs->efer = efer_set_svme(sregs->efer, false);
	vcpu_sregs_set(vcpu, sregs);
	vcpu_regs_set(vcpu, regs);
	run_insn(vcpu, false);
}

TEST_F(svm_insn, cleared_by_init)
{
	struct kvm_vcpu_events events;
	struct kvm_mp_state mp_state;
	struct kvm_sregs sregs;
	struct kvm_regs regs;

	set_svme_then_cpuid(self->vcpu);
	run_insn(self->vcpu, true);

	vcpu_run_complete_io(self->vcpu);
	vcpu_sregs_get(self->vcpu, &sregs);
	vcpu_regs_get(self->vcpu, &regs);

	/* A latched INIT is taken by KVM_GET_MP_STATE, unless it is blocked. */
	vcpu_events_get(self->vcpu, &events);
	events.flags |= KVM_VCPUEVENT_VALID_SMM;
	events.smi.latched_init = 1;
	vcpu_events_set(self->vcpu, &events);
	vcpu_mp_state_get(self->vcpu, &mp_state);

	test_svme_already_cleared(self->vcpu, &regs, &sregs);
}

static void run_to_smm(struct kvm_vcpu *vcpu)
{
	inject_smi(vcpu);
	vcpu_run(vcpu);
	TEST_ASSERT_KVM_EXIT_REASON(vcpu, KVM_EXIT_IO);
	TEST_ASSERT_EQ(vcpu->run->io.port, SMI_PORT);
	TEST_ASSERT_EQ(vcpu_get_msr(vcpu, MSR_EFER) & EFER_SVME, 0);
}

TEST_F(svm_insn, cleared_by_smm_entry)
{
	struct kvm_vcpu_events events;
	struct kvm_sregs sregs;
	struct kvm_regs regs;

	if (!kvm_has_cap(KVM_CAP_X86_SMM))
		SKIP(return, "KVM_CAP_X86_SMM is not supported");

	setup_smram(self->vcpu->vm, self->vcpu, SMRAM_GPA, smi_handler, sizeof(smi_handler));

	set_svme_then_cpuid(self->vcpu);
	run_insn(self->vcpu, true);

	vcpu_run_complete_io(self->vcpu);
	vcpu_sregs_get(self->vcpu, &sregs);
	vcpu_regs_get(self->vcpu, &regs);

	run_to_smm(self->vcpu);

	/* Real mode has its own #UD, so leave SMM in the way of a VMM's reset. */
	vcpu_run_complete_io(self->vcpu);
	vcpu_events_get(self->vcpu, &events);
	TEST_ASSERT_EQ(events.smi.smm, 1);
	events.smi.smm = 0;
	vcpu_events_set(self->vcpu, &events);

	test_svme_already_cleared(self->vcpu, &regs, &sregs);
}

TEST_F(svm_insn, restored_by_rsm)
{
	int i;

	if (!kvm_has_cap(KVM_CAP_X86_SMM))
		SKIP(return, "KVM_CAP_X86_SMM is not supported");

	setup_smram(self->vcpu->vm, self->vcpu, SMRAM_GPA, smi_handler, sizeof(smi_handler));

	for (i = 0; i < NR_ROUNDS; i++) {
		set_svme_by_sregs(self->vcpu, true);
		run_insn(self->vcpu, true);
		run_to_smm(self->vcpu);
		run_insn(self->vcpu, true);

		set_svme_by_sregs(self->vcpu, false);
		run_insn(self->vcpu, false);
		run_to_smm(self->vcpu);
		run_insn(self->vcpu, false);
	}
}

static struct kvm_vcpu *save_and_restore(struct kvm_vcpu *vcpu)
{
	struct kvm_x86_state *state = vcpu_save_state(vcpu);
	struct kvm_vm *vm = vcpu->vm;

	kvm_vm_release(vm);

	vcpu = vm_recreate_with_one_vcpu(vm);
	vcpu_load_state(vcpu, state);
	kvm_x86_state_cleanup(state);
	return vcpu;
}

TEST_F(svm_insn, saved_and_restored)
{
	int i;

	for (i = 0; i < NR_ROUNDS; i++) {
		set_svme_by_sregs(self->vcpu, true);
		run_insn(self->vcpu, true);
		self->vcpu = save_and_restore(self->vcpu);
		run_insn(self->vcpu, true);

		set_svme_by_sregs(self->vcpu, false);
		run_insn(self->vcpu, false);
		self->vcpu = save_and_restore(self->vcpu);
		run_insn(self->vcpu, false);
	}
}

/* A VMM writes back the state of nested virtualization at every reset. */
static void test_nested_state_gif_set(struct kvm_vcpu *vcpu)
{
	struct kvm_nested_state state = { .size = sizeof(state) };

	vcpu_nested_state_get(vcpu, &state);
	TEST_ASSERT_EQ(state.flags, KVM_STATE_NESTED_GIF_SET);
	vcpu_nested_state_set(vcpu, &state);

	run_insn(vcpu, false);
}

TEST_F(svm_insn, nested_state_gif_set_svme_never_set)
{
	run_insn(self->vcpu, false);

	test_nested_state_gif_set(self->vcpu);
}

TEST_F(svm_insn, nested_state_gif_set_svme_cleared)
{
	set_svme_by_sregs(self->vcpu, true);
	run_insn(self->vcpu, true);
	set_svme_by_sregs(self->vcpu, false);
	run_insn(self->vcpu, false);

	test_nested_state_gif_set(self->vcpu);
}

static void l1_never_runs(void)
{
	GUEST_DONE();
}

static void assert_refused(struct kvm_vcpu *vcpu, int r)
{
	TEST_ASSERT(r == -1 && errno == EINVAL, "Wanted EINVAL, got %d, errno %d", r, errno);
	TEST_ASSERT_EQ(vcpu_get_msr(vcpu, MSR_EFER) & EFER_SVME, 0);
}

FIXTURE(svme_without_cpuid) {
	struct kvm_vcpu *vcpu;
};

FIXTURE_SETUP(svme_without_cpuid)
{
	if (!kvm_cpu_has(X86_FEATURE_SVM))
		SKIP(return, "SVM is not supported");

	vm_create_with_one_vcpu(&self->vcpu, l1_never_runs);
	vcpu_clear_cpuid_feature(self->vcpu, X86_FEATURE_SVM);
}

FIXTURE_TEARDOWN(svme_without_cpuid)
{
	kvm_vm_free(self->vcpu->vm);
}

TEST_F(svme_without_cpuid, refused_by_set_sregs)
{
	struct kvm_sregs sregs;

	vcpu_sregs_get(self->vcpu, &sregs);
	sregs.efer |= EFER_SVME;
	assert_refused(self->vcpu, _vcpu_sregs_set(self->vcpu, &sregs));

	vcpu_set_cpuid_feature(self->vcpu, X86_FEATURE_SVM);
	vcpu_sregs_set(self->vcpu, &sregs);
}

TEST_F(svme_without_cpuid, refused_by_set_sregs2)
{
	struct kvm_sregs2 sregs2;

	if (!kvm_has_cap(KVM_CAP_SREGS2))
		SKIP(return, "KVM_CAP_SREGS2 is not supported");

	vcpu_ioctl(self->vcpu, KVM_GET_SREGS2, &sregs2);
	sregs2.efer |= EFER_SVME;
	assert_refused(self->vcpu, __vcpu_ioctl(self->vcpu, KVM_SET_SREGS2, &sregs2));

	vcpu_set_cpuid_feature(self->vcpu, X86_FEATURE_SVM);
	vcpu_ioctl(self->vcpu, KVM_SET_SREGS2, &sregs2);
}

int main(int argc, char *argv[])
{
	return test_harness_run(argc, argv);
}
