"""Which pages of a first round have the content of one that was met before: a table that all workers share.

Without a lock, like :class:`migrated.compression.delta_cache.DeltaCache`: what one worker puts in a place another may
put something else in at the same time. That does no harm, because what the table says is only a guess: such a page
waits for the next round, and travels as a copy only if it then has the very bytes of the other one.
"""

import numpy as np
from numpy.typing import NDArray

from migrated.memory.shared import SharedMemory

__all__ = ["LEAST_SHARE", "UNSURE_PAGES", "Duplicates", "Worth", "table_size"]

_ENTRY_BYTES = 8
_MOST_ENTRIES = 1 << 20
"""8 MiB. Of a guest with more pages, content that came again soon is found, and of the rest what was not yet
overwritten."""

LEAST_SHARE = 0.04
"""Of the pages with data: fewer duplicates do not pay for the round."""

_ENOUGH = 1024
"""Pages looked at before anything is decided, and those after which what was seen before counts half."""

_SAMPLE_BITS = 3
"""One content in eight is looked at before."""

UNSURE_PAGES = _ENOUGH << _SAMPLE_BITS
"""With data: so many a worker sends before it knows whether leaving some out pays."""

_HALF = np.uint64(32)
_LOW = np.uint64((1 << 32) - 1)


def table_size(pages: int) -> int:
    """The bytes of a table for a guest of so many pages: a power of two."""
    return min(_MOST_ENTRIES, 1 << max(8, (2 * pages - 1).bit_length())) * _ENTRY_BYTES


class Duplicates:
    """Pages by their content's hash, in ``memory`` of a :func:`table_size`, new or shared with other workers.

    Content has one place, found by the first bits of its hash, and who comes last has it: the few contents that
    :class:`Worth` looks at until it knows have only the first part of the table. An entry is one word, so that a look
    costs one line of a cache: the lower half of the hash, and the number of the page plus 1; 0 is an empty place. Pages
    of all regions are numbered as one.
    """

    def __init__(self, memory: SharedMemory) -> None:
        self._words = np.frombuffer(memory.view, dtype=np.uint64)
        self._shift = np.uint64(65 - len(self._words).bit_length())

    def find(self, contents: NDArray[np.uint64], numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """For each of the pages ``numbers`` with these ``contents`` one that seems to have the same, or -1 where none
        is known, and that page is known from now on."""
        places = (contents >> self._shift).astype(np.int64)
        entries = contents << _HALF | (numbers.astype(np.uint64) + np.uint64(1)) & _LOW
        found = _pages(self._words[places], entries)
        new = np.flatnonzero(found < 0)
        self._words[places[new]] = entries[new]
        # Of equal ones among them the last has the place now.
        found[new] = _pages(self._words[places[new]], entries[new])
        return found


def _pages(words: NDArray[np.uint64], entries: NDArray[np.uint64]) -> NDArray[np.int64]:
    """The pages in ``words`` with the content of ``entries``, but for these themselves; else -1."""
    same = (words >> _HALF == entries >> _HALF) & (words & _LOW != 0) & (words != entries)
    return np.where(same, (words & _LOW).astype(np.int64) - 1, -1)


class Worth:
    """Whether leaving pages out pays: a round more takes some 50 ms, a look at a page 0.3 us, comparing and copying one
    10 us on both sides; packing, unpacking and sending it 15 to 30. A pure policy.

    As long as it does not, one content in eight is looked at, wherever it is: of these as many are there twice as of
    all.
    """

    _SAMPLE_SHIFT = np.uint64(64 - _SAMPLE_BITS)

    def __init__(self) -> None:
        self.pays = False
        self._pages = 0
        self._found = 0

    def looks(self, contents: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Which of these are to be looked at."""
        return np.ones(len(contents), np.bool_) if self.pays else contents >> self._SAMPLE_SHIFT == 0

    def saw(self, pages: int, found: int) -> None:
        """Of so many pages so many seemed to be there twice."""
        self._pages += pages
        self._found += found
        if self._pages >= _ENOUGH:
            self.pays = self._found >= LEAST_SHARE * self._pages
        if self._pages >= 2 * _ENOUGH:
            self._pages, self._found = self._pages // 2, self._found // 2
