"""Workers in this process: a source's and a destination's, with regions of their own and one arena."""

import os
from pathlib import Path

import numpy as np

from migrated.compression.delta_cache import cache_size
from migrated.compression.duplicates import table_size
from migrated.compression.jobs import Packed, ToPack, ToUnpack
from migrated.compression.layout import RAW
from migrated.compression.worker import Worker, WorkerSetup
from migrated.memory.region import FileRegion
from migrated.memory.shared import SharedMemory
from migrated.pages import Runs
from migrated.protocol import max_payload

__all__ = [
    "BATCH",
    "CODECS",
    "PAGE",
    "PAGES",
    "SEED",
    "SLOT",
    "Side",
    "move",
    "pack",
    "page",
    "run",
    "to_unpack",
]

PAGE = 4096
PAGES = 1400
BATCH = 1300
"""More than a block."""
SLOT = -(-max_payload(BATCH, PAGE) // PAGE) * PAGE
SEED = 2**64 - 7
CODECS = (RAW, "lz4", "zstd", "snappy", "zlib")


class Side:
    """One worker with two regions of its own, of which the second is used. With ``places`` it keeps so many pages
    for deltas, and has a second worker that shares them; with ``duplicates`` both look for pages that are there
    twice."""

    def __init__(
        self, folder: Path, name: str, arena: SharedMemory, places: int = 0, *, duplicates: bool = False
    ) -> None:
        self.path = folder / name
        self.regions = [self._region(folder / f"{name}-other", 3), self._region(self.path, PAGES)]
        self.table = SharedMemory((PAGES + 3) * 8)
        size = cache_size(places * (PAGE + 12), PAGE)
        self.cache = SharedMemory(size) if size else None
        setup = WorkerSetup(
            arena=arena,
            slot_bytes=SLOT,
            terms=self.table,
            regions=tuple(region.spec() for region in self.regions),
            page_size=PAGE,
            batch_pages=BATCH,
            seed=SEED,
            delta_cache=self.cache,
            duplicates=SharedMemory(table_size(PAGES)) if duplicates else None,
        )
        self.worker = Worker(setup)
        self.workers = [self.worker, Worker(setup)] if places or duplicates else [self.worker]

    def _region(self, path: Path, pages: int) -> FileRegion:
        with path.open("wb") as file:
            file.truncate(pages * PAGE)
        return FileRegion(path, writable=True)

    def write(self, page: int, data: bytes) -> None:
        with self.path.open("r+b") as file:
            file.seek(page * PAGE)
            file.write(data)

    @property
    def terms(self) -> list[int]:
        return np.frombuffer(self.table.view, dtype=np.uint64)[3:].tolist()

    def empty(self) -> None:
        """As before the first page."""
        self.regions[1].punch(np.array([[0, PAGES]]))
        np.frombuffer(self.table.view, dtype=np.uint64)[:] = 0

    def close(self) -> None:
        opened = [region for worker in self.workers for region in worker._regions]
        for region in (*self.regions, *opened):
            region.close()


def pack(
    side: Side,
    runs: Runs,
    codec: str = "lz4",
    *,
    skip: bool = False,
    slot: int = 1,
    round_: int = 0,
    by: int = 0,
    duplicates: bool = False,
) -> Packed:
    level = 0 if codec == RAW else 1
    job = ToPack(1, runs.astype(np.int64).tobytes(), slot, codec, level, skip, round_, duplicates)
    return side.workers[by].pack(job)


def to_unpack(packed: Packed, slot: int = 1) -> ToUnpack:
    """The job that a header of ``packed`` makes at the destination."""
    same = (
        "payload_bytes",
        "checksum",
        "codec",
        "data_pages",
        "zero_pages",
        "data_runs",
        "zero_runs",
        "blocks",
        "delta_pages",
        "delta_words",
    )
    return ToUnpack(region=1, slot=slot, level=1, **{name: getattr(packed, name) for name in same})


def move(source: Side, target: Side, runs: Runs, codec: str, *, skip: bool) -> Packed:
    packed = pack(source, runs, codec, skip=skip)
    if packed.data_pages or packed.zero_pages:
        target.worker.unpack(to_unpack(packed))
    return packed


def page(kind: str) -> bytes:
    match kind:
        case "zero":
            return bytes(PAGE)
        case "noise":
            return os.urandom(PAGE)
        case "late":
            return bytes(PAGE - 1) + b"x"
    return (kind.encode() * PAGE)[:PAGE]


def run(*pairs: tuple[int, int]) -> Runs:
    return np.array(pairs, dtype=np.int64).reshape(-1, 2)
