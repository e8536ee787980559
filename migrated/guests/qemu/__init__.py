"""``qemu:SOCKET``: a virtual machine of QEMU. Its memory by our engine, its devices by QEMU itself."""
