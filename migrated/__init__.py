"""Live migration of memory in use: processes, shared memory, QEMU guests."""

__version__ = "0.1.0"
