# KVM: SVM: Make EFER.SVME and GIF behave as the architecture has it
#
# What a guest of a kernel without these patches sees on an AMD CPU with
# virtual GIF and virtual VMLOAD/VMSAVE, both of which KVM uses by default:
#
# VMLOAD, VMSAVE, STGI and CLGI are executed although EFER.SVME is 0, in
# every VM. If a nested guest (L2) executes VMMCALL and its hypervisor (L1)
# doesn't intercept it, L2 makes no progress. If L2 clears EFER.SVME, L1
# resumes with L2's registers. Clearing EFER.SVME sets GIF. With npt=0, L1
# gets L2's CR4 on a #VMEXIT from an unpaged L2. EVENTINJ outlives a #VMEXIT.
# L2 takes an interrupt with vector 0 that nobody has sent. L1 gets a #VMEXIT
# for SKINIT in L2, and on older CPUs for VMRUN, VMLOAD and VMSAVE in user mode
# of L2, which are exceptions.
#
# Patches 1 to 18 are about more than the guest that does it to
# itself. Who can reach it, what it costs, and where else it is fixed:
#
#   1      A guest: KVM walks four levels of page tables in arrays on the stack
#          with room for two. CVE-2026-99343, CVE-2026-99345, upstream
#          1c4c84a643b7. Without upstream's 115f9405a2ed, which bugs the VM if
#          KVM is about to do so: nothing gets there any more.
#   2      A guest whose L2 uses PAE paging, with npt=0: BUG() in the host. Who
#          has /dev/kvm: NULL dereference in the host. Nowhere as of 7.3.4; to
#          be sent to security@kernel.org before anything is posted in public.
#   3      Who has /dev/kvm, and goes on after the shutdown of an L1 whose CR3 is
#          illegal: the CPU uses page tables that KVM has freed, or, with npt=0,
#          L1's CR3 for an address of the host. Nowhere as of 7.3.4; to be sent
#          to security@kernel.org before anything is posted in public.
#   4      L2, if L1 leaves writes to EFER to it: gets out of L2, or hangs L1.
#          Upstream cdc69269b18a (7.1), in part.
#   5 to 7 A guest, by INIT and SIPI to a vCPU in an unpaged L2: the vCPU
#          hangs; with npt=0 the CPU takes L1's CR3 for an address of the host.
#          Who has /dev/kvm: page tables that KVM has freed, a TLB flush that is
#          not done, the host's XCR0 in the guest, a WARN. All but the WARN is
#          seen by a build that looks before each VMRUN at what the CPU gets.
#          Nowhere as of 7.3.4; to be sent to security@kernel.org before
#          anything is posted in public.
#   8      Who has /dev/kvm: WARN in the host. Upstream has another form.
#   9      Who has /dev/kvm: L2 runs without a root. Nowhere as of 7.3.4; to be
#          sent to security@kernel.org before anything is posted in public.
#   10 to 12 Who has /dev/kvm and changes CPUID at the wrong time gives L1 or L2
#          access to host memory by way of VMLOAD and VMSAVE. Patch 12 is for
#          kvm.ko, as is 2.
#          No test executes the two there. A build that looks before each VMRUN
#          at what the CPU is to do with them shows L1 as shipped, and L2 if
#          10 and 12 are taken out.
#   13     L1, on an SMI that interrupts L2 with npt=0: CR0.WP, CR4.PAE and
#          EFER.NX of KVM for its own; in any case the host's CR4.MCE (by
#          reading). Nowhere as of 7.3.4.
#   14, 15 A guest with SMM: WARN in the host, L2's state taken for L1's.
#          Upstream be5fa8737d42 for 14, in part; nowhere as of 7.3.4 for 15.
#   16     A guest with an L2: WARN in the host, L2 hangs. Nowhere as of 7.3.4;
#          to be sent to security@kernel.org before anything is posted in
#          public.
#   17     L2 without paging, with npt=0: its CR4 for L1's, e.g. no SMEP. Nowhere
#          as of 7.3.4.
#   18     Who has /dev/kvm, or a guest that has it take memory away: WARN in the
#          host (by reading). Upstream 1b30e7551767 (7.1).
#
# "Forget L1's injections into L2 on #VMEXIT" repairs the backport of
# 8998e1d012f3, whose lines ended up in another function.
#
# Patch 27 keeps L2 from an interrupt with vector 0, i.e. a divide error, while
# an IRQ for L1 is pending. Upstream 5faaffab5ba8 and 7334ede457c6 (6.4).
#
# Patches 28 and 29 are about exits that L1 need not know. Patch 28: user mode
# of L2 causes them with VMRUN, VMLOAD and VMSAVE, on CPUs without
# SVME_ADDR_CHK, and with kvm.enable_vmware_backdoor on any. Upstream
# 783cf7d01fb8 and 435741a4e766 (7.1). Patch 29: L2's kernel does with SKINIT.
# Upstream 1d1722e52fcd (7.0).
#
# The last patch but one has a VMRUN that fails disable L1's breakpoints. The
# last keeps KVM's wait for an IRQ of L1's from an L1 that intercepts VINTR, and
# needs 27. Nowhere as of 7.3.4, and no reason to take the others.
#
# For stable@: mainline has the behaviour of patches 1, 11, 12, 21 and 23 to 29,
# and of 4 and 14 in part, by the commits that these name; they could be taken
# today, with 20, which prepares for 21, and 11 not before 12: without the
# others, they apply and build, but for 14 and 25, whose context differs. The
# others wait for mainline: 18 and 19, of which it has the behaviour (of 19 in
# part), as 18 needs 1, 9, 13 to 15 and 17, and 19 needs 5 and 6. Do not take 18
# without 15, although it applies: it relies on L1's EFER having been checked.
#
# Left to the newest kernel, which has it since 7.1: userspace learns of VMRUN,
# VMLOAD and VMSAVE of a VMCB without memory; here, they are #GP.
#
# Left to the series for the newest kernel, as it takes a new callback from
# kvm.ko to kvm-amd.ko: with virtual GIF, INIT that GIF=0 blocks, and in L2 an
# IRQ, are not taken at STGI; and INIT makes L2 exit although GIF is 0.
#
# Left out is upstream's 184bd464bdb6, by which KVM_SET_SREGS refuses an EFER
# that CPUID doesn't allow: it breaks userspace that sets EFER before CPUID, and
# has done so.
#
# Not here, as the emulator has no NRIPS, without which it does not show: a
# VMRUN that injects a soft interrupt, and that is migrated before L2 has run,
# goes by an RIP that is not L2's, if registers are restored after nested state,
# as QEMU does. Upstream a0592461f39c and c64bc6ed1764 (7.1). 6.18.y has them.
#
# Not closed, as nothing was found that shows it: on an SMI or RSM, KVM takes
# only -EINVAL for a failure to map the host save area or vmcb12. After another,
# -EFAULT, it reads and writes where a pointer on its stack that nobody has set
# happens to lead. That is for memory without a struct page, which memremap()
# refuses, or has no memory to map. The registers of a PCI device, which was
# tried, it takes. Upstream e6a82199b610 (6.2).
#
# Not closed, as the emulator has no PCID (by reading): with that and npt=0, L2
# without 64-bit paging and with CR4.PCIDE set makes the host WARN.
#
# Live migration, measured with the ioctls of QEMU in its order and VMs that
# are saved at 25 points, e.g. while L2 is active, while GIF=0 blocks an event,
# and in SMM: a VM can move from a host without these patches to one with them,
# and back, and goes on there as any VM does, except that:
#
# - A VM with EFER.SVME=0 and GIF=0 cannot move to a host without these
#   patches: KVM_SET_NESTED_STATE fails with EINVAL there. A guest gets there
#   by clearing EFER.SVME between CLGI and STGI; on a host without these
#   patches, GIF is 1 then.
# - A VM that is saved right after a VMRUN with an illegal EVENTINJ, on a host
#   without these patches, cannot move to one with them, for the same error.
# - What a host without these patches has done to a VM stays: GIF=1 after
#   EFER.SVME was cleared, and, with npt=0, in a VM that is saved while an SMI
#   that interrupted L2 is handled, CR0.WP of KVM in L1's CR0. By reading, so
#   does V_IRQ of KVM's in vmcb12 and nested state.
#
# QEMU 7.2 ignores the error (by reading), and starts the VM without what it
# loads after nested state: general purpose and FPU registers, MSRs and events
# are those of reset. Without them, the guest of the test shuts down at once.
# QEMU 9 does not start the VM (by reading).
#
# Tested on an emulated AMD host (QEMU TCG) with kvm_amd's default, vgif=0,
# vls=0, npt=0 and nested=0; not on hardware.
base 6.1.192-2
arch/x86/kvm/svm/linux-6.1.y/lma-without-lme-ignored.patch
arch/x86/kvm/linux-6.1.y/no-64-bit-roots-for-pae-paging.patch
arch/x86/kvm/svm/linux-6.1.y/vmexit-without-l1s-cr3.patch
arch/x86/kvm/svm/linux-6.1.y/l2-clears-svme-shutdown.patch
arch/x86/kvm/svm/linux-6.1.y/forced-leave-keeps-vcpus-state.patch
arch/x86/kvm/svm/linux-6.1.y/forced-leave-forgets-events.patch
arch/x86/kvm/svm/linux-6.1.y/forced-leave-restores-tsc.patch
arch/x86/kvm/svm/linux-6.1.y/vmexit-forgets-pending-vmrun.patch
arch/x86/kvm/svm/linux-6.1.y/no-l2-with-illegal-cr3.patch
arch/x86/kvm/svm/linux-6.1.y/l2-vmload-vmsave-failsafe.patch
arch/x86/kvm/svm/linux-6.1.y/init-vmcb-owns-vls.patch
arch/x86/kvm/linux-6.1.y/cpuid-change-in-l2-refused.patch
arch/x86/kvm/svm/linux-6.1.y/smi-in-l2-saves-l1s-registers.patch
arch/x86/kvm/svm/linux-6.1.y/rsm-checks-vmcb12.patch
arch/x86/kvm/svm/linux-6.1.y/rsm-checks-l1s-state.patch
arch/x86/kvm/svm/linux-6.1.y/exception-comes-before-init.patch
arch/x86/kvm/svm/linux-6.1.y/vmexit-restores-l1-cr4.patch
arch/x86/kvm/svm/linux-6.1.y/vmcb12-gone-shutdown.patch
arch/x86/kvm/svm/linux-6.1.y/svme-clear-keeps-gif.patch
arch/x86/kvm/svm/linux-6.1.y/extract-pending-gif-event.patch
arch/x86/kvm/svm/linux-6.1.y/recalc-intercepts-on-svme.patch
arch/x86/kvm/svm/linux-6.1.y/gif-set-keeps-stgi-intercept.patch
arch/x86/kvm/svm/linux-6.1.y/l2-vmmcall-ud.patch
arch/x86/kvm/svm/linux-6.1.y/vmexit-forgets-injection.patch
arch/x86/kvm/svm/linux-6.1.y/vmexit-clears-eventinj.patch
arch/x86/kvm/svm/linux-6.1.y/eventinj-checked.patch
arch/x86/kvm/svm/linux-6.1.y/no-dummy-interrupt-in-l2.patch
arch/x86/kvm/svm/linux-6.1.y/l2-gp-of-svm-instructions.patch
arch/x86/kvm/svm/linux-6.1.y/l2-skinit-ud.patch
arch/x86/kvm/svm/linux-6.1.y/early-failure-resets-dr7.patch
arch/x86/kvm/svm/linux-6.1.y/l2-irq-window-is-kvms.patch
