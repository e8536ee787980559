"""The source's side of deltas: which pages of a batch travel as what has changed in them.

The first round keeps nothing, since most of its pages are not sent again. Where pages are rewritten as a whole,
or never come back, looking for deltas is wasted: then only a sample of them is looked at, until that pays.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from migrated.compression.delta import Deltas
from migrated.compression.delta_cache import DeltaCache

__all__ = ["DeltaSource", "Found", "Worth"]

_CHUNK = 128
"""Pages compared at a time: with their bases they fit a core's own cache of 1 MiB, and the dozen calls of numpy do
not count."""

_MOST_CHANGED = 4
"""A page travels whole if more than one word in four has changed: as a delta it would take 1.3 KB, and codecs make
1.0 to 2.5 KB of it."""

_SAMPLE_SHIFT = np.uint64(64 - 7)
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)

_NO_DELTAS = Deltas(np.zeros(0, np.uint64), np.zeros(0, np.uint16), np.zeros(0, np.uint16))


class Worth:
    """Whether deltas pay: what they save, against what it takes to look for them. A pure policy.

    ``sampling`` says that only one page in 128 is to be looked at.
    """

    _ENOUGH, _MEMORY = 32, 1024
    """Pages looked at before anything is decided, and those after which what was seen before counts half."""

    _COMPARING, _KEEPING = 0.3, 0.1
    """What comparing a page and what keeping one takes, in pages that travel whole: 2.5 and 0.8 us, where LZ4 takes
    7.5 us for one and zstd 15."""

    def __init__(self) -> None:
        self.sampling = False
        self._since = 2
        self._pages = 0
        self._balance = 0.0

    def saw(self, round_: int, *, compared: int, kept: int, saved: float) -> None:
        """In a batch of this round so many pages were compared with their bases and so many kept for the next;
        ``saved`` pages' worth of bytes need not be compressed and sent."""
        if round_ <= self._since:
            return  # what a round keeps is found in the next
        self._pages += compared + kept
        self._balance += saved - compared * self._COMPARING - kept * self._KEEPING
        if self._pages < self._ENOUGH:
            return
        if self.sampling != (self._balance < 0):
            self.sampling = not self.sampling
            if not self.sampling:
                self._since = round_ + 1  # what remains of this round, and all that it did not keep
            self._pages, self._balance = 0, 0.0
        elif self._pages > self._MEMORY:
            self._pages, self._balance = self._pages // 2, self._balance / 2


@dataclass(frozen=True, slots=True)
class Found:
    """Which of a batch's pages that are not zero travel as deltas, and what has changed in them."""

    mask: NDArray[np.bool_]
    deltas: Deltas


class DeltaSource:
    """One worker's use of the cache that all share. ``firsts`` are the numbers of the regions' first pages, with
    all regions counted as one; ``hash_pages`` gives the terms of pages in a buffer, of these numbers and region."""

    def __init__(
        self,
        cache: DeltaCache,
        firsts: Sequence[int],
        hash_pages: Callable[[memoryview, NDArray[np.int64], int], NDArray[np.uint64]],
    ) -> None:
        self._cache = cache
        self._firsts = firsts
        self._hash = hash_pages
        self._worth = Worth()
        self._page_words = cache.pages.shape[1]
        self._base, self._now = (np.zeros((_CHUNK, self._page_words), dtype=np.uint64) for _ in range(2))
        self._differs = np.zeros((_CHUNK, self._page_words), dtype=np.bool_)

    def find(
        self,
        pages: NDArray[np.uint64],
        travels: NDArray[np.bool_],
        numbers: NDArray[np.int64],
        before: NDArray[np.uint64],
        *,
        region: int,
        round_: int,
    ) -> Found | None:
        """What of a batch travels as deltas, None if nothing does; the cache then has its pages as they are now.

        ``pages`` are those of the batch that are not zero, one row a page; ``travels`` are those of them that are sent
        with data, ``numbers`` their numbers in ``region``, ``before`` their terms as they were sent last.
        """
        rows = np.flatnonzero(travels)
        keys = numbers[rows] + self._firsts[region]
        if self._worth.sampling:
            sample = keys.astype(np.uint64) * _GOLDEN >> _SAMPLE_SHIFT == 0
            rows, keys = rows[sample], keys[sample]
        if len(rows) == 0:
            return None
        places, known = self._cache.find(keys)
        mask = np.zeros(len(pages), dtype=np.bool_)
        parts: list[Deltas] = []
        had_base = np.flatnonzero(known & (before[rows] != 0))
        for first in range(0, len(had_base), _CHUNK):
            chunk = had_base[first : first + _CHUNK]
            part = self._compare(pages, rows[chunk], places[chunk], numbers, before, region)
            mask[rows[chunk[part[0]]]] = True
            parts.append(part[1])
        sparse = mask[rows]
        self._cache.stamp(places[sparse], round_)
        self._keep(pages, rows[known & ~sparse], places[known & ~sparse], 0)
        claimed, free = self._cache.claim(keys[~known], round_)
        self._keep(pages, rows[~known][free], claimed[free], round_)
        found = Found(mask, _joined(parts)) if mask.any() else None
        size = found.deltas.size if found is not None else 0
        self._worth.saw(
            round_,
            compared=len(had_base),
            kept=int(np.count_nonzero(known & ~sparse)) + int(np.count_nonzero(free)),
            saved=int(np.count_nonzero(mask)) - size / (8 * self._page_words),
        )
        return found

    def _keep(
        self, pages: NDArray[np.uint64], rows: NDArray[np.int64], places: NDArray[np.int64], stamp: int
    ) -> None:
        if len(rows):
            self._cache.pages[places] = pages[rows]
            self._cache.stamp(places, stamp)

    def _compare(
        self,
        pages: NDArray[np.uint64],
        rows: NDArray[np.int64],
        places: NDArray[np.int64],
        numbers: NDArray[np.int64],
        before: NDArray[np.uint64],
        region: int,
    ) -> tuple[NDArray[np.int64], Deltas]:
        """Which of at most _CHUNK rows travel as deltas, and these. Their places are brought up to date."""
        base, now, differs = (each[: len(rows)] for each in (self._base, self._now, self._differs))
        np.take(self._cache.pages, places, axis=0, out=base, mode="clip")  # clip: else numpy copies once more
        np.take(pages, rows, axis=0, out=now, mode="clip")
        np.not_equal(base, now, out=differs)
        counts = np.add.reduce(differs.view(np.uint8), axis=1, dtype=np.uint16)
        few = np.flatnonzero((counts > 0) & (counts <= self._page_words // _MOST_CHANGED))
        if len(few) == 0:
            return few, _NO_DELTAS
        # From here on only the copy counts: another worker may be writing to the place.
        copies = base if len(few) == len(rows) else base[few]
        terms = self._hash(copies.data.cast("B"), numbers[rows[few]], region)
        few = few[terms == before[rows[few]]]
        changed = np.flatnonzero(differs if len(few) == len(rows) else differs[few])
        which, at = np.divmod(changed, self._page_words)
        words = now[few[which], at]
        self._cache.pages[places[few[which]], at] = words
        return few, Deltas(words ^ base[few[which], at], at.astype(np.uint16), counts[few])


def _joined(parts: Sequence[Deltas]) -> Deltas:
    return Deltas(
        np.concatenate([part.words for part in parts]),
        np.concatenate([part.places for part in parts]),
        np.concatenate([part.counts for part in parts]),
    )
