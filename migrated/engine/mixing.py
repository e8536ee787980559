"""What the codec ``auto`` uses: what it begins with, and then the fastest mix.

:class:`migrated.compression.policy.Auto` compresses nothing until who sends has waited for the link. It then takes the
first of its rungs until enough has been sent to tell how fast the link is; batches that are under way by then are all
packed with that. From then on it takes the fastest mix of two neighbours on its ladder, or none of them unless that
surely pays.
"""

from collections.abc import Iterator
from itertools import islice, pairwise

from migrated.compression.policy import NONE, SHARED_LINK, START_BYTES, SURELY, Cost, Rung, hull
from migrated.engine.costs import Hosts, Memory, Mix, page_seconds
from migrated.engine.options import AUTO_RUNGS
from migrated.pages import PAGE_SIZE

__all__ = ["mix_at_first", "mix_at_rest"]

_MIX_STEPS = 20
"""Mixes of two neighbours that are tried: 5 % apart, and the rate between them is nearly straight."""

_Ladder = tuple[Rung, ...]


def mix_at_rest(memory: Memory, hosts: Hosts) -> Mix:
    """The fastest mix of two neighbours on the hull of costs, or one that is nearly as fast and sends less."""
    return _mix(*_rest(memory, hosts))


def mix_at_first(memory: Memory, hosts: Hosts, *, pages: int, sizes: Iterator[int], slots: int) -> Mix:
    """What is used in a first round of so many pages, in batches of ``sizes``, ``slots`` of which are under way at a
    time."""
    later = mix_at_rest(memory, hosts)
    first = AUTO_RUNGS[0] if AUTO_RUNGS[0] in memory.costs else NONE
    if set(later) == {NONE}:
        return later  # who sends never waits
    wire, unknown = memory.costs[first].wire, 0
    while unknown * wire < START_BYTES and unknown < pages:
        unknown += next(sizes)
    unknown += sum(islice(sizes, slots))  # packed by the time that those have been sent
    begins = min(1.0, unknown / pages) if pages else 1.0
    used = {rung: share * (1 - begins) for rung, share in later.items()}
    used[first] = used.get(first, 0.0) + begins
    return {rung: share for rung, share in used.items() if share}


def _rest(memory: Memory, hosts: Hosts) -> tuple[_Ladder, float]:
    """The ladder, and the place on it where pages are the fastest."""
    ladder = hull(_codec_costs(memory), hosts.workers / hosts.far_workers)
    places = [low + step / _MIX_STEPS for low, _ in enumerate(pairwise(ladder)) for step in range(_MIX_STEPS)]
    places.append(len(ladder) - 1.0)

    def seconds(place: float) -> float:
        cost = memory.mixed(_mix(ladder, place))
        return page_seconds(cost, hosts)[0] + SHARED_LINK * cost.wire / hosts.link

    best = min(places, key=seconds)  # of equals the first: less work for the workers
    return ladder, best if seconds(best) * SURELY < seconds(0.0) else 0.0


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
