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
# The first patch keeps L1 off page tables that KVM does not own after it has
# been forced out of L2. The next three keep a VMM that changes CPUID at the
# wrong time from giving L1 or L2 access to host memory by way of VMLOAD and
# VMSAVE; that was found by reading and never tried.
#
# "Forget L1's injections into L2 whenever L2 is left" repairs the backport of
# 8998e1d012f3, whose lines ended up in another function.
#
# Tested on an emulated AMD host (QEMU TCG) with kvm_amd's default, vgif=0,
# vls=0 and npt=0; not on hardware.
base 6.1.192-2
arch/x86/kvm/svm/linux-6.1.y/forced-leave-loads-root.patch
arch/x86/kvm/svm/linux-6.1.y/l2-vmload-vmsave-failsafe.patch
arch/x86/kvm/svm/linux-6.1.y/init-vmcb-owns-vls.patch
arch/x86/kvm/linux-6.1.y/cpuid-change-in-l2-refused.patch
arch/x86/kvm/svm/linux-6.1.y/svme-clear-keeps-gif.patch
arch/x86/kvm/svm/linux-6.1.y/extract-pending-gif-event.patch
arch/x86/kvm/svm/linux-6.1.y/recalc-intercepts-on-svme.patch
arch/x86/kvm/svm/linux-6.1.y/gif-set-keeps-stgi-intercept.patch
arch/x86/kvm/svm/linux-6.1.y/l2-vmmcall-ud.patch
arch/x86/kvm/svm/linux-6.1.y/l2-clears-svme-shutdown.patch
arch/x86/kvm/svm/linux-6.1.y/vmexit-restores-l1-cr4.patch
arch/x86/kvm/svm/linux-6.1.y/leaving-l2-forgets-injection.patch
arch/x86/kvm/svm/linux-6.1.y/free-nested-no-injection.patch
arch/x86/kvm/svm/linux-6.1.y/vmexit-clears-eventinj.patch
arch/x86/kvm/svm/linux-6.1.y/vmcb12-gone-shutdown.patch
arch/x86/kvm/svm/linux-6.1.y/rsm-checks-vmcb12.patch
arch/x86/kvm/svm/linux-6.1.y/eventinj-checked.patch
arch/x86/kvm/linux-6.1.y/set-sregs-checks-efer.patch
