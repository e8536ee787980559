"""Pages that changed where no tracker sees it: holes that were made, and writes that went through no mapping."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from migrated.memory.region import Region
from migrated.pages import PageSet

__all__ = ["Unseen"]


class Unseen:
    """Finds them beside the tracker. ``terms`` are the tables of what was sent, one a region; 0 is a page of zeros.

    A page that was given back and then only read is there again, full of zeros, and was never written. So where a call
    changed a region all of it has to be compared with what was sent - unless nobody but its owner changes it, who may
    not count on such zeros (not ``holes_are_zeros``): then what has no content any more is enough. Where no call
    changed it there is nothing to do; a look takes 7 ms a GiB in use, in the guest's pause like in the rounds.

    ``candidates``: whether the last answer has pages that may well be as they were sent. Calls block, so they belong in
    a thread.
    """

    def __init__(
        self, regions: Sequence[Region], terms: Sequence[NDArray[np.uint64]], *, holes_are_zeros: bool
    ) -> None:
        self.candidates = False
        self._regions, self._terms = regions, terms
        self._holes_are_zeros = holes_are_zeros

    def populated(self) -> list[PageSet]:
        """The pages that may be non-zero, one set a region, before any is sent. Whatever is not seen from here on is
        in an answer of :meth:`collect`."""
        for region in self._regions:
            region.changed_by_call()
        return [region.populated() for region in self._regions]

    def collect(self) -> list[PageSet]:
        """One set a region: what changed since the last time; where that is not told, all that was sent with content
        and has none now."""
        self.candidates = False
        return [self._changed(*each) for each in zip(self._regions, self._terms, strict=True)]

    def _changed(self, region: Region, terms: NDArray[np.uint64]) -> PageSet:
        # Asked before the look: what is changed beside it is told of the next time.
        changed = region.changed_by_call()
        if changed is False:
            return PageSet(region.pages)
        pages = region.populated()
        if changed and self._holes_are_zeros:
            self.candidates = True
            np.logical_or(pages.mask, terms, out=pages.mask)
        else:
            np.logical_not(pages.mask, out=pages.mask)
            np.logical_and(pages.mask, terms, out=pages.mask)
        return pages
