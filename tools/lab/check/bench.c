// SPDX-License-Identifier: GPL-2.0-only
/*
 * What SVM costs, in cycles of the TSC, which under QEMU's icount are instructions, KVM's
 * included: seen from L1 for what a guest does, from userspace for ioctls. For "bench", which
 * reads the lines that this prints: what it is, the median of NR_SAMPLES, #VMEXITs for each.
 */
#include "test_util.h"
#include "kvm_util.h"
#include "processor.h"
#include "svm_util.h"

#define NR_SAMPLES	1000
#define NR_WARM_UPS	100

enum op {
	OP_VMLOAD, OP_VMSAVE, OP_STGI, OP_CLGI, OP_VMRUN, OP_EFER_SAME, OP_EFER_NX, OP_EFER_SVME, OP_CPUID,
	NR_OPS,
};

static const char * const op_names[] = {
	[OP_VMLOAD]	= "VMLOAD",
	[OP_VMSAVE]	= "VMSAVE",
	[OP_STGI]	= "STGI",
	[OP_CLGI]	= "CLGI",
	[OP_VMRUN]	= "VMLOAD, VMRUN, #VMEXIT, VMSAVE",
	[OP_EFER_SAME]	= "WRMSR of EFER as it is",
	[OP_EFER_NX]	= "WRMSR of EFER, NX cleared and set",
	[OP_EFER_SVME]	= "WRMSR of EFER, SVME cleared and set",
	[OP_CPUID]	= "CPUID",
};

static u32 samples[NR_SAMPLES];

static void l2_code(void)
{
	vmmcall();
}

/* Takes the samples of CODE, with BEGIN before the first of them and END behind the last. */
#define MEASURE(begin, code, end)					\
do {									\
	for (int i = -NR_WARM_UPS; i < NR_SAMPLES; i++) {		\
		u64 start;						\
									\
		if (!i)							\
			begin;						\
		start = rdtsc();					\
		code;							\
		start = rdtsc() - start;				\
		if (i >= 0)						\
			samples[i] = start;				\
	}								\
	end;								\
} while (0)

/* Between two stops for userspace, which name OP. */
#define MEASURE_OP(op, code)	MEASURE(GUEST_SYNC(op), code, GUEST_SYNC(op))

static void l1_code(struct svm_test_data *svm)
{
	u64 efer = rdmsr(MSR_EFER) | EFER_SVME;
	u64 gpa = svm->vmcb_gpa;
	u32 eax, ebx, ecx, edx;

	wrmsr(MSR_EFER, efer);
	generic_svm_setup(svm, l2_code);

	MEASURE_OP(OP_VMLOAD, asm volatile("vmload %%rax" : : "a" (gpa) : "memory"));
	MEASURE_OP(OP_VMSAVE, asm volatile("vmsave %%rax" : : "a" (gpa) : "memory"));
	MEASURE_OP(OP_STGI, stgi());
	MEASURE_OP(OP_CLGI, clgi());
	stgi();
	MEASURE_OP(OP_VMRUN, run_guest(svm->vmcb, gpa));
	MEASURE_OP(OP_EFER_SAME, wrmsr(MSR_EFER, efer));
	MEASURE_OP(OP_EFER_NX, { wrmsr(MSR_EFER, efer & ~EFER_NX); wrmsr(MSR_EFER, efer); });
	MEASURE_OP(OP_EFER_SVME, { wrmsr(MSR_EFER, efer & ~EFER_SVME); wrmsr(MSR_EFER, efer); });
	MEASURE_OP(OP_CPUID, cpuid(0, &eax, &ebx, &ecx, &edx));
	GUEST_DONE();
}

static int compare(const void *a, const void *b)
{
	return *(u32 *)a < *(u32 *)b ? -1 : *(u32 *)a > *(u32 *)b;
}

static void report(const char *name, u64 exits)
{
	qsort(samples, NR_SAMPLES, sizeof(samples[0]), compare);
	printf("%s|%u|%.2f\n", name, samples[NR_SAMPLES / 2], (double)exits / NR_SAMPLES);
}

static void run_to_stop(struct kvm_vcpu *vcpu, int stop, u64 op)
{
	struct ucall uc;

	vcpu_run(vcpu);
	TEST_ASSERT(get_ucall(vcpu, &uc) == stop && (stop == UCALL_DONE || uc.args[1] == op),
		    "Wanted stop %d, %lu, got %lu, %lu", stop, op, uc.cmd, uc.args[1]);
}

#define MEASURE_IOCTL(name, code)	MEASURE(, code, report(name, 0))

int main(int argc, char *argv[])
{
	union svm_nested_state nested;
	struct kvm_sregs sregs;
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;
	gva_t svm_gva;
	u64 exits;

	TEST_REQUIRE(kvm_cpu_has(X86_FEATURE_SVM));

	vm = vm_create_with_one_vcpu(&vcpu, l1_code);
	vcpu_alloc_svm(vm, &svm_gva);
	vcpu_args_set(vcpu, 1, svm_gva);

	for (enum op op = 0; op < NR_OPS; op++) {
		run_to_stop(vcpu, UCALL_SYNC, op);
		exits = vcpu_get_stat(vcpu, exits);
		run_to_stop(vcpu, UCALL_SYNC, op);
		/* The stop is one, too. */
		exits = vcpu_get_stat(vcpu, exits) - exits - 1;
		sync_global_from_guest(vm, samples);
		report(op_names[op], exits);
	}
	run_to_stop(vcpu, UCALL_DONE, 0);

	vcpu_sregs_get(vcpu, &sregs);
	vcpu_svm_nested_state_get(vcpu, &nested);
	MEASURE_IOCTL("KVM_SET_SREGS as they are", vcpu_sregs_set(vcpu, &sregs));
	MEASURE_IOCTL("KVM_SET_SREGS, SVME cleared and set", {
		sregs.efer &= ~EFER_SVME;
		vcpu_sregs_set(vcpu, &sregs);
		sregs.efer |= EFER_SVME;
		vcpu_sregs_set(vcpu, &sregs);
	});
	MEASURE_IOCTL("KVM_SET_NESTED_STATE as it is", vcpu_nested_state_set(vcpu, &nested.state));

	kvm_vm_free(vm);
	return 0;
}
