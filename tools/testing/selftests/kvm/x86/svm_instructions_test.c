// SPDX-License-Identifier: GPL-2.0-only
#include "svm_insn.h"

static void set_svme_by_wrmsr(struct kvm_vcpu *vcpu, bool set)
{
	/* The guest does it, see run_insn() for the value. */
	write_guest_global(vcpu->vm, l1_writes_efer, true);
}

static void set_svme_by_sregs2(struct kvm_vcpu *vcpu, bool set)
{
	struct kvm_sregs2 sregs2;

	vcpu_ioctl(vcpu, KVM_GET_SREGS2, &sregs2);
	sregs2.efer = efer_set_svme(sregs2.efer, set);
	vcpu_ioctl(vcpu, KVM_SET_SREGS2, &sregs2);
}

static void set_svme_by_sync_regs(struct kvm_vcpu *vcpu, bool set)
{
	struct kvm_sregs *sregs = &vcpu->run->s.regs.sregs;

	vcpu_sregs_get(vcpu, sregs);
	sregs->efer = efer_set_svme(sregs->efer, set);
	vcpu->run->kvm_dirty_regs = KVM_SYNC_X86_SREGS;
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
	test_toggles(self->vcpu, vcpu_set_svme_by_sregs);
}

TEST_F(svm_insn, toggled_by_sregs2)
{
	if (!kvm_has_cap(KVM_CAP_SREGS2))
		SKIP(return, "KVM_CAP_SREGS2 is not supported");

	test_toggles(self->vcpu, set_svme_by_sregs2);
}

TEST_F(svm_insn, toggled_by_set_msrs)
{
	test_toggles(self->vcpu, vcpu_set_svme_by_msrs);
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
	run_rounds(self->vcpu, vcpu_set_svme_by_sregs);
}

TEST_F(svm_insn, intel_cpuid_set_after_svme)
{
	vcpu_set_svme_by_sregs(self->vcpu, true);
	set_intel_cpuid(self->vcpu);
	run_rounds(self->vcpu, vcpu_set_svme_by_sregs);
}

int main(int argc, char *argv[])
{
	return test_harness_run(argc, argv);
}
