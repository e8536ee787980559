"""A demo guest as a process of its own."""

import contextlib
import os
import re
import signal
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

from migrated.bench.service import MIGRATED
from migrated.errors import GuestError

__all__ = ["RUNNING", "Guest", "end_arrived", "wait_for_guest"]

RUNNING = re.compile(r"running as process (\d+), start \d+, (\d+) operations done")
"""The line with which a demo guest begins: its process, and how much it had done before."""

_START_SECONDS = 60.0
_LOOK_AGAIN_SECONDS = 0.05


@dataclass
class Guest:
    """A demo guest on this host; ``more`` are further words of its command line. GuestError if it does not start."""

    memory: Path
    size: str
    dirty_rate: str
    more: tuple[str, ...] = ()
    pid: int = 0
    process: "subprocess.Popen[bytes]" = field(init=False)

    @property
    def log(self) -> Path:
        """What it prints."""
        return self.memory.with_name(self.memory.name + ".log")

    def __enter__(self) -> "Guest":
        words = [f"--file={self.memory}", f"--size={self.size}", f"--dirty-rate={self.dirty_rate}"]
        with self.log.open("w") as output:
            self.process = subprocess.Popen(
                [*MIGRATED, "demo", *words, *self.more], stdout=output, stderr=output
            )
        try:
            self.pid = wait_for_guest(self.log, self.process)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()


def wait_for_guest(log: Path, process: "subprocess.Popen[bytes] | None" = None) -> int:
    """Wait until the demo guest that prints to ``log`` runs; its process id. GuestError if it does not."""
    until = time.monotonic() + _START_SECONDS
    while True:
        text = log.read_text() if log.exists() else ""
        match = RUNNING.search(text)
        if match:
            return int(match[1])
        if time.monotonic() > until or (process is not None and process.poll() is not None):
            raise GuestError(f"the demo guest did not start: {text or log}")
        time.sleep(_LOOK_AGAIN_SECONDS)


def end_arrived(log: Path) -> None:
    """End the demo guest that was started at a destination."""
    match = RUNNING.search(log.read_text()) if log.exists() else None
    if match:
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(match[1]), signal.SIGTERM)
