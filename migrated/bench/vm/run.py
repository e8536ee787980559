"""The benchmark as a whole: every step that is not in the results yet, and how long the rest will take."""

import os
import platform
import re
import shutil
import statistics
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from migrated.bench.hosts import link, loopback, memory_folder
from migrated.bench.service import Service
from migrated.bench.vm.guests import KINDS, Guest
from migrated.bench.vm.image import build
from migrated.bench.vm.machine import QEMU, Spec, words_against_lost_writes
from migrated.bench.vm.measure import THERE, Scene, measure
from migrated.bench.vm.plan import Step
from migrated.bench.vm.results import Measurement, Results, key_of
from migrated.bench.vm.snapshot import Snapshot
from migrated.compression.stage import usable_cores
from migrated.errors import AccessError, ResourceError

__all__ = [
    "Machinery",
    "Tell",
    "check_host",
    "host_facts",
    "qemu_version",
    "run",
    "seconds_left",
    "settings_of",
]

Tell = Callable[[Measurement, int, int, float], None]
"""Told after each measurement: it, how many are done, how many there are, and how many seconds are left."""

_GUESS_SECONDS = 15.0
"""A measurement, before any was made: two machines 2 s, a settled guest 1 s, a migration, a check 1 s."""


@dataclass(frozen=True)
class Machinery:
    """What holds for every measurement: bytes, seconds. ``fill`` is what the guest fills of its ``memory``; ``warm``
    says that as much memory of this host is kept in use until the destination takes it."""

    memory: int = 1 << 30
    fill: int = 512 << 20
    processors: int = 1
    downtime: float = 0.3
    patience: float = 90.0
    accelerator: str = "tcg"
    warm: bool = True


def check_host() -> None:
    """AccessError without root, ResourceError without QEMU: before anything takes long."""
    if os.geteuid() != 0:
        raise AccessError("a link between two network namespaces takes root", "run it as root, with sudo")
    if shutil.which(QEMU) is None:
        raise ResourceError(f"there is no {QEMU}", "apt-get install qemu-system-x86, on Debian")


def host_facts() -> dict[str, Any]:
    """What figures depend on, of this host."""
    model = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return {
        "cores": usable_cores(),
        "processor": model[1] if model else platform.machine(),
        "kernel": platform.release(),
        "qemu": _said_version(),
    }


def qemu_version() -> tuple[int, ...]:
    """As in (7, 2, 22)."""
    match = re.match(r"\d+(\.\d+)+", _said_version())
    return tuple(map(int, match[0].split("."))) if match else ()


def _said_version() -> str:
    said = subprocess.run([QEMU, "--version"], capture_output=True, text=True, check=True).stdout
    return said.splitlines()[0].removeprefix("QEMU emulator version ")


def settings_of(machinery: Machinery) -> dict[str, Any]:
    """What figures depend on, of what was asked for; builds the contents of all guests, so that more can follow."""
    contents = [made for kind in KINDS if (made := Guest(kind).disk()) is not None]
    described = {each.path.name: {"digest": each.digest, **each.ratios} for each in contents}
    return {**machinery.__dict__, "contents": described}


def run(machinery: Machinery, steps: Sequence[Step], results: Results, tell: Tell) -> None:
    """Make every measurement of ``steps`` that is not in ``results``, and add it there.

    Interrupted at any point nothing is left behind but the results, and the same call goes on.
    """
    pending = [step for step in steps if not results.done(step)]
    image = build()
    for guest, of_guest in groupby(pending, key=lambda step: step.cell.guest):
        content = guest.disk()
        more = words_against_lost_writes(qemu_version(), machinery.accelerator)
        words = f"fill={machinery.fill} {guest.words} {more}"
        spec = Spec(
            machinery.memory,
            machinery.processors,
            image,
            words,
            content.path if content else None,
            machinery.accelerator,
        )
        with tempfile.TemporaryDirectory(prefix="migrated-bench-", dir=memory_folder()) as name:
            folder = Path(name)
            snapshot = Snapshot(folder, loopback().source, spec)
            for rate, of_link in groupby(of_guest, key=lambda step: step.cell.link):
                target = {"vm": f"qemu:{folder / THERE}.qmp"}
                with link(rate.tc) as between, Service(folder, between.destination, target) as service:
                    limits = (machinery.downtime, machinery.patience)
                    warm = machinery.memory if machinery.warm else 0
                    scene = Scene(folder, between, snapshot, service, *limits, warm)
                    for step in of_link:
                        if results.done(step):
                            continue  # hopeless by now
                        measurement = measure(scene, step)
                        results.add(measurement)
                        open_steps = [each for each in pending if not results.done(each)]
                        left = seconds_left(results.measurements, open_steps)
                        tell(measurement, len(steps) - len(open_steps), len(steps), left)


def seconds_left(measurements: Sequence[Measurement], steps: Sequence[Step]) -> float:
    """How long ``steps`` will take, by what the like of them took: same cell and mode, same link and mode, any."""
    known: dict[tuple[str, ...], list[float]] = {}
    for each in measurements:
        for key in ((each.link, each.guest, each.mode), (each.link, each.mode), (each.link,), ()):
            known.setdefault(key, []).append(each.elapsed_seconds)
    means = {key: statistics.fmean(values) for key, values in known.items()}
    return sum(_expected(means, step) for step in steps)


def _expected(means: Mapping[tuple[str, ...], float], step: Step) -> float:
    link_, guest, mode, _ = key_of(step)
    for key in ((link_, guest, mode), (link_, mode), (link_,), ()):
        if key in means:
            return means[key]
    return _GUESS_SECONDS
