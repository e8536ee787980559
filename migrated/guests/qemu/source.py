"""``qemu:SOCKET`` at the source: a VM that runs, found by its monitor."""

import contextlib
import os
import select
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar

from migrated.errors import GuestDiedError, GuestError, MigratedError, UnsafeGuestError
from migrated.guests.base import GuestOptions, SourceGuest
from migrated.guests.held import boot
from migrated.guests.qemu.frozen import FrozenMachine
from migrated.guests.qemu.guardian import Guardian
from migrated.guests.qemu.inspect import Machine, inspect
from migrated.guests.qemu.monitor import Monitor
from migrated.guests.qemu.rollback import put_back
from migrated.guests.qemu.safety import facts_of, refusals
from migrated.guests.qemu.settings import IGNORE_SHARED, adopt, missing
from migrated.guests.source import guest_name
from migrated.memory.hold import Holder
from migrated.memory.linux import process
from migrated.memory.maps import find_writers, mappings_of_file
from migrated.memory.region import FileRegion
from migrated.memory.trackers.base import TrackTarget
from migrated.memory.trackers.choose import choose
from migrated.pages import PAGE_SIZE

__all__ = ["QemuSource"]

_CHUNK = 256 << 10
_DEVICE_SECONDS = 20.0
"""Devices take some 20 ms; one that waits for its disk longer than this fails the migration."""
_DYING_SECONDS = 2.0
"""A process hangs up on its monitor a little before it is gone."""


class QemuSource(SourceGuest):
    """A VM of QEMU. It is paused and goes on by its monitor; if we are killed, a guardian lets it go on.

    Its migration settings are put back whenever it stays. When it has moved its QEMU is told to quit, unless it
    is to be kept.
    """

    kind: ClassVar[str] = "qemu"
    holes_are_zeros: ClassVar[bool] = False
    """A balloon's device may leave memory as it was that it got from the guest (virtio 1.2, 5.5); and if the guest did
    not write it since, then as it was is as it was sent. Other writers are refused."""
    switch_seconds = 0.03
    """Its state is taken beside the last round, which that makes longer; then loaded, 5 to 14 ms, and started, 5 to 15.
    Measured with TCG on this project's CI hosts."""

    def __init__(self, path: Path, options: GuestOptions) -> None:
        self._path = path
        self._options = options
        self.name = options.name or guest_name(path.stem)
        self._monitor: Monitor | None = None
        self._guardian: Guardian | None = None
        self._holder: Holder | None = None
        self._settings: dict[str, bool] = {}
        self._devices: socket.socket | None = None
        self._paused = self._frozen = self._released = self._gave_devices = False
        self._resumes = 0
        self.regions: tuple[FileRegion, ...] = ()
        self.tracker_note = ""
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        self._monitor = Monitor(self._path)
        qmp = self._monitor.qmp
        machine = inspect(qmp.greeting, qmp.execute)
        self._machine = machine
        for refusal in refusals(machine, hashes=self._options.tracker == "hash"):
            raise UnsafeGuestError(f"{self._path}: {refusal.what}", refusal.hint)
        self.was_running = machine.status == "running"
        self._pidfd = os.pidfd_open(machine.pid)
        self._start = process.start_time(machine.pid)
        self.facts = facts_of(machine)
        self.regions = tuple(
            FileRegion(Path(each.path), each.size, name=each.name) for each in machine.backends
        )
        targets = [target for index in range(len(self.regions)) for target in self._targets(machine, index)]
        self._holder = Holder(machine.pid, self._start)
        self.tracker, self.tracker_note = choose(
            self._options.tracker,
            targets,
            self.regions,
            holders={machine.pid: self._holder},
            force=self._options.force,
        )
        if missing(self._monitor, [IGNORE_SHARED]):
            raise UnsafeGuestError(
                f"this QEMU ({'.'.join(map(str, machine.version))}) cannot leave shared memory out of its stream",
                f"it has to know the migration capability {IGNORE_SHARED}: QEMU 4.0 does",
            )
        self._settings = adopt(self._monitor, [IGNORE_SHARED])
        self._guardian = Guardian(self._path, machine.pid, self._settings)
        # All that the devices take is ready before the pause.
        self._devices, theirs = socket.socketpair()
        with theirs:
            self._monitor.give_stream(theirs.fileno())

    def _targets(self, machine: Machine, index: int) -> list[TrackTarget]:
        region = self.regions[index]
        backend = machine.backends[index]
        found = [each for each in mappings_of_file(machine.pid, region.fileno()) if each.writable]
        if sum(each.size for each in found) < region.size:
            raise UnsafeGuestError(
                f"process {machine.pid} does not map all of {backend.path}, the memory {backend.name} of the VM",
                "was the file replaced, or is it another one in QEMU's mount namespace? "
                "Run where the same path is the same file",
            )
        for writer in find_writers(region.fileno(), ignore=(machine.pid, os.getpid())).writers:
            if self._options.tracker != "hash":
                raise UnsafeGuestError(
                    f"process {writer.pid} ({writer.comm}) can write to the VM's memory, too: its {writer.how}",
                    "end it first, or use --tracker hash",
                )
        return [
            TrackTarget(
                machine.pid,
                each.start,
                min(each.stop, each.start + region.size - each.offset),
                index,
                each.offset // PAGE_SIZE,
            )
            for each in found
            if each.offset < region.size
        ]

    # -- pausing -----------------------------------------------------------------------------------

    def pause(self) -> None:
        """See :meth:`SourceGuest.pause`."""
        monitor, guardian = self._opened()
        if monitor.runs is not None:
            self.was_running = monitor.runs
        guardian.tell("paused" if self.was_running else "still")
        self._paused = True
        try:
            stopped = monitor.stop()
        except MigratedError:
            self.resume()
            raise
        self._resumes = monitor.resumes
        if stopped is not self.was_running:  # somebody did something in this very moment
            self.was_running = stopped
            guardian.tell("paused" if stopped else "still")

    def resume(self) -> None:
        """See :meth:`SourceGuest.resume`."""
        if not self._paused:
            return
        monitor, guardian = self._opened()
        if self._frozen:  # if this fails it is tried again, here or by the guardian
            self._frozen = False
            guardian.tell("paused" if self.was_running else "still")
        put_back(monitor, self._machine.pid, was_running=self.was_running)
        if self.was_running and self._gave_devices:
            monitor.announce()
        guardian.tell("running")
        self._paused = self._frozen = self._gave_devices = False

    def freeze(self) -> None:
        """See :meth:`SourceGuest.freeze`."""
        monitor, guardian = self._opened()
        if self._may_run(monitor) or monitor.resumes > self._resumes:
            raise GuestError(
                f"somebody let the VM of {self._path} go on while it was paused for the move",
                "it goes on here, and nothing is lost; find out who did, and try again",
            )
        self._frozen = True
        guardian.tell("settled")

    def _may_run(self, monitor: Monitor) -> bool:
        """Asked, not remembered: the news of a RESUME may be on its way, and is here before the answer."""
        try:
            return monitor.running
        except GuestDiedError:
            if self._ended(_DYING_SECONDS):
                return False  # all of the VM is at the destination, and it is lost if we give up now
            raise

    def _ended(self, patience: float = 0.0) -> bool:
        ended = select.poll()
        ended.register(self._pidfd, select.POLLIN)
        return bool(ended.poll(1000 * patience))

    def release(self, moved: bool) -> None:
        """See :meth:`SourceGuest.release`."""
        self._released = True
        self.tracker.close()
        details = self.describe()
        self._hang_up()
        FrozenMachine(details).release(moved)

    def throttle(self, fraction: float) -> None:
        """See :meth:`SourceGuest.throttle`."""
        if self._holder is not None:
            self._holder.throttle(fraction)

    # -- devices -----------------------------------------------------------------------------------

    def device_state(self) -> Iterator[bytes]:
        """See :meth:`SourceGuest.device_state`: QEMU's own migration stream, without the memory."""
        monitor, _ = self._opened()
        ours, self._devices = self._devices, None
        if ours is None:
            raise GuestError(f"the devices of {self._path} were asked for before")
        self._gave_devices = True
        with ours:
            ours.settimeout(_DEVICE_SECONDS)
            # The answer comes last: QEMU may begin to write before it answers, and with its lock held, so that while
            # nobody reads it can't. Who is refused has nothing to read.
            beginning = monitor.begin_migration("migrate")
            beginning.on_failure(lambda: _hang_up_on(ours))
            while True:
                try:
                    piece = ours.recv(_CHUNK)
                except TimeoutError as error:
                    raise GuestError(
                        f"QEMU did not give the state of the VM's devices within {_DEVICE_SECONDS:g} s"
                    ) from error
                if not piece:
                    break
                yield piece
            beginning.answer()
        if monitor.wait_for_migration(_DEVICE_SECONDS) != "completed":
            raise GuestError(f"QEMU could not give the state of the VM's devices: {monitor.why_failed()}")

    # -- the rest ----------------------------------------------------------------------------------

    def check(self) -> None:
        """See :meth:`SourceGuest.check`."""
        if self._ended():
            raise GuestDiedError(f"the QEMU of {self._path} (process {self._machine.pid}) ended")

    def watched(self) -> Sequence[int]:
        """See :meth:`SourceGuest.watched`."""
        return [self._pidfd]

    def describe(self) -> dict[str, object]:
        """See :meth:`SourceGuest.describe`."""
        return {
            "kind": self.kind,
            "uri": f"qemu:{self._path}",
            "monitor": str(self._path),
            "boot": boot(),
            "pid": self._machine.pid,
            "start": self._start,
            "was_running": self.was_running,
            "settings": dict(self._settings),
            "keep": self._options.keep,
        }

    def close(self) -> None:
        """See :meth:`SourceGuest.close`."""
        done = True
        if self._monitor is not None and not self._frozen and not self._released:
            try:
                self.resume()
                self._monitor.take_stream_back()
                self._monitor.set_capabilities(self._settings)
            except MigratedError:
                done = False
        if self._devices is not None:
            self._devices.close()
            self._devices = None
        if hasattr(self, "tracker"):
            with contextlib.suppress(MigratedError):
                self.tracker.close()
        self._hang_up(done=done)
        for region in self.regions:
            region.close()
        pidfd, self._pidfd = getattr(self, "_pidfd", -1), -1
        if pidfd >= 0:
            os.close(pidfd)

    def _hang_up(self, *, done: bool = True) -> None:
        """The monitor is free for others. Unless ``done`` the guardian is to try what we failed to undo."""
        if self._holder is not None:
            self._holder.close()
            self._holder = None
        if self._monitor is not None:
            self._monitor.close()
            self._monitor = None
        if self._guardian is not None:
            self._guardian.close(done=done)
            self._guardian = None

    def _opened(self) -> tuple[Monitor, Guardian]:
        if self._monitor is None or self._guardian is None:
            raise GuestError(f"{self._path} was closed")
        return self._monitor, self._guardian


def _hang_up_on(stream: socket.socket) -> None:
    """Whoever reads it finds its end."""
    with contextlib.suppress(OSError):  # closed meanwhile
        stream.shutdown(socket.SHUT_RDWR)
