# SPDX-License-Identifier: GPL-2.0-only
# Which files of a kernel are taken.

# What KVM and its selftests are made of: no patch is about more. And its headers (patterns, for set -f where they
# are not to be expanded), with which modules are built, as the tree has them; the rest of the kernel
# has been built with the shipped ones.
kvm_parts='COPYING MAINTAINERS Documentation/virt/kvm arch/x86/kvm tools/testing/selftests/kvm virt/kvm'
kvm_headers='arch/x86/include/asm/kvm[-_]* arch/x86/include/asm/svm.h arch/x86/include/asm/vmx.h
	arch/x86/include/uapi/asm/kvm[_.]* arch/x86/include/uapi/asm/svm.h arch/x86/include/uapi/asm/vmx.h
	include/kvm/iodev.h include/linux/kvm_* include/trace/events/kvm.h include/uapi/linux/kvm[_.]*'

# The parts of the source that are unpacked: what KVM's patches touch, and of a tree that is
# not this Debian release's own, what its selftests and module tools are built from.
parts="$kvm_parts $kvm_headers"
more_parts='drivers/dma/idxd drivers/dma/ioat include/linux/device-id include/linux/license.h
	    include/linux/mod_devicetable.h include/linux/module_symbol.h scripts tools/arch tools/build
	    tools/include tools/lib tools/objtool tools/scripts tools/testing/selftests/cgroup
	    tools/testing/selftests/clone3 tools/testing/selftests/kselftest.h
	    tools/testing/selftests/kselftest_harness.h tools/testing/selftests/kselftest
	    tools/testing/selftests/lib.mk tools/testing/selftests/Makefile
	    tools/testing/selftests/rseq tools/testing/selftests/run_kselftest.sh
	    tools/testing/selftests/vfio'
# To make a file takes longer than to download it, so without most of those in the kernel's packages that KVM
# does not include, and without other modules.
unread='arch/[a-wyz]* include/config/[A-Z]* include/drm include/dt-bindings include/linux/mfd
	include/linux/platform_data include/linux/usb include/media include/scsi include/sound kernel/drivers
	kernel/fs kernel/net kernel/sound'

