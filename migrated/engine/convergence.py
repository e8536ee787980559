"""When to stop the guest and copy the rest: a pure function of measurements and limits.

    remaining_wire_bytes = remaining pages x wire bytes per page       (after zero pages, codec and headers)
    wire bytes per page  = pages expected to have changed / remaining pages x wire bytes of one that had
    late_wire_bytes      = pages dirtied a second x scan x wire bytes per page
    expected_downtime    = max((remaining_wire_bytes + late_wire_bytes) / wire rate + scan, look) + fixed costs

Both ratio and rate are those measured *after* compression; raw pending bytes over wire throughput, QEMU's
formula, overestimates by the compression ratio. Of the pages that are dirty after a round some arrived as they are:
they were written before the round read them (:class:`Changed`). The guest writes on until it stands still, for about
as long as a scan takes; the last scan then finds that too, with the guest paused. Beside that scan, and while the
rest is sent, its memory is looked over for pages that were given back. The fixed costs are pause, digest, device state
and start.

    longest_downtime     = the same with UNSURE x the time of sending

No round foretells a codec that changes its mind, other pages, or a host that is busy for a moment. While rounds help,
the guest is paused when even that is within the limit; when they do not any more, when the expected one is. The rate
of dirtying is a sawtooth, so a stall is judged by the best remaining so far and not by the last round.

A pause within the limit may still be made shorter by one more round, which sends what remains while the guest runs, so
that only what it writes meanwhile is left for the pause:

    saved   = sending - written           of the pause
    longer  = written + scan + round      the whole migration
    sending = remaining_wire_bytes / wire rate
    written = pages dirtied a second x (sending + scan + round) x wire bytes per page / wire rate

It is made as long as the pause gets shorter by a quarter of what the whole gets longer, 4 ms at least, and the round
before it has helped, too.
"""

import math
from collections import deque
from dataclasses import dataclass
from enum import Enum, auto

__all__ = [
    "GUESSED_FIXED_SECONDS",
    "HASHED_BYTES_PER_SECOND",
    "MOST_THROTTLE",
    "NEAR_ROUNDS",
    "ROUND_SECONDS",
    "STALL_ROUNDS",
    "UNSURE",
    "Changed",
    "Decision",
    "Measured",
    "Trend",
    "WireRate",
    "another_pays",
    "decide",
    "expected_downtime",
    "longest_downtime",
    "next_throttle",
]

GUESSED_FIXED_SECONDS = 0.03
"""Pause, digest, fsyncs and start before they have been measured: what the demo guest takes."""

ROUND_SECONDS = 0.003
"""What a round takes without a page: a task through either pool, and the messages at its end."""

_WORTH_SECONDS = 0.004
"""Of a pause: to save less than this no further round is made."""

_PAUSE_WEIGHT = 4.0
"""Seconds of a migration that are given for one of its pause: the guest's clients notice that one."""

HASHED_BYTES_PER_SECOND = 0.9e9
"""One worker reading and hashing pages that did not change: 1 GiB took two of them 0.58 s."""

_FIRST_THROTTLE, _THROTTLE_STEP, MOST_THROTTLE = 0.2, 0.1, 0.99
"""The share of time a guest is held to let rounds converge: QEMU's auto-converge steps."""

_RATE_BYTES = 1 << 20
"""A round with fewer bytes than this says more of the barrier's latency than of the link's rate: it counts only
until another has sent more."""

_RATE_ROUNDS = 2
"""The slowest of so many rounds is what the last one is expected to reach: a limit is kept, or it is none."""

STALL_ROUNDS, NEAR_ROUNDS = 4, 10
"""Rounds without a new best after which more of them are taken not to help; the second where the best is within the
limit, so that one like it is enough. On a busy host one of 264 ms was followed by five of more than 300."""

_SETTLED_ROUNDS = 2
"""Rounds without a new best after which what is expected is taken, if it is within the limit: they were alike."""

UNSURE = 1.25
"""How much longer than by the rounds before the last one may take to send. Of 20 last rounds over 1 Gb/s, of guests
that wrote 80 MB/s, 3 took longer than this, the longest 1.41: what the fixed costs are less than expected covers it."""

_BETTER = 0.95
"""What counts as a new best: a gain of 5 %, more than the noise of two equal rounds."""


class Decision(Enum):
    """What the next step is."""

    COPY = auto()
    SWITCH = auto()
    STALL = auto()


@dataclass(frozen=True, slots=True)
class Measured:
    """What is known after a scan for dirty pages: pages, bytes, bytes or pages per second, seconds.

    ``round_seconds`` is what one more round takes besides sending and its scan; infinite where it is no good for a
    shorter pause, since all memory is compared in each.
    """

    remaining_pages: int
    wire_bytes_per_page: float
    wire_bytes_per_second: float
    fixed_seconds: float
    scan_seconds: float = 0.0
    dirty_pages_per_second: float = 0.0
    look_seconds: float = 0.0
    round_seconds: float = math.inf

    @property
    def remaining_wire_bytes(self) -> float:
        """What the remaining pages will take on the wire."""
        return self.remaining_pages * self.wire_bytes_per_page

    @property
    def late_wire_bytes(self) -> float:
        """What the pages will take that are written before the guest stands still."""
        return self.dirty_pages_per_second * self.scan_seconds * self.wire_bytes_per_page

    @property
    def unavoidable_seconds(self) -> float:
        """What a switchover takes with nothing left to send."""
        return self.fixed_seconds + max(self.scan_seconds, self.look_seconds)


@dataclass(frozen=True, slots=True)
class Trend:
    """The best downtime expected so far, and for how many rounds it has stood."""

    best: float = math.inf
    rounds: int = 0
    rounds_since_best: int = 0

    def after(self, expected: float) -> "Trend":
        """The trend with one more round's expectation, in seconds."""
        if expected < self.best * _BETTER:
            return Trend(expected, self.rounds + 1, 0)
        return Trend(self.best, self.rounds + 1, self.rounds_since_best + 1)


class WireRate:
    """The rate that the last round may be expected to reach, from what rounds have reached so far."""

    def __init__(self) -> None:
        self._rates: deque[float] = deque([0.0], maxlen=_RATE_ROUNDS)
        self._bytes = 0.0
        self._small = (0.0, 0.0)

    def of(self, wire_bytes: float) -> float:
        """Bytes per second for a round of so many; 0 while none is known.

        A small round's own rate is known to be possible for one as small: what stood in its way was mostly
        latency, and a link that stood still once need not do so again.
        """
        small, reached = self._small
        return max(min(self._rates), reached) if wire_bytes <= small else min(self._rates)

    def after(self, wire_bytes: float, seconds: float) -> None:
        """A round sent so many bytes, and they were in place after so long."""
        rate = wire_bytes / max(seconds, 1e-6)
        self._small = (wire_bytes, rate) if wire_bytes < _RATE_BYTES else (0.0, 0.0)
        if wire_bytes >= min(_RATE_BYTES, self._bytes):
            if self._bytes < _RATE_BYTES:
                self._rates.clear()  # of rounds that were too small to count
            self._rates.append(rate)
            self._bytes = wire_bytes


class Changed:
    """How many pages of a round will turn out to have changed since they were sent, from what rounds have found.

    A page that the round before sent as well may have been written before it was read there: it is dirty, and arrived
    as it is. One that it did not send has changed, unless the guest wrote what was there. After the first round every
    dirty page is of the former kind, later fewer and fewer: what that round found of all of them says too little of
    the last one. Until it was found otherwise all have changed.
    """

    def __init__(self) -> None:
        self._fresh = self._again = 1.0

    def of(self, pages: float, again: float) -> float:
        """Of so many pages, ``again`` of which the round before sent as well."""
        return (pages - again) * self._fresh + again * self._again

    def after(self, pages: float, again: float, changed: float) -> None:
        """A round of such pages found so many that had changed, those of zeros left out: they take next to nothing."""
        fresh = pages - again
        if fresh:
            self._fresh = min(1.0, changed / fresh)
        if again:
            self._again = max(0.0, changed - fresh) / again


def next_throttle(share: float) -> float:
    """The share of time that the guest is held next, after ``share`` was not enough; never more than
    :data:`MOST_THROTTLE`."""
    return min(share + _THROTTLE_STEP if share else _FIRST_THROTTLE, MOST_THROTTLE)


def expected_downtime(measured: Measured) -> float:
    """Seconds the guest would stand still if it were paused now; infinite while no rate is known."""
    return _downtime(measured, 1.0)


def longest_downtime(measured: Measured) -> float:
    """The same, if sending takes as long as it well may."""
    return _downtime(measured, UNSURE)


def _downtime(measured: Measured, slower: float) -> float:
    to_send = measured.remaining_wire_bytes + measured.late_wire_bytes
    if to_send == 0:
        return measured.unavoidable_seconds
    if measured.wire_bytes_per_second <= 0:
        return math.inf
    sending = to_send / measured.wire_bytes_per_second * slower
    return max(sending + measured.scan_seconds, measured.look_seconds) + measured.fixed_seconds


def another_pays(measured: Measured) -> bool:
    """Whether what one more round takes from the pause is worth what it adds to the migration."""
    rate = measured.wire_bytes_per_second
    if rate <= 0 or math.isinf(measured.round_seconds):
        return False
    besides = measured.scan_seconds + measured.round_seconds
    sending = measured.remaining_wire_bytes / rate
    written = measured.dirty_pages_per_second * (sending + besides) * measured.wire_bytes_per_page / rate
    return sending - written > max((written + besides) / _PAUSE_WEIGHT, _WORTH_SECONDS)


def decide(measured: Measured, trend: Trend, *, downtime_limit: float, max_rounds: int) -> Decision:
    """Switch when the limit will be kept, as surely as more rounds can make it, and none makes the pause shorter
    cheaply; stall when ``max_rounds`` are done or rounds stopped helping; else copy on.

    ``trend`` already contains this measurement.
    """
    over = trend.rounds >= max_rounds
    bound = longest_downtime if trend.rounds_since_best < _SETTLED_ROUNDS and not over else expected_downtime
    if bound(measured) <= downtime_limit:
        cheaper = not over and trend.rounds_since_best == 0 and another_pays(measured)
        return Decision.COPY if cheaper else Decision.SWITCH
    patience = NEAR_ROUNDS if trend.best <= downtime_limit else STALL_ROUNDS
    if over or trend.rounds_since_best >= patience:
        return Decision.STALL
    return Decision.COPY
