"""Where the codec ``auto`` comes to rest, and what it uses until it is there.

:class:`migrated.compression.policy.Auto` moves on its ladder by what waits for the connection, until workers and link
are busy at the same time: that is the fastest mix of two neighbours. It begins with the first of its rungs, and
batches that are under way before any could wait are all packed with that.
"""

from collections import defaultdict
from itertools import pairwise

from migrated.compression.policy import NONE, STEP, Cost, Rung, hull
from migrated.engine.costs import Hosts, Memory, Mix, page_seconds
from migrated.engine.options import AUTO_RUNGS
from migrated.pages import PAGE_SIZE

__all__ = ["mix_at_first", "mix_at_rest"]

_MIX_STEPS = 20
"""Mixes of two neighbours that are tried: 5 % apart, and the rate between them is nearly straight."""

_Ladder = tuple[Rung, ...]


def mix_at_rest(memory: Memory, hosts: Hosts) -> Mix:
    """The fastest mix of two neighbours on the hull of costs."""
    return _mix(*_rest(memory, hosts))


def mix_at_first(memory: Memory, hosts: Hosts, *, batches: int, slots: int) -> Mix:
    """What is used in a first round of so many batches, ``slots`` of which are under way at a time."""
    ladder, rest = _rest(memory, hosts)
    wire = memory.costs.get(AUTO_RUNGS[0], memory.costs[NONE]).wire
    place = float(min(range(len(ladder)), key=lambda at: abs(memory.costs[ladder[at]].wire - wire)))
    used: defaultdict[Rung, float] = defaultdict(float)
    sent = 0
    while sent < batches and (place != rest or not sent):
        count = min(batches - sent, 1 if sent else slots)
        for rung, share in _mix(ladder, place).items():
            used[rung] += share * count
        sent += count
        place = min(rest, place + STEP) if place < rest else max(rest, place - STEP)
    for rung, share in _mix(ladder, rest).items():
        used[rung] += share * (batches - sent)
    return {rung: count / batches for rung, count in used.items() if count}


def _rest(memory: Memory, hosts: Hosts) -> tuple[_Ladder, float]:
    """The ladder, and the place on it where pages are the fastest."""
    ladder = hull(_codec_costs(memory))
    places = [low + step / _MIX_STEPS for low, _ in enumerate(pairwise(ladder)) for step in range(_MIX_STEPS)]
    places.append(len(ladder) - 1.0)
    # Of equals the first: less work for the workers.
    return ladder, min(places, key=lambda place: page_seconds(memory.mixed(_mix(ladder, place)), hosts)[0])


def _mix(ladder: _Ladder, place: float) -> Mix:
    low = int(place)
    share = place - low
    return {ladder[low]: 1 - share, ladder[low + 1]: share} if share else {ladder[low]: 1.0}


def _codec_costs(memory: Memory) -> dict[Rung, Cost]:
    """What each rung that the policy has takes beyond none, a byte, as it knows them."""
    raw = memory.costs[NONE]
    return {
        rung: Cost(
            max(0.0, cost.packing - raw.packing) / PAGE_SIZE,
            cost.wire / raw.wire,
            max(0.0, cost.unpacking - raw.unpacking) / PAGE_SIZE,
        )
        for rung, cost in memory.costs.items()
        if rung in AUTO_RUNGS and raw.wire > 0
    }
