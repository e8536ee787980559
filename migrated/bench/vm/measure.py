"""One measurement: two machines, a migration between them, and all that is seen of it from outside."""

import time
from dataclasses import dataclass
from pathlib import Path

from migrated.bench.hosts import Link
from migrated.bench.noise import busy_seconds, probe, stolen_seconds
from migrated.bench.service import Service
from migrated.bench.vm.drive import Outcome, Status, by_migrated, by_qemu
from migrated.bench.vm.heart import Heart
from migrated.bench.vm.machine import Console, Machine
from migrated.bench.vm.plan import Step
from migrated.bench.vm.results import Measurement
from migrated.bench.vm.snapshot import Snapshot
from migrated.bench.warm import WarmPages
from migrated.errors import GuestError

__all__ = ["HERE", "THERE", "Scene", "measure"]

HERE, THERE = "here", "there"
"""Names of the two machines, and of their files."""

_PAGE = 4096
_SETTLE_BEATS = 100
"""A second: emulation has translated by then what runs again and again."""
_ARRIVED_BEATS = 50
_ARRIVAL_SECONDS = 60.0


@dataclass(frozen=True)
class Scene:
    """Where it happens. ``service`` serves on the destination, and knows the machine ``there`` as ``vm``, which takes
    ``warm`` bytes of memory that are in use until then."""

    folder: Path
    link: Link
    snapshot: Snapshot
    service: Service
    downtime: float
    patience: float
    warm: int = 0


def measure(scene: Scene, step: Step) -> Measurement:
    """Start both machines, migrate, look at everything, end them.

    A migration that does not complete is a result like any other, and so is a guest that is not intact afterwards.
    GuestError: the machines fail before it begins.
    """
    began, probed = time.monotonic(), probe()
    folder, link = scene.folder, scene.link
    with (
        scene.snapshot.start(folder, HERE, link.source) as source,
        Machine(folder, THERE, link.destination, scene.snapshot.spec, waits=True) as destination,
        WarmPages(scene.warm, destination.memory),
    ):
        source.wait_for_beats(_SETTLE_BEATS)
        pages = _Written(source.console)
        sent, busy, stolen = link.sent_bytes(), busy_seconds(), stolen_seconds()
        heart = Heart(source.console, destination.console)
        heart.start()
        try:
            started = time.monotonic()
            outcome = _migrate(scene, step, source, destination)
            sent, busy = link.sent_bytes() - sent, busy_seconds() - busy
            stolen = stolen_seconds() - stolen
            completed = outcome.status is Status.COMPLETED
            fault = ""
            if completed and not heart.wait_for_beats_there(_ARRIVED_BEATS, _ARRIVAL_SECONDS):
                fault = "the guest does not run at the destination"
        finally:
            heart.stop()
        runs = destination if completed else source
        written = pages.rate(runs.console)
        fault = heart.fault or fault or _fault(runs)
    return Measurement(
        link=str(step.cell.link),
        guest=str(step.cell.guest),
        mode=str(step.mode),
        run=step.run,
        status=outcome.status,
        why=" ".join((outcome.why or fault).split()),
        total_seconds=outcome.total_seconds,
        downtime_seconds=outcome.downtime_seconds,
        parts=dict(outcome.parts),
        rounds=outcome.rounds,
        sent_bytes=outcome.sent_bytes,
        link_bytes=sent,
        arrived_seconds=heart.arrived - started if heart.arrived else 0.0,
        gap_seconds=heart.longest,
        switch_seconds=heart.switch,
        intact=not fault,
        written_rate=written,
        expected_seconds=outcome.expected_seconds,
        busy_seconds=busy,
        stolen_seconds=stolen,
        probe_seconds=probed,
        elapsed_seconds=time.monotonic() - began,
    )


def _migrate(scene: Scene, step: Step, source: Machine, destination: Machine) -> Outcome:
    limits = {"downtime": scene.downtime, "patience": scene.patience}
    if step.mode.is_qemu:
        return by_qemu(step.mode, source, destination, scene.link, **limits)
    return by_migrated(step.mode, source, scene.folder, scene.link, scene.service, **limits)


class _Written:
    """How fast the guest rewrites its memory, by its own count and clock; they move with it."""

    def __init__(self, console: Console) -> None:
        self._up_ms, self._written = console.up_ms, console.written

    def rate(self, console: Console) -> float:
        """Bytes a second since then."""
        seconds = (console.up_ms - self._up_ms) / 1000
        return (console.written - self._written) * _PAGE / seconds if seconds > 0 else 0.0


def _fault(machine: Machine) -> str:
    """What is wrong with the guest: nothing, if every byte that it wrote is there."""
    try:
        machine.verify()
    except GuestError as error:
        return error.what
    return ""
