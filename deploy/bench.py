"""Measure what is promised: throughput, use of the link, memory, event loops. `make bench`.

Every figure is taken several times; the table shows the median and the spread. Both sides run on this host and
share its cores. With root a link of 1 Gb/s between two network namespaces is measured too.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import rig
from rich import box
from rich.console import Console
from rich.table import Table

_HERE = Path(__file__).parent
_LINK_BITS = 1e9
_FILES_BYTES = 1 << 30
_FILE_BYTES = 16 << 20


def _mix(share: float) -> str:
    """``share`` of memory in use: text, code and noise as 2:2:1, the rest never touched."""
    used = {"text": 40 * share, "code": 40 * share, "random": 20 * share}
    return "--mix=" + ",".join(
        f"{name}={value:g}" for name, value in {"zero": 100 - 100 * share, **used}.items()
    )


def main() -> int:
    """Run the benchmarks that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5, help="how often each is measured (5)")
    parser.add_argument(
        "--only", default="", help="throughput, files, link, memory or loop; all if not given"
    )
    parser.add_argument("--json", action="store_true", help="print every figure as JSON")
    asked = parser.parse_args()
    parts: dict[str, Callable[[int], dict[str, list[float]]]] = {
        "throughput": throughput,
        "files": files,
        "link": link_use,
        "memory": memory,
        "loop": loop,
    }
    if asked.only and asked.only not in parts:
        parser.error(f"there is no {asked.only}; there are {', '.join(parts)}")
    if os.geteuid() != 0:
        print("without root: the link between two network namespaces is not measured", file=sys.stderr)
        del parts["link"]
    figures: dict[str, list[float]] = {}
    for name, part in parts.items():
        if asked.only in ("", name):
            print(f"measuring {name} ...", file=sys.stderr, flush=True)
            figures |= part(asked.runs)
    if asked.json:
        print(json.dumps(figures))
    else:
        _show(figures)
    return 0


def _show(figures: dict[str, list[float]]) -> None:
    table = Table("what", "median", "min", "max", "runs", box=box.SIMPLE_HEAD, pad_edge=False)
    for name, values in figures.items():
        spread = (statistics.median(values), min(values), max(values))
        table.add_row(name, *(f"{value:.1f}" for value in spread), str(len(values)))
    Console(width=110).print(table)


def _move(
    link: rig.Link,
    *words: str,
    size: str,
    used: float,
    dirty_rate: str,
    programs: tuple[tuple[str, ...], tuple[str, ...]] = (rig.MIGRATED, rig.MIGRATED),
) -> tuple[dict[str, Any], list[dict[str, Any]], int]:
    """Copy a shared-memory guest once: report, events, and the largest sum of PSS in KiB."""
    base = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="migrated-bench-", dir=base) as name:
        folder = Path(name)
        target = {"guest": f"shm:{folder}/arrived.mem"}
        with (
            rig.Guest(folder / "guest.mem", size, dirty_rate, (_mix(used),)) as guest,
            rig.Service(folder, link.destination, target, programs[0]) as service,
        ):
            watch = rig.PssWatch(folder, frozenset({guest.pid}))
            watch.start()
            what = (f"shm:{guest.memory}", service.address, "--name=guest", f"--pid={guest.pid}")
            report, events = rig.send(folder, link.source, *what, *words, program=programs[1])
            return report, events, watch.stop()


def _first_round(events: list[dict[str, Any]]) -> dict[str, Any]:
    return next(event for event in events if event["event"] == "round-finished")


def throughput(runs: int) -> dict[str, list[float]]:
    """Guest memory a second, no limit on the link: 1 GiB in use, the guest idle."""
    figures: dict[str, list[float]] = {}
    for name, words in {"raw": ("--level=0",), "lz4": ("--codec=lz4",), "zstd": ("--codec=zstd",)}.items():
        for _ in range(runs):
            report, events, _ = _move(rig.loopback(), *words, size="1GiB", used=1.0, dirty_rate="0")
            copied = _first_round(events)["sent_pages"] * report["page_size"] / 1e6
            figures.setdefault(f"{name}: guest memory in round 1, MB/s", []).append(
                copied / _first_round(events)["seconds"]
            )
            figures.setdefault(f"{name}: guest memory in all, MB/s", []).append(
                copied / report["total_seconds"]
            )
    return figures


def files(runs: int) -> dict[str, list[float]]:
    """The same for memory that holds files of this host, as a guest's page cache does: no content of ours."""
    figures: dict[str, list[float]] = {}
    base = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="migrated-bench-", dir=base) as name:
        folder = Path(name)
        memory_file = folder / "guest.mem"
        _fill_with_files(memory_file, _FILES_BYTES)
        for codec, words in {
            "raw": ("--level=0",),
            "lz4": ("--codec=lz4",),
            "zstd": ("--codec=zstd",),
        }.items():
            for run in range(runs):
                link, arrived = rig.loopback(), folder / f"arrived-{codec}-{run}.mem"
                with rig.Service(folder, link.destination, {"guest": f"shm:{arrived}"}) as service:
                    what = (f"shm:{memory_file}", service.address, "--name=guest", "--downtime=5s")
                    report, events = rig.send(folder, link.source, *what, *words)
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
                    out.write(content + bytes(-len(content) % 4096))
        out.truncate(size)


def link_use(runs: int) -> dict[str, list[float]]:
    """How much of a 1 Gb/s link is in use while pages wait: round 1, by the payload that went over."""
    figures: dict[str, list[float]] = {}
    for name, words in {"raw": ("--level=0",), "lz4": ("--codec=lz4",)}.items():
        for _ in range(runs):
            with rig.link("1gbit") as link:
                before = link.sent_bytes()
                report, events, _ = _move(link, *words, size="1GiB", used=0.5, dirty_rate="20MB/s")
                framed = (link.sent_bytes() - before) / report["wire_bytes"]
            first = _first_round(events)
            used = first["wire_bytes"] * framed * 8 / first["seconds"] / _LINK_BITS
            figures.setdefault(f"{name}: use of a 1 Gb/s link in round 1, %", []).append(100 * used)
    return figures


def memory(runs: int) -> dict[str, list[float]]:
    """Summed PSS of service, client and all their workers, for regions of 1 and 4 GiB with 1 GiB in use."""
    figures: dict[str, list[float]] = {}
    for size in (1, 4):
        for _ in range(min(runs, 3)):
            with rig.link("1gbit") if os.geteuid() == 0 else nullcontext(rig.loopback()) as link:
                _, _, most = _move(link, size=f"{size}GiB", used=1.0 / size, dirty_rate="20MB/s")
            figures.setdefault(f"{size} GiB region: summed PSS at most, MiB", []).append(most / 1024)
    return figures


def loop(runs: int) -> dict[str, list[float]]:
    """The dearest callback of either side's event loop, CPU ms, for a 4 GiB region with 1 GiB in use."""
    figures: dict[str, list[float]] = {}
    for _ in range(min(runs, 3)):
        with tempfile.TemporaryDirectory(prefix="migrated-probe-") as name:
            files = (Path(name) / "service", Path(name) / "client")
            probes = [(sys.executable, str(_HERE / "loop_probe.py"), str(file)) for file in files]
            _move(
                rig.loopback(), size="4GiB", used=0.25, dirty_rate="20MB/s", programs=(probes[0], probes[1])
            )
            for side, file in zip(("service", "client"), files, strict=True):
                found = json.loads(file.read_text())
                cost = found["dearest"][0][0]
                for each, where in found["dearest"]:
                    print(f"  {side}: {each * 1000:.1f} ms in {where}", file=sys.stderr)
                figures.setdefault(f"{side}: dearest callback, CPU ms", []).append(cost * 1000)
    return figures


if __name__ == "__main__":
    sys.exit(main())
