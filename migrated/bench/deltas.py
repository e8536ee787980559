"""What deltas bring: bytes on the wire and CPU time a page, with and without, for guests that write in different ways.

One worker of each side in this process, no connection: what is measured is reading, hashing, comparing,
compressing, checking and writing. The guest's pages are half text and half programs.
"""

import filecmp
import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from migrated.bench.hosts import memory_folder
from migrated.compression.delta_cache import cache_size
from migrated.compression.jobs import Packed, ToPack, ToUnpack
from migrated.compression.layout import RAW
from migrated.compression.worker import Worker, WorkerSetup
from migrated.errors import IntegrityError
from migrated.guests.demo.content import POOL_WORDS, pools
from migrated.memory.linux.heap import keep_large_blocks
from migrated.memory.region import FileRegion
from migrated.memory.shared import SharedMemory
from migrated.pages import PAGE_SIZE, runs_of_pages
from migrated.protocol import max_payload

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["CODECS", "WRITERS", "Cost", "Measured", "measure", "table"]

_PAGES = 1 << 14
"""64 MiB of guest."""

_HOT = 1 << 12
"""Pages that are written in every round, spread over the guest: 16 MiB, a quarter of the cache."""

_BATCH = 1024
_ROUNDS = 12
"""The first sends everything, the second keeps what the third finds."""

_CACHE = 64 << 20
CODECS = (RAW, "lz4", "zstd")

Bytes = NDArray[np.uint8]
Random = np.random.Generator
Writer = Callable[[Bytes, Random], None]


@dataclass(frozen=True, slots=True)
class Cost:
    """Of a page that was sent in the third round or later: payload bytes, CPU us at the source, those of them for
    finding deltas, and at the destination; the share of pages that travelled as deltas. ``keeping_us`` is what
    the second round took for each of its pages to be kept."""

    wire_bytes: float
    source_us: float
    looking_us: float
    destination_us: float
    delta_share: float
    keeping_us: float


@dataclass(frozen=True, slots=True)
class Measured:
    """A writer and a codec: medians without deltas and with them."""

    writer: str
    codec: str
    whole: Cost
    deltas: Cost


def _some_bytes(count: int) -> Writer:
    def write(pages: Bytes, random: Random) -> None:
        starts = random.integers(0, PAGE_SIZE - count + 1, len(pages))
        at = starts[:, None] + np.arange(count)
        pages[np.arange(len(pages))[:, None], at] = random.integers(0, 256, at.shape, dtype=np.uint8)

    return write


def _counters(pages: Bytes, random: Random) -> None:
    words = pages.view(np.uint64)
    places = random.integers(0, words.shape[1], (len(pages), 16))
    words[np.arange(len(pages))[:, None], places] += random.integers(1, 1000, places.shape, dtype=np.uint64)


def _whole(pages: Bytes, random: Random) -> None:
    pages[:] = _content(len(pages), random)


def _moved(pages: Bytes, _random: Random) -> None:
    pages[:] = np.roll(pages, 24, axis=1)


WRITERS: dict[str, Writer] = {
    "8 bytes": _some_bytes(8),
    "64 bytes": _some_bytes(64),
    "512 bytes": _some_bytes(512),
    "16 counters": _counters,
    "whole pages": _whole,
    "shifted pages": _moved,
}
"""What is done to each hot page in a round. ``shifted pages`` hold the same content 24 bytes further on."""


def _content(count: int, random: Random) -> Bytes:
    pool = pools()[: 2 * POOL_WORDS].view(np.uint8)  # text, and behind it programs
    windows = np.lib.stride_tricks.sliding_window_view(pool, PAGE_SIZE)
    found: Bytes = windows[random.integers(0, len(windows), count)]
    return found


class _Side:
    def __init__(self, path: Path, arena: SharedMemory, cache: int) -> None:
        with path.open("wb") as file:
            file.truncate(_PAGES * PAGE_SIZE)
        self.region = FileRegion(path, writable=True)
        setup = WorkerSetup(
            arena=arena,
            slot_bytes=arena.size,
            terms=SharedMemory(_PAGES * 8),
            regions=(self.region.spec(),),
            page_size=PAGE_SIZE,
            batch_pages=_BATCH,
            seed=1,
            delta_cache=SharedMemory(cache_size(cache, PAGE_SIZE)) if cache else None,
        )
        self.worker = Worker(setup)


def measure(writer: str, codec: str, runs: int) -> Measured:
    """Medians of ``runs``, with and without deltas in turns."""
    keep_large_blocks()
    whole, deltas = [], []
    for _ in range(runs):
        whole.append(_run(writer, codec, 0))
        deltas.append(_run(writer, codec, _CACHE))
    return Measured(writer, codec, _medians(whole), _medians(deltas))


def _medians(costs: Sequence[Cost]) -> Cost:
    return Cost(*(statistics.median(values) for values in zip(*map(astuple, costs), strict=True)))


def _run(writer: str, codec: str, cache: int) -> Cost:
    random = np.random.default_rng(1)
    hot = np.sort(random.choice(_PAGES, _HOT, replace=False)).astype(np.int64)
    pages = _content(_HOT, random)
    sent: list[Packed] = []
    unpacking = keeping = 0.0
    with tempfile.TemporaryDirectory(prefix="migrated-bench-", dir=memory_folder()) as name:
        here, there = Path(name) / "here", Path(name) / "there"
        arena = SharedMemory(-(-max_payload(_BATCH, PAGE_SIZE) // PAGE_SIZE) * PAGE_SIZE)
        source, target = _Side(here, arena, cache), _Side(there, arena, 0)
        for round_ in range(1, _ROUNDS + 1):
            first = round_ == 1
            if not first:
                WRITERS[writer](pages, random)
            source.region.write(runs_of_pages(hot), pages.data.cast("B"))
            for place in range(0, _HOT, _BATCH):
                runs = runs_of_pages(hot[place : place + _BATCH]).tobytes()
                job = ToPack(0, runs, 0, codec, int(codec != RAW), not first, 0 if first else round_)
                packed = source.worker.pack(job)
                seconds = target.worker.unpack(_received(packed)).cpu_seconds
                if round_ > 2:
                    sent.append(packed)
                    unpacking += seconds
                elif not first:
                    keeping += packed.delta_seconds
        if not filecmp.cmp(here, there, shallow=False):
            raise IntegrityError(f"what arrived differs: {writer}, {codec}")
        for side in (source, target):
            side.region.close()
    count = sum(each.data_pages for each in sent)
    return Cost(
        sum(each.payload_bytes for each in sent) / count,
        1e6 * sum(each.cpu_seconds for each in sent) / count,
        1e6 * sum(each.delta_seconds for each in sent) / count,
        1e6 * unpacking / count,
        sum(each.delta_pages for each in sent) / count,
        1e6 * keeping / _HOT,
    )


def _received(packed: Packed) -> ToUnpack:
    """The job that the header of ``packed`` makes at the destination."""
    names = {field.name for field in fields(ToUnpack)} & {field.name for field in fields(Packed)}
    return ToUnpack(region=0, slot=0, level=1, **{name: getattr(packed, name) for name in names})


def table(figures: Sequence[Measured]) -> "Table":
    """Two figures a cell: with whole pages, and with deltas."""
    from rich import box
    from rich.table import Table

    made = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in ("written", "codec"):
        made.add_column(title, no_wrap=True)
    for title in ("deltas", "bytes a page", "source us", "looking us", "keeping us", "destination us"):
        made.add_column(title, justify="right", no_wrap=True)
    for each in figures:
        whole, deltas = each.whole, each.deltas
        made.add_row(
            each.writer,
            each.codec,
            f"{100 * deltas.delta_share:.0f} %",
            f"{whole.wire_bytes:.0f} > {deltas.wire_bytes:.0f}",
            f"{whole.source_us:.1f} > {deltas.source_us:.1f}",
            f"{deltas.looking_us:.2f}",
            f"{deltas.keeping_us:.2f}",
            f"{whole.destination_us:.1f} > {deltas.destination_us:.1f}",
        )
    return made
