"""How much memory a group of processes takes, shared pages counted once."""

import contextlib
import os
import re
import threading
from pathlib import Path

__all__ = ["PssWatch", "pss_of"]

_LOOK_AGAIN_SECONDS = 0.1
"""A look costs 5 to 40 ms of one core; the peak of a migration of one second is missed if it is taken less often."""


class PssWatch(threading.Thread):
    """Sums, now and then, the proportional memory of everything that carries ``folder`` in its environment."""

    def __init__(self, folder: Path, skip: frozenset[int] = frozenset()) -> None:
        super().__init__(daemon=True)
        self._folder = str(folder).encode()
        self._skip = skip
        self._ended = threading.Event()
        self.most_kib = 0

    def run(self) -> None:
        """Until :meth:`stop`."""
        while not self._ended.wait(_LOOK_AGAIN_SECONDS):
            self.most_kib = max(self.most_kib, self._sum())

    def stop(self) -> int:
        """End; the largest sum seen, in KiB."""
        self._ended.set()
        self.join()
        return self.most_kib

    def _sum(self) -> int:
        total = 0
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) in self._skip or int(entry.name) == os.getpid():
                continue
            with contextlib.suppress(OSError):
                if self._folder in (entry / "environ").read_bytes():
                    total += pss_of(entry)
        return total


def pss_of(process: Path) -> int:
    """Proportional set size of ``/proc/PID``, in KiB."""
    match = re.search(r"^Pss:\s+(\d+) kB", (process / "smaps_rollup").read_text(), re.MULTILINE)
    return int(match[1]) if match else 0
