"""inotify(7): whether a file was changed by a call, which memory that is written through a mapping is not."""

import contextlib
import ctypes
import os
import struct

from migrated.memory.linux.libc import LIBC, raise_errno

__all__ = ["FileWatch"]

_IN_MODIFY = 0x2
_IN_IGNORED = 0x8000
_EVENT = struct.Struct("iIII")
"""A watch, what happened, a cookie, the length of a name: events of a file itself have none."""
_EVENTS_BYTES = 256 * _EVENT.size

_inotify_add_watch = LIBC.inotify_add_watch
_inotify_add_watch.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_uint32]


class FileWatch:
    """Sees holes that are made (fallocate, MADV_REMOVE), truncations and write(2), by whatever process, from now on.

    It does not see what goes through a descriptor that the kernel made outside a mounted file system, a memfd's for one
    (since Linux 6.14), nor what the kernel does by itself: a loop device on the file, Linux AIO. Raises ``OSError``,
    EMFILE for example: a user has 128 such descriptors, if not set otherwise.
    """

    def __init__(self, fd: int) -> None:
        self._path = f"/proc/self/fd/{fd}".encode()
        self._events = LIBC.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self._events < 0:
            raise_errno("watching a file")
        try:
            self._add()
        except OSError:
            self.close()
            raise
        self._lost = False

    def changed(self) -> bool:
        """Whether it may have been changed since the last call. A change that is under way may be told of by the next
        call."""
        found = b""
        with contextlib.suppress(BlockingIOError):
            # One read: events that are alike are one, and whoever changes it all the time shall not keep us here.
            found = os.read(self._events, _EVENTS_BYTES)
        lost = self._lost or any(what & _IN_IGNORED for _, what, _, _ in _EVENT.iter_unpack(found))
        if lost:  # one of its names was the last one, or so it seemed: the watch went with it
            self._lost = True
            with contextlib.suppress(OSError):  # then nothing is known until the next call
                self._add()
                self._lost = False
        return lost or bool(found)

    def close(self) -> None:
        """May be called twice."""
        if self._events >= 0:
            os.close(self._events)
            self._events = -1

    def _add(self) -> None:
        if _inotify_add_watch(self._events, self._path, _IN_MODIFY) < 0:
            raise_errno("watching a file")
