"""inotify(7): whether a file was changed by a call, which memory that is written through a mapping is not."""

import contextlib
import ctypes
import os

from migrated.memory.linux.libc import LIBC, raise_errno

__all__ = ["FileWatch"]

_IN_MODIFY = 0x2
_EVENTS_BYTES = 4096

_inotify_add_watch = LIBC.inotify_add_watch
_inotify_add_watch.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_uint32]


class FileWatch:
    """Sees holes that are made (fallocate, MADV_REMOVE), truncations and write(2), by whatever process, from now on.

    Not through a descriptor of a file that never had a name, as a memfd has: since Linux 6.14 those tell nothing.
    Raises ``OSError``, EMFILE for example: a user has 128 such descriptors, if not set otherwise.
    """

    def __init__(self, fd: int) -> None:
        self._events = LIBC.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self._events < 0:
            raise_errno("watching a file")
        try:
            if _inotify_add_watch(self._events, f"/proc/self/fd/{fd}".encode(), _IN_MODIFY) < 0:
                raise_errno("watching a file")
        except OSError:
            self.close()
            raise

    def changed(self) -> bool:
        """Whether it was changed since the last call. One that is under way may be told of by the next call."""
        found = False
        with contextlib.suppress(BlockingIOError):
            while os.read(self._events, _EVENTS_BYTES):
                found = True
        return found

    def close(self) -> None:
        """May be called twice."""
        if self._events >= 0:
            os.close(self._events)
            self._events = -1
