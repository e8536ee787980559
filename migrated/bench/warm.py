"""Memory of this host that its own host has given it already.

A virtual machine that gives back what it does not use (free page reporting) pays for each page that it takes again:
here 3.5 s a GiB instead of 0.5. How much of a measurement's memory is such depends on what ran before it, so the
benchmark that is to show how time grows with the guest keeps pages in use until the destination takes them.
"""

import contextlib
import os
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

__all__ = ["WarmPages", "fill_with_zeros"]

_STEP_BYTES = 4 << 20
_AHEAD_BYTES = 256 << 20
"""What is given back before it is needed."""

_LOOK_SECONDS = 0.02


def fill_with_zeros(path: Path, size: int) -> None:
    """Make a file of ``size`` bytes, all of them in memory."""
    step = bytes(min(size, _STEP_BYTES))
    with path.open("wb") as out:
        for first in range(0, size, _STEP_BYTES):
            out.write(step[: size - first])


class WarmPages:
    """``size`` bytes of a file in ``folder``, on shared memory; as the file ``taker`` grows it shrinks, so that the
    kernel hands the one's pages to the other."""

    def __init__(self, folder: Path, size: int, taker: Path) -> None:
        self._path, self._size, self._taker = folder / "warm-pages", size, taker
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._give_back)

    def __enter__(self) -> Self:
        fill_with_zeros(self._path, self._size)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        self._path.unlink(missing_ok=True)

    def _give_back(self) -> None:
        left = self._size
        while not self._over.wait(_LOOK_SECONDS):
            taken = 0
            with contextlib.suppress(OSError):
                taken = self._taker.stat().st_blocks * 512
            wanted = max(0, self._size - taken - _AHEAD_BYTES)
            if wanted < left:
                os.truncate(self._path, wanted)
                left = wanted
