"""What a link carries, measured with padded pings on a connection on which nothing else was said."""

import asyncio
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from migrated.engine.ports import Channel
from migrated.errors import PeerFailedError, ProtocolError, UnreachableError
from migrated.protocol import Failed, Ping, Pong
from migrated.protocol.messages import MAX_PING_PADDING

__all__ = ["MeasuredLink", "measure_link", "measure_links"]

_ROUND_TRIPS = 5

_ANSWER_SECONDS = 5.0
"""A destination of before pings were answered would let us wait until it hangs up."""

_FIRST_PADDING = 1 << 10
"""Begun with: at the lowest rate limit that there is it takes a second."""

_FEWEST = 4
"""Pings, however long they take."""

_PING_SECONDS = 0.05
"""A ping that is sent in less is followed by one twice as large. Larger ones would seldom tell how far it is."""

_WARM_UP = 0.25
"""The share of the time that does not count: the congestion window opens, and a token bucket's burst passes."""


@dataclass(frozen=True, slots=True)
class MeasuredLink:
    """Bytes per second that arrive over so many ``connections`` together, and seconds of a round trip."""

    bytes_per_second: float
    round_trip: float
    connections: int = 1


async def measure_links(channels: Sequence[Channel], *, seconds: float) -> MeasuredLink:
    """Fill all of them at a time; see :func:`measure_link`."""
    measuring = [asyncio.ensure_future(measure_link(each, seconds=seconds)) for each in channels]
    try:
        found = await asyncio.gather(*measuring)
    finally:
        for each in measuring:
            each.cancel()
        await asyncio.gather(*measuring, return_exceptions=True)
    return MeasuredLink(
        sum(each.bytes_per_second for each in found), min(each.round_trip for each in found), len(found)
    )


async def measure_link(
    channel: Channel, *, seconds: float, clock: Callable[[], float] = time.monotonic
) -> MeasuredLink:
    """Fill the link for about ``seconds``; a rate limit of the channel is kept.

    The connection is of no other use afterwards. ProtocolError: the peer answers no pings; UnreachableError: the
    link is too slow to tell within that time.
    """
    round_trip = await _round_trip(channel, clock)
    flood = _Flood(channel, clock)
    counting = asyncio.ensure_future(flood.count())
    try:
        await flood.fill(seconds, counting)
        await asyncio.wait({counting}, timeout=max(1.0, seconds))
    finally:
        counting.cancel()
        (ended,) = await asyncio.gather(counting, return_exceptions=True)
    if isinstance(ended, Exception):
        raise ended
    return MeasuredLink(flood.rate(seconds), round_trip)


async def _round_trip(channel: Channel, clock: Callable[[], float]) -> float:
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


async def _pong(channel: Channel) -> None:
    while not isinstance(message := await channel.receive(), Pong):
        if isinstance(message, Failed):
            raise PeerFailedError(f"the destination failed: {message.what}", message.hint, message.code)
        if not isinstance(message, Ping):  # it pings, too, to be sure of us
            raise ProtocolError(f"the destination answered a ping with {type(message).__name__}")


class _Flood:
    """Pings as fast as the connection takes them, and when the answer to each came."""

    def __init__(self, channel: Channel, clock: Callable[[], float]) -> None:
        self._channel = channel
        self._clock = clock
        self._began = clock()
        self._sent: list[int] = []  # bytes sent up to and with each ping
        self._arrived: list[float] = []
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
            if self._clock() - now < _PING_SECONDS:
                size = min(2 * size, MAX_PING_PADDING)
        self._all_sent = True
        if len(self._arrived) >= len(self._sent):
            counting.cancel()

    def rate(self, seconds: float) -> float:
        """Bytes per second between two answers, the first of them after the warm-up."""
        return _rate(self._sent, self._arrived, self._began + _WARM_UP * seconds)


def _rate(sent: Sequence[int], arrived: Sequence[float], warm: float) -> float:
    """Bytes per second from the first answer after ``warm`` to the last; ``sent`` are bytes up to each ping.

    UnreachableError if fewer than two came.
    """
    last = min(len(arrived), len(sent)) - 1
    if last < 1:
        raise UnreachableError(
            "the link is too slow to be measured: not two padded pings were answered in time",
            "check the link, or try again later",
        )
    first = next((at for at, when in enumerate(arrived) if when >= warm), last)
    first = min(first, last - 1)
    return (sent[last] - sent[first]) / max(arrived[last] - arrived[first], 1e-6)
