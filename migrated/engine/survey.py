"""What there is to know of a guest before it moves: how much it is, what it costs, how it writes.

The guest is tracked and read, and never paused; the tracker stays armed until the guest is closed.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from migrated.compression.policy import NONE
from migrated.engine.costs import Memory
from migrated.engine.ports import in_thread
from migrated.engine.rehearsal import Batch, Rehearsal, spread
from migrated.engine.writing import Windows, Writing
from migrated.guests.base import SourceGuest
from migrated.pages import PAGE_SIZE, PageSet

__all__ = ["Survey", "survey"]

_SAMPLE_PAGES = (32 << 20) // PAGE_SIZE
"""Pages from all over the guest: the ratio of 128 places, tried with seven rungs in 2 s of CPU time."""

_TWIN_PAGES = (4 << 30) // PAGE_SIZE
"""Looked at for others with their content: 0.4 s of CPU time for a GiB, and as many as a table of them has room for. Of
larger guests places from all over: what is there twice, but far apart, counts less often than it is."""

_WRITTEN_PAGES = (8 << 20) // PAGE_SIZE
"""Of the pages that a scan finds written, at most so many are packed: more would take longer than the scans are
apart."""

_SCAN_SECONDS = 0.1
"""Between two scans. What is written again within less than this costs a migration nothing either."""

_SCAN_SHARE = 10
"""...but at least so many times what a scan takes: page tables of large guests take long to look through."""


@dataclass(frozen=True, slots=True)
class Survey:
    """A guest as it was found. ``pages`` may be non-zero and travel in the first round; ``memory`` and ``written``
    say what they and the written ones cost, ``writing`` how many those are. ``exact`` is the tracker's, ``looking``
    the CPU seconds of looking at a page that has not changed. ``speed`` is the share of a core that a busy process
    got; scans and setting up take seconds."""

    total_bytes: int
    pages: int
    memory: Memory
    written: Memory
    writing: Writing
    exact: bool
    looking: float
    scan_seconds: float
    setup_seconds: float
    speed: float


async def survey(
    guest: SourceGuest,
    rehearsal: Rehearsal,
    *,
    seconds: float,
    copies: bool = False,
    clock: Callable[[], float] = time.monotonic,
) -> Survey:
    """Try out what the guest's pages cost, and watch it write for ``seconds``. With ``copies`` look for pages that
    are there twice, too.

    ``rehearsal`` has started, with the guest's regions. Raises what tracking and reading it raises, GuestDiedError
    if it ends meanwhile.
    """
    populated = [await in_thread(region.populated) for region in guest.regions]
    sample = rehearsal.cut(spread(populated, _SAMPLE_PAGES))
    await rehearsal.first_round(sample)
    twins = await rehearsal.twins(spread(populated, _TWIN_PAGES)) if copies else 0.0
    began = clock()
    await in_thread(guest.tracker.arm)
    arming = clock() - began
    pages = sum(map(len, populated))
    watch = _Watch(guest, rehearsal, sample, clock)
    await watch.run(seconds)
    memory = replace(rehearsal.memory(), twins=twins)
    return Survey(
        total_bytes=sum(region.size for region in guest.regions),
        pages=pages,
        memory=memory,
        written=rehearsal.written(exact=guest.tracker.exact),
        writing=watch.writing(pages),
        exact=guest.tracker.exact,
        looking=memory.costs[NONE].packing,
        scan_seconds=watch.scan_seconds,
        setup_seconds=rehearsal.setup_seconds + arming,
        speed=rehearsal.speed,
    )


class _Watch:
    """Scan after scan, each a little round of its own."""

    def __init__(
        self, guest: SourceGuest, rehearsal: Rehearsal, sample: list[Batch], clock: Callable[[], float]
    ) -> None:
        self._guest = guest
        self._rehearsal = rehearsal
        self._sample = sample
        self._clock = clock
        self._windows = Windows()
        self._scans = 0
        self._scanning = 0.0

    @property
    def scan_seconds(self) -> float:
        """What one scan takes."""
        return self._scanning / self._scans if self._scans else 0.0

    async def run(self, seconds: float) -> None:
        if not self._guest.tracker.exact:
            await self._rehearsal.changed(
                self._sample
            )  # from here on: packed by several rungs, it is old by now
        began = last = self._clock()
        while self._clock() < began + seconds or not self._scans:
            pause = max(_SCAN_SECONDS, _SCAN_SHARE * self.scan_seconds)
            await asyncio.sleep(max(0.0, last + pause - self._clock()))
            await in_thread(self._guest.check)
            scanning = self._clock()
            found = await in_thread(self._collect)
            now = self._clock()
            self._scans += 1
            self._scanning += now - scanning
            if self._guest.tracker.exact:
                self._windows.add(found, now - last)
                await self._rehearsal.later_round(self._rehearsal.cut(spread(found, _WRITTEN_PAGES)))
            else:
                mask = await self._rehearsal.changed(self._sample)
                self._windows.add([PageSet(len(mask), mask)], now - last)
            last = now

    def _collect(self) -> list[PageSet]:
        """As a migration does after each round, which looks for holes, too: that takes time."""
        found = self._guest.tracker.collect()
        for region in self._guest.regions:
            region.populated()
        return found

    def writing(self, pages: int) -> Writing:
        """How many different ones of the guest's ``pages`` it writes in a time."""
        watched = sum(int(runs[:, 1].sum()) for _, runs in self._sample)
        scale = 1.0 if self._guest.tracker.exact else pages / max(1, watched)
        return self._windows.writing(pages, scale=scale)
