"""The compression stage: worker processes, and the arena through which batches pass.

One stage serves one migration and ends with it: a worker that dies breaks every pending future of its pool, so
pools are never shared. The event loop only ever sees slot numbers and the views it sends from or receives into.
"""

import asyncio
import contextlib
import os
from collections.abc import Callable, Sequence
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from migrated.compression import worker
from migrated.compression.delta_cache import cache_size
from migrated.compression.digest import region_sum
from migrated.compression.duplicates import table_size
from migrated.compression.pool import Pool
from migrated.errors import WorkerDiedError
from migrated.memory.region import Region
from migrated.memory.shared import SharedMemory
from migrated.protocol import max_payload

__all__ = ["Stage", "default_workers", "slot_count", "usable_cores"]

_T = TypeVar("_T")

_SPARE_SLOTS = 2
"""Slots beyond two a worker: one on the socket, one waiting for it."""

_TERM_BYTES = 8
_WRAP = (1 << 64) - 1


def usable_cores() -> int:
    """Those that this process may run on: less than there are, in a container or under ``taskset``."""
    return len(os.sched_getaffinity(0))


def default_workers(asked: int, cores: int) -> int:
    """``asked`` workers, but at most one a core: more only take each other's time."""
    return max(1, min(asked, cores))


def slot_count(workers: int) -> int:
    """Batches that are under way at a time: packed, sent, or waiting for either."""
    return 2 * workers + _SPARE_SLOTS


class Stage:
    """Started with :meth:`start`, ended with :meth:`close`; both may be awaited once.

    ``delta_cache`` bounds the bytes in which a source keeps pages as it sent them last; 0 sends no deltas.
    ``duplicates`` has it look for pages that are there twice.
    """

    def __init__(
        self,
        regions: Sequence[Region],
        *,
        workers: int,
        batch_pages: int,
        page_size: int,
        seed: int,
        delta_cache: int = 0,
        duplicates: bool = False,
    ) -> None:
        self.workers = workers
        self.slots = slot_count(workers)
        self.slot_bytes = -(-max_payload(batch_pages, page_size) // page_size) * page_size
        self.worker_pids: frozenset[int] = frozenset()
        self.terms: tuple[NDArray[np.uint64], ...] = ()
        """The shared table of page terms of each region; a term of 0 is a page that is zero or was never sent."""
        self._regions = tuple(regions)
        self._batch_pages, self._page_size, self._seed = batch_pages, page_size, seed
        self._delta_cache = cache_size(delta_cache, page_size)
        self._duplicates = duplicates
        self._shared: list[SharedMemory] = []
        # The last one first: what of it is in the cores' caches need not be fetched again.
        self._free: asyncio.Queue[int] = asyncio.LifoQueue()
        for slot in range(self.slots):
            self._free.put_nowait(slot)
        self._pool: Pool | None = None
        self._starting: asyncio.Future[None] | None = None

    async def start(self) -> Self:
        """Start every worker, and wait until each has opened its regions.

        WorkerDiedError if one can't; the stage is closed then.
        """
        # No task: a loop that ends cancels all tasks, and the thread would go on behind their backs.
        self._starting = asyncio.get_running_loop().run_in_executor(None, self._start)
        try:
            await asyncio.shield(self._starting)
            if self._pool is None:
                raise WorkerDiedError("the compression stage was closed while it started")
            self._pool.open()
        except BaseException:
            await self.close()
            raise
        self.worker_pids = self._pool.pids
        return self

    def _start(self) -> None:
        self._pool = Pool(self.workers, worker.start_worker, self._allocate())
        self._pool.start()

    def _allocate(self) -> worker.WorkerSetup:
        pages = [region.pages for region in self._regions]
        arena = SharedMemory(self.slots * self.slot_bytes, name="migrated-arena", reserve=True)
        self._shared.append(arena)
        terms = SharedMemory(max(1, sum(pages)) * _TERM_BYTES, name="migrated-terms")
        self._shared.append(terms)
        cache = table = None
        if self._delta_cache:
            # Not reserved: a guest that writes little will never use it.
            cache = SharedMemory(self._delta_cache, name="migrated-deltas")
            self._shared.append(cache)
        if self._duplicates:
            table = SharedMemory(table_size(sum(pages)), name="migrated-duplicates")
            self._shared.append(table)
        self._arena = arena.view
        words = np.frombuffer(terms.view, dtype=np.uint64)[: sum(pages)]
        self.terms = tuple(np.split(words, np.cumsum(pages)[:-1].tolist()))
        return worker.WorkerSetup(
            arena=arena,
            slot_bytes=self.slot_bytes,
            terms=terms,
            regions=tuple(region.spec() for region in self._regions),
            page_size=self._page_size,
            batch_pages=self._batch_pages,
            seed=self._seed,
            delta_cache=cache,
            duplicates=table,
        )

    async def run(self, function: Callable[..., _T], *args: Any) -> _T:
        """Run one of the worker's functions. A dead worker is a :class:`WorkerDiedError`."""
        if self._pool is None:
            raise WorkerDiedError("the compression stage is closed")
        return await self._pool.run(function, *args)

    async def take_slot(self) -> int:
        """Wait for a free slot."""
        return await self._free.get()

    def give_slot(self, slot: int) -> None:
        """Free a slot. No job may use it any more, and one whose waiter was cancelled still does."""
        self._free.put_nowait(slot)

    def view(self, slot: int, length: int) -> memoryview:
        """The first ``length`` bytes of a slot."""
        start = slot * self.slot_bytes
        return self._arena[start : start + length]

    def digest(self) -> tuple[int, ...]:
        """The digest of each region; blocking, 1 ms per GiB."""
        return tuple(region_sum(table) for table in self.terms)

    async def reread(self, index: int) -> int:
        """The digest of a region as it is in memory now, read by all workers."""
        pages = await asyncio.to_thread(self._regions[index].populated)
        total = 0
        reading: set[asyncio.Future[int]] = set()
        try:
            for runs in pages.batches(self._batch_pages):
                if len(reading) >= 2 * self.workers:
                    done, reading = await asyncio.wait(reading, return_when=asyncio.FIRST_COMPLETED)
                    total += sum(each.result() for each in done)
                reading.add(asyncio.ensure_future(self.run(worker.rehash, index, runs.tobytes())))
            return (total + sum(await asyncio.gather(*reading))) & _WRAP
        finally:
            for each in reading:
                each.cancel()

    async def close(self) -> None:
        """End the workers, whatever they do, and give the memory back."""
        if self._starting is not None:
            # A thread goes on when whoever waits is cancelled, and would make its pool after this.
            await asyncio.wait({self._starting})
            self._starting.exception()  # start() tells of it, unless it was cancelled
        pool, self._pool = self._pool, None
        if pool is not None:
            await pool.close()
        self.terms = ()
        await asyncio.to_thread(self._give_back)

    def _give_back(self) -> None:
        """Off the loop: unmapping 25 MiB takes 20 ms."""
        for shared in self._shared:
            with contextlib.suppress(BufferError):
                shared.close()
