"""/proc/PID/maps, and who else can write to a file that holds memory."""

import contextlib
import os
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from migrated.errors import AccessError, GuestDiedError

__all__ = ["Mapping", "Writer", "WriterSearch", "find_writers", "mappings_of_file", "parse_maps", "read_maps"]

_BOUNDS = re.compile(r"([0-9a-f]+)-([0-9a-f]+) ")
_LINE = re.compile(r"([0-9a-f]+)-([0-9a-f]+) (....) ([0-9a-f]+) ([0-9a-f]+):([0-9a-f]+) (\d+)(?: +(.*))?")
_DELETED = " (deleted)"
_ALL_ADDRESSES = 1 << 64


@dataclass(frozen=True, slots=True)
class Mapping:
    """One line of /proc/PID/maps: addresses [start, stop), ``perms`` like "rw-s", where in which file."""

    start: int
    stop: int
    perms: str
    offset: int
    device: int
    inode: int
    path: str

    @property
    def size(self) -> int:
        """Bytes."""
        return self.stop - self.start

    @property
    def readable(self) -> bool:
        """Whether the process may read it."""
        return self.perms[0] == "r"

    @property
    def writable(self) -> bool:
        """Whether the process may write it."""
        return self.perms[1] == "w"

    @property
    def shared(self) -> bool:
        """Whether writes reach the file or other processes."""
        return self.perms[3] == "s"

    @property
    def anonymous(self) -> bool:
        """Whether no file lies behind it. Shared anonymous memory has one (a deleted /dev/zero)."""
        return self.inode == 0

    @property
    def special(self) -> bool:
        """Whether the kernel made it: [vdso], [vvar], [vsyscall]; its content belongs to this host."""
        return self.path.startswith(("[vdso", "[vvar", "[vsyscall", "[uprobes"))


def parse_maps(text: str, start: int = 0, stop: int = _ALL_ADDRESSES) -> list[Mapping]:
    """The mappings of a /proc/PID/maps text that have an address of [start, stop), in the order of addresses."""
    found = []
    for line in text.splitlines():
        # Of the hundreds that a process has: to take a line apart costs ten times this look at it.
        bounds = _BOUNDS.match(line)
        if bounds is not None and int(bounds[1], 16) >= stop:
            break
        if bounds is not None and int(bounds[2], 16) <= start:
            continue
        match = _LINE.fullmatch(line)
        if match is None:
            raise ValueError(f"not a line of /proc/PID/maps: {line!r}")
        low, high, perms, offset, major, minor, inode, path = match.groups()
        found.append(
            Mapping(
                start=int(low, 16),
                stop=int(high, 16),
                perms=perms,
                offset=int(offset, 16),
                device=os.makedev(int(major, 16), int(minor, 16)),
                inode=int(inode),
                path=(path or "").removesuffix(_DELETED),
            )
        )
    return found


def read_maps(pid: int, start: int = 0, stop: int = _ALL_ADDRESSES) -> list[Mapping]:
    """The mappings of a process that have an address of [start, stop). Raises ``GuestDiedError`` (it ended) or
    ``AccessError``."""
    return parse_maps(_read_maps_text(pid), start, stop)


def mappings_of_file(pid: int, file: int | str | Path) -> list[Mapping]:
    """The shared mappings that ``pid`` has of ``file`` (a path or a descriptor), by rising address."""
    status = os.stat(file)  # noqa: PTH116 - also takes a descriptor
    return [
        each
        for each in read_maps(pid)
        if each.shared and (each.device, each.inode) == (status.st_dev, status.st_ino)
    ]


@dataclass(frozen=True, slots=True)
class Writer:
    """A process that can write to the file; ``how`` says by what: a mapping or a descriptor."""

    pid: int
    comm: str
    how: str


@dataclass(frozen=True, slots=True)
class WriterSearch:
    """Who can write to a file: one ``Writer`` a process; ``hidden`` are pids that we may not look into."""

    writers: tuple[Writer, ...]
    hidden: tuple[int, ...]


def find_writers(file: int | str | Path, *, ignore: Collection[int] = ()) -> WriterSearch:
    """Search /proc for writable shared mappings and descriptors of ``file``; ``ignore`` are known pids.

    Sees processes of this pid namespace. What it can't see: the kernel's own writers (loop devices, vhost),
    descriptors that are just travelling through a socket, and processes that open the file later.
    """
    status = os.stat(file)  # noqa: PTH116 - also takes a descriptor
    identity = (status.st_dev, status.st_ino)
    writers, hidden = [], []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) in ignore:
            continue
        pid = int(entry.name)
        try:
            how = _writes_by(pid, identity)
            if how:
                writers.append(Writer(pid, (entry / "comm").read_text(errors="replace").strip(), how))
        except PermissionError:
            hidden.append(pid)
        except OSError:
            continue  # it ended meanwhile
    return WriterSearch(tuple(writers), tuple(hidden))


def _writes_by(pid: int, identity: tuple[int, int]) -> str:
    text = _raw_maps_text(pid)
    if f" {identity[1]} " in text:  # parsing every process's maps would cost more than all else here
        for each in parse_maps(text):
            if each.shared and each.writable and (each.device, each.inode) == identity:
                return f"mapping {each.start:#x}-{each.stop:#x}"
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            status = descriptor.stat()
            if (status.st_dev, status.st_ino) == identity and _is_writable(pid, descriptor.name):
                return f"descriptor {descriptor.name}"
    return ""


def _is_writable(pid: int, descriptor: str) -> bool:
    info = Path(f"/proc/{pid}/fdinfo/{descriptor}").read_text()
    flags = int(next(line.split()[1] for line in info.splitlines() if line.startswith("flags:")), 8)
    return flags & os.O_ACCMODE != os.O_RDONLY


def _raw_maps_text(pid: int) -> str:
    # bytes that are no UTF-8 can stand in a file name
    return Path(f"/proc/{pid}/maps").read_text(errors="surrogateescape")


def _read_maps_text(pid: int) -> str:
    try:
        text = _raw_maps_text(pid)
    except (FileNotFoundError, ProcessLookupError) as error:
        raise GuestDiedError(f"reading the mappings of process {pid}: it ended") from error
    except PermissionError as error:
        raise AccessError(
            f"reading the mappings of process {pid}: not allowed",
            "run as the same user, or give CAP_SYS_PTRACE",
        ) from error
    if not text:
        raise GuestDiedError(f"reading the mappings of process {pid}: it ended")
    return text
