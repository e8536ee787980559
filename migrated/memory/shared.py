"""Memory that several processes share and that leaves nothing behind: memfds, handed on by descriptor.

Named shared memory stays in /dev/shm after a SIGKILL; a memfd goes with its last user, whatever dies.
"""

import contextlib
import mmap
import os
from multiprocessing import reduction
from typing import Any, Self

from migrated.errors import ResourceError

__all__ = ["SharedMemory"]


class SharedMemory:
    """``size`` bytes of a memfd, mapped here. Unpickled in a worker that is being started, it is the same memory.

    ``reserve`` takes the pages at once, so that lack of memory is a :class:`ResourceError` here and not a
    SIGBUS later, and the first use costs no page fault in the kernel's allocator.
    """

    def __init__(self, size: int, *, name: str = "migrated", reserve: bool = False) -> None:
        fd = os.memfd_create(name, os.MFD_CLOEXEC)
        try:
            os.ftruncate(fd, size)
            if reserve:
                os.posix_fallocate(fd, 0, size)
            self._attach(fd, size)
        except OSError as error:
            os.close(fd)
            raise ResourceError(
                f"cannot get {size >> 10} KiB of shared memory for {name}: {error.strerror}",
                "free memory, or use fewer workers or smaller batches",
            ) from error

    def _attach(self, fd: int, size: int) -> None:
        self.map = mmap.mmap(fd, size)
        self.fd = fd
        self.size = size
        self.view = memoryview(self.map)

    @classmethod
    def _received(cls, duplicate: Any, size: int) -> Self:
        self = cls.__new__(cls)
        self._attach(duplicate.detach(), size)
        return self

    def __reduce__(self) -> tuple[Any, tuple[Any, int]]:
        # DupFd works only while a process is being started: that is when pool initializers travel.
        return SharedMemory._received, (reduction.DupFd(self.fd), self.size)

    def close(self) -> None:
        """Give up this process's use. Views of it that are still held keep the mapping, not the descriptor."""
        if self.fd < 0:
            return
        os.close(self.fd)
        self.fd = -1
        self.view.release()
        with contextlib.suppress(BufferError):  # a numpy array over it is still alive; it goes when that does
            self.map.close()
