"""What runs in a worker process of the compression stage.

A worker is started with everything that a migration shares - the arena, the tables of page terms, the regions -
and then gets a few numbers a batch. It keeps its buffers: no page byte is pickled, and no large buffer is new.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from migrated.compression import registry
from migrated.compression.codec import Codec
from migrated.compression.delta import bases_hash, read_deltas, write_deltas
from migrated.compression.delta_cache import DeltaCache
from migrated.compression.delta_source import DeltaSource
from migrated.compression.digest import (
    checksum,
    content_hashes,
    nonzero_pages,
    page_terms,
    region_sum,
    terms_at,
)
from migrated.compression.duplicates import Duplicates, Worth
from migrated.compression.jobs import (
    Compared,
    Packed,
    ToCompare,
    ToCopy,
    ToPack,
    ToSample,
    ToUnpack,
    Unpacked,
)
from migrated.compression.layout import (
    RAW,
    DeltaTable,
    Tables,
    raw_lengths,
    read_copies,
    read_tables,
    write_tables,
)
from migrated.compression.policy import Cost, Rung
from migrated.errors import IntegrityError
from migrated.memory.linux.heap import keep_large_blocks, kept_buffer
from migrated.memory.region import FileRegion, Region, RegionSpec
from migrated.memory.shared import SharedMemory
from migrated.pages import Runs, pages_of_runs, runs_of_mask, runs_of_pages
from migrated.protocol import BLOCK_BYTES

__all__ = [
    "WorkerSetup",
    "compare",
    "copy",
    "pack",
    "rehash",
    "sample",
    "start_worker",
    "unpack",
]


_PROBE_CODEC = ("lz4", 1)
_PROBE_BYTES = 4096
_PROBE_ROOM = 4000
_PROBES = 16
"""Whether a block is noise shows in sixteen of its pages: 64 us, while zstd 1 takes 3 ms to find out of 4 MiB. Where
something else is in it, the first or second of them tells. Single pages of a block that compresses may be noise;
sixteen of sixteen are not."""

_SAMPLE_BYTES = 1 << 20
"""Sampled pages are from all over a region: nothing is found further back. This much of a sample is tried at once."""


@dataclass(frozen=True, slots=True)
class WorkerSetup:
    """What a migration's workers share. ``terms`` holds the tables of all regions, one behind the other;
    ``delta_cache`` is for a source whose destination takes deltas, ``duplicates`` for one whose takes copies."""

    arena: SharedMemory
    slot_bytes: int
    terms: SharedMemory
    regions: tuple[RegionSpec, ...]
    page_size: int
    batch_pages: int
    seed: int
    delta_cache: SharedMemory | None = None
    duplicates: SharedMemory | None = None


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
        # Two buffers that live as long as the worker: pages as read or unpacked, and those that they are compared with
        # or made of.
        size = setup.batch_pages * setup.page_size
        self._read, self._kept = kept_buffer(size), kept_buffer(size)
        self._firsts = [0, *(int(end) for end in ends[:-1])]
        self._deltas: DeltaSource | None = None
        if setup.delta_cache is not None:
            cache = DeltaCache(setup.delta_cache, setup.page_size)
            self._deltas = DeltaSource(cache, self._firsts, self._hash)
        self._duplicates = Duplicates(setup.duplicates) if setup.duplicates is not None else None
        self._leaving_out = Worth()
        self._codecs: dict[tuple[str, int], Codec] = {}
        self._probe = registry.create(*_PROBE_CODEC)
        self._probed = memoryview(bytearray(_PROBE_ROOM))

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
        started, began = time.monotonic(), time.thread_time()
        slot = self._slot(job.slot)
        raw = job.codec == RAW
        numbers, data = self._load(job.region, job.runs, slot if raw else self._read)
        size = len(numbers)
        table, seed = self._terms[job.region], self._setup.seed

        nonzero = nonzero_pages(self._words(data))
        zeros = numbers[~nonzero]
        if job.skip_unchanged:
            zeros = zeros[table[zeros] != 0]
        table[zeros] = 0
        numbers, data = numbers[nonzero], self._compact(data, nonzero)

        contents = content_hashes(data, self._setup.page_size, seed)
        terms, before = terms_at(contents, numbers, job.region, seed), table[numbers]
        changed = terms != before if job.skip_unchanged else np.ones(len(numbers), dtype=np.bool_)
        bases = self._twins(job, contents, numbers, changed)
        later = bases >= 0
        travels = changed & ~later
        table[numbers] = terms  # also of those that wait: the digests differ if one is forgotten

        data_pages = int(np.count_nonzero(travels))
        found = None
        looking = time.thread_time()
        if self._deltas is not None and job.round and data_pages:
            found = self._deltas.find(
                self._words(data), travels, numbers, before, region=job.region, round_=job.round
            )
        looked = time.thread_time()
        kept = self._compact(data, travels if found is None else travels & ~found.mask)
        if found is not None:
            whole = len(kept)
            kept = data[: whole + found.deltas.size]
            write_deltas(found.deltas, kept[whole:])
        compressing = time.thread_time()
        stored, lengths = (len(kept), raw_lengths(len(kept))) if raw else self._compress(job, kept, slot)
        compressed = time.thread_time()
        data_runs, zero_runs = runs_of_pages(numbers[travels]), runs_of_pages(zeros)
        twins = np.stack((numbers, bases), axis=1)[later]
        table_of_deltas = (
            DeltaTable(found.mask[travels], bases_hash(before[found.mask])) if found is not None else None
        )
        end = write_tables(slot, stored, data_runs, zero_runs, lengths, table_of_deltas)
        return Packed(
            data_pages=data_pages,
            zero_pages=len(zeros),
            unchanged_pages=size - len(zeros) - int(np.count_nonzero(changed)),
            data_runs=len(data_runs),
            zero_runs=len(zero_runs),
            blocks=len(lengths),
            payload_bytes=end,
            checksum=checksum(slot[:end]),
            codec=job.codec if data_pages else RAW,
            cpu_seconds=time.thread_time() - began,
            codec_seconds=compressed - compressing,
            delta_seconds=looked - looking,
            seconds=time.monotonic() - started,
            data_bytes=len(kept),
            delta_pages=len(found.deltas.counts) if found is not None else 0,
            delta_words=len(found.deltas.words) if found is not None else 0,
            duplicates=twins.tobytes(),
        )

    def _twins(
        self,
        job: ToPack,
        contents: NDArray[np.uint64],
        numbers: NDArray[np.int64],
        changed: NDArray[np.bool_],
    ) -> NDArray[np.int64]:
        """For each changed page one of the region that seems to be the same, or -1; all -1 if that does not pay."""
        bases = np.full(len(numbers), -1, dtype=np.int64)
        if self._duplicates is None or not job.duplicates:
            return bases
        rows = np.flatnonzero(changed & self._leaving_out.looks(contents))
        found = self._met(job.region, contents[rows], numbers[rows])
        self._leaving_out.saw(len(found), int(np.count_nonzero(found >= 0)))
        if self._leaving_out.pays:
            bases[rows] = found
        return bases

    def _met(
        self, region: int, contents: NDArray[np.uint64], numbers: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """For each page one of the same region that was met with that content; or -1, and it is met from now on."""
        assert self._duplicates is not None
        first = self._firsts[region]
        found = self._duplicates.find(contents, numbers + first) - first
        found[(found < 0) | (found >= self._regions[region].pages)] = -1  # none, or one of another region
        return found

    def _words(self, data: memoryview) -> NDArray[np.uint64]:
        """``data`` as one row of words a page."""
        return np.frombuffer(data, dtype=np.uint64).reshape(-1, self._setup.page_size // 8)

    def _compact(self, data: memoryview, wanted: NDArray[np.bool_]) -> memoryview:
        """The ``wanted`` pages of ``data``, moved together at its front."""
        end = 0
        for first, count in (runs_of_mask(wanted) * self._setup.page_size).tolist():
            if first > end:
                data[end : end + count] = data[first : first + count]
            end += count
        return data[:end]

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

    def compare(self, job: ToCompare) -> Compared:
        """Compare bytes, not hashes: among as many pages as a guest has, some have the same one."""
        began = time.thread_time()
        pairs = np.frombuffer(job.pairs, dtype=np.int64).reshape(-1, 2)
        numbers = pairs[:, 0]
        table = self._terms[job.region]
        bases, which = np.unique(pairs[:, 1], return_inverse=True)
        theirs = self._kept[: len(bases) * self._setup.page_size]
        ours = self._read[: len(numbers) * self._setup.page_size]
        self._regions[job.region].read(runs_of_pages(bases), theirs)
        self._regions[job.region].read(runs_of_pages(numbers), ours)
        contents = content_hashes(theirs, self._setup.page_size, self._setup.seed)
        as_sent = terms_at(contents, bases, job.region, self._setup.seed) == table[bases]
        equal = as_sent[which] & (self._words(ours) == self._words(theirs)[which]).all(axis=1)
        copied = numbers[equal]
        table[copied] = terms_at(contents[which[equal]], copied, job.region, self._setup.seed)
        return Compared(equal.tobytes(), bases_hash(table[pairs[equal, 1]]), time.thread_time() - began)

    def copy(self, job: ToCopy) -> Unpacked:
        """Check, read, hash, write to the region."""
        started, began = time.monotonic(), time.thread_time()
        region, table = self._target(job.region)
        numbers, froms = read_copies(job.runs, job.pages, region.pages)
        if not table[froms].all() or bases_hash(table[froms]) != job.bases:
            raise IntegrityError(
                f"copies in region {job.region} are not of the pages that are here",
                "the guest goes on at the source; try again, and report this with both logs",
            )
        bases, which = np.unique(froms, return_inverse=True)
        theirs = self._read[: len(bases) * self._setup.page_size]
        region.read(runs_of_pages(bases), theirs)
        pages = self._kept[: len(numbers) * self._setup.page_size]
        np.take(self._words(theirs), which, axis=0, out=self._words(pages))
        region.write(runs_of_pages(numbers), pages)
        contents = content_hashes(theirs, self._setup.page_size, self._setup.seed)
        table[numbers] = terms_at(contents[which], numbers, job.region, self._setup.seed)
        return Unpacked(0, 0, time.thread_time() - began, time.monotonic() - started)

    def sample(self, job: ToSample) -> dict[Rung, Cost]:
        """What each of the rungs takes for these pages; empty if all of them are zero.

        No codec is kept for that: where each is let go before the next one is made, all of them take the memory of the
        largest. Rungs that are in use have theirs besides.
        """
        _, data = self._load(job.region, job.runs, self._read)
        kept = self._compact(data, nonzero_pages(self._words(data)))
        # Or the first one pays for the memory that all of them write to: LZ4 took 4.2 ns a byte instead of 3.1, and
        # snappy its place.
        self._kept[: len(kept)] = kept
        found: dict[Rung, Cost] = {}
        for rung in job.rungs if len(kept) else ():
            found[rung] = self._cost(registry.create(rung.codec, rung.level), kept)
        return found

    def _cost(self, codec: Codec, data: memoryview) -> Cost:
        """What ``codec`` takes for a byte of ``data``, which is unpacked to where it was."""
        packing = unpacking = 0.0
        stored = 0
        for start in range(0, len(data), _SAMPLE_BYTES):
            block = data[start : start + _SAMPLE_BYTES]
            began = time.thread_time()
            length = codec.compress_into(block, self._kept[: len(block) - 1])
            packed = time.thread_time()
            if length:
                codec.decompress_into(self._kept[:length], block)
            packing += packed - began
            unpacking += time.thread_time() - packed
            stored += length or len(block)
        return Cost(packing / len(data), stored / len(data), unpacking / len(data))

    def unpack(self, job: ToUnpack) -> Unpacked:
        """Check, decompress, hash, write to the region."""
        started, began = time.monotonic(), time.thread_time()
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
            delta_pages=job.delta_pages,
            delta_words=job.delta_words,
        )
        size = tables.data_bytes
        if tables.stored_bytes == size:
            data = payload[:size]
        elif job.codec == RAW:
            raise IntegrityError(f"a raw batch of {size} bytes stores {tables.stored_bytes}")
        else:
            data = self._read[:size]
            self._decompress(job, payload, tables.block_lengths, data)
        self._place(job, data, tables)
        return Unpacked(
            job.data_pages, job.zero_pages, time.thread_time() - began, time.monotonic() - started
        )

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

    def _place(self, job: ToUnpack, data: memoryview, tables: Tables) -> None:
        numbers = pages_of_runs(tables.data_runs)
        if tables.deltas is None:
            self._write(job.region, tables.data_runs, numbers, data)
        else:
            changed, numbers = numbers[tables.deltas.mask], numbers[~tables.deltas.mask]
            whole = len(numbers) * self._setup.page_size
            patched = self._patched(job, changed, data[whole:], tables.deltas.bases)
            self._write(job.region, runs_of_pages(numbers), numbers, data[:whole])
            self._write(job.region, runs_of_pages(changed), changed, patched)
        if len(tables.zero_runs):
            region, table = self._target(job.region)
            numbers = pages_of_runs(tables.zero_runs)
            # The region was empty before the first page: what never had a term is zero already.
            region.punch(runs_of_pages(numbers[table[numbers] != 0]))
            table[numbers] = 0

    def _target(self, index: int) -> tuple[FileRegion, NDArray[np.uint64]]:
        region = self._regions[index]
        assert isinstance(region, FileRegion)
        return region, self._terms[index]

    def _write(self, index: int, runs: Runs, numbers: NDArray[np.int64], data: memoryview) -> None:
        if len(numbers):
            region, table = self._target(index)
            region.write(runs, data)
            table[numbers] = self._hash(data, numbers, index)

    def _patched(self, job: ToUnpack, numbers: NDArray[np.int64], data: memoryview, bases: int) -> memoryview:
        """The pages ``numbers`` as they are now, made of what is here and the deltas in ``data``."""
        region, table = self._target(job.region)
        deltas = read_deltas(data, len(numbers), job.delta_words, self._setup.page_size // 8)
        if bases_hash(table[numbers]) != bases:
            raise IntegrityError(
                f"deltas of region {job.region} are not on the pages that are here",
                "the guest goes on at the source; try again with --delta-cache 0, and report this with both logs",
            )
        pages = self._kept[: len(numbers) * self._setup.page_size]
        region.read(runs_of_pages(numbers), pages)
        deltas.apply(self._words(pages))
        return pages

    def meet(self, region: int, runs: bytes) -> tuple[int, int]:
        """How many of these pages have data, and how many of those have the content of one met before. Nothing else is
        done with them."""
        numbers, data = self._load(region, runs, self._read)
        nonzero = nonzero_pages(self._words(data))
        contents = content_hashes(self._compact(data, nonzero), self._setup.page_size, self._setup.seed)
        found = self._met(region, contents, numbers[nonzero])
        return len(contents), int(np.count_nonzero(found >= 0))

    def rehash(self, region: int, runs: bytes) -> int:
        """The sum of the terms of these pages as they are in memory now, modulo 2**64."""
        numbers, data = self._load(region, runs, self._read)
        terms = self._hash(data, numbers, region)
        return region_sum(terms[nonzero_pages(self._words(data))])

    def _load(
        self, region: int, runs: bytes, buffer: memoryview
    ) -> tuple[NDArray[np.int64], memoryview]:
        """The pages' numbers, and what is in them, at the front of ``buffer``."""
        pieces = np.frombuffer(runs, dtype=np.int64).reshape(-1, 2)
        numbers = pages_of_runs(pieces)
        data = buffer[: len(numbers) * self._setup.page_size]
        self._regions[region].read(pieces, data)
        return numbers, data


_worker: Worker | None = None


def start_worker(setup: WorkerSetup) -> None:
    """The pool's initializer."""
    global _worker  # noqa: PLW0603  a worker process has one migration, and functions of a pool have no self
    keep_large_blocks()
    _worker = Worker(setup)


def _this() -> Worker:
    if _worker is None:
        raise RuntimeError("the worker was not started by start_worker")
    return _worker


def pack(job: ToPack) -> Packed:
    """See :class:`ToPack`."""
    return _this().pack(job)


def compare(job: ToCompare) -> Compared:
    """See :class:`ToCompare`."""
    return _this().compare(job)


def copy(job: ToCopy) -> Unpacked:
    """See :class:`ToCopy`."""
    return _this().copy(job)


def unpack(job: ToUnpack) -> Unpacked:
    """See :class:`ToUnpack`."""
    return _this().unpack(job)


def sample(job: ToSample) -> dict[Rung, Cost]:
    """See :meth:`Worker.sample`."""
    return _this().sample(job)


def meet(region: int, runs: bytes) -> tuple[int, int]:
    """See :meth:`Worker.meet`."""
    return _this().meet(region, runs)


def rehash(region: int, runs: bytes) -> int:
    """See :meth:`Worker.rehash`."""
    return _this().rehash(region, runs)
