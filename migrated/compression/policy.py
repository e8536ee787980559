"""Which codec and level the next batch gets: a pure policy, fed with what was measured.

The choices stand on a ladder, from none to the densest. Of all that are known, only those are rungs that lie on
the lower convex hull of (CPU seconds, wire bytes) per byte of memory: a mix of two neighbours beats any other.

          wire
        1 o none
          |\\
          |  \\     x snappy         dearer on the wire than a mix of its neighbours: no rung
          |    o lz4
          |       ` .    x zlib
          |            o zstd 1
          |                ` - - o zstd 6
          +----------------------------- CPU of both sides

The best place on the ladder is where workers and link are busy at the same time, and that shows in one number:
the packed batches that wait for the connection. Many wait: the link is the limit, go up. None waits: the workers
are, go down - without a link worth speaking of, down to none. A place between two rungs is a mix of both. When
it is the destination's workers that do not keep up, batches wait as well, but compressing more would only give
those more to do: go down. Nothing is assumed of link, cores or guest, so all of them may change on the way.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from migrated.compression.layout import RAW

__all__ = ["NONE", "STEP", "Auto", "Choice", "Cost", "Load", "Rung", "Why", "hull"]


@dataclass(frozen=True, slots=True)
class Rung:
    """A codec and a level of the person's scale; :data:`NONE` is no compression."""

    codec: str
    level: int


NONE = Rung(RAW, 0)


@dataclass(frozen=True, slots=True)
class Cost:
    """What a rung takes for one byte of memory: CPU seconds of a worker here, bytes on the wire, and CPU seconds
    of a worker there, as far as they can be measured here."""

    seconds: float
    wire: float
    unpacking: float = 0.0

    @property
    def both(self) -> float:
        """CPU seconds on both sides: the destination usually gives fewer workers to it."""
        return self.seconds + self.unpacking


@dataclass(frozen=True, slots=True)
class Load:
    """The pipeline as it is now. ``waiting`` packed batches wait for the connection; ``primed`` says that the
    round's first batch has been sent, so that none waiting means something; ``destination_busy`` is the share
    of time (0 to 1) for which batches had arrived there and waited for a worker."""

    waiting: int
    primed: bool
    destination_busy: float


class Why(StrEnum):
    """What the policy saw."""

    FIXED = "fixed"
    START = "start"
    LINK = "link"
    WORKERS = "workers"
    DESTINATION = "destination"
    BALANCE = "balance"


@dataclass(frozen=True, slots=True)
class Choice:
    """What the next batch gets, and why."""

    rung: Rung
    why: Why


STEP = 0.25
"""Rungs per batch: with 4 MiB batches a new link rate is met after some ten batches, 40 MiB."""

_WORTH = 0.03
"""Wire bytes that a rung must save over the one below it, as a share: less than that is noise."""

_BUSY = 0.5
"""Share of time with batches waiting at the destination from which on its workers count as the limit."""

_FRESH = 0.25
"""Weight of a batch in the running mean of its rung's cost."""


def hull(costs: Mapping[Rung, Cost]) -> tuple[Rung, ...]:
    """The rungs worth using, from NONE upwards: the lower convex hull of their costs."""
    kept: list[Rung] = [NONE]
    points = {NONE: Cost(0.0, 1.0)} | dict(costs)
    for rung in sorted(costs, key=lambda each: costs[each].both):
        here = points[rung]
        if rung == NONE or here.wire > points[kept[-1]].wire - _WORTH:
            continue
        while len(kept) > 1 and _above(points[kept[-2]], points[kept[-1]], here):
            kept.pop()
        kept.append(rung)
    return tuple(kept)


def _above(left: Cost, middle: Cost, right: Cost) -> bool:
    """Whether ``middle`` lies on or above the line from ``left`` to ``right``."""
    return (middle.wire - left.wire) * (right.both - left.both) >= (right.wire - left.wire) * (
        middle.both - left.both
    )


class Auto:
    """Chooses for one migration. ``rungs`` are what both sides can do, the first the one to begin with.

    ``workers`` is how many pack at a time: as many batches may be on their way to the queue at once.
    """

    def __init__(self, rungs: Sequence[Rung], *, workers: int) -> None:
        self._known: dict[Rung, Cost] = {}
        self._first = rungs[0] if rungs else NONE
        self._enough = max(1, workers // 2)
        self._ladder: tuple[Rung, ...] = (self._first,)
        self._place = 0.0
        self._owed = 0.0

    @property
    def ladder(self) -> tuple[Rung, ...]:
        """The rungs in use now; one until something was measured."""
        return self._ladder

    def sampled(self, costs: Mapping[Rung, Cost]) -> None:
        """Take in what a sample of the guest's pages cost; begins, and stays, at the rung that is in use."""
        self._known |= costs
        self._rebuild()

    def packed(self, rung: Rung, raw_bytes: int, wire_bytes: int, seconds: float) -> None:
        """Take in what a batch cost: bytes of its data pages and of its payload, CPU seconds of its codec."""
        if raw_bytes == 0 or rung == NONE or rung not in self._known:
            return
        old = self._known[rung]
        self._known[rung] = Cost(
            old.seconds + _FRESH * (seconds / raw_bytes - old.seconds),
            old.wire + _FRESH * (wire_bytes / raw_bytes - old.wire),
            old.unpacking,
        )
        self._rebuild()

    def _rebuild(self) -> None:
        ladder = hull(self._known)
        if ladder == self._ladder:
            return
        low = int(self._place)
        here = self._ladder[min(low, len(self._ladder) - 1)]
        self._place = _nearest(ladder, here, self._known) + (self._place - low)
        self._ladder = ladder
        self._place = min(self._place, len(ladder) - 1.0)

    def choose(self, load: Load) -> Choice:
        """What the next batch gets."""
        if len(self._ladder) == 1 and not self._known:
            return Choice(self._first, Why.START)
        why = self._move(load)
        low = int(self._place)
        self._owed += self._place - low
        if self._owed >= 1.0:
            self._owed -= 1.0
            low += 1
        return Choice(self._ladder[min(low, len(self._ladder) - 1)], why)

    def _move(self, load: Load) -> Why:
        step, why = 0.0, Why.BALANCE
        if load.destination_busy >= _BUSY:
            step, why = -STEP, Why.DESTINATION
        elif load.waiting > self._enough:
            step, why = STEP, Why.LINK
        elif load.primed and load.waiting < self._enough:
            step, why = -STEP, Why.WORKERS
        self._place = max(0.0, min(self._place + step, len(self._ladder) - 1.0))
        return why


def _nearest(ladder: Sequence[Rung], rung: Rung, costs: Mapping[Rung, Cost]) -> int:
    """The place of ``rung``; if it is none any more, of the densest that costs no more CPU."""
    if rung in ladder:
        return ladder.index(rung)
    limit = costs[rung].both if rung in costs else 0.0
    return max(place for place, each in enumerate(ladder) if each == NONE or costs[each].both <= limit)
