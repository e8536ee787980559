"""What a guest's pages cost, tried out: packed by the workers as in a migration, and put in place in scratch memory.

Batches are packed, handed over and unpacked side by side, as many at a time as a migration has slots for: so the
cores are as busy. The scratch memory is as large as the guest's and as empty as at a destination; it holds the sample
only, and goes with its last user.
"""

import asyncio
import os
import secrets
import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from migrated.compression import worker
from migrated.compression.jobs import Packed, ToPack, ToUnpack
from migrated.compression.policy import NONE, Rung
from migrated.compression.stage import Stage, usable_cores
from migrated.engine.costs import Memory, PageCost
from migrated.engine.cutting import batch_limit
from migrated.engine.ports import see_through
from migrated.memory.region import FileRegion, Region
from migrated.pages import PAGE_SIZE, PageSet, Runs, cut_runs, pages_of_runs, runs_of_pages
from migrated.protocol import HEADER_BYTES
from migrated.protocol.frames import FRAME_BYTES

__all__ = ["Rehearsal", "spread"]

_GROUP_PAGES = 64
"""A block of the codecs: neighbours compress together."""

_FRESH_SECONDS = 1.8e-6
"""What a page of memory that was not in use lately takes more than one of the scratch memory, which is in the caches
yet. Of a raw move of 4 GiB without a link limit the workers took 3.0 us a page here and 3.8 there, in a profile, and
were foretold to take 4.2 and 0.8."""

Batch = tuple[int, Runs]
"""Pages of the region with that number."""


_ENOUGH_PAGES = 64
"""Written pages by which a rung's ratio is judged; after fewer it is taken to do as the others do."""


@dataclass(slots=True)
class _Tally:
    """What was packed with one rung so far: pages that were looked at, those that travelled, those with data; and
    the seconds that passed."""

    looked: int = 0
    travelled: int = 0
    data: int = 0
    packing: float = 0.0
    wire: int = 0
    unpacking: float = 0.0
    elapsed: float = 0.0


class Rehearsal:
    """For one guest. ``rungs`` are tried out, NONE always; the workers, batches and delta cache are as a migration
    would have them. Use as an asynchronous context manager: nothing is left of it afterwards."""

    def __init__(
        self,
        regions: Sequence[Region],
        rungs: Iterable[Rung],
        *,
        workers: int,
        far_workers: int,
        batch_pages: int,
        delta_cache: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.rungs = tuple(dict.fromkeys((NONE, *rungs)))
        self.setup_seconds = 0.0
        """What starting the workers took."""
        self._workers, self._far_workers, self._batch_pages = workers, far_workers, batch_pages
        self._cores = usable_cores()
        self._clock = clock
        self._scratch = tuple(_scratch(region) for region in regions)
        seed = secrets.randbits(64)
        self._source = Stage(
            regions,
            workers=workers,
            batch_pages=batch_pages,
            page_size=PAGE_SIZE,
            seed=seed,
            delta_cache=delta_cache,
            duplicates=True,
        )
        self._target = Stage(
            self._scratch, workers=far_workers, batch_pages=batch_pages, page_size=PAGE_SIZE, seed=seed
        )
        self._stages = (self._source, self._target)
        self._first = {rung: _Tally() for rung in self.rungs}
        self._later = {rung: _Tally() for rung in self.rungs}
        self._rounds = 1
        self._largest = 0

    async def __aenter__(self) -> Self:
        began = self._clock()
        try:
            await asyncio.gather(*(stage.start() for stage in self._stages))
        except BaseException:
            await self.__aexit__()
            raise
        self.setup_seconds = self._clock() - began
        return self

    async def __aexit__(self, *_: object) -> None:
        await see_through(self._close())

    async def _close(self) -> None:
        await asyncio.gather(*(stage.close() for stage in self._stages))
        for region in self._scratch:
            region.close()

    # -- trying out --------------------------------------------------------------------------------

    async def first_round(self, batches: Sequence[Batch]) -> None:
        """Pack these pages with every rung, as in a first round. Must come before :meth:`later_round`."""
        # Buffers and slots are touched for the first time; a migration's first MiBs do that, too, and no more.
        await self._pack(batches[: 2 * self._workers], self.rungs[-1], _Tally(), later=False)
        self._largest = max((int(runs[:, 1].sum()) for _, runs in batches), default=0)
        for rung in self.rungs:
            await self._pack(batches, rung, self._first[rung], later=False)
            for region, runs in batches:  # the first round meets memory that is not there yet
                await asyncio.to_thread(self._scratch[region].punch, runs)

    async def later_round(self, batches: Sequence[Batch]) -> None:
        """Pack these pages, which the guest may have written, as in a round of their own, with the rung whose turn
        it is. No page may be in two of the batches."""
        rung = self.rungs[(self._rounds - 1) % len(self.rungs)]
        self._rounds += 1
        await self._pack(batches, rung, self._later[rung], later=True)

    async def changed(self, batches: Sequence[Batch]) -> NDArray[np.bool_]:
        """As :meth:`later_round`; which of the pages differ from how they were packed last, in their order."""
        before = self._terms(batches)
        await self.later_round(batches)
        return np.asarray(before != self._terms(batches), dtype=np.bool_)

    def _terms(self, batches: Sequence[Batch]) -> NDArray[np.uint64]:
        found = [self._source.terms[region][pages_of_runs(runs)] for region, runs in batches]
        return np.concatenate(found) if found else np.zeros(0, dtype=np.uint64)

    def cut(self, places: Sequence[Batch]) -> list[Batch]:
        """Pages in batches of the size that most of them have in a round of so many."""
        pages = sum(int(runs[:, 1].sum()) for _, runs in places)
        limit = batch_limit(pages, self._workers, self._batch_pages)
        return [(region, piece) for region, runs in places for piece in cut_runs(runs, limit)]

    async def _pack(self, batches: Sequence[Batch], rung: Rung, tally: _Tally, *, later: bool) -> None:
        began = self._clock()
        await self._each(batches, lambda region, runs: self._batch(region, runs, rung, tally, later=later))
        tally.elapsed += self._clock() - began

    async def _each(
        self, batches: Iterable[Batch], work: Callable[[int, Runs], Coroutine[Any, Any, None]]
    ) -> None:
        """Do it with every batch, as many at a time as are under way in a migration."""
        waiting = iter(batches)

        async def lane() -> None:
            for region, runs in waiting:
                await work(region, runs)

        lanes = [asyncio.ensure_future(lane()) for _ in range(self._source.slots)]
        try:
            await asyncio.gather(*lanes)
        finally:
            for each in lanes:
                each.cancel()
            await asyncio.gather(*lanes, return_exceptions=True)

    async def _batch(self, region: int, runs: Runs, rung: Rung, tally: _Tally, *, later: bool) -> None:
        slot = await self._source.take_slot()
        try:
            job = ToPack(
                region,
                runs.tobytes(),
                slot,
                rung.codec,
                rung.level,
                skip_unchanged=later,
                round=self._rounds if later else 0,
            )
            packed = await self._source.run(worker.pack, job)
            travelled = packed.data_pages + packed.zero_pages
            tally.looked += travelled + packed.unchanged_pages
            tally.travelled += travelled
            tally.data += packed.data_pages
            tally.packing += packed.cpu_seconds
            if travelled:
                tally.wire += FRAME_BYTES + HEADER_BYTES + packed.payload_bytes
                tally.unpacking += await self._unpack(region, slot, rung, packed)
        finally:
            self._source.give_slot(slot)

    async def _unpack(self, region: int, slot: int, rung: Rung, packed: Packed) -> float:
        there = await self._target.take_slot()
        try:
            size = packed.payload_bytes
            self._target.view(there, size)[:] = self._source.view(slot, size)
            job = ToUnpack(
                region=region,
                slot=there,
                payload_bytes=size,
                checksum=packed.checksum,
                codec=packed.codec,
                level=rung.level,
                data_pages=packed.data_pages,
                zero_pages=packed.zero_pages,
                data_runs=packed.data_runs,
                zero_runs=packed.zero_runs,
                blocks=packed.blocks,
                delta_pages=packed.delta_pages,
                delta_words=packed.delta_words,
            )
            return (await self._target.run(worker.unpack, job)).cpu_seconds
        finally:
            self._target.give_slot(there)

    async def twins(self, places: Sequence[Batch]) -> float:
        """How many of these pages with data have the content of one before, 0 to 1. To be called once."""
        pages = twins = 0

        async def meet(region: int, runs: Runs) -> None:
            nonlocal pages, twins
            with_data, found = await self._source.run(worker.meet, region, runs.tobytes())
            pages += with_data
            twins += found

        await self._each(self.cut(places), meet)
        return twins / pages if pages else 0.0

    # -- what was found ----------------------------------------------------------------------------

    @property
    def speed(self) -> float:
        """How fast the first round was beside what the CPU time of its workers allows, 0 to 1: the share of a core
        that each got while all were busy."""
        elapsed = sum(tally.elapsed for tally in self._first.values())
        return min(1.0, sum(map(self._least, self._first.values())) / elapsed) if elapsed else 1.0

    def _least(self, tally: _Tally) -> float:
        """Seconds that ``tally`` takes if every worker has a core for itself, as far as there are any: that of a
        full pipeline, and the first batch on its way through."""
        both = tally.packing + tally.unpacking
        full = max(tally.packing / self._workers, tally.unpacking / self._far_workers, both / self._cores)
        return full + both * self._largest / max(1, tally.looked)

    def memory(self) -> Memory:
        """What the pages of the first round cost, zero pages among them."""
        raw = self._first[NONE]
        return Memory(
            raw.data / raw.looked if raw.looked else 0.0,
            {rung: _cost(tally, tally.data * _FRESH_SECONDS) for rung, tally in self._first.items()},
        )

    def written(self, *, exact: bool) -> Memory:
        """What the pages cost that the guest writes: of an ``exact`` tracker all that it names, else those that
        did change."""
        first = self.memory().costs
        pages = {rung: tally.looked if exact else tally.travelled for rung, tally in self._later.items()}

        def scale(spent: Callable[[_Tally], float], part: Callable[[PageCost], float]) -> float:
            """What was spent beside what as many pages of all memory take, with the same rungs."""
            usual = sum(count * part(first[rung]) for rung, count in pages.items())
            return sum(map(spent, self._later.values())) / usual if usual else 1.0

        # CPU time of a few scans is noise for a single rung, and to tell it from another's no scan was the same.
        # Looking at pages that did not change is most of what was packed where the tracker is not exact.
        packing = scale(lambda tally: tally.packing, lambda cost: cost.packing) if exact else 1.0
        unpacking = scale(lambda tally: tally.unpacking, lambda cost: cost.unpacking)
        wire = scale(lambda tally: tally.wire, lambda cost: cost.wire)
        costs = {
            rung: PageCost(
                cost.packing * packing,
                self._later[rung].wire / pages[rung] if pages[rung] >= _ENOUGH_PAGES else cost.wire * wire,
                cost.unpacking * unpacking,
            )
            for rung, cost in first.items()
        }
        travelled = sum(tally.travelled for tally in self._later.values())
        data = sum(tally.data for tally in self._later.values())
        return Memory(data / travelled if travelled else 0.0, costs)


_FREE = PageCost(0.0, 0.0, 0.0)


def _cost(tally: _Tally, more_unpacking: float) -> PageCost:
    pages = tally.looked
    if not pages:
        return _FREE
    return PageCost(tally.packing / pages, tally.wire / pages, (tally.unpacking + more_unpacking) / pages)


def _scratch(region: Region) -> FileRegion:
    descriptor = os.memfd_create("migrated-rehearsal", os.MFD_CLOEXEC)
    try:
        os.ftruncate(descriptor, region.size)
        return FileRegion(descriptor, writable=True, name=region.name)
    finally:
        os.close(descriptor)


def spread(sets: Sequence[PageSet], pages: int) -> list[Batch]:
    """Some ``pages`` of all those in ``sets``, one set a region: in groups of a codec's block, from all over."""
    total = sum(map(len, sets))
    found = []
    for region, each in enumerate(sets):
        count = len(each)
        if not count:
            continue
        runs = each.runs()
        wanted = -(-pages * count // total)
        if wanted < count:
            groups = max(1, wanted // _GROUP_PAGES)
            firsts = np.arange(groups, dtype=np.int64) * count // groups
            ordinals = (firsts[:, None] + np.arange(min(wanted, _GROUP_PAGES))).ravel()
            runs = runs_of_pages(_numbers(runs, ordinals))
        found.append((region, runs))
    return found


def _numbers(runs: Runs, ordinals: NDArray[np.int64]) -> NDArray[np.int64]:
    """The page numbers of the pages that are the nth of ``runs``, rising."""
    ends = np.cumsum(runs[:, 1])
    which = np.searchsorted(ends, ordinals, side="right")
    return np.asarray(runs[which, 0] + ordinals - (ends[which] - runs[which, 1]), dtype=np.int64)
