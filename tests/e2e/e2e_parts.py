"""What a host has on it - daemons, demo guests - and how a guest's memory file is read from outside."""

import contextlib
import os
import socket
from dataclasses import dataclass
from pathlib import Path

from e2e_processes import PATIENCE, Running, Seen

from migrated.guests.demo.layout import RECORD_AT, Counter, read_runner
from migrated.memory.linux import process


class Daemon(Running):
    """A ``migrated serve`` that listens."""

    port = 0
    control = 0

    def wait_ready(self) -> None:
        line = self.out.wait("listening on ")
        self.port = int(line.split("listening on 127.0.0.1:")[1].split(",")[0])
        self.control = int(line.split("control on http://127.0.0.1:")[1].split(",")[0])

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def logged(self, text: str, timeout: float = PATIENCE) -> str:
        """The first line of its log with that text."""
        return self.err.wait(text, timeout)


@dataclass
class Guest:
    """A demo guest that the test started."""

    name: str
    path: Path
    run: Running

    @property
    def pid(self) -> int:
        return self.run.pid

    @property
    def uri(self) -> str:
        return f"demo:{self.path}"


@dataclass(frozen=True)
class Place:
    """Where a guest's process is."""

    side: str
    seen: Seen
    path: Path


def counter(path: Path, which: Counter) -> int:
    """A counter of the demo guest on that memory file."""
    with path.open("rb") as file:
        return int.from_bytes(os.pread(file.fileno(), 8, RECORD_AT + 8 * which), "little")


def runs_on(path: Path) -> int:
    """The process that says of itself, in the memory file, that it runs on it; 0 if it is gone."""
    with path.open("rb") as file:
        pid, start = read_runner(file.fileno())
    with contextlib.suppress(OSError):
        if pid and process.start_time(pid) == start:
            return pid
    return 0


def is_dead_socket(path: Path) -> bool:
    """A socket at which nobody listens any more."""
    if not path.is_socket():
        return False
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) != 0
