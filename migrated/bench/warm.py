"""Memory of this host that its own host has given it already.

A virtual machine that gives back what it does not use (free page reporting) pays for each page that it takes again:
here 3.5 s a GiB instead of 0.5. How much of a measurement's memory is such depends on what ran before it, so the
benchmark that is to show how time grows with the guest keeps pages in use until the destination takes them.
"""

import contextlib
import os
import tempfile
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

from migrated.memory.linux.meminfo import host_memory

__all__ = ["WarmPages", "fill_with_zeros"]

_STEP_BYTES = 4 << 20
_AHEAD_BYTES = 256 << 20
"""What is given back before it is needed."""

_SPARE_BYTES = 1 << 30
"""What stays free for all else that runs."""

_LOOK_SECONDS = 0.02

_ON_DISK = "/var/tmp"  # noqa: S108  of a name that nobody can guess, and gone at once


def fill_with_zeros(path: Path, size: int) -> None:
    """Make a file of ``size`` bytes, all of them in memory."""
    step = bytes(min(size, _STEP_BYTES))
    with path.open("wb") as out:
        for first in range(0, size, _STEP_BYTES):
            out.write(step[: size - first])


class WarmPages:
    """``size`` bytes of a file's page cache, or all that are free but a GiB; as the file ``taker`` grows it shrinks, so
    that the kernel hands the one's pages to the other. They count as available meanwhile, so a destination takes as
    large a guest as without them.

    Only where nearly nothing else is free all of ``taker`` surely gets such pages; that takes 3 s a GiB to prepare.
    """

    def __init__(self, size: int | None, taker: Path) -> None:
        self._size = (
            max(0, host_memory()["MemFree"] - _SPARE_BYTES) // _STEP_BYTES * _STEP_BYTES
            if size is None
            else size
        )
        self._taker = taker
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._give_back)

    def __enter__(self) -> Self:
        # Without content: what is read of it takes pages, and no time of the disk.
        self._file = tempfile.TemporaryFile(dir=_ON_DISK)
        os.truncate(self._file.fileno(), self._size)
        # Page by page, or the cache gets large blocks, which the kernel hands to nobody who wants pages.
        os.posix_fadvise(self._file.fileno(), 0, self._size, os.POSIX_FADV_RANDOM)
        buffer = memoryview(bytearray(_STEP_BYTES))
        for first in range(0, self._size, _STEP_BYTES):
            os.preadv(self._file.fileno(), [buffer], first)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        self._file.close()

    def _give_back(self) -> None:
        left = self._size
        while not self._over.wait(_LOOK_SECONDS):
            taken = 0
            with contextlib.suppress(OSError):
                taken = self._taker.stat().st_blocks * 512
            wanted = max(0, self._size - taken - _AHEAD_BYTES)
            if wanted < left:
                os.posix_fadvise(self._file.fileno(), wanted, left - wanted, os.POSIX_FADV_DONTNEED)
                left = wanted
