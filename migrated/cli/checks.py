"""What `migrated doctor` looks at, one function a subject. Nothing here changes the host."""

import contextlib
import os
import platform
import resource
from collections.abc import Iterator
from pathlib import Path

from migrated.cli.findings import Check, Level
from migrated.cli.qemu_checks import qemu_checks
from migrated.compression import registry
from migrated.compression.stage import usable_cores
from migrated.config import Settings
from migrated.control import sockets
from migrated.errors import MigratedError
from migrated.memory.linux.meminfo import host_memory
from migrated.memory.trackers.probes import probes
from migrated.units import format_size

__all__ = ["run_checks"]

_SHM = Path("/dev/shm")  # noqa: S108  looked at, not written to
_PROC = Path("/proc")
_HUGE = Path("/sys/kernel/mm/hugepages")

_CAP_SYS_PTRACE, _CAP_KILL = 19, 5
_WANTED_FILES = 1024
"""Descriptors: three a migration and worker, and room."""

_VOLATILE = frozenset({"tmpfs", "ramfs", "overlay"})
"""File systems that may not be there after a crash of the host, or of the container."""


def run_checks(settings: Settings) -> Iterator[Check]:
    """Every check, in the order in which they are shown; takes some tenths of a second."""
    yield from _software()
    yield from _codecs()
    yield from _trackers()
    yield from _permissions()
    yield from _memory()
    yield from _limits()
    yield from _folders(settings)
    yield from qemu_checks()


def _software() -> Iterator[Check]:
    yield Check(
        "python", Level.OK, f"{platform.python_version()} on Linux {platform.release()} {platform.machine()}"
    )


def _codecs() -> Iterator[Check]:
    problems = registry.problems()
    working = [name for name in registry.names() if name not in problems]
    found = ", ".join(f"{name} ({registry.info(name).levels[1]})" for name in working)
    hint = "" if working else "install migrated again with what it needs"
    yield Check("codecs", Level.OK if working else Level.FAIL, found or "none", hint, vital=not working)
    for name, error in problems.items():
        yield Check(f"codec {name}", Level.WARN, error.what, error.hint)


def _trackers() -> Iterator[Check]:
    for probe in probes():
        tracker = probe.name in ("pagemap-scan", "soft-dirty", "hash")
        # Without an exact tracker it is slower; a process that can't be held or read can't be moved.
        missing = Level.WARN if tracker and probe.name != "hash" else Level.FAIL
        subject = f"tracker {probe.name}" if tracker else probe.name
        yield Check(
            subject, Level.OK if probe.works else missing, probe.why, "" if probe.works else probe.hint
        )


def _permissions() -> Iterator[Check]:
    scope = _PROC / "sys/kernel/yama/ptrace_scope"
    held = _capabilities()
    able = held >> _CAP_SYS_PTRACE & 1
    value = int(scope.read_text()) if scope.exists() else 0
    if value and not able:
        yield Check(
            "yama",
            Level.WARN if value == 1 else Level.FAIL,
            f"ptrace_scope is {value}: only children of a process may be held by it",
            "sysctl kernel.yama.ptrace_scope=0, or run as root",
        )
    else:
        yield Check("yama", Level.OK, f"ptrace_scope is {value}" if scope.exists() else "not in this kernel")
    missing = [
        name
        for bit, name in ((_CAP_SYS_PTRACE, "CAP_SYS_PTRACE"), (_CAP_KILL, "CAP_KILL"))
        if not held >> bit & 1
    ]
    if missing:
        yield Check(
            "capabilities",
            Level.WARN,
            f"without {' and '.join(missing)} only this user's own processes can be moved",
            "run `migrated send` as root, or as the user of the guest",
        )
    else:
        yield Check(
            "capabilities", Level.OK, "CAP_SYS_PTRACE and CAP_KILL: processes of every user can be moved"
        )


def _capabilities() -> int:
    for line in (_PROC / "self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return int(line.split()[1], 16)
    return 0


def _memory() -> Iterator[Check]:
    try:
        shm = os.statvfs(_SHM)
    except OSError as error:
        yield Check(str(_SHM), Level.FAIL, f"cannot be used: {error.strerror}", "mount a tmpfs there")
    else:
        size, free = shm.f_blocks * shm.f_frsize, shm.f_bavail * shm.f_frsize
        small = size < 1 << 30
        yield Check(
            str(_SHM),
            Level.WARN if small else Level.OK,
            f"{format_size(free)} of {format_size(size)} free: guests in shared memory arrive there",
            "mount -o remount,size=... /dev/shm; in a container: --shm-size" if small else "",
        )
    yield Check("memory", Level.OK, f"{format_size(host_memory()['MemAvailable'])} available")
    pools = []
    for pool in sorted(_HUGE.glob("hugepages-*")):
        with contextlib.suppress(OSError, ValueError):
            free, total = (int((pool / name).read_text()) for name in ("free_hugepages", "nr_hugepages"))
            kilobytes = int(pool.name.removeprefix("hugepages-").removesuffix("kB"))
            pools.append(f"{free} of {total} pages of {format_size(kilobytes * 1024)} free")
    if pools:
        mounts = [where for where, kind in _mounts() if kind == "hugetlbfs"]
        pools.append(f"mounted at {', '.join(mounts)}" if mounts else "not mounted as files")
    yield Check(
        "huge pages", Level.OK, "; ".join(pools) or "none: not needed, guests on them need some here too"
    )


def _limits() -> Iterator[Check]:
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    few = 0 <= files < _WANTED_FILES
    yield Check(
        "open files",
        Level.WARN if few else Level.OK,
        "no limit" if files < 0 else f"up to {files}",
        f"ulimit -n {_WANTED_FILES}" if few else "",
    )
    cores = usable_cores()
    yield Check("cores", Level.OK, f"{cores}: at most as many workers on each side are started")


def _folders(settings: Settings) -> Iterator[Check]:
    state = settings.host.state_path
    kind, there = _file_system(state), _existing(state)
    if not os.access(there, os.W_OK):
        yield Check(
            "state folder",
            Level.FAIL,
            f"{state} can't be written to: outcomes could not be recorded",
            "set host.state_dir to a folder of yours on a disk",
        )
    elif kind in _VOLATILE:
        yield Check(
            "state folder",
            Level.WARN,
            f"{state} is on {kind}: outcomes may be lost in a crash, and with them where a guest runs",
            "set host.state_dir to a folder on a disk",
        )
    else:
        yield Check("state folder", Level.OK, f"{state} ({kind or 'unknown file system'})")
    folder = sockets.runtime_path()
    try:
        if os.path.lexists(folder):
            sockets.runtime_dir()
    except MigratedError as error:
        yield Check("control sockets", Level.WARN, error.what, error.hint)
    else:
        yield Check("control sockets", Level.OK, str(folder))


def _existing(path: Path) -> Path:
    return next((each for each in (path, *path.parents) if os.access(each, os.F_OK)), Path("/"))


def _file_system(path: Path) -> str:
    """The type of the file system that ``path`` is or would be on."""
    there = _existing(path).resolve()
    best, kind = "", ""
    for where, found in _mounts():
        if there.is_relative_to(where) and len(where) >= len(best):
            best, kind = where, found
    return kind


def _mounts() -> Iterator[tuple[str, str]]:
    """(where, type) of each file system."""
    with contextlib.suppress(OSError):
        for line in (_PROC / "self/mounts").read_text().splitlines():
            _, where, kind = line.split()[:3]
            yield where, kind
