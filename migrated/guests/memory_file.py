"""A memory file at the destination: made or emptied, locked, and taken away again if nothing came of it.

Beside a file that is being filled lies ``FILE.receiving``. It says whether the file was there before, so that
after a crash :meth:`MemoryFile.discard` takes away what was made and never what was there.
"""

import contextlib
import fcntl
import os
import stat
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from migrated.errors import AccessError, GuestError, MigratedError, ResourceError
from migrated.memory.linux.meminfo import free_bytes
from migrated.memory.maps import find_writers
from migrated.memory.region import FileRegion
from migrated.pages import PAGE_SIZE, PageSet
from migrated.units import format_size

__all__ = ["MemoryFile", "check_room", "prepare_all"]

_MADE, _WAS_THERE = "made\n", "was there\n"
_LOCK_AGAIN_SECONDS = 0.05


def check_room(folder: Path, size: int) -> None:
    """ResourceError unless ``size`` more bytes fit on the file system - and, if that is memory, in memory."""
    try:
        space = os.statvfs(folder)
    except OSError as error:
        raise GuestError(f"cannot put memory into {folder}: {error.strerror}", "make that folder") from error
    room = space.f_bavail * space.f_frsize
    where = f"where {folder} is"
    if _is_memory(folder):
        free = free_bytes()
        if free < room:
            room, where = free, "in this host's memory"
    if size > room:
        raise ResourceError(
            f"the guest needs {format_size(size)} and there are {format_size(room)} free {where}",
            "free some, or give the guest another path in the destination's configuration",
        )


class MemoryFile:
    """The file at ``path`` for one region of a guest.

    Between :meth:`prepare` and :meth:`close` nobody else who asks for the lock gets it; a process that is
    given ``descriptor`` keeps it locked for as long as it lives.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.descriptor = -1
        self.region: FileRegion | None = None
        self._marker = path.with_name(f"{path.name}.receiving")

    @property
    def allocated(self) -> int:
        """Bytes that the file takes up now and would give back; 0 if there is none."""
        try:
            return self.path.stat().st_blocks * 512
        except OSError:
            return 0

    def prepare(self, name: str, size: int, check: Callable[[int], None] = lambda _: None) -> FileRegion:
        """Make or empty the file, locked. ``check`` may refuse what is in it, by a MigratedError.

        GuestError: it is in use, or no plain file; AccessError; ResourceError. After an error all is as
        before.
        """
        made = self._open_or_make()
        marked = False
        try:
            self._lock(0.0)
            if not made:
                check(self.descriptor)
                self._refuse_users()
            marked = self._mark(_MADE if made else _WAS_THERE)
            os.ftruncate(self.descriptor, size)
            self.region = FileRegion(self.descriptor, size, writable=True, name=name)
            if not made:
                self.region.punch(PageSet.full(size // PAGE_SIZE).runs())
        except BaseException as error:
            if made:
                self.path.unlink(missing_ok=True)
            if marked:
                self._marker.unlink(missing_ok=True)
            self.close()
            if isinstance(error, OSError):
                raise _failed("making", self.path, error) from error
            raise
        return self.region

    def reopen(self, patience: float) -> bool:
        """After a crash: open and lock what is there, waiting ``patience`` seconds for the lock.

        False if somebody keeps it locked. GuestError if there is no file.
        """
        try:
            self.descriptor = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            raise _failed("opening", self.path, error) from error
        try:
            self._lock(patience)
        except GuestError:
            self.close()
            return False
        return True

    def settle(self) -> None:
        """What arrived is to stay."""
        self._marker.unlink(missing_ok=True)

    def discard(self, patience: float = 0.0) -> None:
        """Remove the file if :meth:`prepare` made it - here or before a crash - or empty it, and close it.

        Nothing happens without a :meth:`prepare` before, or after :meth:`settle`.
        """
        try:
            word = self._marker.read_text()
            if self.descriptor < 0 and not self.reopen(patience):
                return  # somebody uses it: it is not ours to take away
            # Emptied also if a crash left the mark unwritten: rather too much stays than too little.
            if word != _MADE:
                size = os.fstat(self.descriptor).st_size
                os.ftruncate(self.descriptor, 0)
                os.ftruncate(self.descriptor, size)
            elif self._is_ours():
                self.path.unlink()
            self._marker.unlink(missing_ok=True)
        except FileNotFoundError:
            pass  # nothing was prepared
        except GuestError:
            self._marker.unlink(missing_ok=True)
        finally:
            self.close()

    def close(self) -> None:
        """Give up the lock and the descriptors. May be called twice."""
        if self.region is not None:
            self.region.close()
            self.region = None
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def _open_or_make(self) -> bool:
        flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            self.descriptor = os.open(self.path, flags | os.O_CREAT | os.O_EXCL, 0o600)
            return True
        except FileExistsError:
            pass
        except OSError as error:
            raise _failed("making", self.path, error) from error
        try:
            self.descriptor = os.open(self.path, flags)
        except OSError as error:
            raise _failed("opening", self.path, error) from error
        if not stat.S_ISREG(os.fstat(self.descriptor).st_mode):
            self.close()
            raise GuestError(
                f"{self.path} is no plain file",
                "give the guest another path in the destination's configuration",
            )
        return False

    def _lock(self, patience: float) -> None:
        ending = time.monotonic() + patience
        while True:
            try:
                fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() >= ending:
                    raise GuestError(
                        f"the memory file {self.path} is in use, by a guest that runs or another migration",
                        "end that first, or give the guest another path in the destination's configuration",
                    ) from error
            time.sleep(_LOCK_AGAIN_SECONDS)
        if not self._is_ours():
            raise GuestError(f"the memory file {self.path} was just replaced by another", "try again")

    def _is_ours(self) -> bool:
        """Whether the name still stands for the file that we have open."""
        try:
            there = self.path.stat()
        except OSError:
            return False
        ours = os.fstat(self.descriptor)
        return (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino)

    def _refuse_users(self) -> None:
        for writer in find_writers(self.descriptor, ignore=(os.getpid(),)).writers:
            raise GuestError(
                f"process {writer.pid} ({writer.comm}) can write to {self.path} by its {writer.how}",
                "end it first; it must open the memory only when it is resumed",
            )

    def _mark(self, word: str) -> bool:
        # One that is left from a crash knows better whether the file was there at first.
        with contextlib.suppress(FileExistsError):
            descriptor = os.open(self._marker, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                os.write(descriptor, word.encode())
            finally:
                os.close(descriptor)
            return True
        return False


def prepare_all(files: Sequence[MemoryFile], sizes: Sequence[tuple[str, int]]) -> tuple[FileRegion, ...]:
    """Prepare several files, or none of them."""
    made: list[FileRegion] = []
    try:
        for file, (name, size) in zip(files, sizes, strict=True):
            made.append(file.prepare(name, size))
    except BaseException:
        for file in files[: len(made)]:
            file.discard()
        raise
    return tuple(made)


def _failed(doing: str, path: Path, error: OSError) -> MigratedError:
    text = f"{doing} the memory file {path}: {error.strerror}"
    if isinstance(error, PermissionError):
        return AccessError(text, "check the owner and mode of the file and its folder")
    if isinstance(error, FileNotFoundError):
        return GuestError(text, "check the guest's path in the destination's configuration, and its folder")
    return ResourceError(
        text, "free some room, or give the guest another path in the destination's configuration"
    )


def _is_memory(folder: Path) -> bool:
    device = os.stat(folder).st_dev  # noqa: PTH116
    wanted = f"{os.major(device)}:{os.minor(device)}"
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split()
        if fields[2] == wanted:
            return fields[fields.index("-") + 1] in ("tmpfs", "ramfs")
    return False
