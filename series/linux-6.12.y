# KVM: SVM: Make SVM instructions, GIF and nested EFER.SVME follow the APM
#
# TODO
base 6.12.117-1~deb12u1
arch/x86/kvm/svm/linux-6.12.y/l2-vmload-vmsave-failsafe.patch
arch/x86/kvm/svm/linux-6.12.y/init-vmcb-owns-vls.patch
arch/x86/kvm/svm/linux-6.12.y/svme-clear-keeps-gif.patch
arch/x86/kvm/svm/linux-6.12.y/extract-pending-gif-event.patch
arch/x86/kvm/svm/linux-6.12.y/recalc-intercepts-on-svme.patch
arch/x86/kvm/svm/linux-6.12.y/gif-set-keeps-stgi-intercept.patch
arch/x86/kvm/svm/linux-6.12.y/l2-clears-svme-shutdown.patch
