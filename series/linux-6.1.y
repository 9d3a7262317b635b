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
#
# Patches 1 to 5 are about more than the guest that does it to itself:
#
#   1      L2, if L1 leaves writes to EFER to it: gets out of L2, or hangs L1.
#          Upstream cdc69269b18a (7.1).
#   2      A guest, by INIT and SIPI to a vCPU in an unpaged L2, hangs it. Who
#          has /dev/kvm gets the vCPU to run on page tables that KVM has freed
#          or, with npt=0, to write to read-only memory. Nowhere fixed as of
#          7.3; to be sent to security@kernel.org before it is posted.
#   3 to 5 Who has /dev/kvm and changes CPUID at the wrong time gives L1 or L2
#          access to host memory by way of VMLOAD and VMSAVE; found by reading
#          and never tried. Patch 5 is for kvm.ko.
#
# "Forget L1's injections into L2 whenever L2 is left" repairs the backport of
# 8998e1d012f3, whose lines ended up in another function.
#
# KVM_SET_SREGS goes on accepting EFER.SVME without SVM in CPUID. Upstream
# refuses what CPUID does not allow, but so would be VMMs that set special
# registers before, or without, KVM_SET_CPUID2, e.g. with EFER.LME.
#
# Tested on an emulated AMD host (QEMU TCG) with kvm_amd's default, vgif=0,
# vls=0 and npt=0; not on hardware.
base 6.1.192-2
arch/x86/kvm/svm/linux-6.1.y/l2-clears-svme-shutdown.patch
arch/x86/kvm/svm/linux-6.1.y/forced-leave-loads-root.patch
arch/x86/kvm/svm/linux-6.1.y/l2-vmload-vmsave-failsafe.patch
arch/x86/kvm/svm/linux-6.1.y/init-vmcb-owns-vls.patch
arch/x86/kvm/linux-6.1.y/cpuid-change-in-l2-refused.patch
arch/x86/kvm/svm/linux-6.1.y/svme-clear-keeps-gif.patch
arch/x86/kvm/svm/linux-6.1.y/extract-pending-gif-event.patch
arch/x86/kvm/svm/linux-6.1.y/recalc-intercepts-on-svme.patch
arch/x86/kvm/svm/linux-6.1.y/gif-set-keeps-stgi-intercept.patch
arch/x86/kvm/svm/linux-6.1.y/l2-vmmcall-ud.patch
arch/x86/kvm/svm/linux-6.1.y/vmexit-restores-l1-cr4.patch
arch/x86/kvm/svm/linux-6.1.y/leaving-l2-forgets-injection.patch
arch/x86/kvm/svm/linux-6.1.y/vmexit-clears-eventinj.patch
arch/x86/kvm/svm/linux-6.1.y/vmcb12-gone-shutdown.patch
arch/x86/kvm/svm/linux-6.1.y/rsm-checks-vmcb12.patch
arch/x86/kvm/svm/linux-6.1.y/eventinj-checked.patch
