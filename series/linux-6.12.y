# KVM: SVM: Make EFER.SVME and GIF behave as the architecture has it
#
# What a guest of a kernel without these patches sees on an AMD CPU with
# virtual GIF and virtual VMLOAD/VMSAVE, both of which KVM uses by default:
#
# VMLOAD, VMSAVE, STGI and CLGI are executed although EFER.SVME is 0, in
# every VM. If a nested guest (L2) clears EFER.SVME, its hypervisor (L1)
# resumes with L2's registers. Clearing EFER.SVME sets GIF. With npt=0, L1
# gets L2's CR4 on a #VMEXIT from an unpaged L2. L1 gets a #VMEXIT for SKINIT
# in L2, and on older CPUs for VMRUN, VMLOAD and VMSAVE in user mode of L2,
# which are exceptions.
#
# Patches 1 to 17 are about more than the guest that does it to
# itself. Who can reach it, what it costs, and where else it is fixed:
#
#   1      A guest whose L2 uses PAE paging, with npt=0: BUG() in the host. Who
#          has /dev/kvm: NULL dereference in the host. Nowhere as of 7.3.4; to
#          be sent to security@kernel.org before anything is posted in public.
#   2      Who has /dev/kvm, and goes on after the shutdown of an L1 whose CR3 is
#          illegal: the CPU uses page tables that KVM has freed, or, with npt=0,
#          L1's CR3 for an address of the host. Nowhere as of 7.3.4; to be sent
#          to security@kernel.org before anything is posted in public.
#   3      L2, if L1 leaves writes to EFER to it: gets out of L2, or hangs L1.
#          Upstream cdc69269b18a (7.1), in part.
#   4 to 6 A guest, by INIT and SIPI to a vCPU in an unpaged L2: the vCPU
#          hangs; with npt=0 the CPU takes L1's CR3 for an address of the host.
#          6.12.118 resets the MMU there, and doesn't hang. Who has /dev/kvm:
#          page tables that KVM has freed, a TLB flush that is not done, the
#          host's XCR0 in the guest, a WARN. All but the WARN is seen by a build
#          that looks before each VMRUN at what the CPU gets. Nowhere as of
#          7.3.4; to be sent to security@kernel.org before anything is posted in
#          public.
#   7      Who has /dev/kvm: WARN in the host. Upstream has another form.
#   8      Who has /dev/kvm: L2 runs without a root. Nowhere as of 7.3.4; to be
#          sent to security@kernel.org before anything is posted in public.
#   9      Who has /dev/kvm, and goes on after the shutdown of an RSM to an
#          invalid vmcb12: the CPU runs with CR0, CR4 and EFER of a guest's
#          choice; with npt=0 on page tables of another format: the vCPU hangs,
#          or, by reading, the guest reads and writes all of the host's memory,
#          as its pages are taken for page tables. Nowhere as of 7.3.4; to be
#          sent to security@kernel.org before anything is posted in public.
#   10     L1, on an SMI that interrupts L2: the host's CR4.MCE for its own.
#          Nowhere as of 7.3.4.
#   11     A guest with SMM: WARN in the host, VM dead. Nowhere as of 7.3.4.
#   12 to 14 Who has /dev/kvm and changes CPUID at the wrong time gives L1 or L2
#          access to host memory by way of VMLOAD and VMSAVE. Patch 14 is for
#          kvm.ko, as is 1.
#          No test executes the two there. A build that looks before each VMRUN
#          at what the CPU is to do with them shows L1 as shipped, and L2 if
#          12 and 14 are taken out.
#   15     A guest with an L2: WARN in the host, L2 hangs. Nowhere as of 7.3.4;
#          to be sent to security@kernel.org before anything is posted in
#          public.
#   16     L2 without paging, with npt=0: its CR4 for L1's, e.g. no SMEP. Nowhere
#          as of 7.3.4.
#   17     Who has /dev/kvm, or a guest that has it take memory away: WARN in the
#          host (by reading). Upstream 1b30e7551767 (7.1).
#
# Patches 23 and 24 are about exits that L1 need not know. Patch 23: user mode
# of L2 causes them with VMRUN, VMLOAD and VMSAVE, on CPUs without
# SVME_ADDR_CHK, and with kvm.enable_vmware_backdoor on any. Upstream
# 783cf7d01fb8 and 435741a4e766 (7.1). Patch 24: L2's kernel does with SKINIT.
# Upstream 1d1722e52fcd (7.0).
#
# The last patch but one has a VMRUN that fails disable L1's breakpoints. The
# last keeps KVM's wait for an IRQ of L1's from an L1 that intercepts VINTR.
# Nowhere as of 7.3.4, and no reason to take the others.
#
# For stable@: mainline has the behaviour of patches 3 (in part), 13, 14, 20 and
# 22 to 24, by the commits that these name; they could be taken today, with 19,
# which prepares for 20, and 13 not before 14: without the others, they apply
# and build. The others wait for mainline: 17 and 18, of which it has the
# behaviour (of 18 in part), as 17 needs 8 to 11 and 16, and 18 needs 4, 5 and
# 10.
#
# Left to the newest kernel, which has it since 7.1: userspace learns of VMRUN,
# VMLOAD and VMSAVE of a VMCB without memory; here, they are #GP.
#
# Left to the series for the newest kernel, as it takes a new callback from
# kvm.ko to kvm-amd.ko: with virtual GIF, INIT that GIF=0 blocks, and in L2 an
# IRQ, are not taken at STGI; and INIT makes L2 exit although GIF is 0.
#
# Not here, as 6.12.118 has it: KVM_SET_NESTED_STATE with L1's EFER.LMA=1 and
# EFER.LME=0 makes the host WARN, and the VM is dead (CVE-2026-99345).
#
# Not here, as the emulator has no NRIPS, without which it does not show: a
# VMRUN that injects a soft interrupt, and that is migrated before L2 has run,
# goes by an RIP that is not L2's, if registers are restored after nested state,
# as QEMU does. Upstream a0592461f39c and c64bc6ed1764 (7.1). 6.18.y has them;
# 6.12.y could not take the first as it is.
#
# Not closed, as the emulator has neither (both by reading): with virtual NMI,
# an NMI that is pending when L2 is left without a #VMEXIT makes the host WARN;
# with PCID and npt=0, so does L2 without 64-bit paging and with CR4.PCIDE set.
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
#   EFER.SVME was cleared, and, in a VM that is saved while an SMI that
#   interrupted L2 is handled, the host's CR4.MCE in L1's CR4, with npt=0
#   CR0.WP of KVM as well. By reading, so does V_IRQ of KVM's in vmcb12 and in
#   nested state, of an L1 that intercepts VINTR.
#
# QEMU 7.2 ignores the error (by reading), and starts the VM without what it
# loads after nested state: general purpose and FPU registers, MSRs and events
# are those of reset. Without them, the guest of the test shuts down at once.
# QEMU 9 does not start the VM (by reading).
#
# Tested on an emulated AMD host (QEMU TCG) with kvm_amd's default, vgif=0,
# vls=0, npt=0 and nested=0; not on hardware.
base 6.12.117-1~deb12u1
arch/x86/kvm/linux-6.12.y/no-64-bit-roots-for-pae-paging.patch
arch/x86/kvm/svm/linux-6.12.y/vmexit-without-l1s-cr3.patch
arch/x86/kvm/svm/linux-6.12.y/l2-clears-svme-shutdown.patch
arch/x86/kvm/svm/linux-6.12.y/forced-leave-keeps-vcpus-state.patch
arch/x86/kvm/svm/linux-6.12.y/forced-leave-forgets-events.patch
arch/x86/kvm/svm/linux-6.12.y/forced-leave-restores-tsc.patch
arch/x86/kvm/svm/linux-6.12.y/vmexit-forgets-pending-vmrun.patch
arch/x86/kvm/svm/linux-6.12.y/no-l2-with-illegal-cr3.patch
arch/x86/kvm/svm/linux-6.12.y/rsm-checks-vmcb12-first.patch
arch/x86/kvm/svm/linux-6.12.y/smi-in-l2-saves-l1s-registers.patch
arch/x86/kvm/svm/linux-6.12.y/rsm-checks-l1s-state.patch
arch/x86/kvm/svm/linux-6.12.y/l2-vmload-vmsave-failsafe.patch
arch/x86/kvm/svm/linux-6.12.y/init-vmcb-owns-vls.patch
arch/x86/kvm/linux-6.12.y/cpuid-change-in-l2-refused.patch
arch/x86/kvm/svm/linux-6.12.y/exception-comes-before-init.patch
arch/x86/kvm/svm/linux-6.12.y/vmexit-restores-l1-cr4.patch
arch/x86/kvm/svm/linux-6.12.y/vmcb12-gone-shutdown.patch
arch/x86/kvm/svm/linux-6.12.y/svme-clear-keeps-gif.patch
arch/x86/kvm/svm/linux-6.12.y/extract-pending-gif-event.patch
arch/x86/kvm/svm/linux-6.12.y/recalc-intercepts-on-svme.patch
arch/x86/kvm/svm/linux-6.12.y/gif-set-keeps-stgi-intercept.patch
arch/x86/kvm/svm/linux-6.12.y/eventinj-checked.patch
arch/x86/kvm/svm/linux-6.12.y/l2-gp-of-svm-instructions.patch
arch/x86/kvm/svm/linux-6.12.y/l2-skinit-ud.patch
arch/x86/kvm/svm/linux-6.12.y/early-failure-resets-dr7.patch
arch/x86/kvm/svm/linux-6.12.y/l2-irq-window-is-kvms.patch
