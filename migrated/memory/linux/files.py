"""Files that hold memory: where they have data, punching holes, whether they are on huge pages."""

import ctypes
import errno
import os
from collections.abc import Iterator

from migrated.memory.linux.libc import LIBC, raise_errno

__all__ = ["data_ranges", "is_hugetlbfs", "punch_hole"]

_FALLOC_FL_KEEP_SIZE = 0x01
_FALLOC_FL_PUNCH_HOLE = 0x02
_HUGETLBFS_MAGIC = 0x958458F6
_STATFS_BYTES = 256  # struct statfs64 has 120 on the 64-bit machines; f_type is its first word

_fallocate = LIBC.fallocate64
_fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
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


def is_hugetlbfs(fd: int) -> bool:
    """Whether the file lives on huge pages, where read(2) may work but write(2) does not."""
    buffer = (ctypes.c_long * (_STATFS_BYTES // ctypes.sizeof(ctypes.c_long)))()
    if _fstatfs(fd, ctypes.byref(buffer)) != 0:
        raise_errno("fstatfs")
    return (buffer[0] & 0xFFFFFFFF) == _HUGETLBFS_MAGIC
