"""Whether a VM can move, and everything that stands in the way at once: for ``doctor``."""

import contextlib
from dataclasses import dataclass, field
from pathlib import Path

from migrated.errors import MigratedError
from migrated.guests.base import GuestOptions
from migrated.guests.qemu.inspect import Machine, inspect
from migrated.guests.qemu.monitor import Monitor
from migrated.guests.qemu.safety import Refusal, refusals, target_refusals
from migrated.guests.qemu.settings import IGNORE_SHARED, LATE_ACTIVATE, missing
from migrated.guests.qemu.source import QemuSource
from migrated.memory.region import FileRegion

__all__ = ["Diagnosis", "diagnose"]


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What was found. ``refusals`` keep it here; ``avoidable`` do unless ``--tracker hash`` is used; ``elsewhere``
    keep it from hosts other than this one. ``tracker`` is a sentence on how its writes would be seen, if it can go.
    One that ``waits`` is looked at as a destination.
    """

    machine: Machine
    refusals: list[Refusal] = field(default_factory=list)
    avoidable: list[Refusal] = field(default_factory=list)
    elsewhere: list[Refusal] = field(default_factory=list)
    tracker: str = ""
    waits: bool = False


def diagnose(path: Path) -> Diagnosis:
    """Look at the VM whose monitor is at ``path``; it goes on, and is held for 1 ms at most to try that out.

    Errors are those of :class:`migrated.guests.qemu.qmp.Qmp`: nothing could be asked.
    """
    monitor = Monitor(path)
    try:
        machine = inspect(monitor.qmp.greeting, monitor.qmp.execute)
        waits = machine.status == "inmigrate"
        lacking = missing(monitor, [IGNORE_SHARED, *([LATE_ACTIVATE] if waits else [])])
    finally:
        monitor.close()
    found = Diagnosis(
        machine, target_refusals(machine) if waits else refusals(machine, hashes=True), waits=waits
    )
    found.refusals.extend(
        Refusal(f"this QEMU lacks the migration capability {name}", "use QEMU 4.0 or newer")
        for name in lacking
    )
    found.refusals.extend(_out_of_reach(machine, writable=waits))
    found.elsewhere.extend(_local_disks(machine))
    if waits:
        return found
    known = {each.what for each in found.refusals}
    found.avoidable.extend(each for each in refusals(machine, hashes=False) if each.what not in known)
    if found.refusals:
        return found
    try:
        source = QemuSource(path, GuestOptions(tracker="hash" if found.avoidable else "auto"))
    except MigratedError as error:
        found.refusals.append(Refusal(error.what, error.hint))
        return found
    with contextlib.closing(source):
        return Diagnosis(machine, [], found.avoidable, found.elsewhere, source.tracker_note)


def _out_of_reach(machine: Machine, *, writable: bool) -> list[Refusal]:
    found = []
    for each in machine.backends:
        if each.path and each.share:
            try:
                FileRegion(Path(each.path), each.size, writable=writable, name=each.name).close()
            except MigratedError as error:
                found.append(Refusal(error.what, error.hint))
    return found


def _local_disks(machine: Machine) -> list[Refusal]:
    return [
        Refusal(
            f"disk {each.name} ({each.file}) is no storage that another host is known to reach",
            "put it on NFS, Ceph, NBD or a volume of a storage network; a move within this host works",
        )
        for each in machine.disks
        if each.writable and each.identity.startswith(("local:", "unknown:"))
    ]
