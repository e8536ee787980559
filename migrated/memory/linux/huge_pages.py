"""Which huge pages of a hugetlbfs file are there. It knows no SEEK_HOLE, and mincore tells only of our page tables.

The kernel is asked to map what is there into a mapping of ours, by userfaultfd's minor faults (Linux 5.13): nothing is
read, no hole is filled, and no memory is charged to us. 64 GiB on pages of 2 MiB, all of them holes, take 0.2 s; a file
without holes takes nothing.
"""

import contextlib
import errno
import mmap
import os

import numpy as np
from numpy.typing import NDArray

from migrated.memory.linux import userfaultfd
from migrated.memory.linux.userfaultfd import create_userfaultfd
from migrated.pages import PAGE_SIZE

__all__ = ["present_pages"]

_MAP_NORESERVE = 0x4000
_READ_BYTES = 1 << 20


def present_pages(fd: int, size: int) -> NDArray[np.bool_]:
    """For every page of 4 KiB in the first ``size`` bytes, whether the huge page that it lies in is there.

    Where userfaultfd is forbidden, or writing to the file, it is read, and huge pages of zeros are left out too. Raises
    ``OSError``.
    """
    status = os.fstat(fd)
    huge = status.st_blksize
    count = -(-size // huge)
    if status.st_blocks * 512 >= status.st_size:
        found = np.ones(count, dtype=np.bool_)
    else:
        with contextlib.ExitStack() as opened:
            try:
                descriptor = create_userfaultfd()
                opened.callback(os.close, descriptor)
                # The kernel leaves faults to us only where we might write, by a descriptor for writing.
                ours = os.open(f"/proc/self/fd/{fd}", os.O_RDWR | os.O_CLOEXEC)
                opened.callback(os.close, ours)
            except OSError:
                found = _by_content(fd, huge, count)
            else:
                found = _by_faults(descriptor, ours, huge, count)
    return np.repeat(found, huge // PAGE_SIZE)[: size // PAGE_SIZE]


def _by_faults(descriptor: int, fd: int, huge: int, count: int) -> NDArray[np.bool_]:
    found = np.zeros(count, dtype=np.bool_)
    try:
        userfaultfd.enable_minor_faults(descriptor)
    except OSError:  # an older kernel
        return _by_content(fd, huge, count)
    with mmap.mmap(fd, count * huge, mmap.MAP_SHARED | _MAP_NORESERVE, mmap.PROT_READ) as mapping:
        start = np.frombuffer(mapping, dtype=np.uint8).ctypes.data
        userfaultfd.register_minor_faults(descriptor, start, start + len(mapping))
        at = 0
        while at < count:
            try:
                mapped = userfaultfd.map_present(descriptor, start + at * huge, start + len(mapping)) // huge
            except OSError as error:
                if error.errno != errno.EFAULT:
                    raise
                at += 1  # a hole
            else:
                found[at : at + mapped] = True
                at += mapped
    return found


def _by_content(fd: int, huge: int, count: int) -> NDArray[np.bool_]:
    found = np.zeros(count, dtype=np.bool_)
    buffer = bytearray(min(huge, _READ_BYTES))
    words = np.frombuffer(buffer, dtype=np.uint64)
    for number in range(count):
        for offset in range(number * huge, (number + 1) * huge, len(buffer)):
            if os.preadv(fd, [buffer], offset) == 0:
                break
            if words.any():
                found[number] = True
                break
    return found
