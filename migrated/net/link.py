"""What a link carries, measured with padded pings on a connection on which nothing else was said.

Pings take processors' time, on both sides: 500 MB/s are all that two processes of Python get through, if they share two
cores. The kernel tells the link's own rate, by the acknowledgements of what was sent while there was enough to send
(tcp_info's delivery rate): the higher of the two counts.

    link, Mb/s    pings, MB/s    kernel, MB/s
    1000          105-120        114-119
    2000          239            237
    4000          436-447        484-486
    none          491-508        1940-8731
"""

import asyncio
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from migrated.errors import PeerFailedError, ProtocolError, UnreachableError
from migrated.net.channel import SocketChannel
from migrated.protocol import Failed, Ping, Pong
from migrated.protocol.messages import MAX_PING_PADDING

__all__ = ["MeasuredLink", "measure_link"]

_ROUND_TRIPS = 5

_ANSWER_SECONDS = 5.0
"""A destination of before pings were answered would let us wait until it hangs up."""

_FIRST_PADDING = 1 << 10
"""Begun with: at the lowest rate limit that there is it takes a second."""

_FEWEST = 4
"""Pings, however long they take."""

_PING_SECONDS = 0.05
"""A ping that is sent in less is followed by one twice as large. Larger ones would seldom tell how far it is."""

_FEWEST_RATES = 16
"""Rates that the kernel must have told. Their median counts: one is of some packets, and as far off as a moment is."""

_WARM_UP = 0.25
"""The share of the time that does not count: the congestion window opens, and a token bucket's burst passes."""


@dataclass(frozen=True, slots=True)
class MeasuredLink:
    """Bytes per second that arrive over so many ``connections`` together, and seconds of a round trip."""

    bytes_per_second: float
    round_trip: float
    connections: int = 1


async def measure_link(
    *channels: SocketChannel, seconds: float, clock: Callable[[], float] = time.monotonic
) -> MeasuredLink:
    """Fill the link for about ``seconds``, over all ``channels`` at a time; a rate limit of theirs is kept.

    Connections that fail are done without, unless all do. They are of no other use afterwards. ProtocolError: the
    peer answers no pings; UnreachableError: the link is too slow to tell within that time.
    """
    filling = [asyncio.ensure_future(_fill(each, seconds, clock)) for each in channels]
    try:
        ended = await asyncio.gather(*filling, return_exceptions=True)
    finally:
        for each in filling:
            each.cancel()
        await asyncio.gather(*filling, return_exceptions=True)
    floods = [each for each in ended if not isinstance(each, BaseException)]
    for error in ended if not floods else ():
        if isinstance(error, BaseException):
            raise error
    first = max(each.warm(seconds) for each in floods)
    told = [each.delivery_rate(first) for each in floods]
    rate = max(_rate([each.answers for each in floods], first), sum(told) if all(told) else 0.0)
    return MeasuredLink(rate, min(each.round_trip for each in floods), len(floods))


async def _fill(channel: SocketChannel, seconds: float, clock: Callable[[], float]) -> "_Flood":
    round_trip = await _round_trip(channel, clock)
    flood = _Flood(channel, clock, round_trip)
    counting = asyncio.ensure_future(flood.count())
    try:
        await flood.fill(seconds, counting)
        await asyncio.wait({counting}, timeout=max(1.0, seconds))
    finally:
        counting.cancel()
        (ended,) = await asyncio.gather(counting, return_exceptions=True)
    if isinstance(ended, Exception):
        raise ended
    return flood


async def _round_trip(channel: SocketChannel, clock: Callable[[], float]) -> float:
    """The shortest of some."""
    found = []
    try:
        async with asyncio.timeout(_ANSWER_SECONDS):
            for _ in range(_ROUND_TRIPS):
                began = clock()
                await channel.send(Ping())
                await _pong(channel)
                found.append(clock() - began)
    except TimeoutError as error:
        raise ProtocolError(
            "the destination answers no pings, so the link cannot be measured",
            "it may be an older release: upgrade it",
        ) from error
    return min(found)


async def _pong(channel: SocketChannel) -> None:
    while not isinstance(message := await channel.receive(), Pong):
        if isinstance(message, Failed):
            raise PeerFailedError(f"the destination failed: {message.what}", message.hint, message.code)
        if not isinstance(message, Ping):  # it pings, too, to be sure of us
            raise ProtocolError(f"the destination answered a ping with {type(message).__name__}")


class _Flood:
    """Pings as fast as the connection takes them, and when the answer to each came."""

    def __init__(self, channel: SocketChannel, clock: Callable[[], float], round_trip: float) -> None:
        self.round_trip = round_trip
        self._channel = channel
        self._clock = clock
        self._began = clock()
        self._sent: list[int] = []  # bytes sent up to and with each ping
        self._arrived: list[float] = []
        self._told: list[tuple[float, float]] = []  # when, and the kernel's rate
        self._all_sent = False

    async def count(self) -> None:
        """Take answers; ends with the last."""
        while not (self._all_sent and len(self._arrived) >= len(self._sent)):
            await _pong(self._channel)
            self._arrived.append(self._clock())

    async def fill(self, seconds: float, counting: "asyncio.Future[None]") -> None:
        """Send for ``seconds``, or until ``counting`` has ended."""
        noise = os.urandom(MAX_PING_PADDING)
        size = _FIRST_PADDING
        ending = self._began + seconds
        while not counting.done() and ((now := self._clock()) < ending or len(self._sent) < _FEWEST):
            await self._channel.send(Ping(noise[:size]))
            self._sent.append(self._channel.sent_bytes)
            if rate := self._channel.delivery_rate:
                self._told.append((self._clock(), rate))
            if self._clock() - now < _PING_SECONDS:
                size = min(2 * size, MAX_PING_PADDING)
        self._all_sent = True
        if len(self._arrived) >= len(self._sent):
            counting.cancel()

    def warm(self, seconds: float) -> float:
        """When the warm-up ends of a flood for so many ``seconds``."""
        return self._began + _WARM_UP * seconds

    def delivery_rate(self, warm: float) -> float:
        """Bytes per second by the kernel, after ``warm``; 0 if it told too seldom."""
        rates = [rate for when, rate in self._told if when >= warm]
        return statistics.median(rates) if len(rates) >= _FEWEST_RATES else 0.0

    @property
    def answers(self) -> "_Answers":
        """When each answer came, and the bytes sent up to and with its ping."""
        return list(zip(self._arrived, self._sent, strict=False))


_Answers = list[tuple[float, int]]


def _rate(floods: Sequence[_Answers], warm: float) -> float:
    """Bytes per second of all floods together, within the time in which all of them had answers: from the first after
    ``warm`` to the last. UnreachableError if one of them has fewer than two.
    """
    if any(len(answers) < 2 for answers in floods):
        raise UnreachableError(
            "the link is too slow to be measured: not two padded pings were answered in time",
            "check the link, or try again later",
        )
    # Who is done last has the link alone: that does not count.
    ends = min(answers[-1][0] for answers in floods)
    begins = max(_first(answers, warm) for answers in floods)
    if begins >= ends:
        return sum(_between(answers, _first(answers, warm), answers[-1][0]) for answers in floods)
    return sum(_between(answers, begins, ends) for answers in floods)


def _first(answers: _Answers, warm: float) -> float:
    """When the first answer after ``warm`` came, but for the last."""
    return next((when for when, _ in answers[:-1] if when >= warm), answers[-2][0])


def _between(answers: _Answers, begins: float, ends: float) -> float:
    """Bytes per second, what lies between two answers shared out evenly."""
    when, sent = zip(*answers, strict=True)
    low, high = np.interp([begins, ends], when, sent)
    return float(high - low) / max(ends - begins, 1e-6)
