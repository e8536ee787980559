"""Descriptors on their way into a worker process."""

import os
import weakref
from multiprocessing import reduction
from typing import Any

__all__ = ["FdTicket"]


class FdTicket:
    """Owns descriptor ``fd``. Pickled for a process that is being started, it arrives there as a copy.

    Closed with its last reference, so whoever wants the descriptor for longer duplicates it.
    """

    def __init__(self, fd: int) -> None:
        self.fd = fd
        weakref.finalize(self, os.close, fd)

    def __reduce__(self) -> tuple[Any, ...]:
        return _adopt, (reduction.DupFd(self.fd),)


def _adopt(handle: Any) -> FdTicket:
    return FdTicket(handle.detach())
