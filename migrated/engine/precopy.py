"""Pre-copy: rounds while the guest runs, until the rest fits the downtime limit or rounds stop helping."""

import math
from collections.abc import Awaitable, Callable
from dataclasses import replace

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
from migrated.engine.conversation import Conversation
from migrated.engine.events import (
    Estimated,
    Observer,
    RoundFinished,
    RoundStarted,
    Stalled,
    State,
    StateChanged,
)
from migrated.engine.options import OnStall, SendOptions
from migrated.engine.ports import Channel, in_thread
from migrated.engine.rounds import Pusher, RoundResult, Tuning
from migrated.engine.unseen import Unseen
from migrated.errors import StalledError
from migrated.guests.base import SourceGuest
from migrated.pages import PAGE_SIZE, PageSet
from migrated.protocol import Estimate, RoundEnd

__all__ = ["PreCopy"]

_FOR_EVER_SECONDS = 1e9


class PreCopy:
    """The rounds of one migration. ``round`` is the last one's number, ``throttled`` the share of time for which
    the guest is held to let them converge."""

    def __init__(
        self,
        channel: Channel,
        conversation: Conversation,
        guest: SourceGuest,
        unseen: Unseen,
        pusher: Pusher,
        options: SendOptions,
        tuning: Tuning,
        observer: Observer,
        clock: Callable[[], float],
    ) -> None:
        self.round = 0
        self.throttled = 0.0
        self.tuning = tuning
        self._channel = channel
        self._conversation = conversation
        self._guest = guest
        self._unseen = unseen
        self._pusher = pusher
        self._options = options
        self._observe = observer
        self._clock = clock
        self._wire_rate = WireRate()
        self._changed = Changed()
        self._again = 0
        """Of the pages that are pending: those that the round before sent as well."""
        self._bytes_per_page = float(PAGE_SIZE)
        """Of one that has changed, on the wire."""
        self._comparing_seconds_per_page = PAGE_SIZE / (HASHED_BYTES_PER_SECOND * options.compress_workers)

    async def pre_copy(self) -> list[PageSet]:
        """Rounds until the rest fits the downtime limit; returns the pages that are still to be sent."""
        guest = self._guest
        self._observe(StateChanged(State.PRE_COPY))
        await in_thread(guest.tracker.arm)
        pending = await in_thread(self._unseen.populated)
        scanned_at = self._clock()
        trend = Trend()
        while True:
            result = await self.push_round(pending)
            before = pending
            await in_thread(guest.check)
            look_began = self._clock()
            unseen = await self.unseen()
            # The writes last: whatever is done after them is time in which the guest writes more.
            scan_began = self._clock()
            pending = await in_thread(guest.tracker.collect)
            now = self._clock()
            written = sum(map(len, pending))
            for pages, more in zip(pending, unseen, strict=True):
                pages |= more
            self._again = await in_thread(_in_both, before, pending)
            before = []  # a map less while the next round goes on
            measured = self._measure(
                pending,
                result,
                written,
                scan_seconds=now - scan_began,
                look_seconds=scan_began - look_began,
                interval=max(now - scanned_at, 1e-6),
            )
            expected = expected_downtime(measured)
            estimate = Estimated(
                measured.remaining_pages,
                measured.remaining_wire_bytes,
                measured.dirty_pages_per_second * PAGE_SIZE,
                measured.wire_bytes_per_second,
                expected,
            )
            self._observe(estimate)
            await self._channel.send(_on_wire(estimate))
            scanned_at = now
            if self._pusher.twins:
                # They are not sent while the guest is paused; what was expected without them says nothing.
                trend = replace(trend, rounds=trend.rounds + 1)
                continue
            trend = trend.after(expected)
            # A tracker that only names candidates knows nothing before a round has compared them.
            known = guest.tracker.exact or self.round > 1
            decision = decide(
                measured, trend, downtime_limit=self.tuning.downtime, max_rounds=self._options.max_rounds
            )
            if decision is Decision.SWITCH and known:
                return pending
            if decision is Decision.STALL and await self._stalled(
                trend, expected, measured.unavoidable_seconds
            ):
                return pending
            if decision is Decision.STALL:
                trend = Trend(trend.best, 0, 0)

    async def push_round(self, pending: list[PageSet]) -> RoundResult:
        """Send the pages while the guest runs; returns when they are in place."""
        twins = len(self._pusher.twins)
        began = self._begin_round(pending, last=False)
        result = await self._pusher.push(self.round, pending, first=self.round == 1)
        await self._channel.send(RoundEnd(self.round, result.batches, result.data_pages))
        await self._conversation.barrier(self.round)
        seconds = self._clock() - began
        if not (twins or self._unseen.candidates):  # comparing takes longer than the link does
            self._wire_rate.after(result.wire_bytes, seconds)
        if self.round > 1 and self._only_candidates and result.pages:
            # Beside a running guest, and with what had changed: the pause is not longer for the same pages.
            self._comparing_seconds_per_page = min(self._comparing_seconds_per_page, seconds / result.pages)
        # Memory that was never used, or is as it was, says nothing of the pages that are being written.
        if self.round > 1 and not self._unseen.candidates:
            self._changed.after(result.pages, self._again, result.data_pages)
        if result.data_pages:
            self._bytes_per_page = result.wire_bytes / result.data_pages
        self._observe(RoundFinished(self.round, seconds, result.data_pages, result.wire_bytes))
        return result

    async def push_last(self, pending: list[PageSet], unseen: Awaitable[list[PageSet]]) -> None:
        """Send the pages, the guest paused, and those that changed unseen as soon as they are known; whether they are
        in place is not waited for."""
        began = self._begin_round(pending, last=True)
        result = await self._pusher.push(self.round, pending, first=self.round == 1, last=True)
        more = await unseen
        for pages, sent in zip(more, pending, strict=True):
            pages.mask &= ~sent.mask
        result += await self._pusher.push(self.round, more, first=False, last=True)
        await self._channel.send(RoundEnd(self.round, result.batches, result.data_pages))
        seconds = self._clock() - began
        self._observe(RoundFinished(self.round, seconds, result.data_pages, result.wire_bytes))

    def _begin_round(self, pending: list[PageSet], *, last: bool) -> float:
        """When the round begins that sends these pages, and copies if there are any."""
        self.round += 1
        self._observe(RoundStarted(self.round, sum(map(len, pending)) + len(self._pusher.twins), last))
        self._channel.set_rate(self.tuning.bandwidth)
        return self._clock()

    @property
    def compares(self) -> bool:
        """Whether all memory has to be compared since the last look, although the tracker is exact."""
        return self._guest.tracker.exact and self._unseen.candidates

    @property
    def _only_candidates(self) -> bool:
        """Whether what is pending has to be compared, by whichever cause."""
        return self.compares or not self._guest.tracker.exact

    async def unseen(self) -> list[PageSet]:
        """The pages that changed where the tracker does not see it."""
        return await in_thread(self._unseen.collect)

    def _measure(
        self,
        pending: list[PageSet],
        result: RoundResult,
        written: int,
        *,
        scan_seconds: float,
        look_seconds: float,
        interval: float,
    ) -> Measured:
        """What the last round and the scan behind it say: ``written`` pages by the tracker, in ``interval``, the time
        since the scan before."""
        fixed = GUESSED_FIXED_SECONDS + self._guest.switch_seconds
        exact = not self._only_candidates
        if exact:
            pages = sum(map(len, pending))
            share = self._changed.of(pages, self._again) / pages if pages else 0.0
            per_page = share * self._bytes_per_page
        else:
            # Every page is a candidate: expect as many changed pages as last time, plus reading them all.
            pages = max(result.data_pages, written) if self.compares else result.data_pages
            per_page = result.wire_bytes / result.data_pages if result.data_pages else 0.0
            fixed += sum(map(len, pending)) * self._comparing_seconds_per_page
        rate = min(self._wire_rate.of(pages * per_page), self.tuning.bandwidth)
        # A tracker that only names candidates knows nothing of writes before a round has compared them.
        known = pages if exact or self.round > 1 else 0
        round_seconds = ROUND_SECONDS + look_seconds if exact else math.inf
        return Measured(
            pages, per_page, rate, fixed, scan_seconds, known / interval, look_seconds, round_seconds
        )

    async def _stalled(self, trend: Trend, expected: float, fixed: float) -> bool:
        """True to switch over now; False to go on with rounds, the guest slowed down."""
        why = (
            f"after {self.round} rounds the guest would be paused for {_seconds(expected)}, "
            f"and the limit is {_seconds(self.tuning.downtime)} (best so far {_seconds(trend.best)})"
        )
        if self.compares:
            why += "; all its memory has to be compared then, for it keeps giving pages back, or writing with write(2)"
        action = self._options.on_stall
        self._observe(Stalled(action, why))
        if action is OnStall.SWITCH:
            return True
        if action is OnStall.THROTTLE and fixed <= self.tuning.downtime:
            if self.throttled < MOST_THROTTLE:
                self.throttled = next_throttle(self.throttled)
                await in_thread(self._guest.throttle, self.throttled)
                return False
            why += ", even with the guest slowed down by 99 %"
        if fixed > self.tuning.downtime:
            raise StalledError(
                f"pausing, scanning and starting alone take some {_seconds(fixed)}, whatever the guest writes: {why}",
                "allow more with --downtime",
            )
        others = "" if action is OnStall.THROTTLE else " --on-stall throttle or switch,"
        raise StalledError(
            f"the guest writes faster than it can be moved: {why}",
            f"allow more with --downtime, or use{others} a stronger codec, or a faster link",
        )


def _on_wire(estimate: Estimated) -> Estimate:
    """An estimate as the other side is told it: whole numbers, and a very long time for ever."""
    return Estimate(
        remaining_bytes=estimate.remaining_pages * PAGE_SIZE,
        remaining_wire_bytes=int(estimate.remaining_wire_bytes),
        dirty_bytes_per_second=int(estimate.dirty_bytes_per_second),
        wire_bytes_per_second=int(estimate.wire_bytes_per_second),
        expected_downtime_ms=int(1000 * min(estimate.expected_downtime, _FOR_EVER_SECONDS)),
    )


def _seconds(value: float) -> str:
    return "for ever" if math.isinf(value) else f"{value * 1000:.0f} ms"


def _in_both(before: list[PageSet], pending: list[PageSet]) -> int:
    """How many pages are in both; the former sets are used up by it: no map more is made."""
    for sent, pages in zip(before, pending, strict=True):
        sent &= pages
    return sum(map(len, before))
