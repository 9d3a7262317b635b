# KVM: SVM: Make EFER.SVME and GIF behave as the architecture has it
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
arch/x86/kvm/svm/linux-6.1.y/vmexit-clears-eventinj.patch
arch/x86/kvm/svm/linux-6.1.y/vmcb12-gone-shutdown.patch
arch/x86/kvm/svm/linux-6.1.y/rsm-checks-vmcb12.patch
arch/x86/kvm/svm/linux-6.1.y/eventinj-checked.patch
arch/x86/kvm/linux-6.1.y/set-sregs-checks-efer.patch
