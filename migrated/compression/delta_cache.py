"""The source's memory of pages as they were sent last, for those most likely to be sent again.

All workers of a migration share one cache, without a lock: a page has a set of places, found by its number. Two
workers may write to one place at a time, and one may read what another has half written. That does no harm: the
table of terms says what each page was when it was sent last, and a base is used only if a copy of it has that
very term. What is torn, stale or of another page has not, and the page travels whole.
"""

import numpy as np
from numpy.typing import NDArray

from migrated.memory.shared import SharedMemory

__all__ = ["DeltaCache", "cache_size"]

_WAYS = 8
_KEY_BYTES, _STAMP_BYTES = 8, 4


def cache_size(limit: int, page_size: int) -> int:
    """The bytes of the largest cache that takes no more than ``limit``; 0 if there is none so small."""
    group = _WAYS * (page_size + _KEY_BYTES + _STAMP_BYTES)
    return limit // group * group


class DeltaCache:
    """Places for pages, eight to a set, in ``memory`` of a :func:`cache_size`, new or shared with other workers.

    ``pages`` has one row a place. A place's stamp is the last round in which its page was of use; 0 stands for an
    empty place and for a page of no use, and any page may take it. Pages of all regions are numbered as one.
    """

    def __init__(self, memory: SharedMemory, page_size: int) -> None:
        places = memory.size // (page_size + _KEY_BYTES + _STAMP_BYTES)
        keys_at, stamps_at = places * page_size, places * (page_size + _KEY_BYTES)
        view = memory.view
        self.pages = np.frombuffer(view[:keys_at], dtype=np.uint64).reshape(places, page_size // 8)
        self._keys = np.frombuffer(view[keys_at:stamps_at], dtype=np.int64)  # page numbers plus 1
        self._stamps = np.frombuffer(view[stamps_at:], dtype=np.uint32)

    def _sets(self, numbers: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Each page's set, and which of the pages of that set it is."""
        turns, sets = np.divmod(numbers, len(self._keys) // _WAYS)
        return sets, turns

    def find(self, numbers: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Where each page is, if it is there at all: that is the second array."""
        sets, _ = self._sets(numbers)
        matches = self._keys.reshape(-1, _WAYS)[sets] == (numbers + 1)[:, None]
        return sets * _WAYS + np.argmax(matches, axis=1), np.any(matches, axis=1)

    def claim(self, numbers: NDArray[np.int64], round_: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """A place for each page, which has none, if there is one to be had: that is the second array.

        A place whose page was of use in this round or the one before is not given away: where more pages are
        written than there are places, those that are in stay in and are found again, and the rest costs nothing.
        """
        sets, turns = self._sets(numbers)
        order = np.argsort(sets, kind="stable")
        firsts = np.searchsorted(sets[order], sets[order])
        later, begin = np.empty_like(sets), np.empty_like(sets)
        later[order] = (
            np.arange(len(sets)) - firsts
        )  # how many of these pages have the same set and come before
        begin[order] = turns[order][firsts]
        # The oldest place of the set first, of equal ones another for other pages: workers who look at the same
        # time rarely take the same.
        stamps = self._stamps.reshape(-1, _WAYS)[sets]
        ranks = stamps.astype(np.int64) * _WAYS + (np.arange(_WAYS) - begin[:, None]) % _WAYS
        rows = np.arange(len(sets))
        ways = np.argsort(ranks, axis=1)[rows, np.minimum(later, _WAYS - 1)]
        free = (later < _WAYS) & (stamps[rows, ways] < max(1, round_ - 1))
        places = sets * _WAYS + ways
        self._keys[places[free]] = numbers[free] + 1
        return places, free

    def stamp(self, places: NDArray[np.int64], round_: int) -> None:
        """The pages in these places were of use in this round; 0: they were of none."""
        self._stamps[places] = round_
