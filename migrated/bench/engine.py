"""What the engine promises, measured: throughput, links near and far, memory, growth with the guest, event loops.

Both sides run on this host and share its cores. Each part gives figures by name, one value a run.
"""

import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from migrated.bench.demo_guest import Guest
from migrated.bench.hosts import Link, link, loopback, memory_folder
from migrated.bench.jobs import job_costs
from migrated.bench.noise import busy_seconds
from migrated.bench.pss import PssWatch
from migrated.bench.service import MIGRATED, Service, send
from migrated.bench.warm import WarmPages
from migrated.memory.linux.process import cpu_seconds

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["PARTS", "Figures", "table"]

Figures = dict[str, list[float]]

_LINK_BITS = 1e9
_LONG_RUNS = 3
"""Runs of what takes long and hardly varies, at most."""

_ROUND_TRIPS = (0, 10, 20, 50, 100)
"""Milliseconds."""
_STREAMS = (1, 2, 4)
_SIZES_GIB = (1, 2, 4, 8)
_STARTS = 3
_TIMES_IN_MEMORY = 2.5
"""Both sides have the guest's memory on this host: sizes that do not fit are left out."""

_FILES_BYTES = 1 << 30
_FILE_BYTES = 16 << 20
_PAGE = 4096
_CODECS: dict[str, tuple[str, ...]] = {
    "raw": ("--level=0",),
    "lz4": ("--codec=lz4",),
    "zstd": ("--codec=zstd",),
    "auto": (),
}
"""Names in the table, and flags. They take turns, so that what changes on the host meets all of them."""


def table(figures: Mapping[str, Sequence[float]]) -> "Table":
    """``figures`` with their medians and spread."""
    from rich import box
    from rich.table import Table

    made = Table("what", "median", "min", "max", "runs", box=box.SIMPLE_HEAD, pad_edge=False)
    for name, values in figures.items():
        spread = (statistics.median(values), min(values), max(values))
        made.add_row(name, *(f"{value:.1f}" for value in spread), str(len(values)))
    return made


def _mix(share: float) -> str:
    """``share`` of memory in use: text, code and noise as 2:2:1, the rest never touched."""
    used = {"text": 40 * share, "code": 40 * share, "random": 20 * share}
    return "--mix=" + ",".join(
        f"{name}={value:g}" for name, value in {"zero": 100 - 100 * share, **used}.items()
    )


@dataclass(frozen=True)
class _Moved:
    """A migration: what `migrated send` said, the largest sum of PSS if it was watched, and the CPU time that this
    host's cores took, but for the guest and for us."""

    report: dict[str, Any]
    events: list[dict[str, Any]]
    most_kib: int
    busy_seconds: float

    @property
    def first_round(self) -> dict[str, Any]:
        return _first_round(self.events)


def _move(
    between: Link,
    *words: str,
    size: str,
    used: float,
    dirty_rate: str,
    warm: int | None = 0,
    watched: bool = False,
    programs: tuple[tuple[str, ...], tuple[str, ...]] = (MIGRATED, MIGRATED),
) -> _Moved:
    """Copy a shared-memory guest once; ``warm`` bytes of memory, or nearly all that is free, are in use until it takes
    them there. Only where it is asked for is memory ``watched``: that takes up to a tenth of both cores."""
    with tempfile.TemporaryDirectory(prefix="migrated-bench-", dir=memory_folder()) as name:
        folder = Path(name)
        arrived = folder / "arrived.mem"
        # An idle guest is one that does not even look whether its memory is right.
        idle = ("--verify-rate=0",) if dirty_rate == "0" else ()
        with (
            Guest(folder / "guest.mem", size, dirty_rate, (_mix(used), *idle)) as guest,
            Service(folder, between.destination, {"guest": f"shm:{arrived}"}, programs[0]) as service,
            WarmPages(warm, arrived),
        ):
            watch = PssWatch(folder, frozenset({guest.pid}))
            if watched:
                watch.start()
            what = (f"shm:{guest.memory}", service.address, "--name=guest", f"--pid={guest.pid}")
            before = _busy_seconds(guest)
            report, events = send(folder, between.source, *what, *words, program=programs[1])
            busy = _busy_seconds(guest) - before
            return _Moved(report, events, watch.stop() if watched else 0, busy)


def _busy_seconds(guest: Guest) -> float:
    """CPU time of this host so far, but for the guest and for the benchmark itself."""
    return busy_seconds() - cpu_seconds(guest.pid) - time.process_time()


def _first_round(events: list[dict[str, Any]]) -> dict[str, Any]:
    return next(event for event in events if event["event"] == "round-finished")


def throughput(runs: int) -> Figures:
    """Guest memory a second, no limit on the link: 1 GiB in use, the guest idle."""
    figures: Figures = {}
    for _ in range(runs):
        for name, words in _CODECS.items():
            moved = _move(loopback(), *words, size="1GiB", used=1.0, dirty_rate="0", warm=1 << 30)
            first = moved.first_round
            copied = first["sent_pages"] * moved.report["page_size"] / 1e6
            figures.setdefault(f"{name}: guest memory in round 1, MB/s", []).append(copied / first["seconds"])
            figures.setdefault(f"{name}: guest memory in all, MB/s", []).append(
                copied / moved.report["total_seconds"]
            )
    return figures


def files(runs: int) -> Figures:
    """The same for memory that holds files of this host, as a guest's page cache does: no content of ours."""
    figures: Figures = {}
    with tempfile.TemporaryDirectory(prefix="migrated-bench-", dir=memory_folder()) as name:
        folder = Path(name)
        memory_file = folder / "guest.mem"
        _fill_with_files(memory_file, _FILES_BYTES)
        for run in range(runs):
            for codec, words in _CODECS.items():
                between, arrived = loopback(), folder / f"arrived-{codec}-{run}.mem"
                with Service(folder, between.destination, {"guest": f"shm:{arrived}"}) as service:
                    what = (f"shm:{memory_file}", service.address, "--name=guest", "--downtime=5s")
                    report, events = send(folder, between.source, *what, *words)
                arrived.unlink()
                first = _first_round(events)
                copied = first["sent_pages"] * report["page_size"] / 1e6
                figures.setdefault(f"{codec}: files in memory, round 1, MB/s", []).append(
                    copied / first["seconds"]
                )
                ratio = report["raw_bytes"] / report["wire_bytes"]
                figures.setdefault(f"{codec}: files in memory, ratio", []).append(ratio)
    return figures


def _fill_with_files(target: Path, size: int) -> None:
    """Programs, libraries and texts of this host, page by page, until ``size`` bytes are there."""
    with target.open("wb") as out:
        for folder in ("/usr/bin", "/usr/lib", "/usr/share"):
            for path in sorted(Path(folder).rglob("*")):
                if out.tell() >= size:
                    break
                if path.is_file() and not path.is_symlink() and path.stat().st_size <= _FILE_BYTES:
                    content = path.read_bytes()
                    out.write(content + bytes(-len(content) % _PAGE))
        out.truncate(size)


def link_use(runs: int) -> Figures:
    """How much of a 1 Gb/s link is in use while pages wait: round 1, by the payload that went over. Takes root."""
    figures: Figures = {}
    for name in ("raw", "lz4"):
        for _ in range(runs):
            with link("1gbit") as between:
                before = between.sent_bytes()
                moved = _move(between, *_CODECS[name], size="1GiB", used=0.5, dirty_rate="20MB/s")
                framed = (between.sent_bytes() - before) / moved.report["wire_bytes"]
            first = moved.first_round
            used = first["wire_bytes"] * framed * 8 / first["seconds"] / _LINK_BITS
            figures.setdefault(f"{name}: use of a 1 Gb/s link in round 1, %", []).append(100 * used)
    return figures


def far_link(runs: int) -> Figures:
    """What a 1 Gb/s link carries in round 1 where a round trip takes long, by the number of connections. Takes root."""
    figures: Figures = {}
    for _ in range(min(runs, _LONG_RUNS)):
        for milliseconds in _ROUND_TRIPS:
            for streams in _STREAMS:
                with link("1gbit", milliseconds / 1000) as between:
                    moved = _move(
                        between, "--level=0", f"--streams={streams}", size="512MiB", used=0.5, dirty_rate="0"
                    )
                first = moved.first_round
                name = f"round trip {milliseconds} ms, {moved.report['connections']} connections: Mb/s"
                figures.setdefault(name, []).append(8e-6 * first["wire_bytes"] / first["seconds"])
    return figures


def memory(runs: int) -> Figures:
    """Summed PSS of service, client and all their workers, for regions of 1 and 4 GiB with 1 GiB in use."""
    figures: Figures = {}
    for size in (1, 4):
        for _ in range(min(runs, _LONG_RUNS)):
            with link("1gbit") if os.geteuid() == 0 else nullcontext(loopback()) as between:
                moved = _move(between, size=f"{size}GiB", used=1.0 / size, dirty_rate="20MB/s", watched=True)
            figures.setdefault(f"{size} GiB region: summed PSS at most, MiB", []).append(
                moved.most_kib / 1024
            )
    return figures


def growth(runs: int) -> Figures:
    """What a guest of 1, 2, 4 and 8 GiB takes, all of it in use: time and CPU a GiB, and memory. No link limit.

    CPU counts all that runs but the guest and the benchmark: the start of the client and of all workers, too; a guest
    of 4 MiB tells what that takes. Nearly all that is free is kept warm until it is taken: what a page costs that this
    machine has to get from its own host is not the guest's size. Memory is watched in migrations of their own, which
    the watch may slow down, and once more with one codec: ``auto`` has taken samples and used buffers for them by the
    end of a long migration, and perhaps not yet by that of a short one, and that is not the guest's size either.
    """
    figures: Figures = {}
    installed = os.sysconf("SC_PHYS_PAGES") * _PAGE / (1 << 30)
    sizes = [size for size in _SIZES_GIB if size * _TIMES_IN_MEMORY <= installed]
    for _ in range(min(runs, _LONG_RUNS)):
        starts = [
            _move(loopback(), size="4MiB", used=1.0, dirty_rate="0").busy_seconds for _ in range(_STARTS)
        ]
        figures.setdefault("4 MiB in use: CPU, s", []).extend(starts)
        start = statistics.median(starts)
        for size in sizes:
            what = f"{size} GiB in use"
            moved = _grown(size)
            for name, value in (
                ("total, s", moved.report["total_seconds"]),
                ("total, s/GiB", moved.report["total_seconds"] / size),
                ("CPU, s/GiB", moved.busy_seconds / size),
                ("CPU beyond the start, s/GiB", (moved.busy_seconds - start) / size),
            ):
                figures.setdefault(f"{what}: {name}", []).append(value)
            for codec in ("auto", "lz4"):
                most = _grown(size, *_CODECS[codec], watched=True).most_kib / 1024
                figures.setdefault(f"{what}: summed PSS at most with {codec}, MiB", []).append(most)
    return figures


def _grown(size: int, *words: str, watched: bool = False) -> _Moved:
    return _move(loopback(), *words, size=f"{size}GiB", used=1.0, dirty_rate="0", warm=None, watched=watched)


def loop(runs: int) -> Figures:
    """The dearest callback of either side's event loop, CPU ms, for a 4 GiB region with 1 GiB in use."""
    figures: Figures = {}
    for _ in range(min(runs, _LONG_RUNS)):
        with tempfile.TemporaryDirectory(prefix="migrated-probe-") as name:
            found = (Path(name) / "service", Path(name) / "client")
            probes = [(sys.executable, "-m", "migrated.bench.loop_probe", str(file)) for file in found]
            _move(loopback(), size="4GiB", used=0.25, dirty_rate="20MB/s", programs=(probes[0], probes[1]))
            for side, file in zip(("service", "client"), found, strict=True):
                dearest = json.loads(file.read_text())["dearest"]
                for each, where in dearest:
                    print(f"  {side}: {each * 1000:.1f} ms in {where}", file=sys.stderr)
                figures.setdefault(f"{side}: dearest callback, CPU ms", []).append(dearest[0][0] * 1000)
    return figures


def jobs(runs: int) -> Figures:
    """What a worker's job costs besides its work, and what it would through the executor that starts the workers."""
    figures: Figures = {}
    for _ in range(runs):
        for name, value in job_costs().items():
            figures.setdefault(name, []).append(value)
    return figures


PARTS: dict[str, Callable[[int], Figures]] = {
    "throughput": throughput,
    "files": files,
    "link": link_use,
    "far": far_link,
    "memory": memory,
    "growth": growth,
    "loop": loop,
    "jobs": jobs,
}
"""What can be measured, by name; each takes the number of runs. ``link`` and ``far`` take root."""
