"""``demo:/path``, ``shm:/path``, ``pid:N``, ``qemu:/path``: a guest at this host as text."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from migrated.errors import UsageError
from migrated.guests.base import GuestOptions, SourceGuest
from migrated.guests.frozen import FrozenGuest
from migrated.guests.qemu.frozen import FrozenMachine

__all__ = ["GuestUri", "open_source", "parse", "revive"]

_EXAMPLES = "write demo:/dev/shm/counter.mem, shm:/dev/shm/db.mem, pid:1234 or qemu:/run/vm.qmp"
_KINDS = ("demo", "shm", "pid", "qemu")


@dataclass(frozen=True, slots=True)
class GuestUri:
    """``kind`` is demo, shm, pid or qemu; ``target`` a path that needs no current folder, or a pid."""

    kind: str
    target: str

    def __str__(self) -> str:
        return f"{self.kind}:{self.target}"


def parse(text: str) -> GuestUri:
    """Read a guest's URI; UsageError says what is wrong with it."""
    kind, colon, target = text.partition(":")
    if not colon or kind not in _KINDS or not target:
        raise UsageError(f"{text!r} is no guest", _EXAMPLES)
    if kind == "pid":
        if not (target.isascii() and target.isdigit() and 0 < int(target) < 2**22 + 1):
            raise UsageError(f"{target!r} is no process id", _EXAMPLES)
        return GuestUri(kind, str(int(target)))
    if "\0" in target:
        raise UsageError("a path cannot hold a zero byte", _EXAMPLES)
    return GuestUri(kind, str(Path(target).absolute()))


def open_source(uri: GuestUri | str, options: GuestOptions | None = None) -> SourceGuest:
    """Open the guest; it goes on running. Blocks for some 0.1 s.

    GuestNotFoundError: there is none; UnsafeGuestError: it could lose writes; AccessError; UsageError: these
    options do not go together or not with this kind. After an error nothing is held.
    """
    found = parse(uri) if isinstance(uri, str) else uri
    options = options or GuestOptions()
    if found.kind != "shm" and (options.pids or options.pause or options.resume):
        raise UsageError(
            f"pids, pause and resume commands are for shm: guests, and this is {found}",
            "leave them out: the guest's process is known",
        )
    if options.keep and found.kind != "qemu":
        raise UsageError(
            f"only a virtual machine can be kept here, and this is {found}", "leave out --keep-source"
        )
    match found.kind:
        case "demo":
            from migrated.guests.demo.source import DemoSource

            return DemoSource(Path(found.target), options)
        case "qemu":
            from migrated.guests.qemu.source import QemuSource

            return QemuSource(Path(found.target), options)
        case "shm":
            from migrated.guests.shm import ShmSource

            return ShmSource(Path(found.target), options)
        case _:
            from migrated.guests.process import ProcessSource

            return ProcessSource(int(found.target), options)


def revive(details: Mapping[str, Any]) -> FrozenGuest | FrozenMachine:
    """The paused guest that :meth:`SourceGuest.describe` described, maybe in a process that is gone by
    now."""
    return FrozenMachine(details) if details.get("kind") == FrozenMachine.kind else FrozenGuest(details)
