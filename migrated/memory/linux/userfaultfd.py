"""ioctls of a userfaultfd, used for asynchronous write protection, and to find out what a file has in memory.

For write protection the descriptor belongs to another process's address space; addresses are that one's. Nobody ever
reads events from it: with WP_ASYNC the kernel resolves a write fault by itself and just notes the page as written.
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
    "enable_minor_faults",
    "map_present",
    "register",
    "register_minor_faults",
    "unregister",
]

SYS_USERFAULTFD = 323
"""The number of the system call on x86-64."""

USERFAULTFD_FLAGS = os.O_CLOEXEC | os.O_NONBLOCK | 1
"""The 1 is UFFD_USER_MODE_ONLY: without it, users other than root get EPERM."""

_UFFDIO_API = 0xC018AA3F
_UFFDIO_REGISTER = 0xC020AA00
_UFFDIO_UNREGISTER = 0x8010AA01
_UFFDIO_CONTINUE = 0xC020AA07

_API = 0xAA
_FEATURE_MINOR_HUGETLBFS = 1 << 9
_FEATURE_WP_HUGETLBFS_SHMEM = 1 << 12
_FEATURE_WP_UNPOPULATED = 1 << 13
_FEATURE_WP_ASYNC = 1 << 15
_REGISTER_MODE_WP = 1 << 1
_REGISTER_MODE_MINOR = 1 << 2
_CONTINUE_MODE_DONTWAKE = 1


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


def enable_minor_faults(descriptor: int) -> None:
    """The first call on a fresh userfaultfd. ``OSError`` EINVAL: the kernel has none for huge pages (5.13 has)."""
    fcntl.ioctl(descriptor, _UFFDIO_API, struct.pack("<QQQ", _API, _FEATURE_MINOR_HUGETLBFS, 0))


def register_minor_faults(descriptor: int, start: int, stop: int) -> None:
    """Leave faults in [start, stop), a shared mapping of a file, to us; who touches it before it is mapped hangs."""
    fcntl.ioctl(
        descriptor, _UFFDIO_REGISTER, struct.pack("<QQQQ", start, stop - start, _REGISTER_MODE_MINOR, 0)
    )


def map_present(descriptor: int, start: int, stop: int) -> int:
    """Map what the file has from ``start`` on, up to its first hole; returns how many bytes that were.

    ``OSError`` EFAULT: there is a hole at ``start``.
    """
    request = bytearray(struct.pack("<QQQq", start, stop - start, _CONTINUE_MODE_DONTWAKE, 0))
    try:
        fcntl.ioctl(descriptor, _UFFDIO_CONTINUE, request)
    except BlockingIOError:  # a part was mapped, or our mappings changed just then: nothing was
        return max(0, int(struct.unpack("<QQQq", request)[3]))
    return stop - start


def create_userfaultfd() -> int:
    """A userfaultfd of our own address space, as :mod:`.injection` makes one of another's. x86-64 only."""
    descriptor = int(LIBC.syscall(SYS_USERFAULTFD, USERFAULTFD_FLAGS))
    if descriptor < 0:
        raise_errno("userfaultfd")
    return descriptor
