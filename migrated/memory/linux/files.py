"""Files that hold memory: where they have data, punching holes, whether they are on huge pages."""

import ctypes
import errno
import functools
import mmap
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from migrated.errors import GuestError
from migrated.memory.linux.libc import LIBC, raise_errno
from migrated.memory.linux.meminfo import host_memory
from migrated.pages import PAGE_SIZE

__all__ = [
    "check_plain",
    "data_ranges",
    "is_hugetlbfs",
    "is_named_memory",
    "punch_hole",
    "resident_pages",
]

_FALLOC_FL_KEEP_SIZE = 0x01
_FALLOC_FL_PUNCH_HOLE = 0x02
_HUGETLBFS_MAGIC = 0x958458F6
_TMPFS_MAGIC = 0x01021994
_STATFS_BYTES = 256  # struct statfs64 has 120 on the 64-bit machines; f_type is its first word

_fallocate = LIBC.fallocate64
_fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
_mincore = LIBC.mincore
_mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p]
_fstatfs = LIBC.fstatfs64
_fstatfs.argtypes = [ctypes.c_int, ctypes.c_void_p]


def data_ranges(fd: int, size: int) -> Iterator[tuple[int, int]]:
    """The byte ranges (start, stop) below ``size`` that may hold data; the rest reads as zero.

    Moves the file offset of ``fd``'s open file description. Without holes in the file system: one range.
    """
    position = 0
    while position < size:
        try:
            start = os.lseek(fd, position, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # no data behind this place
                return
            raise
        if start >= size:
            return
        stop = min(os.lseek(fd, start, os.SEEK_HOLE), size)
        yield start, stop
        position = stop


def punch_hole(fd: int, offset: int, length: int) -> None:
    """Give ``length`` bytes at ``offset`` back; they read as zero afterwards, the file keeps its size.

    Raises ``OSError`` with EOPNOTSUPP where the file system can't.
    """
    if _fallocate(fd, _FALLOC_FL_KEEP_SIZE | _FALLOC_FL_PUNCH_HOLE, offset, length) != 0:
        raise_errno("punching a hole")


def resident_pages(fd: int, offset: int, size: int) -> NDArray[np.bool_] | None:
    """Which pages of [offset, offset + size) are in memory: with tmpfs and no swap, exactly those with data.

    Some 60 ns a page, however fragmented the file is. ``None`` where that can't be said: another file system,
    a host with swap, or a file that we neither own nor may write.
    """
    if _magic(fd) != _TMPFS_MAGIC or host_memory()["SwapTotal"] or not _tells_residency(fd):
        return None
    residency = np.empty(size // mmap.PAGESIZE, dtype=np.uint8)
    # Mapped, not touched: no page is charged to us.
    with mmap.mmap(fd, size, mmap.MAP_SHARED, mmap.PROT_READ, offset=offset) as mapping:
        address = np.frombuffer(mapping, dtype=np.uint8).ctypes.data
        if _mincore(address, size, residency.ctypes.data) != 0:
            raise_errno("mincore")
    resident: NDArray[np.bool_] = (residency & 1).astype(np.bool_)
    return resident


def _tells_residency(fd: int) -> bool:
    """The kernel's rule: who may neither write nor own a file is told that all of it is there."""
    return os.fstat(fd).st_uid == os.geteuid() or os.access(
        f"/proc/self/fd/{fd}", os.W_OK, effective_ids=True
    )


def is_hugetlbfs(fd: int) -> bool:
    """Whether the file lives on huge pages, where read(2) may work but write(2) does not."""
    return _magic(fd) == _HUGETLBFS_MAGIC


def is_named_memory(fd: int) -> bool:
    """Whether it is a file of a mounted tmpfs, also one that was unlinked: no memfd, nor what else the kernel has made
    without a name (shared anonymous memory)."""
    return _magic(fd) == _TMPFS_MAGIC and os.fstat(fd).st_dev != _nameless_device()


@functools.cache
def _nameless_device() -> int:
    fd = os.memfd_create("migrated")
    try:
        return os.fstat(fd).st_dev
    finally:
        os.close(fd)


def _magic(fd: int) -> int:
    buffer = (ctypes.c_long * (_STATFS_BYTES // ctypes.sizeof(ctypes.c_long)))()
    if _fstatfs(fd, ctypes.byref(buffer)) != 0:
        raise_errno("fstatfs")
    return int(buffer[0]) & 0xFFFFFFFF


def check_plain(file: str | Path, fd: int, *, whole: bool) -> None:
    """Refuse by the file's name what can't be memory: the region's own name tells a person nothing."""
    found = os.fstat(fd)
    if not stat.S_ISREG(found.st_mode):
        raise GuestError(f"{file} is no plain file, so it cannot be a guest's memory", "give the memory file")
    if whole and (not found.st_size or found.st_size % PAGE_SIZE):
        raise GuestError(
            f"{file} has {found.st_size} bytes, which is not a whole number of {PAGE_SIZE}-byte pages",
            "only whole pages can be moved; is it a guest's memory file?",
        )
