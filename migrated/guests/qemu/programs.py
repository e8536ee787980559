"""Which QEMUs this host has, and which of them run: for ``doctor``. Nothing is changed, no machine is started."""

import contextlib
import itertools
import json
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from migrated.guests.qemu.settings import IGNORE_SHARED, LATE_ACTIVATE
from migrated.memory.linux import process

__all__ = ["Program", "Running", "others", "programs", "running"]

_NAMES = ("qemu-system-", "qemu-kvm")
_HIDDEN = (Path("/usr/libexec/qemu-kvm"),)
"""Where distributions keep one that is not meant to be typed."""

_ANSWER_SECONDS = 20.0
_QUESTIONS = ("qmp_capabilities", "query-version", "query-migrate-capabilities", "query-kvm", "quit")
_WORDS = (
    *("-accel", "kvm", "-accel", "tcg", "-machine", "none", "-nodefaults", "-display", "none", "-S"),
    *("-qmp", "stdio"),
)
_PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class Program:
    """A QEMU for this host's kind of processor. ``lacks`` are the migration capabilities that it should have, ``kvm``
    tells whether it can open KVM, ``problem`` why it could not be asked."""

    path: Path
    version: str = ""
    lacks: tuple[str, ...] = ()
    kvm: bool = False
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Running:
    """A QEMU that runs. ``monitors`` are the sockets on its command line; ``open`` tells whether we may hold it and
    see its writes."""

    pid: int
    monitors: tuple[str, ...]
    open: bool


def programs() -> list[Program]:
    """Those for this host's kind of processor, each asked by its monitor without a machine: 0.2 s each."""
    native = {f"qemu-system-{platform.machine()}", "qemu-kvm"}
    return [_asked(path) for path in _installed() if path.name in native]


def others() -> list[str]:
    """The names of those for other processors."""
    native = {f"qemu-system-{platform.machine()}", "qemu-kvm"}
    return sorted({path.name for path in _installed()} - native)


def _installed() -> Iterator[Path]:
    seen: set[Path] = set()
    found = [path for folder in os.get_exec_path() for path in _named(folder)]
    for path in [*found, *_HIDDEN]:
        if not shutil.which(str(path)):
            continue
        real = path.resolve()
        if real not in seen:
            seen.add(real)
            yield path


def _named(folder: str) -> list[Path]:
    """Nothing if ``folder`` is not there or closed to us: PATH may well name one of another user."""
    try:
        there = sorted(Path(folder).iterdir())
    except OSError:
        return []
    return [path for name in _NAMES for path in there if path.name.startswith(name)]


def _asked(path: Path) -> Program:
    words = "".join(json.dumps({"execute": each, "id": each}) for each in _QUESTIONS)
    said = ""
    try:
        done = subprocess.run(
            [str(path), *_WORDS],
            input=words,
            capture_output=True,
            text=True,
            timeout=_ANSWER_SECONDS,
            check=False,
        )
        said = done.stderr.strip()
        return _understood(path, done.stdout)
    except (OSError, subprocess.TimeoutExpired, ValueError, KeyError) as error:
        return Program(path, problem=said or str(error))


def _understood(path: Path, text: str) -> Program:
    answers = {each["id"]: each["return"] for each in map(json.loads, text.splitlines()) if "return" in each}
    version = answers["query-version"]["qemu"]
    has = {each["capability"] for each in answers["query-migrate-capabilities"]}
    return Program(
        path,
        ".".join(str(version[part]) for part in ("major", "minor", "micro")),
        tuple(name for name in (IGNORE_SHARED, LATE_ACTIVATE) if name not in has),
        bool(answers["query-kvm"]["enabled"]),
    )


def running() -> list[Running]:
    """The QEMUs that run on this host, as far as we see processes."""
    found = []
    for pid in sorted(int(entry.name) for entry in _PROC.iterdir() if entry.name.isdigit()):
        if process.comm(pid).startswith(_NAMES):
            words = b""
            with contextlib.suppress(OSError):
                words = (_PROC / str(pid) / "cmdline").read_bytes()
            if not words:
                continue  # it has ended
            found.append(Running(pid, _monitors(words.decode(errors="replace").split("\0")), _may_hold(pid)))
    return found


def _monitors(words: list[str]) -> tuple[str, ...]:
    """The sockets of ``-qmp unix:PATH,...``, and of ``-chardev socket,id=ID,path=PATH -mon ID,mode=control``."""
    options = list(itertools.pairwise(words))
    paths = [
        value[5:].split(",")[0] for name, value in options if name == "-qmp" and value.startswith("unix:")
    ]
    controls = [value for name, value in options if name == "-mon" and "mode=control" in value]
    for name, value in options:
        settings = dict(re.findall(r"(\w+)=([^,]*)", value))
        if name == "-chardev" and "path" in settings:
            by = re.compile(rf"(^|,|chardev=){re.escape(settings.get('id', ''))}(,|$)")
            paths += [settings["path"] for each in controls if by.search(each)]
    return tuple(paths)


def _may_hold(pid: int) -> bool:
    """The kernel's own check for a tracer, made without tracing."""
    try:
        os.close(os.open(_PROC / str(pid) / "mem", os.O_RDONLY | os.O_CLOEXEC))
    except OSError:
        return False
    return True
