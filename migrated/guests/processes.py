"""What /proc says of a process: is it the one we mean, does it run, is it stopped."""

from dataclasses import dataclass
from pathlib import Path

__all__ = ["ProcessStatus", "read_status"]


@dataclass(frozen=True, slots=True)
class ProcessStatus:
    """One look at ``/proc/PID/stat``. ``start`` is in clock ticks since boot: with the pid it names a
    process."""

    pid: int
    comm: str
    state: str
    start: int

    @property
    def alive(self) -> bool:
        """It can still run: no zombie and not being taken down."""
        return self.state not in "ZXx"

    @property
    def stopped(self) -> bool:
        """It is stopped by a signal, not held by a tracer."""
        return self.state == "T"


def read_status(pid: int) -> ProcessStatus | None:
    """The process ``pid`` as it is now, or None if there is none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The name may hold blanks and parentheses: what follows is behind the last one.
    opened, closed = text.index("("), text.rindex(")")
    rest = text[closed + 2 :].split()
    return ProcessStatus(pid, text[opened + 1 : closed], rest[0], int(rest[19]))
