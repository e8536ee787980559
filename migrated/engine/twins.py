"""Pages of the first round that seem to be what others are, and what the second round does with them."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from migrated.memory.trackers.base import Tracker
from migrated.pages import PageSet

__all__ = ["MOST_TWINS", "Pairs", "Twins", "may_copy"]

MOST_TWINS = 1 << 20
"""72 MB of this process, while they are sorted; 4 GiB of the guest."""

Pairs = NDArray[np.int64]
"""Pages and what each seems to be a copy of, shape (n, 2)."""


def may_copy(tracker: Tracker, max_rounds: int) -> bool:
    """Whether pages may wait for copies. Where every page is a candidate in every round, none is known to stay as it
    is; and pages are read that nobody has written to."""
    return tracker.exact and tracker.sees_discards and max_rounds > 1


class Twins:
    """Pages that were not sent, by region. They are sent one round later, as copies or, where either of the two was
    written to, as they are: in a round no page is touched that another one is made of."""

    def __init__(self) -> None:
        self._found: dict[int, list[Pairs]] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, region: int, pairs: bytes) -> None:
        """Take in what a worker found: the bytes of int64 pairs."""
        if pairs:
            found = np.frombuffer(pairs, dtype=np.int64).reshape(-1, 2)
            self._found.setdefault(region, []).append(found)
            self._count += len(found)

    def take(
        self, dirty: Sequence[PageSet], terms: Sequence[NDArray[np.uint64]], limit: int
    ) -> list[tuple[int, Pairs]]:
        """Those that may be copies, at most ``limit`` at a time, by their first page; the rest becomes ``dirty``. There
        are none afterwards, and their ``terms`` are those of pages that were never sent. Takes 0.3 s for a million."""
        found, self._found, self._count = self._found, {}, 0
        taken: list[tuple[int, Pairs]] = []
        for region, parts in found.items():
            pairs = np.concatenate(parts)
            pairs = pairs[np.argsort(pairs[:, 0])]
            terms[region][pairs[:, 0]] = 0
            mask = dirty[region].mask
            # Two workers that wrote to one place of the table may each have been shown the other's page.
            unsent = mask.copy()
            unsent[pairs[:, 0]] = True
            written = mask[pairs[:, 0]] | unsent[pairs[:, 1]]
            mask[pairs[written, 0]] = True
            rest = pairs[~written]
            taken += [(region, rest[first : first + limit]) for first in range(0, len(rest), limit)]
        return taken
