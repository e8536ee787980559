"""What pages cost, and how fast two hosts are with them.

A page costs CPU time of a worker here, bytes on the wire and CPU time of a worker there. Where many are on their way
at a time they are as fast as the slowest of link, this host and the other one:

    seconds a page = max(wire / link, packing / workers, unpacking / workers there, all that one host's cores do)
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from migrated.compression.policy import Rung

__all__ = ["Hosts", "Limit", "Memory", "Mix", "PageCost", "page_seconds"]

Mix = Mapping[Rung, float]
"""Rungs with the share of pages that each is used for; the shares add up to 1."""

_SOCKET_SECONDS = 0.5e-9
"""CPU time for a byte on the wire, at either end: `migrated bench stages` finds 0.3 to 0.5 s for a GiB."""


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


@dataclass(frozen=True, slots=True)
class Memory:
    """Some pages of a guest: the share of them that has data, and what one costs with each rung, NONE among them."""

    data_share: float
    costs: Mapping[Rung, PageCost]

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
    here, there = cost.packing + on_socket, cost.unpacking + on_socket
    bounds = [
        (cost.wire / hosts.link, Limit.LINK),
        (cost.packing / (hosts.workers * hosts.speed), Limit.SOURCE),
        (here / (hosts.cores * hosts.speed), Limit.SOURCE),
        (cost.unpacking / (hosts.far_workers * hosts.far_speed), Limit.DESTINATION),
    ]
    if hosts.shared:
        bounds.append(((here + there) / (hosts.cores * hosts.speed), Limit.SOURCE))
    elif hosts.far_cores:
        bounds.append((there / (hosts.far_cores * hosts.far_speed), Limit.DESTINATION))
    return max(bounds, key=lambda bound: bound[0])
