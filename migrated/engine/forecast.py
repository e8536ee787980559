"""What a migration would take: its rounds played through with what was measured, by the engine's own decisions.

What a page costs (:mod:`migrated.engine.costs`) is an average: over the whole memory in the first round, and over
what the guest writes in the later ones.

    a round = pages x seconds a page + the first batch on its way through the empty pipeline + a round trip

Pages that are there twice wait for the second round, which says what they are copies of first. A page that is
written before it is read in the same round is looked at again in the next, and found unchanged.
What the guest writes meanwhile is the next round (:mod:`migrated.engine.writing`); when to switch over, and when
rounds stopped helping, :mod:`migrated.engine.convergence` decides, as it does during a migration.
"""

import math
from dataclasses import dataclass, replace

from migrated.compression.policy import FAST_LINK, NONE, Rung
from migrated.compression.stage import slot_count
from migrated.engine.convergence import (
    GUESSED_FIXED_SECONDS,
    HASHED_BYTES_PER_SECOND,
    MOST_THROTTLE,
    ROUND_SECONDS,
    Changed,
    Decision,
    Measured,
    Trend,
    WireRate,
    decide,
    expected_downtime,
    next_throttle,
)
from migrated.engine.costs import COPIED, Hosts, Limit, Memory, Mix, PageCost, page_seconds
from migrated.engine.cutting import SMALLEST, batch_sizes
from migrated.engine.mixing import mix_at_first, mix_at_rest
from migrated.engine.options import OnStall
from migrated.engine.writing import Writing
from migrated.pages import PAGE_SIZE

__all__ = ["Forecast", "Job", "predict"]

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
    sizes = batch_sizes(job.pages, hosts.workers, job.batch_pages)
    first = mix_at_first(job.memory, hosts, pages=job.pages, sizes=sizes, slots=slot_count(hosts.workers))
    return _Run(job, hosts, first, mix_at_rest(job.written, hosts)).play()


@dataclass(frozen=True, slots=True)
class _Due:
    """Pages that a round goes through, those of them that have changed and are sent, and those that the round before
    went through, too."""

    looked: float
    changed: float
    again: float

    def __add__(self, more: float) -> "_Due":
        return _Due(self.looked + more, self.changed + more, self.again)


_MOSTLY = 0.5
"""Share of pages that travel as they are over a fast link, from which on workers never learn that copies pay."""

_READING_STEPS = 8
"""Moments of a round at which pages are taken to be read."""


class _Run:
    """One migration as it is played through."""

    def __init__(self, job: Job, hosts: Hosts, first: Mix, later: Mix) -> None:
        self._job, self._hosts, self._mix = job, hosts, first
        slow = hosts.link * FAST_LINK < 1
        memory = job.memory.with_copies(job.pages, hosts.workers, raw=slow)
        if not slow and first.get(NONE, 0.0) > _MOSTLY:
            memory = replace(memory, costs=job.memory.costs, twins=0.0)
        self._twins = memory.twins
        self._first, self._later = memory.mixed(first), job.written.mixed(later)
        self._limits = [page_seconds(cost, hosts)[1] for cost in (self._first, self._later)]
        self._rate = WireRate()
        self._changed = Changed()
        self._trend = Trend()
        self._now = job.setup_seconds
        self._wire = 0.0
        self._rounds = 0
        self._throttled = 0.0

    def play(self) -> Forecast:
        """Rounds until it would be switched over, or until they stop helping."""
        job = self._job
        due = _Due(job.pages, job.pages, 0.0)
        while True:
            seconds = self._round(due)
            interval = seconds + job.scan_seconds
            writing = job.writing.slowed(self._throttled)
            sent, due = due, self._next(due, writing, seconds)
            measured = self._measured(sent, due, interval)
            late = writing.pages(interval) * job.scan_seconds / interval
            expected = expected_downtime(measured)
            if self._rounds == 1 and self._twins:
                # They are not sent while the guest is paused; what was expected without them says nothing.
                self._trend = replace(self._trend, rounds=self._trend.rounds + 1)
                continue
            self._trend = self._trend.after(expected)
            decision = decide(
                measured, self._trend, downtime_limit=job.downtime_limit, max_rounds=job.max_rounds
            )
            known = job.exact or self._rounds > 1
            if decision is Decision.SWITCH and known:
                return self._switched(due + late, converges=True)
            if decision is not Decision.STALL:
                continue
            if self._may_throttle(measured):
                self._throttled = next_throttle(self._throttled)
                self._trend = Trend(self._trend.best, 0, 0)
                continue
            return self._switched(due + late, converges=job.on_stall is OnStall.SWITCH)

    def _may_throttle(self, measured: Measured) -> bool:
        """Whether holding the guest for more of the time is asked for, possible, and of any use."""
        return (
            self._job.on_stall is OnStall.THROTTLE
            and self._throttled < MOST_THROTTLE
            and measured.unavoidable_seconds <= self._job.downtime_limit
        )

    def _round(self, due: _Due) -> float:
        """Send what is due; the seconds that takes."""
        self._rounds += 1
        cost = self._first if self._rounds == 1 else self._later
        seconds = self._seconds(due, cost)
        self._wire += due.changed * cost.wire
        if self._rounds == 2 and self._twins:
            copies = self._job.pages * self._job.memory.data_share * self._twins
            self._wire += copies * COPIED.wire
            seconds += copies * page_seconds(COPIED, self._hosts)[0]
        else:
            self._rate.after(due.changed * cost.wire, seconds)
        self._now += seconds + self._job.scan_seconds
        return seconds

    def _next(self, due: _Due, writing: Writing, seconds: float) -> _Due:
        """What the next round has to do, behind one that took ``seconds``."""
        job = self._job
        interval = seconds + job.scan_seconds
        written = writing.pages(interval)
        if not job.exact:
            return _Due(job.pages, written, job.pages)
        # Of the pages that this round has read, only what was written later has changed since.
        moments = [seconds * (step + 0.5) / _READING_STEPS for step in range(_READING_STEPS)]
        later = sum(writing.pages(interval - moment) for moment in moments) / _READING_STEPS
        share = min(1.0, due.looked / max(1, job.pages))
        return _Due(written, share * later + (1 - share) * written, share * written)

    def _seconds(self, due: _Due, cost: PageCost) -> float:
        hosts = self._hosts
        filling = min(due.looked, SMALLEST) * (cost.packing / hosts.speed + cost.unpacking / hosts.far_speed)
        sending = due.changed * page_seconds(cost, hosts)[0]
        looking = (due.looked - due.changed) * self._job.looking / (hosts.workers * hosts.speed)
        return sending + looking + filling + hosts.round_trip + ROUND_SECONDS

    def _measured(self, sent: _Due, due: _Due, interval: float) -> Measured:
        """What the engine would have measured now, ``due`` next; see :meth:`PreCopy._measure`."""
        job = self._job
        cost = self._first if self._rounds == 1 else self._later
        fixed = GUESSED_FIXED_SECONDS + job.switch_seconds
        data = sent.changed * (job.memory.data_share * (1 - self._twins) if self._rounds == 1 else 1.0)
        per_page = sent.changed * cost.wire / data if data else 0.0
        if job.exact:
            if self._rounds > 1:
                self._changed.after(sent.looked, sent.again, sent.changed)
            remaining = due.looked
            per_page *= self._changed.of(due.looked, due.again) / due.looked if due.looked else 0.0
        else:
            remaining = data
            fixed += job.pages * PAGE_SIZE / (HASHED_BYTES_PER_SECOND * self._hosts.workers)
        known = remaining if job.exact or self._rounds > 1 else 0.0
        return Measured(
            math.ceil(remaining),
            per_page,
            min(self._rate.of(remaining * per_page), self._hosts.link),
            fixed,
            job.scan_seconds,
            known / interval,
            round_seconds=self._hosts.round_trip + ROUND_SECONDS if job.exact else math.inf,
        )

    def _switched(self, last: _Due, *, converges: bool) -> Forecast:
        """Pause the guest and send the rest: so many pages, with those written before it stands still."""
        job, hosts = self._job, self._hosts
        downtime = GUESSED_FIXED_SECONDS + job.switch_seconds + job.scan_seconds
        downtime += self._seconds(last, self._later)
        if job.verify:
            downtime += job.pages * job.looking / (min(hosts.workers, hosts.far_workers) * hosts.speed)
        seconds, limit = page_seconds(self._later, hosts)
        return Forecast(
            mix=self._mix,
            converges=converges,
            rounds=self._rounds + 1,
            total_seconds=self._now + downtime,
            downtime_seconds=downtime,
            best_downtime=self._trend.best,
            wire_bytes=self._wire + last.changed * self._later.wire,
            throttled=self._throttled,
            writes=job.writing.pages(job.downtime_limit) * PAGE_SIZE / job.downtime_limit,
            takes=PAGE_SIZE / seconds if seconds else math.inf,
            limit=self._limits[0] if converges else limit,
        )
