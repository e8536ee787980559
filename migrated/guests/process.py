"""``pid:N``: a consistent copy of a process's memory. No registers, no descriptors: the process goes on here.

The copy is a folder: ``manifest.json`` says which address of the process lies where in which of the files
``region-001.mem`` and so on. The manifest travels as the first region, padded with line ends. Mappings that
touch share a file; a process with more than 200 stretches of memory has several of them to a file.
"""

import contextlib
import json
import os
from collections.abc import Sequence
from typing import Any, ClassVar

from migrated.errors import GuestError, GuestNotFoundError
from migrated.guests.base import GuestOptions, Selection, TargetEntry, TargetGuest
from migrated.guests.memory_file import MemoryFile, check_room, prepare_all
from migrated.guests.source import HeldGuest, guest_name
from migrated.memory.linux import process
from migrated.memory.maps import Mapping, read_maps
from migrated.memory.region import FileRegion, ProcessRegion
from migrated.memory.trackers.base import TrackTarget
from migrated.pages import PAGE_SIZE

__all__ = ["MAX_FILES", "ProcessSource", "ProcessTarget", "group_mappings", "select_mappings"]

MANIFEST = "manifest"
MAX_FILES = 200
"""Each is a region with a descriptor that a worker is handed when it starts, and 254 can be handed on."""
MAX_MANIFEST = 16 << 20
"""Linux allows a process 65530 mappings; some 200 bytes each."""


def select_mappings(mappings: Sequence[Mapping], selection: Selection) -> list[Mapping]:
    """Those to copy, by rising address: private and writable, no device's and none that the kernel made."""
    return [
        each
        for each in mappings
        if each.readable
        and each.writable
        and not each.shared
        and not each.special
        and not each.path.startswith("/dev/")
        and (each.anonymous or selection is Selection.WRITABLE)
    ]


def group_mappings(mappings: Sequence[Mapping], most: int = MAX_FILES) -> list[list[Mapping]]:
    """One group a file: mappings that touch are one stretch, and no more than ``most`` groups of
    stretches."""
    stretches: list[list[Mapping]] = []
    for each in mappings:
        if stretches and stretches[-1][-1].stop == each.start:
            stretches[-1].append(each)
        else:
            stretches.append([each])
    step = -(-len(stretches) // most) if stretches else 1
    return [
        [each for stretch in stretches[at : at + step] for each in stretch]
        for at in range(0, len(stretches), step)
    ]


def file_of(number: int) -> str:
    """The file of region ``number`` in the folder of a copy."""
    return f"region-{number:03d}.mem" if number else "manifest.json"


class ProcessSource(HeldGuest):
    """A process whose memory is copied. ``after`` says what becomes of it then; it never runs at the
    destination."""

    kind: ClassVar[str] = "pid"

    def __init__(self, pid: int, options: GuestOptions) -> None:
        super().__init__(f"pid:{pid}", guest_name(process.comm(pid) or f"pid-{pid}"), options)
        self._on_moved = options.after
        self._pid = pid
        if pid == os.getpid():
            raise GuestNotFoundError("a process cannot copy itself", "give the pid of another one")
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        pid = self._pid
        self._hold([(pid, None)])
        self._chosen = select_mappings(read_maps(pid), self._options.mappings)
        if not self._chosen:
            raise GuestNotFoundError(
                f"process {pid} has no memory of its own to copy", "is it a kernel thread?"
            )
        targets: list[TrackTarget] = []
        groups = group_mappings(self._chosen)
        self.regions = (_manifest_region(self._manifest(groups)),)
        for number, group in enumerate(groups, start=1):
            ranges = _ranges(group)
            name = f"{ranges[0][0]:x}-{ranges[-1][1]:x}"
            self.regions += (ProcessRegion(pid, ranges, name=name),)
            at = 0
            for start, stop in ranges:
                targets.append(TrackTarget(pid, start, stop, number, at // PAGE_SIZE))
                at += stop - start
        self._track(self._options.tracker, targets)

    def _manifest(self, groups: Sequence[Sequence[Mapping]]) -> dict[str, object]:
        mappings = []
        for number, group in enumerate(groups, start=1):
            at = 0
            for each in group:
                mappings.append(
                    {
                        "address": f"{each.start:#x}",
                        "size": each.size,
                        "perms": each.perms,
                        "path": each.path,
                        "file": file_of(number),
                        "offset": at,
                    }
                )
                at += each.size
        return {"format": 1, "pid": self._pid, "comm": process.comm(self._pid), "mappings": mappings}

    def pause(self) -> None:
        """See :meth:`SourceGuest.pause`. GuestError if the process maps other memory now than it did at
        first."""
        super().pause()
        now = select_mappings(read_maps(self._pid), self._options.mappings)
        if [(each.start, each.stop) for each in now] != [(each.start, each.stop) for each in self._chosen]:
            self.resume()
            grown = (sum(each.size for each in now) - sum(each.size for each in self._chosen)) // 1024
            raise GuestError(
                f"process {self._pid} changed its mappings while it was copied ({grown:+d} KiB)",
                "start again when it allocates less",
            )

    def freeze(self) -> None:
        """See :meth:`SourceGuest.freeze`. A copy needs no freezing: whatever happens now, the process may go
        on."""
        self.check()


def _ranges(group: Sequence[Mapping]) -> list[tuple[int, int]]:
    ranges: list[tuple[int, int]] = []
    for each in group:
        if ranges and ranges[-1][1] == each.start:
            ranges[-1] = (ranges[-1][0], each.stop)
        else:
            ranges.append((each.start, each.stop))
    return ranges


def _manifest_region(manifest: dict[str, object]) -> FileRegion:
    text = json.dumps(manifest, indent=1).encode()
    descriptor = os.memfd_create(MANIFEST, os.MFD_CLOEXEC)
    try:
        os.write(descriptor, text.ljust(-(-len(text) // PAGE_SIZE) * PAGE_SIZE, b"\n"))
        return FileRegion(descriptor, name=MANIFEST)
    finally:
        os.close(descriptor)


class ProcessTarget(TargetGuest):
    """A copy of a process's memory, in the folder that the configuration names. Nothing is started."""

    kind: ClassVar[str] = "pid"

    def __init__(self, name: str, entry: TargetEntry) -> None:
        self.name = name
        self._folder = entry.path
        self._files: list[MemoryFile] = []
        self._settled = False
        self._made_folder = False

    @property
    def starts_guest(self) -> bool:
        """See :meth:`TargetGuest.starts_guest`."""
        return False

    def prepare(self, sizes: Sequence[tuple[str, int]]) -> None:
        """See :meth:`TargetGuest.prepare`. Files of an older copy in the folder are emptied, others left
        alone."""
        if len(sizes) < 2 or sizes[0][0] != MANIFEST or sizes[0][1] > MAX_MANIFEST:
            raise GuestError(
                "the regions that were offered are no copy of a process: the manifest is missing"
            )
        try:
            self._made_folder = not self._folder.exists()
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise GuestError(
                f"cannot make the folder {self._folder}: {error.strerror}", "check its path"
            ) from error
        files = [MemoryFile(self._folder / file_of(number)) for number in range(len(sizes))]
        try:
            check_room(self._folder, sum(size for _, size in sizes) - sum(file.allocated for file in files))
            self.regions = prepare_all(files, sizes)
        except BaseException:
            if self._made_folder:
                with contextlib.suppress(OSError):
                    self._folder.rmdir()
            raise
        self._files = files

    def make_ready(self) -> None:
        """See :meth:`TargetGuest.make_ready`: reads the manifest, which must name these files and no
        others."""
        size = self._files[0].path.stat().st_size
        text = os.pread(self._files[0].descriptor, min(size, MAX_MANIFEST), 0)
        limits = {file_of(number): region.size for number, region in enumerate(self.regions) if number}
        try:
            manifest: dict[str, Any] = json.loads(text)
            for each in manifest["mappings"]:
                if not 0 <= int(each["offset"]) <= limits[each["file"]] - int(each["size"]):
                    raise ValueError(f"a mapping of {each['size']} bytes is not within {each['file']}")
        except (ValueError, KeyError, TypeError) as error:
            raise GuestError(f"the manifest that arrived cannot be right: {error!r}") from error

    def start(self, was_running: bool) -> None:  # noqa: ARG002 - nothing runs here
        """See :meth:`TargetGuest.start`: the copy is to stay. Older files that it did not need are
        removed."""
        if self._settled:
            return
        for number, file in enumerate(self._all_files()):
            file.settle()
            if self._files and number >= len(self._files):
                file.path.unlink(missing_ok=True)
        self._settled = True

    def discard(self) -> None:
        """See :meth:`TargetGuest.discard`."""
        if self._settled:
            return
        self.regions = ()
        for file in self._files or self._all_files():
            file.discard()
        self._files = []
        if self._made_folder:
            with contextlib.suppress(OSError):
                self._folder.rmdir()

    def close(self) -> None:
        """See :meth:`TargetGuest.close`."""
        self.regions = ()
        for file in self._files:
            file.close()

    def _all_files(self) -> list[MemoryFile]:
        return [MemoryFile(self._folder / file_of(number)) for number in range(MAX_FILES + 1)]
