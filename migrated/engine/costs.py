"""What pages cost, and how fast two hosts are with them.

A page costs CPU time of a worker here, bytes on the wire and CPU time of a worker there. Where many are on their way
at a time they are as fast as the slowest of link, this host and the other one:

    seconds a page = max(wire / link, packing / workers, unpacking / workers there, all that one host's cores do)
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from migrated.compression.duplicates import LEAST_SHARE, UNSURE_PAGES
from migrated.compression.policy import NONE, Rung
from migrated.engine.twins import MOST_TWINS

__all__ = ["COPIED", "Hosts", "Limit", "Memory", "Mix", "PageCost", "page_seconds"]

Mix = Mapping[Rung, float]
"""Rungs with the share of pages that each is used for; the shares add up to 1."""

_SOCKET_SECONDS = 0.2e-9
"""CPU time for a byte on the wire, at either end."""

_SENDER_SECONDS, _RECEIVER_SECONDS = 1e-6, 0.5e-6
"""CPU time of the two main processes for a page, whatever it takes on the wire. For 1 GiB without a codec, with LZ4 and
with zstd the source's took 0.42, 0.38 and 0.36 s on fast cores, the destination's 0.24, 0.21 and 0.24; cores of the
same kind that others used, too, took up to half as much again. What these numbers give lies between.
"""

_CROWDED = 1.15
"""How much longer all that takes where both sides share the cores, and each other's caches. Sixteen moves without a
link limit took 13 % longer than was foretold without it (1 to 28 %)."""


class Limit(StrEnum):
    """What a round is as fast as."""

    LINK = "link"
    SOURCE = "source"
    DESTINATION = "destination"


@dataclass(frozen=True, slots=True)
class PageCost:
    """One page of some memory, on average: CPU seconds of a worker here, bytes on the wire, CPU seconds there."""

    packing: float
    wire: float
    unpacking: float


COPIED = PageCost(10e-6, 16.0, 10e-6)
"""A page that travels as a copy, compared here and copied there: one that has no neighbours of its kind."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Some pages of a guest: the share of them that has data, and what one costs with each rung, NONE among them.
    ``twins`` is the share of those with data that have the content of one before, and could travel as copies."""

    data_share: float
    costs: Mapping[Rung, PageCost]
    twins: float = 0.0

    def with_copies(self, pages: int, workers: int, *, raw: bool) -> "Memory":
        """What so many pages cost, on average, if twins wait for a round of copies once so many workers know that this
        pays; with ``raw`` also where the others go as they are. Those ``twins`` remain that do so."""
        data = pages * self.data_share
        if self.twins < LEAST_SHARE or data <= workers * UNSURE_PAGES:
            return replace(self, twins=0.0)
        twins = min(self.twins * (1 - workers * UNSURE_PAGES / data), MOST_TWINS / data)
        looking = self.costs[NONE].packing
        costs = {
            rung: self._with_copies(cost, twins, looking) if raw or rung != NONE else cost
            for rung, cost in self.costs.items()
        }
        return Memory(self.data_share, costs, twins)

    @staticmethod
    def _with_copies(cost: PageCost, twins: float, looking: float) -> PageCost:
        """Of a page that waits, only looking at it costs as much as before."""
        rest = 1 - twins
        packing = looking + max(0.0, cost.packing - looking) * rest
        return PageCost(packing, cost.wire * rest, cost.unpacking * rest)

    def mixed(self, mix: Mix) -> PageCost:
        """What a page costs on average if ``mix`` is used."""
        parts = [(self.costs[rung], share) for rung, share in mix.items()]
        return PageCost(
            sum(cost.packing * share for cost, share in parts),
            sum(cost.wire * share for cost, share in parts),
            sum(cost.unpacking * share for cost, share in parts),
        )


@dataclass(frozen=True, slots=True)
class Hosts:
    """Both hosts and what lies between them.

    ``link`` bytes per second, ``round_trip`` seconds.
    ``speed`` is the share of a core that a busy process gets here (0 to 1): others may use them, too. ``shared``
    says that both are one host; ``far_cores`` 0 that nobody knows.
    """

    link: float
    round_trip: float
    workers: int
    cores: int
    speed: float
    far_workers: int
    far_cores: int
    shared: bool

    @property
    def far_speed(self) -> float:
        """As ``speed``, there; what else runs on another host nobody tells."""
        return self.speed if self.shared else 1.0


def page_seconds(cost: PageCost, hosts: Hosts) -> tuple[float, Limit]:
    """Seconds a page in a pipeline that is full, and what it is that takes them."""
    on_socket = cost.wire * _SOCKET_SECONDS
    here = cost.packing + on_socket + _SENDER_SECONDS
    there = cost.unpacking + on_socket + _RECEIVER_SECONDS
    bounds = [
        (cost.wire / hosts.link, Limit.LINK),
        (cost.packing / (hosts.workers * hosts.speed), Limit.SOURCE),
        (here / (hosts.cores * hosts.speed), Limit.SOURCE),
        (cost.unpacking / (hosts.far_workers * hosts.far_speed), Limit.DESTINATION),
    ]
    if hosts.shared:
        bounds.append((_CROWDED * (here + there) / (hosts.cores * hosts.speed), Limit.SOURCE))
    elif hosts.far_cores:
        bounds.append((there / (hosts.far_cores * hosts.far_speed), Limit.DESTINATION))
    return max(bounds, key=lambda bound: bound[0])
