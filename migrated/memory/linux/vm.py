"""Reading another process's memory: process_vm_readv over address vectors that numpy built."""

import ctypes

import numpy as np
from numpy.typing import NDArray

from migrated.memory.linux.libc import LIBC, raise_errno

__all__ = ["IOV_MAX", "Vectors", "address_of", "process_vm_readv"]

IOV_MAX = 1024
"""The kernel takes this many vectors a call (UIO_MAXIOV)."""

Vectors = NDArray[np.uint64]
"""Rows of (address, length in bytes): the kernel's ``struct iovec``. C-contiguous."""

_readv = LIBC.process_vm_readv
_readv.restype = ctypes.c_ssize_t
_readv.argtypes = [
    ctypes.c_int,
    ctypes.c_void_p,
    ctypes.c_ulong,
    ctypes.c_void_p,
    ctypes.c_ulong,
    ctypes.c_ulong,
]


def address_of(buffer: memoryview) -> int:
    """The address of a writable, contiguous buffer; good for as long as the caller keeps it."""
    return int(np.frombuffer(buffer, dtype=np.uint8).ctypes.data)


def process_vm_readv(pid: int, vectors: Vectors, address: int, length: int) -> int:
    """Read the remote ``vectors`` (at most ``IOV_MAX``) into ``length`` bytes at ``address`` of our own.

    Returns how many bytes arrived: fewer than asked when a page in the middle can't be read. Raises
    ``ProcessLookupError`` (ended), ``PermissionError`` (no ptrace access), or ``OSError`` with EFAULT (the
    very first page can't be read). The GIL is free meanwhile.
    """
    local = np.array([[address, length]], dtype=np.uint64)
    got = int(_readv(pid, local.ctypes.data, 1, vectors.ctypes.data, len(vectors), 0))
    if got < 0:
        raise_errno(f"process_vm_readv of process {pid}")
    return got
