"""What runs in a worker process of the compression stage.

A worker is started with everything that a migration shares - the arena, the tables of page terms, the regions -
and then gets a few numbers a batch. It keeps its buffers: no page byte is pickled, and no large buffer is new.
"""

import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from migrated.compression import registry
from migrated.compression.codec import Codec
from migrated.compression.digest import checksum, nonzero_pages, page_terms, region_sum
from migrated.compression.layout import RAW, raw_lengths, read_tables, write_tables
from migrated.compression.policy import Cost, Rung
from migrated.errors import IntegrityError
from migrated.memory.linux.heap import keep_large_blocks
from migrated.memory.region import FileRegion, Region, RegionSpec
from migrated.memory.shared import SharedMemory
from migrated.pages import Runs, pages_of_runs, runs_of_pages
from migrated.protocol import BLOCK_BYTES

__all__ = [
    "Packed",
    "ToPack",
    "ToSample",
    "ToUnpack",
    "Unpacked",
    "WorkerSetup",
    "pack",
    "rehash",
    "sample",
    "start_worker",
    "unpack",
]


_PROBE_CODEC = ("lz4", 1)
_PROBE_BYTES = 4096
_PROBE_ROOM = 4000
_PROBES = 4
"""Whether a block of 256 KiB is noise shows in four of its pages: 16 us, also where the first is none, while zstd 1
takes 200 us to find out. Single pages of a block that compresses may be noise; four of four are not."""


@dataclass(frozen=True, slots=True)
class WorkerSetup:
    """What a migration's workers share. ``terms`` holds the tables of all regions, one behind the other."""

    arena: SharedMemory
    slot_bytes: int
    terms: SharedMemory
    regions: tuple[RegionSpec, ...]
    page_size: int
    batch_pages: int
    seed: int


@dataclass(frozen=True, slots=True)
class ToPack:
    """Read these pages of a region and leave them as a batch in ``slot``. ``runs`` is a Runs array's bytes."""

    region: int
    runs: bytes
    slot: int
    codec: str
    level: int
    skip_unchanged: bool


@dataclass(frozen=True, slots=True)
class Packed:
    """A batch as it lies in its slot: what its header will say, and what it cost (CPU seconds, in all and for the
    codec alone)."""

    data_pages: int
    zero_pages: int
    unchanged_pages: int
    data_runs: int
    zero_runs: int
    blocks: int
    payload_bytes: int
    checksum: int
    codec: str
    cpu_seconds: float
    codec_seconds: float


@dataclass(frozen=True, slots=True)
class ToSample:
    """Compress the non-zero ones of these pages of a region with each of ``rungs``."""

    region: int
    runs: bytes
    rungs: tuple[Rung, ...]


@dataclass(frozen=True, slots=True)
class ToUnpack:
    """Check the batch in ``slot`` and put its pages in place. Codec RAW has no blocks."""

    region: int
    slot: int
    payload_bytes: int
    checksum: int
    codec: str
    level: int
    data_pages: int
    zero_pages: int
    data_runs: int
    zero_runs: int
    blocks: int


@dataclass(frozen=True, slots=True)
class Unpacked:
    """A batch is in place."""

    data_pages: int
    zero_pages: int
    cpu_seconds: float


class Worker:
    """One worker's shared things and kept buffers."""

    def __init__(self, setup: WorkerSetup) -> None:
        self._setup = setup
        self._arena = setup.arena.view
        self._regions: list[Region] = [spec.open() for spec in setup.regions]
        words = np.frombuffer(setup.terms.view, dtype=np.uint64)
        ends = np.cumsum([region.pages for region in self._regions])
        self._terms: list[NDArray[np.uint64]] = np.split(
            words[: int(ends[-1])], [int(end) for end in ends[:-1]]
        )
        # Two buffers that live as long as the worker: pages as read, and pages that remain of them.
        size = setup.batch_pages * setup.page_size
        self._read = memoryview(bytearray(size))
        self._kept = memoryview(bytearray(size))
        self._codecs: dict[tuple[str, int], Codec] = {}
        self._probe = registry.create(*_PROBE_CODEC)
        self._probed = memoryview(bytearray(_PROBE_ROOM))
        self._scratch, self._unpacked = (memoryview(bytearray(BLOCK_BYTES)) for _ in range(2))

    def _codec(self, name: str, level: int) -> Codec:
        key = (name, level)
        if key not in self._codecs:
            self._codecs[key] = registry.create(name, level)
        return self._codecs[key]

    def _slot(self, index: int) -> memoryview:
        start = index * self._setup.slot_bytes
        return self._arena[start : start + self._setup.slot_bytes]

    def pack(self, job: ToPack) -> Packed:
        """Read, drop what need not travel, hash, compress into the slot."""
        began = time.thread_time()
        runs = np.frombuffer(job.runs, dtype=np.int64).reshape(-1, 2)
        numbers = pages_of_runs(runs)
        slot = self._slot(job.slot)
        raw = job.codec == RAW
        size = len(numbers) * self._setup.page_size
        data = slot[:size] if raw else self._read[:size]
        self._regions[job.region].read(runs, data)
        pages = self._words(data)
        table = self._terms[job.region]

        nonzero = nonzero_pages(pages)
        terms = np.zeros(len(numbers), dtype=np.uint64)
        terms[nonzero] = self._hash(self._select(pages, nonzero, data), numbers[nonzero], job.region)
        changed = terms != table[numbers] if job.skip_unchanged else np.ones(len(numbers), dtype=np.bool_)
        table[numbers] = terms

        travels = nonzero & changed
        data_pages = int(np.count_nonzero(travels))
        kept = self._select(pages, travels, data)
        if raw and kept is not data:
            slot[: len(kept)] = kept
        compressing = time.thread_time()
        stored, lengths = (len(kept), raw_lengths(len(kept))) if raw else self._compress(job, kept, slot)
        compressed = time.thread_time()
        data_runs = runs_of_pages(numbers[travels])
        zero_runs = runs_of_pages(numbers[~nonzero & changed])
        end = write_tables(slot, stored, data_runs, zero_runs, lengths)
        return Packed(
            data_pages=data_pages,
            zero_pages=int(zero_runs[:, 1].sum()),
            unchanged_pages=len(numbers) - int(np.count_nonzero(changed)),
            data_runs=len(data_runs),
            zero_runs=len(zero_runs),
            blocks=len(lengths),
            payload_bytes=end,
            checksum=checksum(slot[:end]),
            codec=job.codec if data_pages else RAW,
            cpu_seconds=time.thread_time() - began,
            codec_seconds=compressed - compressing,
        )

    def _words(self, data: memoryview) -> NDArray[np.uint64]:
        """``data`` as one row of words a page."""
        return np.frombuffer(data, dtype=np.uint64).reshape(-1, self._setup.page_size // 8)

    def _select(self, pages: NDArray[np.uint64], wanted: NDArray[np.bool_], data: memoryview) -> memoryview:
        """The wanted ones of ``pages``, side by side: ``data`` itself where that is all, else a kept buffer."""
        count = int(np.count_nonzero(wanted))
        if count == len(pages):
            return data
        kept = self._kept[: count * self._setup.page_size]
        if count:
            np.compress(wanted, pages, axis=0, out=self._words(kept))
        return kept

    def _hash(self, data: memoryview, numbers: NDArray[np.int64], region: int) -> NDArray[np.uint64]:
        return page_terms(data, self._setup.page_size, numbers, region, self._setup.seed)

    def _compress(self, job: ToPack, data: memoryview, slot: memoryview) -> tuple[int, list[int]]:
        codec = self._codec(job.codec, job.level)
        probed = (job.codec, job.level) != _PROBE_CODEC  # it gives up on noise as early as its probes do
        lengths: list[int] = []
        end = 0
        for start in range(0, len(data), BLOCK_BYTES):
            block = data[start : start + BLOCK_BYTES]
            length = 0
            if not (probed and self._is_noise(block)):
                length = codec.compress_into(block, slot[end : end + len(block) - 1])
            if length == 0:
                length = len(block)
                slot[end : end + length] = block
            lengths.append(length)
            end += length
        return end, lengths

    def _is_noise(self, block: memoryview) -> bool:
        """Whether a few pages of ``block`` say that no codec will make it smaller."""
        return all(
            self._probe.compress_into(block[start : start + _PROBE_BYTES], self._probed) == 0
            for start in range(0, len(block), max(_PROBE_BYTES, len(block) // _PROBES))
        )

    def sample(self, job: ToSample) -> dict[Rung, Cost]:
        """What each of the rungs takes for these pages; empty if all of them are zero."""
        runs = np.frombuffer(job.runs, dtype=np.int64).reshape(-1, 2)
        size = int(runs[:, 1].sum()) * self._setup.page_size
        data = self._read[:size]
        self._regions[job.region].read(runs, data)
        pages = self._words(data)
        kept = self._select(pages, nonzero_pages(pages), data)
        found: dict[Rung, Cost] = {}
        for rung in job.rungs if len(kept) else ():
            found[rung] = self._cost(self._codec(rung.codec, rung.level), kept)
        return found

    def _cost(self, codec: Codec, data: memoryview) -> Cost:
        packing = unpacking = 0.0
        stored = 0
        for start in range(0, len(data), BLOCK_BYTES):
            block = data[start : start + BLOCK_BYTES]
            began = time.thread_time()
            length = codec.compress_into(block, self._scratch[: len(block) - 1])
            packed = time.thread_time()
            if length:
                codec.decompress_into(self._scratch[:length], self._unpacked[: len(block)])
            packing += packed - began
            unpacking += time.thread_time() - packed
            stored += length or len(block)
        return Cost(packing / len(data), stored / len(data), unpacking / len(data))

    def unpack(self, job: ToUnpack) -> Unpacked:
        """Check, decompress, hash, write to the region."""
        began = time.thread_time()
        payload = self._slot(job.slot)[: job.payload_bytes]
        if checksum(payload) != job.checksum:
            raise IntegrityError(
                f"a batch of region {job.region} does not match its checksum",
                "the data was damaged on the way",
            )
        region = self._regions[job.region]
        tables = read_tables(
            payload,
            data_pages=job.data_pages,
            zero_pages=job.zero_pages,
            data_runs=job.data_runs,
            zero_runs=job.zero_runs,
            blocks=job.blocks,
            page_size=self._setup.page_size,
            region_pages=region.pages,
        )
        size = job.data_pages * self._setup.page_size
        if tables.stored_bytes == size:
            data = payload[:size]
        elif job.codec == RAW:
            raise IntegrityError(f"a raw batch of {size} bytes stores {tables.stored_bytes}")
        else:
            data = self._read[:size]
            self._decompress(job, payload, tables.block_lengths, data)
        self._place(job.region, data, tables.data_runs, tables.zero_runs)
        return Unpacked(job.data_pages, job.zero_pages, time.thread_time() - began)

    def _decompress(
        self, job: ToUnpack, payload: memoryview, lengths: Sequence[int], data: memoryview
    ) -> None:
        codec = self._codec(job.codec, job.level)
        offset = 0
        for index, length in enumerate(lengths):
            target = data[index * BLOCK_BYTES : (index + 1) * BLOCK_BYTES]
            source = payload[offset : offset + length]
            if length == len(target):
                target[:] = source
            else:
                codec.decompress_into(source, target)
            offset += length

    def _place(self, index: int, data: memoryview, data_runs: Runs, zero_runs: Runs) -> None:
        region = self._regions[index]
        assert isinstance(region, FileRegion)
        table = self._terms[index]
        if len(data_runs):
            numbers = pages_of_runs(data_runs)
            region.write(data_runs, data)
            table[numbers] = self._hash(data, numbers, index)
        if len(zero_runs):
            numbers = pages_of_runs(zero_runs)
            # The region was empty before the first page: what never had a term is zero already.
            region.punch(runs_of_pages(numbers[table[numbers] != 0]))
            table[numbers] = 0

    def rehash(self, region: int, runs: bytes) -> int:
        """The sum of the terms of these pages as they are in memory now, modulo 2**64."""
        pieces = np.frombuffer(runs, dtype=np.int64).reshape(-1, 2)
        numbers = pages_of_runs(pieces)
        data = self._read[: len(numbers) * self._setup.page_size]
        self._regions[region].read(pieces, data)
        terms = self._hash(data, numbers, region)
        return region_sum(terms[nonzero_pages(self._words(data))])


_worker: Worker | None = None


def start_worker(setup: WorkerSetup) -> None:
    """The pool's initializer."""
    global _worker  # noqa: PLW0603  a worker process has one migration, and functions of a pool have no self
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C reaches the whole terminal group; the client decides
    _end_with_parent()
    keep_large_blocks()
    _worker = Worker(setup)


def _end_with_parent() -> None:
    """Pool workers survive a SIGKILL of their parent: a thread waits for that, and ends this process."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def wait() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=wait, name="parent-watch", daemon=True).start()


def _this() -> Worker:
    if _worker is None:
        raise RuntimeError("the worker was not started by start_worker")
    return _worker


def pack(job: ToPack) -> Packed:
    """See :class:`ToPack`."""
    return _this().pack(job)


def unpack(job: ToUnpack) -> Unpacked:
    """See :class:`ToUnpack`."""
    return _this().unpack(job)


def sample(job: ToSample) -> dict[Rung, Cost]:
    """See :meth:`Worker.sample`."""
    return _this().sample(job)


def rehash(region: int, runs: bytes) -> int:
    """See :meth:`Worker.rehash`."""
    return _this().rehash(region, runs)


def ready(seconds: float) -> int:
    """Keep a worker busy for ``seconds``, so that the pool starts the next one; returns its process id."""
    time.sleep(seconds)
    return os.getpid()
