# KVM: SVM: Make EFER.SVME and GIF behave as the architecture has it
base 6.1.192-2
