"""One migration of a machine that runs to one that waits, by QEMU itself or by `migrated`."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from migrated.bench.hosts import Link
from migrated.bench.service import SendFailedError, Service, send
from migrated.bench.vm.machine import Machine
from migrated.bench.vm.modes import Mode
from migrated.errors import CancelledByPersonError, MigratedError, StalledError
from migrated.guests.qemu.monitor import Monitor
from migrated.guests.qemu.qmp import CommandFailedError

__all__ = ["Outcome", "Status", "by_migrated", "by_qemu"]

_PORT = 4444
_NO_LIMIT = 1 << 40
"""Bytes a second. 0 is not the same to every QEMU, and its default is 128 MiB/s."""

_LOOK_AGAIN_SECONDS = 0.02
_CANCEL_SECONDS = 60.0


class Status(StrEnum):
    """How it ended: the guest moved, the rounds never caught up, something broke, this QEMU has no such mode."""

    COMPLETED = "completed"
    NEVER = "never"
    FAILED = "failed"
    MISSING = "missing"


@dataclass(frozen=True)
class Outcome:
    """A migration by its own account: seconds and bytes. ``parts`` of the downtime, and what it was expected to be, are
    known for ours only."""

    status: Status
    why: str = ""
    total_seconds: float = 0.0
    downtime_seconds: float = 0.0
    parts: Mapping[str, float] = field(default_factory=dict)
    rounds: int = 0
    sent_bytes: int = 0
    expected_seconds: float = 0.0


def by_qemu(
    mode: Mode, source: Machine, destination: Machine, link: Link, *, downtime: float, patience: float
) -> Outcome:
    """QEMU's own migration over TCP; cancelled after ``patience`` seconds."""
    wanted = mode.qemu
    limits = {"downtime-limit": round(downtime * 1000), "max-bandwidth": _NO_LIMIT}
    try:
        for machine in (source, destination):
            machine.monitor.set_capabilities(dict.fromkeys(wanted.capabilities, True))
            machine.monitor.qmp.execute("migrate-set-parameters", wanted.parameters | limits)
    except CommandFailedError as error:
        return Outcome(Status.MISSING, error.said)
    try:
        uri = f"tcp:{link.destination.address}:{_PORT}"
        destination.monitor.qmp.execute("migrate-incoming", {"uri": uri})
        source.monitor.qmp.execute("migrate", {"uri": uri})
        answer = _follow(source.monitor, time.monotonic() + patience)
    except MigratedError as error:
        return Outcome(Status.FAILED, error.what)
    memory = answer.get("ram", {})
    facts = {"rounds": memory.get("dirty-sync-count", 0), "sent_bytes": memory.get("transferred", 0)}
    match answer["status"]:
        case "completed":
            seconds = (answer["total-time"] / 1000, answer["downtime"] / 1000)
            return Outcome(Status.COMPLETED, "", *seconds, **facts)
        case "cancelled":
            return Outcome(Status.NEVER, f"not done after {patience:g} s", patience, **facts)
        case status:
            return Outcome(Status.FAILED, str(answer.get("error-desc") or status), **facts)


_ENDED = ("completed", "failed", "cancelled")


def _follow(monitor: Monitor, ending: float) -> dict[str, Any]:
    """QEMU's account of its migration once it has ended; cancelled at ``ending``."""
    answer: dict[str, Any] = monitor.qmp.execute("query-migrate")
    # For an instant it has completed and not yet reckoned how long it took.
    while answer.get("status") not in _ENDED or (
        answer["status"] == "completed" and not answer["total-time"]
    ):
        if time.monotonic() > ending:
            monitor.end_migration(_CANCEL_SECONDS)
        time.sleep(_LOOK_AGAIN_SECONDS)
        answer = monitor.qmp.execute("query-migrate")
    return answer


def by_migrated(
    mode: Mode,
    source: Machine,
    folder: Path,
    link: Link,
    service: Service,
    *,
    downtime: float,
    patience: float,
) -> Outcome:
    """`migrated send` to ``service``, which knows the machine that waits as ``vm``; cancelled as QEMU's own is."""
    what = (f"qemu:{source.socket}", service.address, "--name=vm", f"--downtime={downtime * 1000:g}ms")
    try:
        report, _ = send(folder, link.source, *what, *mode.words, patience=patience)
    except SendFailedError as error:
        never = error.why in (StalledError.reason, CancelledByPersonError.reason)
        return Outcome(Status.NEVER if never else Status.FAILED, error.said)
    return Outcome(
        Status.COMPLETED,
        "",
        report["total_seconds"],
        report["downtime_seconds"],
        report["downtime_parts"],
        report["rounds"],
        report["wire_bytes"],
        report["expected_downtime"],
    )
