"""Record what the policy was told and asked while real memory moved over real links, for tests without either.

    python tests/compression/make_traces.py          as root; writes tests/compression/recorded/*.jsonl anew
    python tests/compression/make_traces.py choices  keeps what was told, and writes what the policy of now chooses

Memory is files of this host; both sides share its cores. A line is what the policy was told, or that it was asked.
"""

import contextlib
import json
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate, takewhile
from pathlib import Path
from typing import Any

from migrated.compression.policy import Auto, Choice, Cost, Rung
from migrated.config import Settings
from migrated.engine.cutting import batch_sizes
from migrated.pages import PAGE_SIZE

RECORDED = Path(__file__).parent / "recorded"
USED_BYTES = 640 << 20
LINKS: dict[str, tuple[str, tuple[tuple[float, str], ...]]] = {
    "200mbit": ("200mbit", ()),
    "1gbit": ("1gbit", ()),
    "unlimited": ("unlimited", ()),
    "1gbit-then-100mbit": ("1gbit", ((2.0, "100mbit"),)),
    "100mbit-then-4gbit": ("100mbit", ((5.0, "4gbit"),)),
}
"""By name: the link at first, and what it becomes so many seconds after the client was started."""


def short(value: float) -> float:
    """What is told is what is written: a recording leads to the same choices."""
    return float(f"{value:.4g}")


class Recorder(Auto):
    """A policy that keeps what it is told."""

    lines: list[str] = []  # noqa: RUF012  one migration in this process

    def __init__(self, rungs: Sequence[Rung], *, workers: int, far_workers: int = 1) -> None:
        super().__init__(rungs, workers=workers, far_workers=far_workers)
        self.chosen, self.over = 0, False
        pages = USED_BYTES // PAGE_SIZE
        ends = accumulate(batch_sizes(pages, workers, Settings().send.batch_size // PAGE_SIZE))
        self.batches = 1 + sum(1 for _ in takewhile(lambda end: end < pages, ends))
        self._note("begin", [[each.codec, each.level] for each in rungs], workers, far_workers)

    def _note(self, *what: Any) -> None:
        if self.over:
            return
        self.lines.append(json.dumps(what, separators=(",", ":")))

    def sampling(self) -> None:
        self._note("sampling")
        super().sampling()

    def sampled(self, costs: Mapping[Rung, Cost]) -> None:
        costs = {
            rung: Cost(short(cost.seconds), short(cost.wire), short(cost.unpacking))
            for rung, cost in costs.items()
        }
        self._note(
            "sampled",
            [
                [rung.codec, rung.level, cost.seconds, cost.wire, cost.unpacking]
                for rung, cost in costs.items()
            ],
        )
        super().sampled(costs)

    def packed(self, rung: Rung, raw_bytes: int, wire_bytes: int, **took: float) -> None:
        took = {name: short(value) for name, value in took.items()}
        self._note("packed", rung.codec, rung.level, raw_bytes, wire_bytes, took)
        super().packed(rung, raw_bytes, wire_bytes, **took)

    def sent(self, rung: Rung, wire_bytes: int, seconds: float, **took: float) -> None:
        seconds, took = short(seconds), {name: short(value) for name, value in took.items()}
        self._note("sent", rung.codec, rung.level, wire_bytes, seconds, took)
        super().sent(rung, wire_bytes, seconds, **took)  # type: ignore[arg-type]

    def choose(self) -> Choice:
        choice = super().choose()
        self._note("choose", choice.rung.codec, choice.rung.level)
        self.chosen += 1
        self.over = self.chosen >= self.batches  # later rounds find nothing that has changed
        return choice


def client(out: Path, words: list[str]) -> int:
    """`migrated` with a policy that is recorded."""
    import migrated.engine.rounds
    from migrated.cli.main import main

    migrated.engine.rounds.Auto = Recorder  # type: ignore[misc]
    code = main(words)
    out.write_text("".join(line + "\n" for line in Recorder.lines))
    return code


@contextlib.contextmanager
def changing(
    spaces: Sequence[str], ends: Sequence[str], changes: Sequence[tuple[float, str]]
) -> Iterator[None]:
    """The link gets other rates in time."""

    def change(rate: str) -> None:
        for space, end in zip(spaces, ends, strict=True):
            shape = ("rate", rate, "burst", "256k", "latency", "100ms")
            subprocess.run(
                ["tc", "-n", space, "qdisc", "change", "dev", end, "root", "tbf", *shape], check=True
            )

    timers = [threading.Timer(seconds, change, (rate,)) for seconds, rate in changes]
    for timer in timers:
        timer.start()
    try:
        yield
    finally:
        for timer in timers:
            timer.cancel()
            timer.join()


def record(name: str) -> None:
    """Move the memory once, and keep what the policy was told."""
    from migrated.bench import hosts
    from migrated.bench.engine import _fill_with_files
    from migrated.bench.service import Service, send
    from migrated.bench.warm import WarmPages

    rate, changes = LINKS[name]
    with tempfile.TemporaryDirectory(dir=hosts.memory_folder()) as made, hosts.link(rate) as link:
        folder = Path(made)
        _fill_with_files(folder / "memory", USED_BYTES)
        spaces = [side.prefix[-1] for side in (link.source, link.destination)]
        with (
            Service(folder, link.destination, {"memory": f"shm:{folder / 'arrived'}"}) as service,
            WarmPages(USED_BYTES, folder / "arrived"),
            changing(spaces, (link.interface, "vd"), changes),
        ):
            what = (f"shm:{folder / 'memory'}", service.address, "--name=memory", "--downtime=5s")
            program = (sys.executable, __file__, str(RECORDED / f"{name}.jsonl"))
            report, _ = send(folder, link.source, *what, program=program)
    print(f"{name}: {report['total_seconds']:.1f} s, {report['raw_bytes_by_codec']}")


def choose_again() -> None:
    """For a policy that chooses otherwise, on a host unlike the recorded one."""
    from test_policy_traces import replayed

    for path in sorted(RECORDED.iterdir()):
        chosen = iter(replayed(path.stem))
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        for line in lines:
            if line[0] == "choose":
                rung = next(chosen)
                line[1:] = rung.codec, rung.level
        path.write_text("".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines))


if __name__ == "__main__":
    if sys.argv[1:] == ["choices"]:
        choose_again()
    elif len(sys.argv) > 1:
        sys.exit(client(Path(sys.argv[1]), sys.argv[2:]))
    else:
        RECORDED.mkdir(exist_ok=True)
        for each in LINKS:
            record(each)
