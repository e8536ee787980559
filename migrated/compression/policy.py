"""Which codec and level the next batch gets: a pure policy, fed with what was measured.

A batch takes three things, one after the other, while other batches take the others:

    here    workers: reading, hashing and the codec's packing
    link    its bytes on the wire
    there   the other side's workers: unpacking and writing

The slowest of the three is what a byte of memory costs in the end, and the policy takes what makes that the least, or
nearly the least with fewer bytes on the wire. Of all codecs and levels that are known only those are worth a thought
that lie on the lower convex hull of (CPU seconds, wire bytes) per byte of memory: a mix of two neighbours beats any
other. They are the rungs of a ladder, from none to the densest, and the best place is a rung or between two of them,
where workers and link are busy at the same time.

          wire
        1 o none
          |\\
          |  \\     x snappy         dearer on the wire than a mix of its neighbours: no rung
          |    o lz4
          |       ` .    x zlib
          |            o zstd 1
          |                ` - - o zstd 6
          +----------------------------- CPU time of the workers on both sides

Nothing is assumed of link, cores or guest. What a codec takes is sampled and followed; how much longer than its CPU
time a batch takes the workers tells of the cores, also those that others use; the destination says what its workers
take. The link shows its rate while batches wait for it, and is taken to be a little faster than it was while none
does, while it moves no more than the destination's workers can take, or while who sends hardly sleeps: so it is tried
again and again, but is not taken for faster than the kernel knows it to be. Before who sends has slept nothing is
compressed, and no page is looked at: the link may be none.
"""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import pairwise

from migrated.compression.layout import RAW

__all__ = [
    "FAST_LINK",
    "NONE",
    "SHARED_LINK",
    "START_BYTES",
    "SURELY",
    "Auto",
    "Choice",
    "Cost",
    "Rung",
    "Why",
    "hull",
    "running_mean",
]


@dataclass(frozen=True, slots=True)
class Rung:
    """A codec and a level of the person's scale; :data:`NONE` is no compression."""

    codec: str
    level: int


NONE = Rung(RAW, 0)


@dataclass(frozen=True, slots=True)
class Cost:
    """What a rung takes for one byte of memory: CPU seconds of a worker here, bytes on the wire, and CPU seconds
    of a worker there, as far as they can be measured here."""

    seconds: float
    wire: float
    unpacking: float = 0.0

    def towards(self, other: "Cost", share: float) -> "Cost":
        """What lies so far on the way from this one to ``other``."""
        return Cost(
            self.seconds + share * (other.seconds - self.seconds),
            self.wire + share * (other.wire - self.wire),
            self.unpacking + share * (other.unpacking - self.unpacking),
        )


_FREE = Cost(0.0, 1.0)


class Why(StrEnum):
    """What the policy saw: the slowest of the three, or that two of them are about as slow."""

    FIXED = "fixed"
    START = "start"
    LINK = "link"
    WORKERS = "workers"
    DESTINATION = "destination"
    BALANCE = "balance"


@dataclass(frozen=True, slots=True)
class Choice:
    """What the next batch gets, and why."""

    rung: Rung
    why: Why


_WORTH = 0.02
"""Wire bytes that a rung must save of those of the one below it, as a share: less than that is noise."""

_MIXES = 8
"""Places that are tried between two rungs."""

_FRESH = 0.1
"""Weight of a batch in running means."""

_PACKED_BYTES = 40 << 20
"""Bytes of memory over which is measured what packing takes: ten batches of 4 MiB. A small batch says less."""

_SLOWER = 1.25
"""How much longer than the destination's workers a batch must take on the link to say something of the link."""

_SLEEPY = 0.33
"""Seconds asleep for each one at work or waiting for a core, from which on a batch was slept for."""

_OFTEN, _NEARLY_ALWAYS = 0.4, 0.7
"""Of the sent bytes, the share that was slept for, from which on who sends counts as waiting; the second where bytes
leave faster than over any slow link: who is fast sleeps now and then for want of a core, too. Shares, not seconds: one
stop of a destination that is still starting is as long as a slow link's many short ones."""

_TELLING_BYTES = 64 << 10
"""Fewer bytes say more of the way to the socket than of the link."""

_BLIND = 32
"""Batches that learn nothing of what compressing would do, until the guest's pages are sampled again."""

_SAMPLES = 6
"""Samples that are taken while the link leaves workers the time: one is of few pages, and may be of odd ones."""

_BETWEEN = 4
"""Batches between two of them."""

_FIRST_BYTES = 1 << 20
"""Sent bytes before it counts how who sends spends its time: every link's buffers have room for them."""

START_BYTES = 2 << 20
"""Sent bytes before the link counts as measured, from the first that had to wait: those before it only filled buffers,
and so do some of these."""

_LINK_BYTES = 16 << 20
"""Bytes over which a link's rate is measured while batches wait for it: more than its buffers hold."""

_TRY_FASTER, _TRY_BYTES = 0.05, 1 << 20
"""What a batch that found the link idle takes off the time that the link is thought to need, and its bytes on the wire;
fewer take less of it. The small batches of a late round are many, and each finds room in the link's buffers."""

_KERNEL_BYTES, _KERNEL_SHARE = 32 << 20, 0.75
"""Sent bytes over which the kernel's rates count, and the share of them that must have been faster, or of which it
could not tell, before the link is taken for faster. A rate is of some packets: those that follow a pause leave at once,
and look three to eight times as fast as the link is."""

FAST_LINK = 4e-9
"""Seconds a byte: 2 Gb/s. Over a faster one a page that travels as it is takes less time than the workers would."""

_LOOK_SHARE = 0.5
"""Of the time that the link takes for pages as they are: what trying to compress them may take the workers."""

_BALANCED = 0.9
"""The second slowest of the three, as a share of the slowest, from which on they count as in balance."""

SURELY = 1.1
"""How much slower no compression must look before anything is compressed: workers that seem free may run on cores
that are not, the guest's or the event loop's."""

_FRUGAL = 0.03
"""Weight of the workers' times, also where they are not what is slow: of choices that take as long, the one that takes
less of them."""

SHARED_LINK = 0.15
"""Weight of the link's time, also where it is not what is slow. Links are shared; and where workers seem to be a little
slower than the link, it is mostly a moment's other load of the cores."""


def hull(costs: Mapping[Rung, Cost], far: float = 1.0) -> tuple[Rung, ...]:
    """The rungs worth using, from NONE upwards: the lower convex hull of their costs. A second of a worker there is as
    dear as ``far`` seconds of one here: as many workers as there are here for each one there."""
    points = {rung: (cost.seconds + far * cost.unpacking, cost.wire) for rung, cost in costs.items()}
    points[NONE] = (0.0, 1.0)
    kept: list[Rung] = [NONE]
    for rung in sorted(costs, key=points.__getitem__):
        if rung == NONE or points[rung][1] >= points[kept[-1]][1] * (1 - _WORTH):
            continue
        while len(kept) > 1 and _above(points[kept[-2]], points[kept[-1]], points[rung]):
            kept.pop()
        kept.append(rung)
    return tuple(kept)


_Point = tuple[float, float]
"""Seconds of workers and wire bytes, for a byte of memory."""


def _above(left: _Point, middle: _Point, right: _Point) -> bool:
    """Whether ``middle`` lies on or above the line from ``left`` to ``right``."""
    return (middle[1] - left[1]) * (right[0] - left[0]) >= (right[1] - left[1]) * (middle[0] - left[0])


def running_mean(before: float, now: float, weight: float = _FRESH) -> float:
    """The mean with one more value; it begins with the first one."""
    return before + weight * (now - before) if before else now


def _hardness(wire: float, now: float) -> float:
    """How much harder than the sampled ones pages are of which a rung leaves ``now`` of a byte instead of ``wire``.

    What is noise to one rung is noise to all: harder pages take a share of what each saves, easier ones of what it
    leaves. That share, from -1 (nothing is left) over 0 (as the sample) to 1 (nothing is saved).
    """
    if now > wire:
        return 1.0 - (1.0 - now) / (1.0 - wire)
    return now / wire - 1.0 if wire else 0.0


def _left_of(wire: float, hardness: float) -> float:
    """What a rung leaves of a byte of such pages, if it left ``wire`` of the sampled ones."""
    return 1.0 - (1.0 - wire) * (1.0 - hardness) if hardness > 0 else wire * (1.0 + hardness)


@dataclass(frozen=True, slots=True)
class _Place:
    """A mix of two rungs: batches of ``high`` among those of ``low``, as a share; and what a byte takes with it."""

    low: Rung
    high: Rung
    share: float
    here: float
    link: float
    there: float

    def cost(self, link_weight: float) -> float:
        """Seconds that count for a byte; ``link_weight`` is that of the link's time, also where others are slower."""
        slowest = max(self.here, self.link, self.there)
        return slowest + _FRUGAL * (self.here + self.there) + link_weight * self.link

    @property
    def why(self) -> Why:
        times = {Why.WORKERS: self.here, Why.LINK: self.link, Why.DESTINATION: self.there}
        slowest, second = sorted(times, key=times.__getitem__, reverse=True)[:2]
        return Why.BALANCE if times[second] > _BALANCED * times[slowest] else slowest


class Auto:
    """Chooses for one migration. ``rungs`` are what both sides can do, the first the one to begin with; ``workers``
    pack at a time, and ``far_workers`` unpack."""

    def __init__(self, rungs: Sequence[Rung], *, workers: int, far_workers: int = 1) -> None:
        self._rungs = tuple(rungs)
        self._first = rungs[0] if rungs else NONE
        self._workers, self._far_workers = workers, far_workers
        self._sampled: dict[Rung, Cost] = {}
        self._samples = 0
        self._quickly = False
        """Of the others than the first rung nothing is known, although a sample was taken."""
        self._pays = False
        self._used = NONE
        self._hardness = 0.0
        self._packed_bytes = 0
        self._overhead = 0.0
        self._stretch = 1.0
        self._sent_bytes = self._measured_bytes = 0
        self._link = 0.0
        self._told: deque[tuple[float, int]] = deque()
        """Of the last batches: seconds that the link takes for a byte, as the kernel told, and bytes on the wire."""
        self._told_bytes = 0
        self._there = 0.0
        self._unpacking = 0.0
        self._sending = 0.0
        """Seconds that sending takes, a byte of memory."""
        self._wire_pace = 0.0
        """The same, a byte on the wire."""
        self._slept_for = 0.0
        self._owed = 0.0
        self._blind = _BLIND
        self._spare = 0

    @property
    def ladder(self) -> tuple[Rung, ...]:
        """The rungs in use now; one until something was measured."""
        return self._hull(self._known) if self._sampled else (self._first,)

    @property
    def _known(self) -> dict[Rung, Cost]:
        """What each rung takes for the pages that come now, beyond none at all.

        Of unpacking that is what the quickest does not take: a worker there is as long at work on pages as they are,
        whose bytes nobody has touched on that core yet (LZ4's 1.25 ns of CPU time a byte of memory, none's 1.36).
        """
        quickest = min((cost.unpacking for cost in self._sampled.values()), default=0.0)
        return {
            rung: Cost(cost.seconds, _left_of(cost.wire, self._hardness), cost.unpacking - quickest)
            for rung, cost in self._sampled.items()
        }

    @property
    def link_seconds(self) -> float:
        """What the link takes for a byte; 0 while that is not known, or nobody had to wait for it."""
        return self._link if self._measured_bytes >= START_BYTES else 0.0

    @property
    def wants_sample(self) -> bool:
        """Whether too little is known of the pages that come now, where the link may be slow: at first, and while
        nothing is compressed although the link is what is slow. Where compressing pays some more are wanted, while the
        link leaves workers time; and one of all rungs at once, if only the first was tried."""
        if self._blind >= _BLIND:
            return self._waits_for_link
        if self._quickly and len(self.to_sample) > 1:
            return True
        return 0 < self._samples < _SAMPLES and self._spare >= _BETWEEN

    @property
    def to_sample(self) -> tuple[Rung, ...]:
        """The rungs that a sample is to try. Over a fast link the first tells whether anything may pay, in a tenth of
        the time that all take; who is fast may just have waited for a core."""
        return self._rungs if self._pays or self._wire_pace >= FAST_LINK else self._rungs[:1]

    @property
    def _waits(self) -> bool:
        """Whether who sends mostly sleeps: for the link, or for a destination that is full."""
        often = _OFTEN if self._wire_pace >= FAST_LINK else _NEARLY_ALWAYS
        return self._sent_bytes >= _FIRST_BYTES and self._slept_for >= often

    @property
    def _waits_for_link(self) -> bool:
        """Whether it is not the destination that who sends waits for."""
        return self._waits and self._sending >= _SLOWER * self._there

    def sampling(self) -> None:
        """A sample is being taken."""
        if self._blind >= _BLIND:
            self._samples = 0  # what was known has not helped
        self._blind = self._spare = 0
        self._quickly = False

    def sampled(self, costs: Mapping[Rung, Cost]) -> None:
        """Take in what a sample of the guest's pages cost; of pages of zeros that is nothing. Samples add up to their
        mean, until nothing that is known helps."""
        if not costs:
            return
        self._samples += 1
        self._quickly = costs.keys() == {self._first} and len(self._rungs) > 1
        in_use = self._known.get(self._used)
        for rung, cost in costs.items():
            old = self._sampled.get(rung, cost) if self._samples > 1 else cost
            mean = old.towards(cost, 1 / self._samples)
            # What its batches take is known better.
            self._sampled[rung] = replace(mean, seconds=old.seconds) if rung == self._used else mean
        now = self._sampled.get(self._used)
        # What the batches said of the pages that come now stays true.
        self._hardness = 0.0
        if self._samples > 1 and in_use and now:
            self._hardness = _hardness(now.wire, min(1.0, in_use.wire))

    def packed(
        self,
        rung: Rung,
        raw_bytes: int,
        wire_bytes: int,
        *,
        codec_seconds: float,
        cpu_seconds: float,
        seconds: float,
    ) -> None:
        """Take in what a batch cost a worker: bytes of its data pages and of its payload; CPU seconds of its codec and
        in all, and the seconds that went by."""
        if raw_bytes == 0:
            return
        self._packed_bytes = min(_PACKED_BYTES, self._packed_bytes + raw_bytes)
        weight, share = min(1.0, raw_bytes / self._packed_bytes), min(1.0, raw_bytes / _PACKED_BYTES)
        self._overhead += weight * (max(0.0, cpu_seconds - codec_seconds) / raw_bytes - self._overhead)
        self._stretch += share * (max(1.0, seconds / max(cpu_seconds, 1e-9)) - self._stretch)
        old = self._sampled.get(rung)
        if rung == NONE or old is None:
            return
        self._used = rung
        # Pages that are harder for one codec are harder for all of them, or who meets them looks worse than it is.
        now = min(1.0, wire_bytes / raw_bytes)
        self._hardness += share * (_hardness(old.wire, now) - self._hardness)
        speed = old.seconds + share * (codec_seconds / raw_bytes - old.seconds)
        self._sampled[rung] = Cost(speed, old.wire, old.unpacking)

    def sent(
        self,
        rung: Rung,
        wire_bytes: int,
        seconds: float,
        *,
        asleep: float,
        waited: bool,
        there: float,
        carries: float = 0.0,
    ) -> None:
        """Take in what sending a batch took. ``asleep``: of these seconds those in which who sent it slept;
        ``waited``: the connection was busy with another one when it came; ``there``: what a byte of memory takes the
        workers at the destination, in seconds, as last heard; 0 if it has not been heard; ``carries``: bytes per second
        that the link carries at most, by the kernel; 0 if it could not tell while this batch was sent."""
        if wire_bytes < _TELLING_BYTES:
            return
        cost = self._known.get(rung, _FREE)
        now, slept = seconds / wire_bytes, asleep / wire_bytes
        self._sent_bytes += wire_bytes
        share = min(1.0, wire_bytes / min(_LINK_BYTES, self._sent_bytes))
        self._there = there
        self._unpacking = running_mean(self._unpacking, cost.unpacking)
        self._slept_for += share * ((slept >= _SLEEPY * (now - slept)) - self._slept_for)
        self._wire_pace += share * (now - self._wire_pace)
        # A destination that is full stops the connection now and then, for longer than a batch takes it.
        self._sending = running_mean(self._sending, now * cost.wire)
        self._hear_kernel(carries, wire_bytes)
        if not self._measured_bytes and not (there and self._waits_for_link):
            return  # what fills buffers
        self._measured_bytes += wire_bytes
        if not self._waits:
            # It was its own work, or a core, that it waited for.
            self._try_faster(slept, wire_bytes)
        elif not self._waits_for_link or (now < self._link and not waited):
            self._try_faster(now, wire_bytes)
        else:
            weight = min(1.0, wire_bytes / min(_LINK_BYTES, self._measured_bytes))
            self._link += weight * (now - self._link)

    def _hear_kernel(self, carries: float, wire_bytes: int) -> None:
        """Keep what it told of the last batches. Where it could not tell, since the link had too little to do, nothing
        is known of how fast it may be."""
        self._told.append((1.0 / carries if carries else 0.0, wire_bytes))
        self._told_bytes += wire_bytes
        while self._told_bytes - self._told[0][1] >= _KERNEL_BYTES:
            self._told_bytes -= self._told.popleft()[1]

    @property
    def _fastest(self) -> float:
        """What the link takes for a byte at least, by what the kernel told; 0 if that is not known."""
        left = _KERNEL_SHARE * self._told_bytes
        for seconds, wire_bytes in sorted(self._told):
            left -= wire_bytes
            if left <= 0:
                return seconds
        return 0.0

    def _try_faster(self, seconds: float, wire_bytes: int) -> None:
        """Take the link for a little faster than it was thought to be: ``seconds`` a byte are no measure of it."""
        beyond = max(0.0, self._link - max(seconds, self._fastest))
        self._link -= _TRY_FASTER * min(1.0, wire_bytes / _TRY_BYTES) * beyond

    def choose(self) -> Choice:
        """What the next batch gets."""
        if not (self._sampled and self._there) or self._measured_bytes < START_BYTES:
            self._blind += not self._sampled
            if self._waits_for_link:
                return Choice(self._first, Why.START)
            return Choice(NONE, Why.START if self._sent_bytes < START_BYTES else Why.WORKERS)
        known = self._known
        places = list(self._places(known))
        weight = self._link_weight
        place = min(places, key=lambda each: each.cost(weight))
        if places[0].cost(weight) < SURELY * place.cost(weight):
            place = places[0]
        self._pays = place is not places[0]
        self._owed += place.share
        rung = place.low
        if self._owed >= 1.0 - 1e-9:
            self._owed -= 1.0
            rung = place.high
        if rung != NONE:
            self._blind = 0
            self._spare += place.why is Why.LINK
        elif place.why is Why.LINK:
            self._blind += 1
            if not place.share:
                rung = self._look(known)
        return Choice(rung, place.why)

    def _look(self, known: Mapping[Rung, Cost]) -> Rung:
        """What pages get that hardly seem to be worth it, over a slow link: the first rung, which gives up on a block
        of noise soon, where workers on both sides have time for it. Not all of them may be noise."""
        if self._first not in known or self._link < FAST_LINK:
            return NONE
        look = self._place(known, self._first, self._first, 0.0)
        return self._first if max(look.here, look.there) < _LOOK_SHARE * self._link else NONE

    def _hull(self, known: Mapping[Rung, Cost]) -> tuple[Rung, ...]:
        return hull(known, self._workers / self._far_workers)

    def _places(self, known: Mapping[Rung, Cost]) -> Iterator[_Place]:
        ladder = self._hull(known)
        yield self._place(known, ladder[0], ladder[0], 0.0)
        for low, high in pairwise(ladder):
            for step in range(1, _MIXES + 1):
                yield self._place(known, low, high, step / _MIXES)

    def _place(self, known: Mapping[Rung, Cost], low: Rung, high: Rung, share: float) -> _Place:
        left, right = known.get(low, _FREE), known.get(high, _FREE)
        mix = left.towards(right, share)
        return _Place(
            low,
            high,
            share,
            here=self._stretch * (self._overhead + mix.seconds) / self._workers,
            link=self._link * mix.wire,
            there=self._there + self._stretch * (mix.unpacking - self._unpacking) / self._far_workers,
        )

    @property
    def _link_weight(self) -> float:
        """More than that of a shared link by the share of their time that workers wait for a core. So does who sends
        then, and the link runs dry between two batches: raw ones among LZ4's kept workers and link busy for 70 and 80 %
        of the time, and moved less than LZ4 alone. Over a fast link the workers' time is dearer than that."""
        return SHARED_LINK + (1.0 - 1.0 / self._stretch if self._link >= FAST_LINK else 0.0)
