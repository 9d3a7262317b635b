// SPDX-License-Identifier: GPL-2.0-only
#include "test_util.h"
#include "kvm_util.h"
#include "kvm_test_harness.h"
#include "processor.h"
#include "svm_util.h"

/* In L2 without long mode, linear addresses are GPAs; L1 maps the memory as well. */
#define L2_MEM_GPA		0x10000000ul
#define L2_MEM_SLOT		10
#define L2_MEM			((struct l2_memory *)L2_MEM_GPA)

#define MMIO_GPA		0x20000000ul

/* Present, writable, accessed, dirty, large. */
#define L2_PDE			0xe3

#define L2_CR0			(X86_CR0_PE | X86_CR0_ET | X86_CR0_NE)

/* KVM has roots to go back to, L1's and L2's, only from the second VMRUN on. */
#define NR_L2_RUNS		3

#define L2_VALUE		0x5a5a5a5aU

enum {
	AT_L2,
	AT_VMEXIT,
};

struct l2_memory {
	u64 pdpt[512];
	u64 pae_pd[512];
	u32 legacy_pd[1024];
	u8 code[PAGE_SIZE];
	u64 data[512];
};

struct l2_mode {
	u64 cr0;
	u64 cr3;
	u64 cr4;
	u64 efer;
};

static const struct l2_mode unpaged = {
	.cr0 = L2_CR0,
	.efer = EFER_SVME,
};

static const struct l2_mode legacy = {
	.cr0 = L2_CR0 | X86_CR0_PG,
	.cr3 = L2_MEM_GPA + offsetof(struct l2_memory, legacy_pd),
	.cr4 = X86_CR4_PSE,
	.efer = EFER_SVME,
};

/* VMRUN takes EFER.LMA=1, and the CPU ignores it, as EFER.LME=0. */
static const struct l2_mode legacy_with_lma = {
	.cr0 = L2_CR0 | X86_CR0_PG,
	.cr3 = L2_MEM_GPA + offsetof(struct l2_memory, legacy_pd),
	.cr4 = X86_CR4_PSE,
	.efer = EFER_SVME | EFER_LMA,
};

static const struct l2_mode pae = {
	.cr0 = L2_CR0 | X86_CR0_PG,
	.cr3 = L2_MEM_GPA + offsetof(struct l2_memory, pdpt),
	.cr4 = X86_CR4_PAE,
	.efer = EFER_SVME,
};

/* With the address in EAX, that of the data in EBX, ASID 0 in ECX, L2_VALUE in EDX. */
static const u8 l2_write[] = {
	0x89, 0x13,		/* mov %edx, (%ebx) */
	0x0f, 0x01, 0xd9,	/* vmmcall */
};

static const u8 l2_invlpg[] = {
	0x89, 0x13,		/* mov %edx, (%ebx) */
	0x0f, 0x01, 0x38,	/* invlpg (%eax) */
	0x0f, 0x01, 0xd9,	/* vmmcall */
};

static const u8 l2_invlpga[] = {
	0x89, 0x13,		/* mov %edx, (%ebx) */
	0x0f, 0x01, 0xdf,	/* invlpga %eax, %ecx */
	0x0f, 0x01, 0xd9,	/* vmmcall */
};

/* Two memory operands, so that KVM has to walk L2's page tables. */
static const u8 l2_read_mmio[] = {
	0xff, 0x30,		/* pushl (%eax) */
	0x8f, 0x03,		/* popl (%ebx) */
	0x0f, 0x01, 0xd9,	/* vmmcall */
};

static void l1_run_l2(struct svm_test_data *svm, const struct l2_mode *mode, u64 address)
{
	struct vmcb_save_area *save = &svm->vmcb->save;
	u64 cr0, cr3, cr4, efer, cr4_after;
	int i;

	for (i = 0; i < NR_L2_RUNS; i++) {
		/* Emulated CPUs set "accessed" in PDPTEs, where it is a reserved bit. */
		WRITE_ONCE(L2_MEM->pdpt[0], (u64)L2_MEM->pae_pd | BIT(0));

		generic_svm_setup(svm, L2_MEM->code);
		save->cs.attrib &= ~SVM_SELECTOR_L_MASK;
		save->cs.attrib |= SVM_SELECTOR_DB_MASK;
		save->rsp = (u64)&L2_MEM->code[PAGE_SIZE];
		save->cr0 = mode->cr0;
		save->cr3 = mode->cr3;
		save->cr4 = mode->cr4;
		save->efer = mode->efer;
		guest_regs.rax = address;
		guest_regs.rbx = (u64)L2_MEM->data;
		guest_regs.rcx = 0;
		guest_regs.rdx = L2_VALUE;
		WRITE_ONCE(L2_MEM->data[0], 0);

		cr0 = get_cr0();
		cr3 = get_cr3();
		cr4 = get_cr4();
		efer = rdmsr(MSR_EFER);

		run_guest(svm->vmcb, svm->vmcb_gpa);

		/* Without CR4.OSFXSR, not even an assertion could fail: it uses SSE. */
		cr4_after = get_cr4();
		set_cr4(cr4);
		GUEST_ASSERT_EQ(cr4_after, cr4);
		GUEST_ASSERT_EQ(get_cr0(), cr0);
		GUEST_ASSERT_EQ(get_cr3(), cr3);
		GUEST_ASSERT_EQ(rdmsr(MSR_EFER), efer);

		__GUEST_ASSERT(svm->vmcb->control.exit_code == SVM_EXIT_VMMCALL,
			       "L2 exited with code 0x%lx, info 0x%lx and 0x%lx, at 0x%lx",
			       (u64)svm->vmcb->control.exit_code,
			       (u64)svm->vmcb->control.exit_info_1,
			       (u64)svm->vmcb->control.exit_info_2, (u64)save->rip);
		GUEST_ASSERT_EQ(READ_ONCE(L2_MEM->data[0]), L2_VALUE);
		GUEST_SYNC(AT_VMEXIT);
	}

	GUEST_DONE();
}

static void setup_l2(struct kvm_vcpu *vcpu, const struct l2_mode *mode,
		     const u8 *code, size_t size, u64 address)
{
	const int nr_pages = sizeof(struct l2_memory) / PAGE_SIZE;
	struct kvm_vm *vm = vcpu->vm;
	struct l2_memory *mem;
	gva_t svm_gva;
	int i;

	vm_userspace_mem_region_add(vm, VM_MEM_SRC_ANONYMOUS, L2_MEM_GPA, L2_MEM_SLOT,
				    nr_pages, 0);
	virt_map(vm, L2_MEM_GPA, L2_MEM_GPA, nr_pages);

	/* 1 GiB is enough. */
	mem = addr_gpa2hva(vm, L2_MEM_GPA);
	for (i = 0; i < 512; i++)
		mem->pae_pd[i] = (u64)i << 21 | L2_PDE;
	for (i = 0; i < 256; i++)
		mem->legacy_pd[i] = i << 22 | L2_PDE;
	memcpy(mem->code, code, size);

	vcpu_alloc_svm(vm, &svm_gva);
	vcpu_arch_set_entry_point(vcpu, l1_run_l2);
	vcpu_args_set(vcpu, 3, svm_gva, mode, address);
}

static void run_l2_to_vmexits(struct kvm_vcpu *vcpu)
{
	int i;

	for (i = 0; i < NR_L2_RUNS; i++)
		vcpu_run_to_sync(vcpu, AT_VMEXIT);
	vcpu_run_to_done(vcpu);
}

KVM_ONE_VCPU_TEST_SUITE(l2_paging);

FIXTURE_VARIANT(l2_paging) {
	const struct l2_mode *mode;
};

FIXTURE_VARIANT_ADD(l2_paging, unpaged) { .mode = &unpaged };
FIXTURE_VARIANT_ADD(l2_paging, legacy) { .mode = &legacy };
FIXTURE_VARIANT_ADD(l2_paging, legacy_with_lma) { .mode = &legacy_with_lma };
FIXTURE_VARIANT_ADD(l2_paging, pae) { .mode = &pae };

TEST_F(l2_paging, vmexit_restores_l1)
{
	setup_l2(self->vcpu, variant->mode, l2_write, sizeof(l2_write), 0);
	run_l2_to_vmexits(self->vcpu);
}

TEST_F(l2_paging, mmio_goes_to_userspace)
{
	struct kvm_vcpu *vcpu = self->vcpu;
	struct kvm_run *run = vcpu->run;
	const u32 value = L2_VALUE;
	int i;

	setup_l2(vcpu, variant->mode, l2_read_mmio, sizeof(l2_read_mmio), MMIO_GPA);

	for (i = 0; i < NR_L2_RUNS; i++) {
		vcpu_run(vcpu);
		TEST_ASSERT_KVM_EXIT_REASON(vcpu, KVM_EXIT_MMIO);
		TEST_ASSERT(run->mmio.phys_addr == MMIO_GPA && run->mmio.len == sizeof(value) &&
			    !run->mmio.is_write,
			    "%s of %u bytes at 0x%llx, not read of %lu at 0x%lx",
			    run->mmio.is_write ? "Write" : "Read", run->mmio.len,
			    run->mmio.phys_addr, sizeof(value), MMIO_GPA);
		memcpy(run->mmio.data, &value, sizeof(value));
		vcpu_run_to_sync(vcpu, AT_VMEXIT);
	}
	vcpu_run_to_done(vcpu);
}

static void l2_sync(void)
{
	GUEST_SYNC(AT_L2);
	vmmcall();
}

static void l1_run_64bit_l2(struct svm_test_data *svm)
{
	generic_svm_setup(svm, l2_sync);
	run_guest(svm->vmcb, svm->vmcb_gpa);
	GUEST_ASSERT_EQ(svm->vmcb->control.exit_code, SVM_EXIT_VMMCALL);
	GUEST_DONE();
}

/* Bits of L1's registers that are set or clear, so that #VMEXIT could not load them. */
static const struct {
	const char *what;
	struct vmcb_save_area set, clear;
} illegal_l1_states[] = {
	{ "LMA without LME", .clear.efer = EFER_LME },
	{ "LMA without CR4.PAE", .clear.cr4 = X86_CR4_PAE },
	{ "no CR0.PG", .clear.cr0 = X86_CR0_PG },
	{ "no CR0.PE", .clear.cr0 = X86_CR0_PE },
	{ "RFLAGS.VM", .set.rflags = X86_EFLAGS_VM },
	{ "EFER bit 63", .set.efer = BIT_ULL(63) },
	{ "CR4 bit 63", .set.cr4 = BIT_ULL(63) },
};

KVM_ONE_VCPU_TEST_SUITE(l1_in_nested_state);

KVM_ONE_VCPU_TEST(l1_in_nested_state, is_refused_if_illegal, l1_run_64bit_l2)
{
	union svm_nested_state nested, edited;
	struct vmcb_save_area *save = &((struct vmcb *)edited.state.data.svm)->save;
	const struct vmcb_save_area *set, *clear;
	gva_t svm_gva;
	int i, r;

	vcpu_alloc_svm(vcpu->vm, &svm_gva);
	vcpu_args_set(vcpu, 1, svm_gva);
	vcpu_run_to_l2(vcpu, AT_L2);
	vcpu_svm_nested_state_get(vcpu, &nested);

	/* Don't run the vCPU with a state that goes through: that wouldn't be safe. */
	for (i = 0; i < ARRAY_SIZE(illegal_l1_states); i++) {
		set = &illegal_l1_states[i].set;
		clear = &illegal_l1_states[i].clear;

		edited = nested;
		save->cr0 = (save->cr0 | set->cr0) & ~clear->cr0;
		save->cr4 = (save->cr4 | set->cr4) & ~clear->cr4;
		save->efer = (save->efer | set->efer) & ~clear->efer;
		save->rflags = (save->rflags | set->rflags) & ~clear->rflags;

		r = __vcpu_nested_state_set(vcpu, &edited.state);
		TEST_ASSERT(r == -1 && errno == EINVAL,
			    "L1 with %s (CR0 0x%lx, CR4 0x%lx, EFER 0x%lx, RFLAGS 0x%lx): KVM_SET_NESTED_STATE returned %d, errno %d",
			    illegal_l1_states[i].what, save->cr0, save->cr4, save->efer,
			    save->rflags, r, errno);
	}

	vcpu_nested_state_set(vcpu, &nested.state);
	vcpu_run_to_done(vcpu);
}

/* KVM that gets these wrong takes the host down: a BUG(), and a NULL dereference. */
KVM_ONE_VCPU_TEST_SUITE(host_may_crash);

KVM_ONE_VCPU_TEST(host_may_crash, pae_l2_invlpg, l1_run_l2)
{
	setup_l2(vcpu, &pae, l2_invlpg, sizeof(l2_invlpg), L2_MEM_GPA);
	run_l2_to_vmexits(vcpu);
}

KVM_ONE_VCPU_TEST(host_may_crash, pae_l2_invlpga, l1_run_l2)
{
	setup_l2(vcpu, &pae, l2_invlpga, sizeof(l2_invlpga), L2_MEM_GPA);
	run_l2_to_vmexits(vcpu);
}

KVM_ONE_VCPU_TEST(host_may_crash, legacy_l2_invlpg, l1_run_l2)
{
	setup_l2(vcpu, &legacy, l2_invlpg, sizeof(l2_invlpg), L2_MEM_GPA);
	run_l2_to_vmexits(vcpu);
}

/* The root of L1's NPT is in use, and L1's paging mode is what it is walked by. */
TEST_F(host_may_crash, l1_leaves_long_mode_in_nested_state)
{
	struct kvm_vcpu *vcpu = self->vcpu;
	struct kvm_sregs reset_sregs;
	struct kvm_regs reset_regs;
	union svm_nested_state nested;
	struct vmcb *vmcb = (void *)nested.state.data.svm;
	gva_t svm_gva;

	if (!kvm_cpu_has_npt())
		SKIP(return, "KVM doesn't support nested NPT");

	vcpu_arch_set_entry_point(vcpu, l1_run_64bit_l2);
	__vcpu_alloc_svm(vcpu->vm, true, &svm_gva);
	vcpu_args_set(vcpu, 1, svm_gva);
	vcpu_sregs_get(vcpu, &reset_sregs);
	vcpu_regs_get(vcpu, &reset_regs);

	vcpu_run_to_l2(vcpu, AT_L2);
	vcpu_svm_nested_state_get(vcpu, &nested);
	vmcb->save.efer &= ~(EFER_LME | EFER_LMA);
	vcpu_nested_state_set(vcpu, &nested.state);

	/* Neither L1's NPT nor its page tables make sense in PAE form. */
	vcpu_run(vcpu);
	TEST_ASSERT_KVM_EXIT_REASON(vcpu, KVM_EXIT_SHUTDOWN);

	vcpu_sregs_set(vcpu, &reset_sregs);
	vcpu_regs_set(vcpu, &reset_regs);
	vcpu_run_to_l2(vcpu, AT_L2);
	vcpu_run_to_done(vcpu);
}

int main(int argc, char *argv[])
{
	TEST_REQUIRE(kvm_cpu_has(X86_FEATURE_SVM));

	return test_harness_run(argc, argv);
}
