"""How many different pages a guest writes in a given time.

That is not rate x time: what is written again and again counts once, so the curve bends. It is measured for some
seconds by windows of doubling length, each the union of two shorter ones, and carried on beyond the longest.
"""

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

from migrated.pages import PageSet

__all__ = ["Windows", "Writing"]

_NOISE = 0.95
"""A slope counts as falling only if it fell by more than 5 %: two equal windows differ by as much."""


@dataclass(frozen=True, slots=True)
class Writing:
    """``points`` are seconds and the different pages written in so long, both rising; of ``limit`` pages in all."""

    points: tuple[tuple[float, float], ...]
    limit: float

    def pages(self, seconds: float) -> float:
        """Different pages written in ``seconds``; never falls with them, and never exceeds the limit."""
        if not self.points or seconds <= 0:
            return 0.0
        times = [when for when, _ in self.points]
        if seconds > times[-1]:
            return min(self.limit, self._beyond(seconds - times[-1]))
        at = bisect_left(times, seconds)
        right_time, right = self.points[at]
        left_time, left = self.points[at - 1] if at else (0.0, 0.0)
        return min(self.limit, left + (right - left) * (seconds - left_time) / (right_time - left_time))

    def slowed(self, share: float) -> "Writing":
        """The same guest, held for ``share`` (0 to less than 1) of the time."""
        return Writing(tuple((when / (1 - share), pages) for when, pages in self.points), self.limit)

    @property
    def per_second(self) -> float:
        """Pages per second over the shortest stretch that was measured."""
        return self.points[0][1] / self.points[0][0] if self.points else 0.0

    def _beyond(self, seconds: float) -> float:
        """So long after the last point: on with the last slope, which goes on falling as it fell.

        It falls at least as it does for writes that are spread evenly over all pages: nothing is spread wider.
        """
        points = ((0.0, 0.0), *self.points)
        end, reached = points[-1]
        slope, middle = _slope(points[-2], points[-1])
        falling = 0.0
        if len(points) > 2 and slope > 0:
            before, earlier = _slope(points[-3], points[-2])
            falling = max(0.0, math.log(max(_NOISE * before / slope, 1e-9)) / (middle - earlier))
            slope *= math.exp(-falling * (end - middle))
        left = self.limit - reached
        if slope <= 0 or left <= 0:
            return reached
        falling = max(falling, slope / left)
        return reached + slope * -math.expm1(-falling * seconds) / falling


def _slope(left: tuple[float, float], right: tuple[float, float]) -> tuple[float, float]:
    """Pages per second between two points, and the time in their middle."""
    return (right[1] - left[1]) / (right[0] - left[0]), (left[0] + right[0]) / 2


@dataclass(slots=True)
class _Level:
    """Windows of one length: their number, their sums, and one that waits to be joined with the next."""

    count: int = 0
    seconds: float = 0.0
    pages: int = 0
    waiting: tuple[list[PageSet], float] | None = None


class Windows:
    """Takes what each scan found; keeps one set of pages for every doubling of the time, not one a scan."""

    def __init__(self) -> None:
        self._levels: list[_Level] = []
        self._all: list[PageSet] | None = None
        self._seconds = 0.0

    @property
    def seen(self) -> list[PageSet]:
        """All pages written so far, one set a region; none before the first scan."""
        return self._all or []

    def add(self, written: Sequence[PageSet], seconds: float) -> None:
        """A scan, ``seconds`` after the one before, found these pages; the sets are not changed."""
        self._seconds += seconds
        if self._all is None:
            self._all = [pages.copy() for pages in written]
        else:
            for every, pages in zip(self._all, written, strict=True):
                every |= pages
        window = [pages.copy() for pages in written]
        place = 0
        while True:
            if place == len(self._levels):
                self._levels.append(_Level())
            level = self._levels[place]
            level.count += 1
            level.seconds += seconds
            level.pages += sum(map(len, window))
            if level.waiting is None:
                level.waiting = (window, seconds)
                return
            (other, more), level.waiting = level.waiting, None
            for pages, others in zip(window, other, strict=True):
                pages |= others
            seconds += more
            place += 1

    def writing(self, limit: float, *, scale: float = 1.0) -> Writing:
        """The curve so far; ``scale`` guest pages stand behind each one that was watched."""
        points = [(level.seconds / level.count, level.pages / level.count * scale) for level in self._levels]
        if self._all is not None and self._seconds > points[-1][0] * 1.2:
            points.append((self._seconds, sum(map(len, self._all)) * scale))
        rising: list[tuple[float, float]] = []
        for when, pages in points:
            rising.append((when, max(pages, rising[-1][1] if rising else 0.0)))
        return Writing(tuple(rising), limit)
