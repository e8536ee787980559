"""A migration's pipeline in small, for policies: workers, link and destination, millisecond by millisecond.

Every task that wants a core gets an equal share of those of its host; both sides may share one host, as in all that
is measured on one machine. What a batch takes besides its codec are this project's own figures (`bench stages`).
"""

from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from migrated.compression.policy import NONE, Auto, Choice, Cost, Rung, Why

STEP = 1e-3
BATCH, SMALLEST = 4e6, 256e3
"""The first ones are small, and double up to the largest: see :mod:`migrated.engine.cutting`."""

_READING, _WRITING = 0.7e-9, 0.6e-9
"""CPU seconds of a worker for a byte of memory, besides the codec."""
_CHECKING = 0.6e-9
"""CPU seconds of a worker there for a byte on the wire: it comes from another core."""
_SOCKET = 0.35e-9
"""CPU seconds of an event loop for a byte on the wire, on either side."""
_BUFFERS = 4e6
"""Bytes that the kernel takes before the link has carried any of them."""
_TELLING = 1e6
"""Bytes of memory: the destination says nothing of what a smaller batch took."""
_TELLS = 0.1
"""Seconds between two words of the destination on what its workers take."""


@dataclass
class _Batch:
    rung: Rung
    size: float
    """Bytes of memory."""
    left: float
    """CPU seconds to go."""
    wire: float
    packed_in: float = 0.0
    seconds: float = 0.0
    asleep: float = 0.0


@dataclass
class Pipeline:
    """``link`` in bytes a second; ``others`` tasks that are not ours want a core of the (source's) host, too."""

    auto: Auto | Rung
    costs: Mapping[Rung, Cost]
    link: float
    workers: int = 2
    far_workers: int = 1
    cores: int = 2
    shared: bool = True
    others: int = 0
    far_factor: float = 1.0
    """How much longer the destination's workers take for all they do."""
    used: Counter[Rung] = field(default_factory=Counter)
    choice: Choice = Choice(NONE, Why.START)  # noqa: RUF009 - frozen
    now: float = 0.0

    def __post_init__(self) -> None:
        self._packing: list[_Batch] = []
        self._waiting: deque[_Batch] = deque()
        self._sending: _Batch | None = None
        self._buffered = 0.0
        self._arriving: deque[_Batch] = deque()
        self._arrived: deque[_Batch] = deque()
        self._unpacking: list[_Batch] = []
        self._there = self._there_told = 0.0
        self._told_at = -_TELLS
        self._waited = False
        self._given = 0

    def run(self, batches: int) -> float:
        """Seconds that so many more batches take, until the last one is in place. ``used`` counts their rungs."""
        began, given, done = self.now, 0, 0
        self.used.clear()
        slots = 2 * self.workers + 2
        while done < batches:
            while given < batches and self._under_way < slots:
                self._give()
                given += 1
            done += self._step()
            if self.now - began > 10_000:
                raise RuntimeError("the pipeline stands still")
        return self.now - began

    @property
    def _under_way(self) -> int:
        return len(self._packing) + len(self._waiting) + (self._sending is not None)

    def _give(self) -> None:
        self.choice = Choice(self.auto, Why.FIXED) if isinstance(self.auto, Rung) else self.auto.choose()
        rung = self.choice.rung
        self.used[rung] += 1
        cost = self._cost(rung)
        size = min(BATCH, SMALLEST * 2 ** min(10, self._given // max(8, 2 * self.workers)))
        self._given += 1
        cpu = size * (_READING + cost.seconds)
        self._packing.append(_Batch(rung, size, cpu, size * cost.wire, cpu))

    def _cost(self, rung: Rung) -> Cost:
        return self.costs.get(rung, Cost(0.0, 1.0))

    def _step(self) -> int:
        """One step in time; the batches that got into place in it."""
        self.now += STEP
        here, there = self._shares()
        for batch in self._packing[: self.workers]:
            batch.left -= STEP * here
            batch.seconds += STEP
        for batch in [each for each in self._packing if each.left <= 0]:
            self._packing.remove(batch)
            self._waiting.append(batch)
            if isinstance(self.auto, Auto):
                codec = batch.size * self._cost(batch.rung).seconds
                self.auto.packed(
                    *(batch.rung, int(batch.size), int(batch.wire)),
                    codec_seconds=codec,
                    cpu_seconds=batch.packed_in,
                    seconds=batch.seconds,
                )
            batch.left, batch.seconds = batch.wire, 0.0
        self._send(here, there)
        return self._unpack(there)

    def _shares(self) -> tuple[float, float]:
        packing = min(self.workers, len(self._packing))
        unpacking = len(self._unpacking)
        ours = packing + 0.3 * (self._sending is not None) + self.others
        theirs = unpacking + 0.3 * bool(self._buffered)
        if self.shared:
            ours = theirs = ours + theirs
        return min(1.0, self.cores / max(ours, 1e-9)), min(1.0, self.cores / max(theirs, 1e-9))

    def _send(self, here: float, there: float) -> None:
        room = 2 * self.far_workers + 2 - len(self._arrived) - len(self._unpacking)
        if room > 0:
            carried = min(self._buffered, STEP * min(self.link, there / _SOCKET))
            self._buffered -= carried
            while self._arriving and carried > 0:
                taken = min(carried, self._arriving[0].wire)
                self._arriving[0].wire -= taken
                carried -= taken
                if self._arriving[0].wire <= 1e-6:
                    self._arrived.append(self._arriving.popleft())
        allowed = runs = STEP * here / _SOCKET
        while allowed > 0:
            if self._sending is None:
                if not self._waiting:
                    return
                self._sending = self._waiting.popleft()
                self._waited = self._waited or bool(self._waiting)
                self._arriving.append(_Batch(self._sending.rung, self._sending.size, 0.0, self._sending.wire))
            taken = min(self._sending.left, allowed, _BUFFERS - self._buffered)
            self._sending.left -= taken
            self._buffered += taken
            allowed -= taken
            if self._sending.left > 1e-6:
                self._sending.seconds += STEP
                self._sending.asleep += STEP * allowed / runs
                return
            self._sent(self._sending)
            self._sending = None

    def _sent(self, batch: _Batch) -> None:
        if isinstance(self.auto, Auto):
            self.auto.sent(
                *(batch.rung, int(batch.wire), max(batch.seconds, batch.wire * _SOCKET)),
                asleep=batch.asleep,
                waited=self._waited,
                there=self._there_told,
            )
        self._waited = bool(self._waiting)

    def _unpack(self, there: float) -> int:
        while self._arrived and len(self._unpacking) < self.far_workers:
            batch = self._arrived.popleft()
            cost = self._cost(batch.rung)
            batch.left = batch.size * self.far_factor * (_WRITING + _CHECKING * cost.wire + cost.unpacking)
            self._unpacking.append(batch)
        for batch in self._unpacking:
            batch.left -= STEP * there
            batch.seconds += STEP
        done = [each for each in self._unpacking if each.left <= 0]
        for each in done:
            self._unpacking.remove(each)
            if each.size < _TELLING:
                continue
            took = each.seconds / each.size / self.far_workers
            self._there += 0.2 * (took - self._there) if self._there else took
        if self._there and done and self.now - self._told_at >= _TELLS:
            self._there_told, self._told_at = self._there, self.now
        return len(done)
