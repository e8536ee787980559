"""What each stage on the way of a page costs on this host, beside the least that it could.

One process does each stage by itself, over and over the same pages in batches of the usual size; CPU time is
counted, so what else runs here matters little. The floor of a stage is the one thing that it cannot do without:
moving the bytes once, the codec's own work, the kernel's part of sending and receiving.
"""

import os
import socket
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from migrated.bench.chain import chain_rate
from migrated.bench.hosts import memory_folder
from migrated.bench.warm import fill_with_zeros
from migrated.compression import registry
from migrated.compression.digest import checksum, nonzero_pages, page_terms
from migrated.compression.policy import NONE, Rung
from migrated.compression.stage import usable_cores
from migrated.guests.demo.content import GROUP_PAGES, expected_pages, kinds_of_groups
from migrated.memory.linux.heap import keep_large_blocks
from migrated.memory.region import FileRegion
from migrated.pages import PAGE_SIZE, PageSet, Runs, pages_of_runs
from migrated.protocol import BLOCK_BYTES

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["CODECS", "StageCost", "Stages", "floor_rate", "measure", "table"]

CODECS = (NONE, Rung("lz4", 1), Rung("snappy", 1), Rung("zlib", 1), Rung("zstd", 1), Rung("zstd", 3))

_GIB = 1 << 30
_BATCH_PAGES = 1024
_MIX = (0, 40, 40, 20)
"""Text, code and noise as the other benchmarks have them; pages of zeros cost a look only."""


@dataclass(frozen=True, slots=True)
class StageCost:
    """CPU seconds for one GiB of guest memory: of the stage as it is, and of its floor. ``side`` is the host that
    pays, ``source`` or ``destination``; ``ratio`` that of a codec, else 0."""

    side: str
    stage: str
    seconds: float
    floor: float
    ratio: float = 0.0


@dataclass(frozen=True, slots=True)
class Stages:
    """``costs`` of each stage by itself, and bytes a second of all but the codec's in a chain, as
    :mod:`migrated.bench.chain` has it."""

    costs: tuple[StageCost, ...]
    chained: float


class _Sample:
    """Pages of a guest in a memory file, its batches, and buffers that are kept."""

    def __init__(self, folder: Path, size: int) -> None:
        self.pages = size // PAGE_SIZE
        self.folder = folder
        self.source_path = _filled(folder / "source", self.pages)
        self.source = FileRegion(self.source_path)
        self.target_path, self.ballast_path = folder / "target", folder / "ballast"
        self.batches: list[Runs] = list(PageSet.full(self.pages).batches(_BATCH_PAGES))
        self.buffer, self.other, self.unpacked = (
            memoryview(bytearray(_BATCH_PAGES * PAGE_SIZE)) for _ in range(3)
        )

    def loaded(self) -> Iterator[tuple[Runs, memoryview]]:
        """Each batch, read into the kept buffer; what the reader does with it is what is timed."""
        for runs in self.batches:
            data = self.buffer[: int(runs[:, 1].sum()) * PAGE_SIZE]
            self.source.read(runs, data)
            yield runs, data


def _filled(path: Path, pages: int) -> Path:
    kinds = np.repeat(kinds_of_groups(1, _MIX, -(-pages // GROUP_PAGES)), GROUP_PAGES)[:pages]
    with path.open("wb") as out:
        for first in range(0, pages, _BATCH_PAGES):
            numbers = np.arange(first, min(first + _BATCH_PAGES, pages), dtype=np.uint64)
            out.write(expected_pages(1, numbers, np.zeros_like(numbers), kinds[numbers]).tobytes())
    return path


class _Clock:
    """Adds up the CPU time of this thread that is spent within."""

    def __init__(self) -> None:
        self.seconds = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        began = time.thread_time()
        yield
        self.seconds += time.thread_time() - began


def _each(sample: _Sample, work: Callable[[Runs, memoryview], object]) -> float:
    clock = _Clock()
    for runs, data in sample.loaded():
        with clock.running():
            work(runs, data)
    return clock.seconds


def _words(data: memoryview) -> np.ndarray[tuple[int, int], np.dtype[np.uint64]]:
    return np.frombuffer(data, dtype=np.uint64).reshape(-1, PAGE_SIZE // 8)


def _copy(sample: _Sample) -> float:
    target = np.frombuffer(sample.other, dtype=np.uint8)
    return _each(sample, lambda _, data: np.copyto(target[: len(data)], np.frombuffer(data, dtype=np.uint8)))


def _read(sample: _Sample) -> float:
    clock = _Clock()
    for runs in sample.batches:
        with clock.running():
            sample.source.read(runs, sample.buffer)
    return clock.seconds


def _scan(sample: _Sample) -> float:
    """Reading every byte once: what no zero test and no hash can avoid."""
    return _each(sample, lambda _, data: _words(data).max())


def _hash(sample: _Sample) -> float:
    return _each(sample, lambda runs, data: page_terms(data, PAGE_SIZE, pages_of_runs(runs), 0, 1))


def _checksum(sample: _Sample) -> float:
    return _each(sample, lambda _, data: checksum(data))


def _write(sample: _Sample) -> float:
    """Into new pages of a memory file, as in a first round, but ones that this host has already: as many are in use
    until then. Where it is itself a guest, others may cost it ten times as much (see :mod:`migrated.bench.warm`)."""
    left = sample.pages * PAGE_SIZE
    with sample.target_path.open("wb") as out:
        out.truncate(left)
    fill_with_zeros(sample.ballast_path, left)
    region = FileRegion(sample.target_path, writable=True)
    clock = _Clock()
    try:
        for runs, data in sample.loaded():
            left -= len(data)
            os.truncate(sample.ballast_path, left)
            with clock.running():
                region.write(runs, data)
    finally:
        region.close()
        sample.target_path.unlink()
        sample.ballast_path.unlink()
    return clock.seconds


def _socket(sample: _Sample) -> tuple[float, float]:
    """Sending and receiving over TCP on loopback with plain blocking calls."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        out = socket.create_connection(server.getsockname())
        into, _ = server.accept()
    received = [0.0]

    def receive() -> None:
        began = time.thread_time()
        while into.recv_into(sample.other):
            pass
        received[0] = time.thread_time() - began

    reader = threading.Thread(target=receive)
    reader.start()
    try:
        sent = _each(sample, lambda _, data: out.sendall(data))
    finally:
        out.close()
        reader.join()
        into.close()
    return sent, received[0]


def _codec(sample: _Sample, rung: Rung) -> tuple[float, float, float]:
    """Packing, unpacking, and the ratio."""
    codec = registry.create(rung.codec, rung.level)
    packing, unpacking = _Clock(), _Clock()
    stored = total = 0
    for _, data in sample.loaded():
        for start in range(0, len(data), BLOCK_BYTES):
            block = data[start : start + BLOCK_BYTES]
            with packing.running():
                length = codec.compress_into(block, sample.other[: len(block) - 1])
            if length:
                with unpacking.running():
                    codec.decompress_into(sample.other[:length], sample.unpacked[: len(block)])
            stored += length or len(block)
            total += len(block)
    return packing.seconds, unpacking.seconds, total / stored


def measure(size: int = 256 << 20, runs: int = 3, say: Callable[[str], None] = lambda _: None) -> Stages:
    """Every stage over ``size`` bytes of memory, the medians of ``runs``.

    A codec's stages are named after it; NONE has none. ResourceError where there is no room for the files.
    """
    keep_large_blocks()
    with tempfile.TemporaryDirectory(prefix="migrated-stages-", dir=memory_folder()) as name:
        sample = _Sample(Path(name), size)
        every: list[list[StageCost]] = []
        chained = []
        for run in range(runs):
            say(f"run {run + 1} of {runs} ...")
            every.append(_once(sample, _GIB / size))
            chained.append(chain_rate(sample.source_path, sample.folder))
        sample.source.close()
    costs = tuple(
        StageCost(
            same[0].side,
            same[0].stage,
            statistics.median(each.seconds for each in same),
            statistics.median(each.floor for each in same),
            same[0].ratio,
        )
        for same in zip(*every, strict=True)
    )
    return Stages(costs, statistics.median(chained))


def _once(sample: _Sample, per_gib: float) -> list[StageCost]:
    copy, scan = _copy(sample), _scan(sample)
    sent, received = _socket(sample)
    hashed, checked, fresh = _hash(sample), _checksum(sample), _write(sample)
    found = [
        StageCost("source", "read", _read(sample), copy),
        StageCost("source", "zero test", _each(sample, lambda _, data: nonzero_pages(_words(data))), 0.0),
        StageCost("source", "hash", hashed, scan),
        StageCost("source", "checksum", checked, scan),
        StageCost("source", "send", sent, sent),
        StageCost("destination", "receive", received, received),
        StageCost("destination", "checksum", checked, scan),
        StageCost("destination", "hash", hashed, scan),
        StageCost("destination", "write", fresh, fresh),
    ]
    for rung in CODECS[1:]:
        packing, unpacking, ratio = _codec(sample, rung)
        name = f"{rung.codec} {rung.level}"
        found.append(StageCost("source", name, packing, packing, ratio))
        found.append(StageCost("destination", name, unpacking, unpacking, ratio))
    return [
        StageCost(each.side, each.stage, each.seconds * per_gib, each.floor * per_gib, each.ratio)
        for each in found
    ]


def floor_rate(costs: Sequence[StageCost], codec: str, cores: int) -> float:
    """Bytes of guest memory a second that ``cores`` could move with both sides on them and each stage at its floor.

    ``codec`` is a stage's name, as in ``lz4 1``, or "" for none. What a codec saves is not sent and received.
    """
    ratio = next((each.ratio for each in costs if each.stage == codec), 1.0) or 1.0
    named = {f"{rung.codec} {rung.level}" for rung in CODECS}
    seconds = 0.0
    for each in costs:
        if each.stage == codec or each.stage not in named:
            seconds += each.floor / (ratio if each.stage in ("send", "receive") else 1.0)
    return cores * _GIB / seconds


def table(stages: Stages, whole: Mapping[str, float] | None = None) -> "Table":
    """``stages`` for people; ``whole`` is what a migration measured, in bytes a second, by codec stage."""
    from rich import box
    from rich.table import Table

    made = Table(
        "side", "stage", "CPU s per GiB", "floor", "MB/s a core", "ratio", box=box.SIMPLE_HEAD, pad_edge=False
    )
    for each in stages.costs:
        speed = f"{_GIB / each.seconds / 1e6:.0f}" if each.seconds else ""
        ratio = f"{each.ratio:.2f}" if each.ratio else ""
        made.add_row(each.side, each.stage, f"{each.seconds:.3f}", f"{each.floor:.3f}", speed, ratio)
    made.add_section()
    cores = usable_cores()
    for name in ("", *(f"{rung.codec} {rung.level}" for rung in CODECS[1:])):
        rate = floor_rate(stages.costs, name, cores)
        reached = (whole or {}).get(name)
        text = f"{reached / 1e6:.0f} reached, {reached / rate:.0%}" if reached else ""
        made.add_row("both", f"all, {name or 'no codec'}", "", "", f"{rate / 1e6:.0f} on {cores} cores", text)
    made.add_row(
        "both",
        "a chain of them, no codec",
        "",
        "",
        f"{stages.chained / 1e6:.0f} on {cores} cores",
        f"{stages.chained / floor_rate(stages.costs, '', cores):.0%}",
    )
    return made
