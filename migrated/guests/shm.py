"""``shm:PATH``: memory in a shared file, of whatever processes write to it."""

import contextlib
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from migrated.errors import GuestError, MigratedError, UnsafeGuestError, UsageError
from migrated.guests.base import GuestOptions, TargetEntry, TargetGuest
from migrated.guests.hooks import Guardian, Hook
from migrated.guests.memory_file import MemoryFile, check_room
from migrated.guests.source import HeldGuest, guest_name
from migrated.memory.linux import process
from migrated.memory.maps import find_writers, mappings_of_file
from migrated.memory.region import FileRegion
from migrated.memory.trackers.base import TrackTarget
from migrated.pages import PAGE_SIZE

__all__ = ["ShmSource", "ShmTarget"]

_HASH = "hash"


class ShmSource(HeldGuest):
    """A shared-memory file. What pauses it is the pause command if there is one, else the listed pids are
    held.

    Whoever can write to it must be paused: without a pause command every writer must be listed; with one,
    writers that are not listed are seen by hashes only. When it goes on at the destination the pids stay
    stopped here.
    """

    kind: ClassVar[str] = "shm"

    def __init__(self, path: Path, options: GuestOptions) -> None:
        super().__init__(f"shm:{path}", guest_name(path.stem), options)
        self._path = path
        self._guardian: Guardian | None = None
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        options = self._options
        if bool(options.pause) != bool(options.resume):
            raise UsageError(
                "a shared-memory guest was given one of the pause and resume commands",
                "give both, or neither: what is paused must be able to go on here if the migration fails",
            )
        region = FileRegion(self._path, name="memory")
        self.regions = (region,)
        self._refuse_unlisted()
        self._watched = targets = self._targets(region)
        if options.pause:
            self._guardian = Guardian(
                self._hook("pause", options.pause), self._hook("resume", options.resume)
            )
        else:
            self._hold([(pid, None) for pid in options.pids])
        self._track(options.tracker, targets)

    def _targets(self, region: FileRegion) -> list[TrackTarget]:
        targets = []
        for pid in dict.fromkeys(self._options.pids):
            found = [each for each in mappings_of_file(pid, region.fileno()) if each.writable]
            if not found and self._options.tracker != _HASH:
                raise UnsafeGuestError(
                    f"process {pid} ({process.comm(pid)}) does not map {self._path}, "
                    "so no tracker sees what it writes",
                    "use --tracker hash",
                )
            for each in found:
                stop = min(each.stop, each.start + region.size - each.offset)
                if stop > each.start:
                    targets.append(TrackTarget(pid, each.start, stop, 0, each.offset // PAGE_SIZE))
        return targets

    def _refuse_unlisted(self) -> None:
        options = self._options
        region = self.regions[0]
        assert isinstance(region, FileRegion)
        writers = find_writers(region.fileno(), ignore={os.getpid(), *options.pids}).writers
        if not writers or (options.pause and (options.tracker == _HASH or not options.pids)):
            return
        named = ", ".join(f"process {each.pid} ({each.comm}) by its {each.how}" for each in writers)
        listed = " ".join(f"--pid {each.pid}" for each in writers)
        if options.pause:
            raise UnsafeGuestError(
                f"no tracker but hash would see what else is written to {self._path}: {named}",
                f"add {listed}, or --tracker hash",
            )
        raise UnsafeGuestError(
            f"nothing would pause who else can write to {self._path}: {named}",
            f"add {listed}; or give commands that pause and resume all of them, and --tracker hash",
        )

    def _refuse_changed(self) -> None:
        """What came during the move, and was neither copied nor tracked."""
        self.check()
        (region,) = self.regions
        assert isinstance(region, FileRegion)
        now = os.fstat(region.fileno())
        with contextlib.suppress(OSError):  # the name may be gone, as after shm_unlink
            there = self._path.stat()
            if (there.st_dev, there.st_ino) != (now.st_dev, now.st_ino):
                raise GuestError(f"{self._path} was replaced while it moved", "start the migration again")
        if now.st_size != region.size:
            raise GuestError(
                f"{self._path} had {region.size} bytes, and has {now.st_size} by now",
                "start the migration again",
            )
        if self.tracker.name == _HASH:
            return
        for each in self._targets(region):
            if not any(_covers(known, each) for known in self._watched):
                raise GuestError(
                    f"process {each.pid} ({process.comm(each.pid)}) mapped {self._path} once more while it moved, "
                    "and no tracker saw what it wrote there",
                    "start the migration again, or use --tracker hash",
                )

    def _hook(self, what: str, command: tuple[str, ...]) -> Hook:
        return Hook(what, command, self._options.hook_timeout, self.name, str(self._path))

    def _resume_hook(self) -> Hook | None:
        return self._hook("resume", self._options.resume) if self._options.resume else None

    def pause(self) -> None:
        """See :meth:`SourceGuest.pause`. Looks again for writers that came meanwhile."""
        if self._guardian is not None:
            self._guardian.pause()
        else:
            super().pause()
        try:
            self._refuse_unlisted()
            self._refuse_changed()
        except MigratedError:
            self.resume()
            raise

    def resume(self) -> None:
        """See :meth:`SourceGuest.resume`."""
        if self._guardian is not None:
            self._guardian.resume()
        else:
            super().resume()

    def freeze(self) -> None:
        """See :meth:`SourceGuest.freeze`."""
        if self._guardian is not None:
            self._guardian.settle()
        else:
            super().freeze()

    def throttle(self, fraction: float) -> None:
        """See :meth:`SourceGuest.throttle`: only held processes can be slowed."""
        if self._held is None or not self._held.holders:
            raise GuestError(
                "a guest that a command pauses cannot be slowed down", "list its processes with --pid"
            )
        super().throttle(fraction)

    def close(self) -> None:
        """See :meth:`SourceGuest.close`."""
        super().close()
        if self._guardian is not None:
            self._guardian.close()


def _covers(known: TrackTarget, found: TrackTarget) -> bool:
    """Whether ``found`` lies within ``known``, with the same pages at the same addresses."""
    shift = found.start - known.start
    return (
        known.pid == found.pid
        and known.start <= found.start
        and found.stop <= known.stop
        and found.first_page - known.first_page == shift // PAGE_SIZE
    )


class ShmTarget(TargetGuest):
    """A shared-memory file that is filled here. With a resume command the guest moves, else its memory is
    copied."""

    kind: ClassVar[str] = "shm"

    def __init__(self, name: str, entry: TargetEntry, hook_timeout: float = 60.0) -> None:
        self.name = name
        self._file = MemoryFile(entry.path)
        command = tuple(entry.resume)
        self._resume = Hook("resume", command, hook_timeout, name, str(entry.path)) if command else None
        self._started = False

    @property
    def starts_guest(self) -> bool:
        """See :meth:`TargetGuest.starts_guest`."""
        return self._resume is not None

    def prepare(self, sizes: Sequence[tuple[str, int]]) -> None:
        """See :meth:`TargetGuest.prepare`."""
        if len(sizes) != 1:
            raise GuestError(f"a shared-memory guest has one region of memory, and {len(sizes)} were offered")
        if self._resume is not None and shutil.which(self._resume.command[0]) is None:
            raise GuestError(
                f"the resume command of guest {self.name} cannot be run: {self._resume.command[0]}",
                "correct it in the destination's configuration",
            )
        check_room(self._file.path.parent, sizes[0][1] - self._file.allocated)
        self.regions = (self._file.prepare(*sizes[0]),)

    def make_ready(self) -> None:
        """See :meth:`TargetGuest.make_ready`: there is nothing left to do."""

    def start(self, was_running: bool) -> None:
        """See :meth:`TargetGuest.start`. After a crash in between, the resume command may be run twice."""
        if self._started:
            return
        if self._resume is not None and was_running:
            self._resume.run()
        self._file.settle()
        self._started = True

    def discard(self) -> None:
        """See :meth:`TargetGuest.discard`."""
        if not self._started:
            self.regions = ()
            self._file.discard()

    def close(self) -> None:
        """See :meth:`TargetGuest.close`."""
        self.regions = ()
        with contextlib.suppress(MigratedError):
            self._file.close()
