// SPDX-License-Identifier: GPL-2.0-only
/*
 * Linked into the selftests by the lab, with ld's --wrap, and only by the lab.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <unistd.h>
#include <linux/kvm.h>

struct kvm_cpuid2 *__real_kvm_get_supported_cpuid(void);
unsigned int __real_kvm_check_cap(long cap);
int __real_poll(struct pollfd *fds, nfds_t nfds, int timeout);
int __real_ioctl(int fd, unsigned long request, ...);
pid_t __real_fork(void);

/*
 * The harness waits for a test with poll() and half a minute's patience. A guest
 * that hangs, as it does on kernels with the bugs at hand, is hung after
 * $LAB_TIMEOUT seconds as well.
 */
int __wrap_poll(struct pollfd *fds, nfds_t nfds, int timeout)
{
	const char *limit = getenv("LAB_TIMEOUT");

	if (limit && timeout > atoi(limit) * 1000)
		timeout = atoi(limit) * 1000;
	return __real_poll(fds, nfds, timeout);
}

/*
 * The newest library sets memory regions with KVM_SET_USER_MEMORY_REGION2, which kernels
 * before 6.8 don't have, and skips every test there. Without guest_memfd, what the
 * older ioctl() takes is the beginning of it.
 */
int __wrap_ioctl(int fd, unsigned long request, ...)
{
	struct kvm_userspace_memory_region2 *region;
	va_list args;
	void *arg;
	int ret;

	va_start(args, request);
	arg = va_arg(args, void *);
	va_end(args);

	ret = __real_ioctl(fd, request, arg);
	switch (request) {
	case KVM_CHECK_EXTENSION:
		if (!ret && (unsigned long)arg == KVM_CAP_USER_MEMORY2)
			ret = 1;
		break;
	case KVM_SET_USER_MEMORY_REGION2:
		region = arg;
		if (ret < 0 && errno == ENOTTY && !(region->flags & KVM_MEM_GUEST_MEMFD))
			ret = __real_ioctl(fd, KVM_SET_USER_MEMORY_REGION, region);
		break;
	}
	return ret;
}

/*
 * The library's own memset(), which guests use as well, goes by bytes. What it clears for a VM would be a
 * quarter of a test's time on an emulated CPU.
 */
__attribute__((optimize("no-tree-vectorize", "no-tree-loop-distribute-patterns")))
void *__wrap_memset(void *s, int c, size_t count)
{
	uint64_t __attribute__((may_alias, aligned(1))) *words = s;
	unsigned char *bytes;

	for (; count >= sizeof(*words); count -= sizeof(*words))
		*words++ = (unsigned char)c * 0x0101010101010101ul;
	for (bytes = (void *)words; count; count--)
		*bytes++ = c;
	return s;
}

/*
 * With $LAB_LIST, a program finds SVM and what KVM can do on any machine, and runs before the library looks for KVM, so that "-l"
 * lists its tests anywhere. Tests are known by then: their constructors have a lower number.
 */
int main(int argc, char **argv);

__attribute__((constructor(60000))) static void list_tests(int argc, char **argv)
{
	if (getenv("LAB_LIST"))
		exit(main(argc, argv));
}

struct kvm_cpuid2 *__wrap_kvm_get_supported_cpuid(void)
{
	static struct {
		struct kvm_cpuid2 head;
		struct kvm_cpuid_entry2 entry;
	} cpuid = { { .nent = 1 }, { .function = 0x80000001, .ecx = -1u } };

	return getenv("LAB_LIST") ? &cpuid.head : __real_kvm_get_supported_cpuid();
}

unsigned int __wrap_kvm_check_cap(long cap)
{
	return getenv("LAB_LIST") ? 1 : __real_kvm_check_cap(cap);
}

/*
 * With $LAB_MARK, each test of a program begins with a mark in the kernel's log: the harness forks for each.
 */
static pid_t program;

__attribute__((constructor)) static void program_starts(void)
{
	program = getpid();
}

pid_t __wrap_fork(void)
{
	static const char mark[] = "lab: test\n";
	int kmsg;

	if (getenv("LAB_MARK") && getpid() == program) {
		kmsg = open("/dev/kmsg", O_WRONLY | O_CLOEXEC);
		if (write(kmsg, mark, sizeof(mark) - 1) < 0)
			_exit(1);
		close(kmsg);
	}
	return __real_fork();
}

/*
 * With $LAB_KEEP_VM, a program keeps a VM from its start to its end. With the first VM and the
 * last one of a host, and the first vCPU whose APIC is disabled, KVM patches the kernel's text,
 * which is a tenth of a test's time on an emulated CPU.
 */
__attribute__((constructor)) static void keep_vm(void)
{
	int kvm, vm;

	if (!getenv("LAB_KEEP_VM"))
		return;
	kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	vm = __real_ioctl(kvm, KVM_CREATE_VM, 0);
	__real_ioctl(vm, KVM_CREATE_IRQCHIP, 0);
	__real_ioctl(vm, KVM_CREATE_VCPU, 0);
	close(kvm);
}
