"""Pages of a region: ranges and sets of them, and how a round is cut into batches.

A page is a number, counted from the region's start; its size is the migration's page size. Sets are numpy
boolean maps of one byte a page (0.25 MiB per GiB of 4 KiB pages), because every operation on them - union,
counting, finding runs - is then one pass at memory speed. Runs are int64 arrays of shape (n, 2): first page
and number of pages, sorted and apart.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import repeat
from typing import Self

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "PAGE_SIZE",
    "PageRange",
    "PageSet",
    "Runs",
    "cut_runs",
    "pages_of_runs",
    "runs_of_mask",
    "runs_of_pages",
]

PAGE_SIZE = 4096

Runs = NDArray[np.int64]

_WINDOW = 1 << 17
"""Pages (512 MiB) whose runs are looked for at once: at most 11 ms on the event loop, if every second is dirty."""


@dataclass(frozen=True, slots=True, order=True)
class PageRange:
    """``count`` pages from page ``start``."""

    start: int
    count: int

    def __post_init__(self) -> None:
        if self.start < 0 or self.count < 1:
            raise ValueError(f"a page range starts at 0 or later and has a page: {self.start}+{self.count}")

    @property
    def stop(self) -> int:
        """The first page behind the range."""
        return self.start + self.count


def runs_of_mask(mask: NDArray[np.bool_]) -> Runs:
    """The runs of true values in ``mask``, shape (n, 2)."""
    padded = np.zeros(len(mask) + 2, dtype=np.int8)
    padded[1:-1] = mask
    edges = np.flatnonzero(np.diff(padded))
    starts, stops = edges[0::2], edges[1::2]
    return np.stack((starts, stops - starts), axis=1).astype(np.int64, copy=False)


def runs_of_pages(pages: NDArray[np.int64]) -> Runs:
    """The runs of strictly increasing page numbers, shape (n, 2)."""
    if len(pages) == 0:
        return np.empty((0, 2), dtype=np.int64)
    if pages[-1] - pages[0] == len(pages) - 1:  # most batches of a first round
        return np.array([[pages[0], len(pages)]], dtype=np.int64)
    breaks = np.flatnonzero(np.diff(pages) != 1) + 1
    firsts = np.concatenate(([0], breaks))
    counts = np.diff(np.concatenate((firsts, [len(pages)])))
    return np.stack((pages[firsts], counts), axis=1).astype(np.int64, copy=False)


def pages_of_runs(runs: Runs) -> NDArray[np.int64]:
    """The page numbers of ``runs``, in their order."""
    if len(runs) == 0:
        return np.empty(0, dtype=np.int64)
    starts, counts = runs[:, 0], runs[:, 1]
    if len(runs) == 1:
        return np.arange(starts[0], starts[0] + counts[0], dtype=np.int64)
    offsets = np.concatenate(([0], np.cumsum(counts)[:-1]))
    return np.arange(int(counts.sum()), dtype=np.int64) + np.repeat(starts - offsets, counts)


def cut_runs(runs: Runs, sizes: int | Iterator[int]) -> Iterator[Runs]:
    """Cut ``runs`` into pieces of so many pages (the last may have fewer); long runs are split.

    ``sizes`` may be an iterator, of which one number is taken for each piece; it must not end before the pages do.
    """
    if isinstance(sizes, int):
        if sizes < 1:
            raise ValueError("a batch has room for one page at least")
        sizes = repeat(sizes)
    if len(runs) == 0:
        return
    ends = np.cumsum(runs[:, 1])
    total, last = int(ends[-1]), 0
    while last < total:
        first, last = last, min(last + next(sizes), total)
        low = int(np.searchsorted(ends, first, side="right"))
        high = int(np.searchsorted(ends, last, side="left"))
        piece = runs[low : high + 1].copy()
        skipped = first - int(ends[low] - runs[low, 1])
        piece[0, 0] += skipped
        piece[0, 1] -= skipped
        piece[-1, 1] -= int(ends[high]) - last
        yield piece


class PageSet:
    """A set of pages of one region of ``size`` pages. Operators with ``=`` change it in place.

    ``mask`` is the map itself, kept, not copied. Sets of regions of different sizes do not mix: ValueError.
    """

    __slots__ = ("mask",)

    def __init__(self, size: int, mask: NDArray[np.bool_] | None = None) -> None:
        if mask is not None and mask.shape != (size,):
            raise ValueError(f"the map has the shape {mask.shape}, the region {size} pages")
        if mask is not None and mask.dtype != np.bool_:  # of other types, ~ would not be "not in the set"
            raise ValueError(f"a map of pages is of booleans, not {mask.dtype}")
        self.mask: NDArray[np.bool_] = np.zeros(size, dtype=np.bool_) if mask is None else mask

    @classmethod
    def full(cls, size: int) -> Self:
        """Every page of the region."""
        return cls(size, np.ones(size, dtype=np.bool_))

    @classmethod
    def of(cls, size: int, ranges: Iterable[PageRange]) -> Self:
        """The pages of ``ranges``."""
        pages = cls(size)
        for each in ranges:
            pages.add(each.start, each.stop)
        return pages

    @property
    def size(self) -> int:
        """How many pages the region has."""
        return len(self.mask)

    def __len__(self) -> int:
        return int(np.count_nonzero(self.mask))

    def __bool__(self) -> bool:
        return bool(self.mask.any())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PageSet) and bool(np.array_equal(self.mask, other.mask))

    __hash__ = None  # type: ignore[assignment]

    def __contains__(self, page: int) -> bool:
        return 0 <= page < self.size and bool(self.mask[page])

    def __repr__(self) -> str:
        return f"<PageSet {len(self)} of {self.size} pages>"

    def __or__(self, other: "PageSet") -> "PageSet":
        return PageSet(self.size, self.mask | self._mask_of(other))

    def __ior__(self, other: "PageSet") -> Self:
        self.mask |= self._mask_of(other)
        return self

    def __and__(self, other: "PageSet") -> "PageSet":
        return PageSet(self.size, self.mask & self._mask_of(other))

    def __iand__(self, other: "PageSet") -> Self:
        self.mask &= self._mask_of(other)
        return self

    def __sub__(self, other: "PageSet") -> "PageSet":
        return PageSet(self.size, self.mask & ~self._mask_of(other))

    def __isub__(self, other: "PageSet") -> Self:
        self.mask &= ~self._mask_of(other)
        return self

    def _mask_of(self, other: "PageSet") -> NDArray[np.bool_]:
        # numpy would spread the one page of a one-page region over every page of this one.
        if other.size != self.size:
            raise ValueError(f"a set of {other.size} pages does not belong to a region of {self.size}")
        return other.mask

    def add(self, start: int, stop: int) -> None:
        """Add the pages from ``start`` up to, not including, ``stop``."""
        if not 0 <= start <= stop <= self.size:
            raise ValueError(f"pages {start} to {stop} are not within a region of {self.size}")
        self.mask[start:stop] = True

    def add_runs(self, runs: Runs) -> None:
        """Add the pages of ``runs``, sorted, some at a time: their numbers take eight times the room of the map."""
        if len(runs) and not 0 <= runs[0, 0] <= runs[-1].sum() <= self.size:
            raise ValueError(f"pages {runs[0, 0]} to {runs[-1].sum()} are not within a region of {self.size}")
        for piece in cut_runs(runs, _WINDOW):
            self.mask[pages_of_runs(piece)] = True

    def clear(self) -> None:
        """Take every page out."""
        self.mask[:] = False

    def copy(self) -> "PageSet":
        """A set of its own with the same pages."""
        return PageSet(self.size, self.mask.copy())

    def runs(self) -> Runs:
        """The pages as runs, shape (n, 2)."""
        return runs_of_mask(self.mask)

    def batches(self, sizes: int | Iterator[int]) -> Iterator[Runs]:
        """The pages in pieces of at most so many, as :func:`cut_runs` takes it, found window by window: no step takes
        long on a large region."""
        for first in range(0, self.size, _WINDOW):
            window = self.mask[first : first + _WINDOW]
            if window.any():
                found = runs_of_mask(window)
                found[:, 0] += first
                yield from cut_runs(found, sizes)

    def ranges(self) -> list[PageRange]:
        """The pages as ranges, for people and tests; code on the way of a page takes :meth:`runs`."""
        return [PageRange(int(start), int(count)) for start, count in self.runs()]
