"""A VM that waits, paused, for the outcome of its migration; found again from a durable record."""

import contextlib
import os
import select
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from migrated.errors import GuestDiedError, GuestError, MigratedError
from migrated.guests.held import boot
from migrated.memory.linux import process

if TYPE_CHECKING:
    from migrated.guests.qemu.monitor import Monitor

__all__ = ["FrozenMachine", "wait_for_end"]

_QUIT_SECONDS = 20.0
"""QEMU flushes its disks first."""


class FrozenMachine:
    """The VM of ``details``, which :meth:`migrated.guests.qemu.source.QemuSource.describe` gave."""

    kind = "qemu"

    def __init__(self, details: Mapping[str, Any]) -> None:
        self._path = Path(str(details["monitor"]))
        self._keep = bool(details["keep"])
        self._was_running = bool(details["was_running"])
        self._settings = {str(name): bool(state) for name, state in details["settings"].items()}
        self._pid, self._start = int(details["pid"]), int(details["start"])
        self._same_boot = details["boot"] == boot()

    def resume(self) -> None:
        """Let the VM go on here, as it was before. GuestDiedError if its QEMU is gone."""
        from migrated.guests.qemu.rollback import put_back  # late: as the monitor, below

        with self._monitor() as monitor:
            put_back(monitor, self._pid, was_running=self._was_running)
            if self._was_running:
                monitor.announce()
            monitor.set_capabilities(self._settings)

    def release(self, moved: bool) -> None:
        """The VM runs at the destination: tell its QEMU here to quit, or let it stay, paused."""
        if not moved:
            return
        if self._keep:
            with self._monitor() as monitor:
                monitor.set_capabilities(self._settings)
            return
        try:
            with self._monitor() as monitor:
                monitor.quit()
        except GuestDiedError:
            return  # it is gone already
        wait_for_end(self._pid)

    def close(self) -> None:
        """There is nothing to give up."""

    @contextlib.contextmanager
    def _monitor(self) -> "Iterator[Monitor]":
        alive = False
        with contextlib.suppress(OSError):
            alive = self._same_boot and process.start_time(self._pid) == self._start
        if not alive:
            raise GuestDiedError(
                f"the QEMU of {self._path} (process {self._pid}) has ended", "start the VM anew"
            )
        from migrated.guests.qemu.monitor import Monitor  # late: the library takes 0.1 s to load

        monitor = Monitor(self._path)
        try:
            yield monitor
        finally:
            monitor.close()


def wait_for_end(pid: int) -> None:
    """Wait until a QEMU that was told to quit has ended; GuestError if it takes too long."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    except OSError as error:
        raise MigratedError(f"cannot watch process {pid}: {error.strerror}") from error
    try:
        ended = select.poll()
        ended.register(descriptor, select.POLLIN)
        if not ended.poll(_QUIT_SECONDS * 1000):
            raise GuestError(
                f"QEMU (process {pid}) was told to quit and has not ended",
                "its VM runs at the destination by now: see what it does, and kill it",
            )
    finally:
        os.close(descriptor)
