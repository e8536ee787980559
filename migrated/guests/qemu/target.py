"""A VM at the destination: a QEMU that waits with ``-incoming defer``, filled from outside."""

import contextlib
import fcntl
import json
import os
import socket
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from migrated.errors import AccessError, GuestDiedError, GuestError, GuestNotFoundError, MigratedError
from migrated.guests.base import TargetEntry, TargetGuest
from migrated.guests.held import boot
from migrated.guests.memory_file import check_room
from migrated.guests.qemu.frozen import wait_for_end
from migrated.guests.qemu.inspect import Backend, Machine, inspect
from migrated.guests.qemu.monitor import Monitor
from migrated.guests.qemu.qmp import Sent
from migrated.guests.qemu.safety import differences, target_refusals
from migrated.guests.qemu.settings import IGNORE_SHARED, LATE_ACTIVATE, adopt, missing
from migrated.memory.linux import process
from migrated.memory.maps import find_writers, mappings_of_file
from migrated.memory.region import FileRegion
from migrated.pages import PAGE_SIZE, PageSet

__all__ = ["QemuTarget"]

_SETTINGS = (IGNORE_SHARED, LATE_ACTIVATE)

_START_SECONDS = 30.0
"""QEMU listens within 0.3 s; with much memory that it allocates at once, later."""
_LOAD_SECONDS = 30.0
_LOOK_AGAIN_SECONDS = 0.02
_TAIL_BYTES = 400


class QemuTarget(TargetGuest):
    """Takes a VM in, by the monitor at the entry's path. With a command QEMU is started when a guest is offered.

    A QEMU that has loaded devices can't wait again: if the guest does not come after all, it is told to quit.
    Beside the socket lies ``SOCKET.receiving`` meanwhile, with the process that is being filled: after a crash of
    ours no other VM is ever taken for it.
    """

    kind: ClassVar[str] = "qemu"
    has_device_state: ClassVar[bool] = True

    def __init__(self, name: str, entry: TargetEntry) -> None:
        self.name = name
        self._path = entry.path
        self._command = tuple(entry.command)
        self._log = entry.log or entry.path.with_name(f"{entry.path.name}.log")
        self._marker = entry.path.with_name(f"{entry.path.name}.receiving")
        self._facts: Mapping[str, str] = {}
        self._monitor: Monitor | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._settings: dict[str, bool] = {}
        self._loading: Sent | None = None
        self._loaded = False
        self._stream: socket.socket | None = None
        self._pidfd = -1
        self._started = False

    @property
    def starts_guest(self) -> bool:
        """See :meth:`TargetGuest.starts_guest`."""
        return True

    def expect(self, facts: Mapping[str, str]) -> None:
        """See :meth:`TargetGuest.expect`."""
        self._facts = facts

    # -- before the first page ---------------------------------------------------------------------

    def prepare(self, sizes: Sequence[tuple[str, int]]) -> None:
        """See :meth:`TargetGuest.prepare`. GuestError names what differs between the two VMs."""
        try:
            monitor = self._connect_or_start()
            machine = inspect(monitor.qmp.greeting, monitor.qmp.execute)
            self._check(machine, sizes)
            backends = {each.name: each for each in machine.backends}
            for name, _ in sizes:  # one by one: if one can't be had the others are given up
                self.regions = (*self.regions, _open_memory(backends[name], machine.pid))
            lacking = missing(monitor, _SETTINGS)
            if lacking:
                raise GuestError(
                    f"the QEMU at {self._path} lacks what a move takes: migration capability {', '.join(lacking)}",
                    "use QEMU 4.0 or newer",
                )
            self._settings = adopt(monitor, _SETTINGS)
            self._mark(machine.pid)
            for region in self.regions:
                _empty(region)
            self._pidfd = os.pidfd_open(machine.pid)
            # All that the devices take is ready before the guest is paused.
            self._stream, theirs = socket.socketpair()
            self._stream.settimeout(_LOOK_AGAIN_SECONDS)
            with theirs:
                monitor.give_stream(theirs.fileno())
        except BaseException:
            if self.regions:
                self._marker.unlink(missing_ok=True)
            self._close_regions()
            with contextlib.suppress(MigratedError):
                if self._monitor is not None:
                    self._monitor.set_capabilities(self._settings)
            self._end_started()
            raise

    def _mark(self, pid: int) -> None:
        known = _identity(pid) | {"settings": self._settings}
        try:
            self._marker.write_text(json.dumps(known) + "\n")
        except OSError as error:
            raise AccessError(
                f"cannot write {self._marker}: {error.strerror}",
                "migrated must be able to write beside the socket",
            ) from error

    def _is_marked(self, pid: int) -> bool:
        """Whether the process is the one that was being filled, here or before a crash; then its settings of before
        are known again."""
        with contextlib.suppress(OSError, ValueError):
            known = json.loads(self._marker.read_text())
            if {**known, **_identity(pid)} == known:
                self._settings = {str(name): bool(state) for name, state in known["settings"].items()}
                return True
        return False

    def _check(self, machine: Machine, sizes: Sequence[tuple[str, int]]) -> None:
        for refusal in target_refusals(machine):
            raise GuestError(f"guest {self.name}, the VM at {self._path}: {refusal.what}", refusal.hint)
        found = differences(self._facts, machine)
        if found:
            raise GuestError(
                f"the VM at {self._path} is not as the source's: {'; '.join(found)}",
                "start both with the same machine, processor, memory and devices",
            )
        ours = {each.name: each.size for each in machine.backends}
        if dict(sizes) != ours:
            raise GuestError(
                f"the source's memory is {_memory(dict(sizes))}, the VM's at {self._path} {_memory(ours)}",
                "give both the same memory backends",
            )

    def _connect_or_start(self) -> Monitor:
        try:
            self._monitor = Monitor(self._path)
        except GuestNotFoundError:
            if not self._command:
                raise
            self._start_process()
        assert self._monitor is not None
        return self._monitor

    def _start_process(self) -> None:
        try:
            with self._log.open("ab") as output:
                self._process = subprocess.Popen(
                    self._command,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    cwd="/",
                    start_new_session=True,
                )
        except OSError as error:
            raise GuestError(
                f"the command that starts guest {self.name} cannot be run: {self._command[0]}: {error.strerror}",
                "correct it in the destination's configuration",
            ) from error
        # Somebody has to take note when it ends, or it stays as a zombie while we live.
        threading.Thread(target=self._process.wait, name="qemu", daemon=True).start()
        ending = time.monotonic() + _START_SECONDS
        while True:
            try:
                self._monitor = Monitor(self._path)
                return
            except GuestNotFoundError as error:
                code = self._process.poll()
                if code is not None:
                    raise GuestError(
                        f"the command that starts guest {self.name} ended with {code}: {self._said()}",
                        f"see {self._log}",
                    ) from error
                if time.monotonic() > ending:
                    raise GuestError(
                        f"the command that starts guest {self.name} runs, and nothing listens at {self._path}",
                        f"it needs -qmp unix:{self._path},server=on,wait=off",
                    ) from error
            time.sleep(_LOOK_AGAIN_SECONDS)

    def watched(self) -> int:
        """See :meth:`TargetGuest.watched`."""
        return self._pidfd

    def why_ended(self) -> GuestDiedError:
        """See :meth:`TargetGuest.why_ended`."""
        said = self._said()
        return GuestDiedError(
            f"the QEMU that takes guest {self.name} in has ended{f': {said}' if said else ''}",
            f"see {self._log}" if self._command else "see what it printed, and start it anew",
        )

    # -- devices -----------------------------------------------------------------------------------

    def load_device_state(self, piece: bytes) -> None:
        """See :meth:`TargetGuest.load_device_state`: straight into QEMU, which loads it as it comes."""
        if self._monitor is None or self._stream is None:
            raise GuestError(f"guest {self.name} was not prepared")
        if self._loading is None:
            self._loading = self._monitor.begin_migration("migrate-incoming")
        rest = memoryview(piece)
        ending = time.monotonic() + _LOAD_SECONDS
        while rest:
            try:
                rest = rest[self._stream.send(rest) :]
            except TimeoutError as error:
                if self._loading.failed or time.monotonic() > ending:
                    raise self._not_loaded() from error
            except OSError as error:
                raise self._not_loaded() from error

    def make_ready(self) -> None:
        """See :meth:`TargetGuest.make_ready`: QEMU has loaded all devices."""
        if self._monitor is None or self._stream is None or self._loading is None:
            raise GuestError(f"no device state arrived for guest {self.name}")
        self._stream.close()
        try:
            self._loading.answer()
            state = self._monitor.wait_for_migration(_LOAD_SECONDS)
        except GuestError as error:
            raise self._not_loaded() from error
        if state != "completed":
            raise self._not_loaded()
        if self._monitor.running:  # and in a moment the guest does at its source again
            self._monitor.stop()
            raise GuestError(
                f"somebody let the VM at {self._path} go on before it was decided where guest {self.name} runs",
                "find out who did, and try again; it is started here when all of it has come",
            )
        self._loaded = True

    def _not_loaded(self) -> GuestError:
        why = ""
        with contextlib.suppress(MigratedError):
            if self._monitor is not None:
                why = self._monitor.why_failed()
        return GuestError(
            f"QEMU could not load the devices of guest {self.name}: {why or self._said() or 'it ended'}",
            f"the two VMs differ, or their QEMUs do; see {self._log if self._command else 'what QEMU printed'}",
        )

    # -- the decision ------------------------------------------------------------------------------

    def start(self, was_running: bool) -> None:
        """See :meth:`TargetGuest.start`."""
        if self._started:
            return
        monitor = self._monitor or Monitor(self._path)
        self._monitor = monitor
        if not self._loaded and self._was_started(monitor, was_running):
            self._started = True
            return
        if not self._loaded and monitor.migration != "completed":
            raise GuestError(
                f"the QEMU at {self._path} is not the one that took guest {self.name} in",
                "what had arrived went with that one; the guest's state at the source is the last there is",
            )
        if was_running:
            monitor.qmp.execute("cont")
        self._started = True
        self._marker.unlink(missing_ok=True)

    def _was_started(self, monitor: Monitor, was_running: bool) -> bool:
        """Whether it was before a crash of ours.

        GuestError: what is there is not what took the guest in, or was paused since: it is never let go on twice.
        """
        machine = inspect(monitor.qmp.greeting, monitor.qmp.execute)
        if self._is_marked(machine.pid):
            return False
        if machine.status == "running" or (not was_running and machine.status == "paused"):
            return True
        raise GuestError(
            f"the VM at {self._path} is {machine.status}, and nothing says that it is the one that took guest "
            f"{self.name} in",
            "see where the guest runs; then let it go on here, or `migrated resolve --forget` the migration",
        )

    def discard(self) -> None:
        """See :meth:`TargetGuest.discard`."""
        if self._started:
            return
        backends: tuple[Backend, ...] = ()
        with contextlib.suppress(GuestNotFoundError, GuestDiedError):
            monitor = self._monitor or Monitor(self._path)
            self._monitor = monitor
            machine = inspect(monitor.qmp.greeting, monitor.qmp.execute)
            if not self._is_marked(machine.pid):
                return  # not what waited for the guest, or it was started
            backends = machine.backends
            if machine.migration == "none" and not self._command:
                monitor.take_stream_back()
                monitor.set_capabilities(self._settings)
            else:
                monitor.quit()
                wait_for_end(machine.pid)
        self._end_started()
        for region in self.regions:  # also if QEMU is gone: its files are not
            with contextlib.suppress(MigratedError):
                _empty(region)
        for each in backends if not self.regions else ():  # after a crash of ours
            with contextlib.suppress(MigratedError):
                region = FileRegion(Path(each.path), each.size, writable=True, name=each.name)
                _empty(region)
                region.close()
        self._close_regions()
        self._marker.unlink(missing_ok=True)

    def close(self) -> None:
        """See :meth:`TargetGuest.close`."""
        if self._started and self._monitor is not None:
            # Only now: the guest's users wait for its start, and nobody for this.
            with contextlib.suppress(MigratedError):
                self._monitor.set_capabilities(self._settings)
            self._settings = {}
        self._close_regions()
        if self._stream is not None:
            self._stream.close()
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1
        if self._monitor is not None:
            self._monitor.close()
            self._monitor = None

    def _close_regions(self) -> None:
        regions, self.regions = self.regions, ()
        for region in regions:
            region.close()

    def _end_started(self) -> None:
        """End the QEMU that was started for this guest."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        self._process = None

    def _said(self) -> str:
        """The end of what QEMU printed, if it was started here."""
        with contextlib.suppress(OSError):
            if self._command:
                return self._log.read_bytes()[-_TAIL_BYTES:].decode(errors="replace").strip()
        return ""


def _open_memory(backend: Backend, pid: int) -> FileRegion:
    """The memory of the QEMU that waits, writable and locked. GuestError: somebody else uses it."""
    path = Path(backend.path)
    if backend.page_size == PAGE_SIZE:  # QEMU has reserved its huge pages, or would not have started
        check_room(path.parent, backend.size - path.stat().st_blocks * 512)
    region = FileRegion(path, backend.size, writable=True, name=backend.name)
    try:
        if not mappings_of_file(pid, region.fileno()):
            raise GuestError(
                f"the QEMU that waits (process {pid}) does not have {path} as its memory {backend.name}",
                "was the file replaced, or is it another one in QEMU's mount namespace?",
            )
        for writer in find_writers(region.fileno(), ignore=(pid, os.getpid())).writers:
            raise GuestError(
                f"process {writer.pid} ({writer.comm}) can write to {path} by its {writer.how}",
                "give the VM here a memory file of its own",
            )
        fcntl.flock(region.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        region.close()
        raise GuestError(f"the memory file {path} is in use by another migration", "wait for that") from error
    except BaseException:
        region.close()
        raise
    return region


def _identity(pid: int) -> dict[str, object]:
    return {"boot": boot(), "pid": pid, "start": process.start_time(pid)}


def _empty(region: FileRegion) -> None:
    region.punch(PageSet.full(region.pages).runs())


def _memory(sizes: Mapping[str, int]) -> str:
    return ", ".join(f"{name} of {size} bytes" for name, size in sizes.items())
