"""What is measured: cells of a link and a guest, and the named sets of them."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from migrated.bench.hosts import UNLIMITED
from migrated.bench.vm.guests import Guest, parse_guest
from migrated.bench.vm.modes import Mode
from migrated.units import format_rate, parse_rate

__all__ = ["SETS", "Cell", "LinkRate", "Step", "cells_of", "steps"]


@dataclass(frozen=True)
class LinkRate:
    """Bytes per second; infinite for a link that is as fast as the host."""

    rate: float

    @classmethod
    def parse(cls, text: str) -> "LinkRate":
        """``1gbit``, ``200mbit``, ``unlimited``; UsageError."""
        return cls(parse_rate(text))

    def __str__(self) -> str:
        return format_rate(self.rate)

    @property
    def tc(self) -> str:
        """As :func:`migrated.bench.hosts.link` takes it."""
        return UNLIMITED if math.isinf(self.rate) else f"{self.rate * 8:.0f}bit"


@dataclass(frozen=True)
class Cell:
    """A link and a guest: what every mode is measured with."""

    link: LinkRate
    guest: Guest

    @property
    def scored(self) -> bool:
        """Whether the link carries what the guest writes: if not, who converges depends on the ratio alone."""
        return self.guest.rate <= self.link.rate


@dataclass(frozen=True)
class Step:
    """One measurement: the ``run``th, from 1, of ``mode`` in ``cell``."""

    cell: Cell
    mode: Mode
    run: int


SETS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "quick": (("1gbit",), ("idle",)),
    "standard": (("1gbit",), ("idle", "mixed:40MB/s")),
    "score": (("1gbit", "200mbit"), ("idle", "redis", "mixed:40MB/s")),
    "full": (
        ("100mbit", "1gbit", "unlimited"),
        (
            "idle",
            "redis",
            *(f"{kind}:{rate}MB/s" for kind in ("text", "mixed", "random") for rate in (0, 20, 80)),
        ),
    ),
}
"""Links and guests by the name of the set."""


def cells_of(links: Sequence[str], guests: Sequence[str]) -> list[Cell]:
    """Every link with every guest, each once, those of a guest together: it boots once. UsageError."""
    cells = [Cell(LinkRate.parse(link), parse_guest(guest)) for guest in guests for link in links]
    return list(dict.fromkeys(cells))


def steps(cells: Sequence[Cell], modes: Sequence[Mode], runs: int) -> Iterator[Step]:
    """All measurements in their order: within a cell each mode once, then each once more.

    So noise of the host meets all of them alike; and each run begins with another mode, so that none is always
    measured behind the same one.
    """
    for cell in cells:
        for run in range(1, runs + 1):
            first = (run - 1) % len(modes)
            for mode in (*modes[first:], *modes[:first]):
                yield Step(cell, mode, run)
