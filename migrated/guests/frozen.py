"""A guest that waits, paused for good, for the outcome of its migration; found again from a durable
record."""

import contextlib
import os
import signal
from collections.abc import Mapping
from typing import Any

from migrated.errors import GuestDiedError, GuestError
from migrated.guests.base import After
from migrated.guests.held import boot, kill
from migrated.guests.hooks import Hook
from migrated.memory.linux import process

__all__ = ["FrozenGuest", "describe_frozen"]


def describe_frozen(
    uri: str, processes: list[dict[str, object]], *, moved: After, copied: After, resume: Hook | None = None
) -> dict[str, object]:
    """What :class:`FrozenGuest` needs. ``moved`` and ``copied`` say what is to become of the processes
    then."""
    return {
        "uri": uri,
        "boot": boot(),
        "processes": processes,
        "on_moved": str(moved),
        "on_copied": str(copied),
        "resume": None if resume is None else resume.describe(),
    }


class FrozenGuest:
    """The guest of ``details``, which :func:`describe_frozen` made - in this process or in one that is
    gone."""

    def __init__(self, details: Mapping[str, Any]) -> None:
        self.uri = str(details["uri"])
        self._moved, self._copied = After(details["on_moved"]), After(details["on_copied"])
        self._resume = Hook.of(details["resume"]) if details.get("resume") else None
        self._gone: list[int] = []
        self._pidfds: list[tuple[int, int, bool]] = []
        same_boot = details["boot"] == boot()
        for each in details["processes"]:
            pid = int(each["pid"])
            pidfd = _open(pid, int(each["start"])) if same_boot else -1
            if pidfd < 0:
                self._gone.append(pid)
            else:
                self._pidfds.append((pid, pidfd, bool(each["was_stopped"])))

    def resume(self) -> None:
        """Let the guest go on here, as it was before. GuestDiedError if (part of) it is gone."""
        for _, pidfd, was_stopped in self._pidfds:
            if not was_stopped:
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(pidfd, signal.SIGCONT)
        if self._resume is not None:
            self._resume.run()
        if self._gone:
            gone = ", ".join(map(str, self._gone))
            raise GuestDiedError(f"process {gone} of {self.uri} has ended meanwhile", "start the guest anew")

    def release(self, moved: bool) -> None:
        """Give the guest up. ``moved``: it runs at the destination; else its memory was copied."""
        match self._moved if moved else self._copied:
            case After.KILL:
                for pid, pidfd, _ in self._pidfds:
                    kill(pidfd, pid)
            case After.RESUME:
                self.resume()
            case After.STOP:
                # A copy is not frozen before it is decided, so it may run again by now.
                for _, pidfd, _ in self._pidfds:
                    with contextlib.suppress(ProcessLookupError):
                        signal.pidfd_send_signal(pidfd, signal.SIGSTOP)

    def close(self) -> None:
        """Forget the guest; it stays as it is."""
        while self._pidfds:
            os.close(self._pidfds.pop()[1])


def _open(pid: int, start: int) -> int:
    """A descriptor of that very process, or -1 if it has ended."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return -1
    except OSError as error:
        raise GuestError(f"cannot get hold of process {pid}: {error.strerror}") from error
    with contextlib.suppress(OSError):
        if process.start_time(pid) == start and process.state(pid) not in "ZX":
            return pidfd
    os.close(pidfd)
    return -1
