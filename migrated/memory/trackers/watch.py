"""Noticing that tracked memory was mapped anew: the tracker would look at the wrong pages, or at none."""

from collections.abc import Callable, Sequence
from itertools import pairwise

from migrated.errors import GuestError
from migrated.memory.maps import Mapping, read_maps
from migrated.memory.trackers.base import TrackTarget

__all__ = ["MappingWatch"]

_Piece = tuple[int, int, int, int, int, bool]


class MappingWatch:
    """What lies behind the tracked intervals of ``targets`` now, and whether that is still so later.

    ``read`` gives the mappings of a pid between two addresses. Raises ``GuestError`` when an interval is not wholly
    mapped.
    """

    def __init__(
        self, targets: Sequence[TrackTarget], read: Callable[[int, int, int], list[Mapping]] = read_maps
    ) -> None:
        self._targets = tuple(targets)
        self._read = read
        self._pieces = self._look()

    def check(self) -> None:
        """Raise ``GuestError`` if an interval is backed by something else than at first."""
        for target, before, now in zip(self._targets, self._pieces, self._look(), strict=True):
            if before != now:
                raise GuestError(
                    f"process {target.pid} mapped other memory at {target.start:#x}-{target.stop:#x}",
                    "what it wrote there can't be known; start the migration again",
                )

    def _look(self) -> list[list[_Piece]]:
        mappings: dict[int, list[Mapping]] = {}
        for pid in {target.pid for target in self._targets}:
            mine = [target for target in self._targets if target.pid == pid]
            # Not all that it has: the guest may stand still meanwhile.
            start, stop = min(each.start for each in mine), max(each.stop for each in mine)
            mappings[pid] = self._read(pid, start, stop)
        return [_pieces(target, mappings[target.pid]) for target in self._targets]


def _pieces(target: TrackTarget, mappings: Sequence[Mapping]) -> list[_Piece]:
    """The interval as (start, stop, device, inode, offset - address, shared), neighbours joined.

    The kernel splits and merges mappings of the same memory as it likes (mprotect, madvise): no change.
    """
    pieces: list[_Piece] = []
    for each in mappings:
        low, high = max(each.start, target.start), min(each.stop, target.stop)
        if low >= high:
            continue
        backing = (each.device, each.inode, 0 if each.anonymous else each.offset - each.start, each.shared)
        if pieces and pieces[-1][1] == low and pieces[-1][2:] == backing:
            low = pieces.pop()[0]
        pieces.append((low, high, *backing))
    whole = pieces and pieces[0][0] == target.start and pieces[-1][1] == target.stop
    if not whole or any(left[1] != right[0] for left, right in pairwise(pieces)):
        raise GuestError(
            f"process {target.pid} has no memory at a part of {target.start:#x}-{target.stop:#x} (any more)",
            "its mappings changed; start the migration again",
        )
    return pieces
