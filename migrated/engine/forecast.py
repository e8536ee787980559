"""What a migration would take: its rounds played through with what was measured, by the engine's own decisions.

A page costs CPU time of a worker here, bytes on the wire and CPU time of a worker there; on average over the whole
memory in the first round, and over what the guest writes in the later ones. A round is as fast as the slowest of
link, this host and the other one lets it be:

    seconds a page = max(wire / link, packing / workers, unpacking / workers there, all that one host's cores do)
    a round        = pages x seconds a page + the first batch on its way through the empty pipeline + a round trip

What the guest writes meanwhile is the next round (:mod:`migrated.engine.writing`); when to switch over, and when
rounds stopped helping, :mod:`migrated.engine.convergence` decides, as it does during a migration.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise

from migrated.compression.policy import NONE, Cost, Rung, hull
from migrated.engine.convergence import (
    GUESSED_FIXED_SECONDS,
    HASHED_BYTES_PER_SECOND,
    MOST_THROTTLE,
    Decision,
    Measured,
    Trend,
    WireRate,
    decide,
    expected_downtime,
    next_throttle,
)
from migrated.engine.options import OnStall
from migrated.engine.rounds import batch_limit
from migrated.engine.writing import Writing
from migrated.pages import PAGE_SIZE

__all__ = ["Forecast", "Hosts", "Job", "Limit", "Memory", "PageCost", "auto_mix", "predict"]

Mix = Mapping[Rung, float]
"""Rungs with the share of pages that each is used for; the shares add up to 1."""

_MIX_STEPS = 20
"""Mixes of two neighbours that are tried: 5 % apart, and the rate between them is nearly straight."""

_ROUND_SECONDS = 0.003
"""What a round takes without a page: a task through either pool, and the messages at its end."""


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

    ``link`` bytes per second, ``round_trip`` seconds, ``sending`` CPU seconds for a byte on the wire, at either end.
    ``speed`` is the share of a core that a busy process gets here (0 to 1): others may use them, too. ``shared``
    says that both are one host; ``far_cores`` 0 that nobody knows.
    """

    link: float
    round_trip: float
    sending: float
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


@dataclass(frozen=True, slots=True)
class Job:
    """The guest, and what is asked for.

    ``pages`` are those to send first; ``memory`` says what they cost and ``written`` what the pages cost that the
    guest writes. ``exact`` is whether the tracker names those; else each round looks at all pages, ``looking`` CPU
    seconds for each. Scanning, setting up and switching over (beyond :data:`GUESSED_FIXED_SECONDS`) take seconds of
    their own; ``verify`` says that all memory is read again on both sides while the guest is paused.
    """

    pages: int
    batch_pages: int
    memory: Memory
    written: Memory
    writing: Writing
    exact: bool
    looking: float
    scan_seconds: float
    setup_seconds: float
    switch_seconds: float
    downtime_limit: float
    max_rounds: int
    on_stall: OnStall
    verify: bool = False


@dataclass(frozen=True, slots=True)
class Forecast:
    """How it would go. Seconds, bytes, bytes per second.

    Where it does not ``converge`` times and bytes are those of switching over all the same when rounds stopped
    helping; ``best_downtime`` is the shortest pause that was expected after any of them.
    ``throttled`` is the share of time for which the guest has to be held to make it converge. Within the time that
    the pause may take it ``writes`` different pages at such a rate, and ``takes`` is the rate at which pages can be
    sent in later rounds: it must be the higher one. ``limit`` is what limits it, or if it converges the first round.
    """

    mix: Mix
    converges: bool
    rounds: int
    total_seconds: float
    downtime_seconds: float
    best_downtime: float
    wire_bytes: float
    throttled: float
    writes: float
    takes: float
    limit: Limit


def predict(job: Job, hosts: Hosts, rung: Rung | None) -> Forecast:
    """Play a migration through with ``rung`` for every batch; None for the codec ``auto``."""
    if rung is not None:
        return _Run(job, hosts, {rung: 1.0}, {rung: 1.0}).play()
    return _Run(
        job,
        hosts,
        auto_mix(job.memory, hosts),
        auto_mix(job.written, hosts),
    ).play()


def auto_mix(memory: Memory, hosts: Hosts) -> Mix:
    """The fastest mix of two neighbours on the hull of costs: where the policy of ``auto`` is at rest."""
    ladder = hull(_codec_costs(memory))
    best: Mix = {ladder[0]: 1.0}
    for low, high in pairwise(ladder):
        for step in range(1, _MIX_STEPS + 1):
            share = step / _MIX_STEPS
            mix = {low: 1 - share, high: share} if share < 1 else {high: 1.0}
            if _page_seconds(memory.mixed(mix), hosts)[0] < _page_seconds(memory.mixed(best), hosts)[0]:
                best = mix
    return best


def _codec_costs(memory: Memory) -> dict[Rung, Cost]:
    """What each rung takes beyond none, a byte, as the policy knows them."""
    raw = memory.costs[NONE]
    return {
        rung: Cost(
            max(0.0, cost.packing - raw.packing) / PAGE_SIZE,
            cost.wire / raw.wire,
            max(0.0, cost.unpacking - raw.unpacking) / PAGE_SIZE,
        )
        for rung, cost in memory.costs.items()
        if rung != NONE and raw.wire > 0
    }


def _page_seconds(cost: PageCost, hosts: Hosts) -> tuple[float, Limit]:
    """Seconds a page in a pipeline that is full, and what it is that takes them."""
    on_socket = cost.wire * hosts.sending
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


class _Run:
    """One migration as it is played through."""

    def __init__(self, job: Job, hosts: Hosts, first: Mix, later: Mix) -> None:
        self._job, self._hosts, self._mix = job, hosts, first
        self._first, self._later = job.memory.mixed(first), job.written.mixed(later)
        self._limits = [_page_seconds(cost, hosts)[1] for cost in (self._first, self._later)]
        self._rate = WireRate()
        self._trend = Trend()
        self._now = job.setup_seconds
        self._wire = 0.0
        self._rounds = 0
        self._throttled = 0.0

    def play(self) -> Forecast:
        """Rounds until it would be switched over, or until they stop helping."""
        job = self._job
        changed = float(job.pages)
        while True:
            seconds = self._round(changed)
            interval = seconds + job.scan_seconds
            written = job.writing.slowed(self._throttled).pages(interval)
            measured = self._measured(changed, written, interval)
            changed, late = written, written * job.scan_seconds / interval
            expected = expected_downtime(measured)
            self._trend = self._trend.after(expected)
            decision = decide(
                measured, self._trend, downtime_limit=job.downtime_limit, max_rounds=job.max_rounds
            )
            known = job.exact or self._rounds > 1
            if decision is Decision.SWITCH and known:
                return self._switched(changed + late, converges=True)
            if decision is not Decision.STALL:
                continue
            if self._may_throttle(measured):
                self._throttled = next_throttle(self._throttled)
                self._trend = Trend(self._trend.best, 0, 0)
                continue
            return self._switched(changed + late, converges=job.on_stall is OnStall.SWITCH)

    def _may_throttle(self, measured: Measured) -> bool:
        """Whether holding the guest for more of the time is asked for, possible, and of any use."""
        return (
            self._job.on_stall is OnStall.THROTTLE
            and self._throttled < MOST_THROTTLE
            and measured.unavoidable_seconds <= self._job.downtime_limit
        )

    def _round(self, changed: float) -> float:
        """Send so many pages; the seconds that takes."""
        self._rounds += 1
        cost = self._first if self._rounds == 1 else self._later
        seconds = self._seconds(changed, cost, looked=0.0 if self._rounds == 1 else self._unchanged(changed))
        self._now += seconds + self._job.scan_seconds
        self._wire += changed * cost.wire
        self._rate.after(changed * cost.wire, seconds)
        return seconds

    def _unchanged(self, changed: float) -> float:
        """Pages that are looked at only to find that they need not be sent."""
        return 0.0 if self._job.exact else max(0.0, self._job.pages - changed)

    def _seconds(self, pages: float, cost: PageCost, *, looked: float) -> float:
        hosts = self._hosts
        batch = min(pages, batch_limit(int(pages), hosts.workers, self._job.batch_pages))
        filling = batch * (cost.packing / hosts.speed + cost.unpacking / hosts.far_speed)
        sending = pages * _page_seconds(cost, hosts)[0]
        looking = looked * self._job.looking / (hosts.workers * hosts.speed)
        return sending + looking + filling + hosts.round_trip + _ROUND_SECONDS

    def _measured(self, sent: float, written: float, interval: float) -> Measured:
        """What the engine would have measured now; see :meth:`PreCopy._measure`."""
        job = self._job
        cost = self._first if self._rounds == 1 else self._later
        fixed = GUESSED_FIXED_SECONDS + job.switch_seconds
        data = sent * job.memory.data_share if self._rounds == 1 else sent
        per_page = sent * cost.wire / data if data else 0.0
        remaining = written
        if not job.exact:
            remaining = data
            fixed += job.pages * PAGE_SIZE / (HASHED_BYTES_PER_SECOND * self._hosts.workers)
        known = remaining if job.exact or self._rounds > 1 else 0.0
        return Measured(
            math.ceil(remaining),
            per_page,
            min(self._rate.bytes_per_second, self._hosts.link),
            fixed,
            job.scan_seconds,
            known / interval,
        )

    def _switched(self, last: float, *, converges: bool) -> Forecast:
        """Pause the guest and send the rest: so many pages, with those written before it stands still."""
        job, hosts = self._job, self._hosts
        downtime = GUESSED_FIXED_SECONDS + job.switch_seconds + job.scan_seconds
        downtime += self._seconds(last, self._later, looked=self._unchanged(last))
        if job.verify:
            downtime += job.pages * job.looking / (min(hosts.workers, hosts.far_workers) * hosts.speed)
        seconds, limit = _page_seconds(self._later, hosts)
        return Forecast(
            mix=self._mix,
            converges=converges,
            rounds=self._rounds + 1,
            total_seconds=self._now + downtime,
            downtime_seconds=downtime,
            best_downtime=self._trend.best,
            wire_bytes=self._wire + last * self._later.wire,
            throttled=self._throttled,
            writes=job.writing.pages(job.downtime_limit) * PAGE_SIZE / job.downtime_limit,
            takes=PAGE_SIZE / seconds if seconds else math.inf,
            limit=self._limits[0] if converges else limit,
        )
