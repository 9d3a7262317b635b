// SPDX-License-Identifier: GPL-2.0-only
/*
 * Random sequences of what L1, L2 and userspace do with EFER.SVME, GIF, VMRUN and
 * events, compared with a model after each operation:
 *
 *   svm_nested_random_test				a few sequences, as a test
 *   svm_nested_random_test run SEED NR [WITHOUT...]	NR sequences, one per seed, without
 *							these operations
 *   svm_nested_random_test replay OPERATION...		one sequence, step by step
 *
 * Where vCPU and model differ, the sequence is cut down to the operations that it takes.
 */
#include "svm_nested_random.h"

static void do_userspace(struct model *m, const struct op *op)
{
	struct kvm_msi msi = { .address_lo = APIC_DEFAULT_GPA, .data = IRQ_VECTOR };
	bool was_l2 = m->l2;

	model_userspace(m, op);

	switch (op->kind) {
	case SREGS_EFER:
		vcpu_set_svme_by_sregs(vcpu, op->arg);
		break;
	case MSRS_EFER:
		vcpu_set_svme_by_msrs(vcpu, op->arg);
		break;
	case SET_GIF:
		vcpu_svm_nested_flags_set(vcpu, op->arg ? KVM_STATE_NESTED_GIF_SET : 0);
		break;
	case RAISE_IRQ:
		TEST_ASSERT_EQ(__vm_ioctl(vcpu->vm, KVM_SIGNAL_MSI, &msi), 1);
		break;
	case RAISE_NMI:
		vcpu_ioctl(vcpu, KVM_NMI, NULL);
		break;
	case RAISE_SMI:
		vcpu_ioctl(vcpu, KVM_SMI, NULL);
		break;
	case IN_SMM:
		in_smm = op->arg;
		break;
	case DIRTY_LOG:
		vm_mem_region_set_flags(vcpu->vm, 0, op->arg ? KVM_MEM_LOG_DIRTY_PAGES : 0);
		break;
	default:
		set_as_is(op->kind);
		break;
	}

	check_svm(m);
	if (was_l2 && !m->l2) {
		/* KVM's documentation: the vCPU keeps L2's registers.  L1 could not go on. */
		check_regs_of(m, L2);
		l1_sregs.efer = m->own[L1].efer;
		vcpu_sregs_set(vcpu, &l1_sregs);
		vcpu_regs_set(vcpu, &l1_regs);
	}
	check_regs(m);
}

static void do_guest(struct model *m, const struct op *op)
{
	static const char * const events[] = { "INITs", "SMIs", "NMIs", "IRQs", "events injected" };
	struct vmcb *vmcb = svm->vmcb_hva, *saved = data->msr_hva, *loaded = data->vmcb_hva;
	bool misaligned = op->kind == VMRUN && BAD_OF(op->arg) == MISALIGNED;
	bool moved = false;
	u32 exit_code;
	int stop, i, j;

	if (op->kind == VMRUN && !m->l2)
		write_vmcb(m, op->arg);
	if (op->kind == VMSAVE)
		write_code(m, op, data->msr_gpa);
	else if (op->kind == VMLOAD)
		write_code(m, op, data->vmcb_gpa);
	else
		write_code(m, op, svm->vmcb_gpa + misaligned);
	vmcb->control.exit_code = NO_EXIT;
	saved->save.kernel_gs_base = -1ull;
	loaded->save.kernel_gs_base = ++nr_ops;
	sh->stage = BEFORE;
	sh->vector = 0;
	memset(sh->taken, 0, sizeof(sh->taken));

	model_guest(m, op);
	stop = run_to_stop();

	/* KVM stores L2's state with an exit code of its own for an SMI. */
	exit_code = vmcb->control.exit_code;
	if (exit_code == (u32)SVM_EXIT_SW)
		exit_code = NO_EXIT;
	if (m->stop < AT_RESET && (stop != m->stop || exit_code != m->exit_code))
		differ("stop is at 0x%x (#VMEXIT 0x%x), not at 0x%x (0x%x)",
		       stop, exit_code, m->stop, m->exit_code);
	check("stop", stop, m->stop);
	for (i = 0; i < NR_EVENTS; i++) {
		for (j = 0; j < NR_STAGES; j++) {
			result->twice = i >= IRQ && sh->taken[i][j] == m->taken[i][j] + 1;
			if (sh->taken[i][j] != m->taken[i][j])
				differ("%s at stage %d are %u, not %u", events[i], j,
				       sh->taken[i][j], m->taken[i][j]);
		}
	}

	/* There is no INIT with a shutdown that KVM finds itself. */
	if (stop != AT_SHUTDOWN || op->kind != TRIPLE_FAULT)
		check_svm(m);
	if (stop >= AT_RESET)
		return reset_vcpu();
	check_regs(m);
	check("vector", sh->vector, m->vector);

	if (op->kind == VMSAVE)
		moved = saved->save.kernel_gs_base != -1ull;
	else if (op->kind == VMLOAD)
		moved = vcpu_get_msr(vcpu, MSR_KERNEL_GS_BASE) == nr_ops;
	check("data moved", moved, m->moved);

	if (exit_code == NO_EXIT)
		return;
	check("stage of #VMEXIT", sh->exit_stage, m->exit_stage);
	check("EVENTINJ", vmcb->control.event_inj, 0);
	if (exit_code == (u32)SVM_EXIT_ERR)
		return;
	check("V_IRQ", !!(vmcb->control.int_ctl & V_IRQ_MASK), m->v_irq);
	if (m->vmcb & VMCB_VGIF)
		check("V_GIF", !!(vmcb->control.int_ctl & V_GIF_MASK), m->v_gif);
}

/* Pages that L2 has to find at the same address without paging. */
static void *alloc_pages(struct kvm_vm *vm, int nr, gva_t *gva, gpa_t *gpa)
{
	*gva = vm_alloc(vm, nr * PAGE_SIZE, KVM_UTIL_MIN_VADDR);
	*gpa = addr_gva2gpa(vm, *gva);
	return addr_gpa2hva(vm, *gpa);
}

static void create_vcpu(struct model *m)
{
	static const u8 reset_code[] = { 0xe4, AT_RESET };	/* in $AT_RESET, %al */
	gva_t svm_gva, data_gva, gva;
	gpa_t gpa, iopm_gpa;
	struct kvm_vm *vm;
	int i;

	vm = vm_create_with_one_vcpu(&vcpu, l1_code);
	vm_install_exception_handler(vm, NMI_VECTOR, nmi_handler);
	vm_install_exception_handler(vm, IRQ_VECTOR, irq_handler);
	vm_install_exception_handler(vm, INTR_VECTOR, injected_handler);
	vm_install_exception_handler(vm, DE_VECTOR, injected_handler);
	vm_install_exception_handler(vm, UD_VECTOR, fault_handler);
	vm_install_exception_handler(vm, GP_VECTOR, fault_handler);
	setup_smi_stop(vcpu);
	vm_userspace_mem_region_add(vm, VM_MEM_SRC_ANONYMOUS, RESET_PAGE_GPA,
				    RESET_PAGE_SLOT, 1, 0);
	memcpy(addr_gpa2hva(vm, RESET_PAGE_GPA + 0xff0), reset_code, sizeof(reset_code));

	sh = addr_gva2hva(vm, (gva_t)&shared);
	stage_gpa = addr_gva2gpa(vm, (gva_t)&shared.stage);
	for (i = 0; i < ARRAY_SIZE(code); i++) {
		code[i] = alloc_pages(vm, 1, &gva, &gpa);
		sh->code[i] = (void *)gva;
	}
	legacy_code = alloc_pages(vm, 1, &gva, &legacy_gpa);

	/* The first 4 GiB in large pages: present, writable, accessed, dirty. */
	pdptes = alloc_pages(vm, 5, &gva, &m->pae_cr3);
	for (i = 0; i < 4; i++)
		pdptes[i] = (m->pae_cr3 + (i + 1) * PAGE_SIZE) | 1;
	for (i = 0; i < 4 * 512; i++)
		pdptes[512 + i] = ((u64)i << 21) | 0xe3;

	memset(alloc_pages(vm, 4, &gva, &iopm_gpa), 0, 4 * PAGE_SIZE);
	*(u8 *)addr_gpa2hva(vm, iopm_gpa + IO_PORT / 8) = BIT(IO_PORT % 8);

	/* NPT maps what has been allocated so far. */
	data = vcpu_alloc_svm(vm, &data_gva);
	svm = __vcpu_alloc_svm(vm, kvm_cpu_has_npt(), &svm_gva);
	vcpu_args_set(vcpu, 2, svm_gva, data_gva);
	/* Writes to EFER. */
	*(u8 *)(svm->msr_hva + 0x800 + (MSR_EFER & 0x1fff) / 4) = 2;

	TEST_ASSERT_EQ(run_to_stop(), AT_L1);
	vcpu_regs_get(vcpu, &start_regs);
	vcpu_sregs_get(vcpu, &start_sregs);
	/* CPUs have it set, always. */
	start_sregs.cr0 |= X86_CR0_ET;
	vcpu_sregs_set(vcpu, &start_sregs);
	vcpu_ioctl(vcpu, KVM_GET_LAPIC, &start_lapic);
	good_vmcb = *(struct vmcb *)svm->vmcb_hva;
	good_vmcb.control.iopm_base_pa = iopm_gpa;

	m->start.cr0 = start_sregs.cr0;
	m->start.cr3 = start_sregs.cr3;
	m->start.cr4 = start_sregs.cr4;
	m->start.efer = start_sregs.efer;
	model_reset(m, AT_L1);
}

static u64 random_state;

static u64 random_below(u64 n)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	random_state ^= random_state << 17;
	return (random_state >> 11) % n;
}

/*
 * VMCB_VIRQ is for "replay": QEMU's CPU takes a virtual interrupt for an exception if it
 * is delivered with a #NPF.
 */
#define RANDOM_VMCBS		(BIT_ULL(33) - 1 - VMCB_VIRQ)

static u64 random_vmcb(void)
{
	u64 vmcb = random_below(BIT_ULL(33)) & RANDOM_VMCBS;
	int i;

	/* An L2 with few intercepts lives longer. */
	for (i = random_below(4); i; i--)
		vmcb &= ~(VMCB_INTERCEPTS | VMCB_VINTR) | random_below(BIT_ULL(33));
	if (random_below(6))
		vmcb &= ~VMCB_BAD;
	if (random_below(4))
		vmcb &= ~VMCB_LEGACY;
	if (random_below(4))
		vmcb &= ~VMCB_INJECT;
	return vmcb;
}

/* What leads on is more likely than what is #UD anyway. */
static struct op random_op(struct model *m)
{
	int weight = 0, i;
	struct op op = {};

	if (!has_svme(m) && !random_below(3))
		return (struct op){ EFER, 1 };
	if (!m->gif && !random_below(4))
		return (struct op){ STGI };
	if (!m->gif && !random_below(6))
		return (struct op){ SEND_INIT + random_below(4) };

	for (i = 0; i < NR_KINDS; i++)
		weight += kinds[i].weight;
	for (weight = random_below(weight); weight >= kinds[op.kind].weight; op.kind++)
		weight -= kinds[op.kind].weight;
	if (!m->l2 && m->gif && !random_below(3))
		op.kind = VMRUN;

	if (op.kind == VMRUN)
		op.arg = random_vmcb();
	else if (kinds[op.kind].nr_args)
		op.arg = random_below(kinds[op.kind].nr_args);
	return op;
}

static void print_op(const struct op *op)
{
	printf(" %s", kinds[op->kind].name);
	if (op->kind == IN_SMM)
		printf("=%s", kinds[op->arg].name);
	else if (kinds[op->kind].nr_args)
		printf("=%lx", op->arg);
}

static void print_step(struct model *m, const struct op *op)
{
	print_op(op);
	printf("\tL%d, GIF=%u, SVME=%u", m->l2 + 1, m->gif, has_svme(m));
	if (op->kind < SREGS_EFER && m->exit_code != NO_EXIT)
		printf(", #VMEXIT(0x%x)", m->exit_code);
	if (op->kind < SREGS_EFER && m->vector)
		printf(", %s", ex_str(m->vector));
	printf("\n");
}

static void run_child(const struct sequence *seq, int length, bool verbose)
{
	struct model m = {};
	struct op op;
	int i;

	create_vcpu(&m);
	check_svm(&m);
	check_regs(&m);

	for (i = 0; i < length; i++) {
		op = seq ? seq->ops[i] : random_op(&m);
		if (op.kind == VMRUN && !kvm_cpu_has(X86_FEATURE_VGIF))
			op.arg &= ~VMCB_VGIF;
		if (op.kind == VMRUN && !kvm_cpu_has_npt())
			op.arg &= ~VMCB_NPT;
		if (left_out[op.kind] || !model_has(&m, &op)) {
			if (verbose) {
				print_op(&op);
				printf("\tis left out\n");
			}
			continue;
		}

		result->seq.ops[result->seq.nr++] = op;
		if (op.kind < SREGS_EFER)
			do_guest(&m, &op);
		else
			do_userspace(&m, &op);
		if (verbose)
			print_step(&m, &op);
	}
	_exit(0);
}

/* Returns true if vCPU and model differ, an ioctl() or the guest fails, or it hangs. */
static bool run(const struct sequence *seq, int length, bool verbose)
{
	int fd = kvm_memfd_alloc(PAGE_SIZE, false);
	char text[PAGE_SIZE] = "", *line;
	int status;
	pid_t pid;

	memset(result, 0, sizeof(*result));
	fflush(stdout);
	pid = fork();
	if (!pid) {
		dup2(fd, STDERR_FILENO);
		run_child(seq, length, verbose);
	}
	TEST_ASSERT(pid > 0 && waitpid(pid, &status, 0) == pid, "fork() or waitpid() failed");

	if (WIFSIGNALED(status)) {
		snprintf(result->what, sizeof(result->what), "killed by %s",
			 strsignal(WTERMSIG(status)));
		result->differs = true;
	} else if (WEXITSTATUS(status)) {
		/* What an assertion has to say is the last line, if it has. */
		snprintf(text, sizeof(text), "exits with %d", WEXITSTATUS(status));
		TEST_ASSERT(pread(fd, text, sizeof(text) - 1, 0) >= 0, "pread() failed");
		for (line = text + strlen(text); line > text && line[-1] <= ' '; line--)
			line[-1] = 0;
		line = strrchr(text, '\n');
		snprintf(result->what, sizeof(result->what), "%s", line ? line + 1 : text);
		result->differs = true;
	}
	close(fd);
	return result->differs;
}

/* Take away chunks, then smaller ones, while what differs is the same. */
static void minimise(struct sequence *seq)
{
	time_t end = time(NULL) + MINIMISE_TIMEOUT;
	char what[sizeof(result->what)];
	struct sequence less;
	int chunk, i;

	memcpy(what, result->what, sizeof(what));
	for (chunk = seq->nr / 2; chunk; chunk /= 2) {
		for (i = 0; i + chunk <= seq->nr && time(NULL) < end;) {
			less = *seq;
			less.nr -= chunk;
			memmove(&less.ops[i], &less.ops[i + chunk],
				(less.nr - i) * sizeof(less.ops[0]));
			if (run(&less, less.nr, false) && !strcmp(result->what, what))
				*seq = result->seq;
			else
				i += chunk;
		}
	}
}

static u64 nr_operations, nr_bad, nr_once;

static void run_seed(u64 seed, int length)
{
	static struct sequence seq;
	bool twice, again;
	int i;

	random_state = seed * 0x9e3779b97f4a7c15ull;
	run(NULL, length, false);
	nr_operations += result->seq.nr;
	if (!result->differs)
		return;

	seq = result->seq;
	twice = result->twice;
	printf("# seed %lu, operation %d: %s\n", seed, seq.nr, result->what);

	/*
	 * QEMU's CPU delivers EVENTINJ's interrupt twice if there is one for the host at
	 * the same instant, i.e. not in every run.  Whatever else doesn't differ again
	 * counts, as all that there is to know of it is that it did.
	 */
	again = run(&seq, seq.nr, false);
	if (!again && twice) {
		nr_once++;
		printf("# only once, in seed %lu\n", seed);
		return;
	}

	nr_bad++;
	if (again)
		minimise(&seq);
	printf(again ? "# replay" : "# not again; replay");
	for (i = 0; i < seq.nr; i++)
		print_op(&seq.ops[i]);
	printf("\n");
}

static int run_seeds(u64 seed, u64 nr_seeds)
{
	u64 end = seed + nr_seeds;

	for (; seed < end; seed++)
		run_seed(seed, LENGTH);

	printf("# %lu operations in %lu sequences, %lu not as the model has it, %lu only once\n",
	       nr_operations, nr_seeds, nr_bad, nr_once);
	return nr_bad ? KSFT_FAIL : KSFT_PASS;
}

static enum kind find_kind(const char *name, size_t len)
{
	enum kind kind;

	for (kind = 0; kind < NR_KINDS; kind++) {
		if (strlen(kinds[kind].name) == len && !memcmp(kinds[kind].name, name, len))
			break;
	}
	return kind;
}

static bool parse_op(const char *text, struct op *op)
{
	size_t len = strcspn(text, "=");
	const char *arg = text[len] ? text + len + 1 : NULL;
	char *end;

	op->kind = find_kind(text, len);
	if (op->kind == NR_KINDS || !arg != !kinds[op->kind].nr_args)
		return false;
	if (!arg)
		return true;
	if (op->kind == IN_SMM) {
		op->arg = find_kind(arg, strlen(arg));
		return op->arg != NR_KINDS;
	}
	op->arg = strtoul(arg, &end, 16);
	return isxdigit(*arg) && !*end && op->arg < kinds[op->kind].nr_args;
}

static int replay(int nr, char *ops[])
{
	static struct sequence seq;
	int i;

	for (i = 0; i < nr; i++) {
		if (i == LENGTH || !parse_op(ops[i], &seq.ops[i])) {
			fprintf(stderr, "'%s' is no operation, or one too many\n", ops[i]);
			return KSFT_FAIL;
		}
	}

	if (!run(&seq, nr, true))
		return KSFT_PASS;

	if (result->seq.nr)
		print_op(&result->seq.ops[result->seq.nr - 1]);
	printf("\t%s\n", result->what);
	return KSFT_FAIL;
}

static bool are_numbers(int nr, char *args[])
{
	while (nr--) {
		if (!atoll(args[nr]) || args[nr][strspn(args[nr], "0123456789")])
			return false;
	}
	return true;
}

static bool leave_out(int nr, char *names[])
{
	enum kind kind;

	while (nr--) {
		kind = find_kind(names[nr], strlen(names[nr]));
		if (kind == NR_KINDS)
			return false;
		left_out[kind] = true;
	}
	return true;
}

FIXTURE(random) {
};

FIXTURE_VARIANT(random) {
	u64 seed;
};

FIXTURE_VARIANT_ADD(random, seed_1) { 1 };
FIXTURE_VARIANT_ADD(random, seed_2) { 2 };
FIXTURE_VARIANT_ADD(random, seed_3) { 3 };
FIXTURE_VARIANT_ADD(random, seed_4) { 4 };

FIXTURE_SETUP(random)
{
}

FIXTURE_TEARDOWN(random)
{
}

TEST_F(random, operations_do_as_modelled)
{
	run_seed(variant->seed, 250);
	ASSERT_EQ(nr_bad, 0);
	ASSERT_NE(nr_operations, 0);
}

int main(int argc, char *argv[])
{
	TEST_REQUIRE(kvm_cpu_has(X86_FEATURE_SVM));
	TEST_REQUIRE(kvm_has_cap(KVM_CAP_X86_SMM));

	setlinebuf(stdout);
	result = mmap(NULL, sizeof(*result), PROT_READ | PROT_WRITE,
		      MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	TEST_ASSERT(result != MAP_FAILED, "mmap() failed");

	if (argc < 2 || argv[1][0] == '-')
		return test_harness_run(argc, argv);
	if (!strcmp(argv[1], "replay"))
		return replay(argc - 2, argv + 2);
	if (!strcmp(argv[1], "run") && argc >= 4 && are_numbers(2, argv + 2) &&
	    leave_out(argc - 4, argv + 4))
		return run_seeds(atoll(argv[2]), atoll(argv[3]));

	fprintf(stderr, "usage: %s [run SEED NR [WITHOUT...] | replay OPERATION...]\n", argv[0]);
	return KSFT_FAIL;
}
