"""ioctls of a userfaultfd, used only for asynchronous write protection.

The descriptor belongs to another process's address space; addresses are that one's. Nobody ever reads events
from it: with WP_ASYNC the kernel resolves a write fault by itself and just notes the page as written.
"""

import fcntl
import os
import struct

from migrated.memory.linux.libc import LIBC, raise_errno

__all__ = [
    "SYS_USERFAULTFD",
    "USERFAULTFD_FLAGS",
    "create_userfaultfd",
    "enable_async_protection",
    "register",
    "unregister",
]

SYS_USERFAULTFD = 323
"""The number of the system call on x86-64."""

USERFAULTFD_FLAGS = os.O_CLOEXEC | os.O_NONBLOCK | 1
"""The 1 is UFFD_USER_MODE_ONLY: without it, users other than root get EPERM."""

_UFFDIO_API = 0xC018AA3F
_UFFDIO_REGISTER = 0xC020AA00
_UFFDIO_UNREGISTER = 0x8010AA01

_API = 0xAA
_FEATURE_WP_HUGETLBFS_SHMEM = 1 << 12
_FEATURE_WP_UNPOPULATED = 1 << 13
_FEATURE_WP_ASYNC = 1 << 15
_REGISTER_MODE_WP = 1 << 1


def enable_async_protection(descriptor: int) -> None:
    """The first call on a fresh userfaultfd. ``OSError`` EINVAL: the kernel lacks asynchronous protection."""
    features = _FEATURE_WP_ASYNC | _FEATURE_WP_UNPOPULATED | _FEATURE_WP_HUGETLBFS_SHMEM
    fcntl.ioctl(descriptor, _UFFDIO_API, struct.pack("<QQQ", _API, features, 0))


def register(descriptor: int, start: int, stop: int) -> None:
    """Watch [start, stop) for writes; nothing is protected before the first scan.

    ``OSError``: EINVAL (not mapped, or a kind of memory that can't be protected), EBUSY (the process uses a
    userfaultfd there itself), ENOENT or ESRCH (its address space is gone).
    """
    fcntl.ioctl(descriptor, _UFFDIO_REGISTER, struct.pack("<QQQQ", start, stop - start, _REGISTER_MODE_WP, 0))


def unregister(descriptor: int, start: int, stop: int) -> None:
    """End the watch and every protection in [start, stop)."""
    fcntl.ioctl(descriptor, _UFFDIO_UNREGISTER, struct.pack("<QQ", start, stop - start))


def create_userfaultfd() -> int:
    """A userfaultfd of our own address space, as :mod:`.injection` makes one of another's. x86-64 only."""
    descriptor = int(LIBC.syscall(SYS_USERFAULTFD, USERFAULTFD_FLAGS))
    if descriptor < 0:
        raise_errno("userfaultfd")
    return descriptor
