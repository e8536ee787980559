"""Measuring a link: what arrives, over a connection whose rate is known, and from a peer that answers wrongly."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterable
from typing import cast

import pytest

from migrated.errors import PeerFailedError, ProtocolError, UnreachableError
from migrated.net import link
from migrated.net.channel import SocketChannel
from migrated.net.link import measure_link
from migrated.net.pace import _BURST_SECONDS
from migrated.protocol import Failed, Message, Ping, Pong, RoundDone

Ends = tuple[SocketChannel, SocketChannel]


@contextlib.asynccontextmanager
async def answering(destination: SocketChannel, answer: Message | None = None) -> AsyncIterator[None]:
    """A destination that answers every ping, with ``answer`` if that is given."""

    async def answer_all() -> None:
        while True:
            if isinstance(await destination.receive(), Ping):
                await destination.send(answer or Pong())

    answering = asyncio.ensure_future(answer_all())
    try:
        yield
    finally:
        answering.cancel()
        await asyncio.gather(answering, return_exceptions=True)


class Simulated:
    """A connection of a known rate, in bytes per second, and round trip, whose peer answers; with a clock of its own,
    so that nothing here depends on how busy this host is."""

    def __init__(self, rate: float, round_trip: float = 0.0, told: Iterable[float] = ()) -> None:
        """``told``: what the kernel says of each ping in turn, and 0 after that."""
        self.now = 1000.0
        self.sent_bytes = 0
        self._told = iter(told)
        self._rate, self._round_trip = rate, round_trip
        self._answers: asyncio.Queue[Pong] = asyncio.Queue()

    async def send(self, message: Message) -> None:
        assert isinstance(message, Ping)
        self.sent_bytes += len(message.padding)
        self.now += len(message.padding) / self._rate
        if not message.padding:  # all others follow each other
            self.now += self._round_trip
        self._answers.put_nowait(Pong())
        while not self._answers.empty() and message.padding:
            await asyncio.sleep(0)

    async def receive(self) -> Message:
        return await self._answers.get()

    @property
    def delivery_rate(self) -> float:
        return next(self._told, 0.0)


@pytest.mark.parametrize("rate", [4e3, 20e3, 0.5e6, 3e6, 125e6, 4e9])
async def test_the_rate_is_what_the_link_lets_through(rate: float) -> None:
    simulated = Simulated(rate, 0.03)
    channel = cast(SocketChannel, simulated)
    found = await measure_link(channel, seconds=0.4, clock=lambda: simulated.now)
    assert found.bytes_per_second == pytest.approx(rate, rel=0.02)
    assert found.round_trip == pytest.approx(0.03, rel=0.01)


@pytest.mark.parametrize(
    ("told", "found"),
    [
        ([0.0] * 10 + [2e9, 1e9, 3e9] * 100, 2e9),  # pings take the processors' time: the link carries more
        ([80e6, 90e6, 70e6] * 100, 100e6),  # what arrived did arrive
        ([2e9] * 5, 100e6),  # too seldom to say anything
        ([2e9, 0.0, 0.0] * 100, 2e9),
    ],
)
async def test_the_kernel_knows_of_a_link_that_pings_do_not_fill(told: list[float], found: float) -> None:
    simulated = Simulated(100e6, told=told)
    measured = await measure_link(cast(SocketChannel, simulated), seconds=0.4, clock=lambda: simulated.now)
    assert measured.bytes_per_second == pytest.approx(found, rel=0.02)


async def test_what_the_kernel_told_before_the_link_was_warm_does_not_count() -> None:
    """A token bucket's burst passes at any rate."""
    simulated = Simulated(100e6, told=[2e9] * 40)
    measured = await measure_link(cast(SocketChannel, simulated), seconds=4.0, clock=lambda: simulated.now)
    assert measured.bytes_per_second == pytest.approx(100e6, rel=0.02)


async def test_of_several_connections_all_must_have_told() -> None:
    def clock() -> float:
        return max(each.now for each in both)

    both = Simulated(50e6, told=[1e9] * 500), Simulated(50e6)
    found = await measure_link(*cast("list[SocketChannel]", both), seconds=0.5, clock=clock)
    assert found.bytes_per_second < 200e6
    both = Simulated(50e6, told=[1e9] * 500), Simulated(50e6, told=[2e9] * 500)
    found = await measure_link(*cast("list[SocketChannel]", both), seconds=0.5, clock=clock)
    assert found.bytes_per_second == 3e9


@pytest.mark.parametrize(("rate", "least"), [(4e3, 4), (20e3, 4), (125e6, 40)])
async def test_a_slow_link_is_not_measured_for_long(rate: float, least: int) -> None:
    """Pings grow only as long as they are taken at once."""
    simulated = Simulated(rate)
    began = simulated.now
    await measure_link(cast(SocketChannel, simulated), seconds=0.2, clock=lambda: simulated.now)
    assert simulated.now - began <= max(0.2 + 2 * link._PING_SECONDS, 4.1 * link._FIRST_PADDING / rate)
    assert simulated.sent_bytes >= least * link._FIRST_PADDING


async def test_a_limit_is_kept(ends: Ends) -> None:
    source, destination = ends
    source.set_rate(1e6)
    began = time.monotonic()
    async with answering(destination):
        found = await measure_link(source, seconds=0.4)
    # A burst at its beginning, and one piece that is given to the socket before it is waited for.
    assert source.sent_bytes <= 1e6 * (time.monotonic() - began + 2 * _BURST_SECONDS)
    assert found.bytes_per_second > 0
    assert found.round_trip > 0


async def test_pings_of_the_other_side_do_not_count(ends: Ends) -> None:
    source, destination = ends
    async with answering(destination):
        await destination.send(Ping())
        assert (await measure_link(source, seconds=0.05)).bytes_per_second > 0


@pytest.mark.parametrize(
    ("answer", "error"),
    [(Failed("resources", "no memory"), PeerFailedError), (RoundDone(1), ProtocolError)],
)
async def test_another_answer_is_an_error(
    monkeypatch: pytest.MonkeyPatch, ends: Ends, answer: Message, error: type[Exception]
) -> None:
    monkeypatch.setattr(
        "migrated.protocol.connection.next_state", lambda _sender, state, _event: state, raising=True
    )
    source, destination = ends
    async with answering(destination, answer):
        with pytest.raises(error):
            await measure_link(source, seconds=0.05)


async def test_a_destination_that_answers_no_ping_is_told_so(
    monkeypatch: pytest.MonkeyPatch, ends: Ends
) -> None:
    monkeypatch.setattr(link, "_ANSWER_SECONDS", 0.05)
    with pytest.raises(ProtocolError, match="answers no pings"):
        await measure_link(ends[0], seconds=0.05)


async def test_a_destination_that_goes_away_is_told_at_once(ends: Ends) -> None:
    source, destination = ends

    async def answer_some() -> None:
        for _ in range(7):
            while not isinstance(await destination.receive(), Ping):
                pass
            await destination.send(Pong())
        await destination.close()

    answering = asyncio.ensure_future(answer_some())
    with pytest.raises(Exception, match="destination"):
        await measure_link(source, seconds=60.0)
    await answering


async def test_several_connections_carry_what_they_carry_together() -> None:
    both = Simulated(10e6, 0.03), Simulated(20e6, 0.02)
    both[1].now = both[0].now

    def clock() -> float:
        return max(each.now for each in both)

    found = await measure_link(*cast("list[SocketChannel]", both), seconds=0.5, clock=clock)
    assert found.connections == 2
    assert found.bytes_per_second > 10e6


async def test_those_that_fail_are_done_without_unless_all_do(ends: Ends) -> None:
    source, destination = ends
    gone = cast(SocketChannel, Gone())
    async with answering(destination):
        found = await measure_link(source, gone, seconds=0.05)
    assert found.connections == 1
    assert found.bytes_per_second > 0
    with pytest.raises(UnreachableError, match="gone"):
        await measure_link(gone, gone, seconds=0.05)


class Gone:
    async def send(self, message: Message) -> None:
        raise UnreachableError("gone")


def test_what_one_carries_alone_at_the_end_does_not_count() -> None:
    one = [(0.1 * step, 100 * step) for step in range(1, 11)]
    slower = [(0.1 * step, 100 * step) for step in range(1, 8)]
    rest = [(0.7 + 0.05 * step, 700 + 100 * step) for step in range(1, 4)]
    assert link._rate([one, slower], 0.15) == pytest.approx(2000)
    assert link._rate([one, slower + rest], 0.15) == pytest.approx(2000, rel=0.3)
    assert link._rate([one[:7], slower + rest], 0.15) == pytest.approx(2000)
    assert link._rate([[(0.1, 10), (0.2, 20)], [(0.5, 10), (0.7, 30)]], 0.0) == pytest.approx(200)


def test_what_came_before_the_link_was_warm_does_not_count() -> None:
    answers = list(zip([0.1, 0.2, 1.2, 2.2], [100, 200, 300, 400], strict=True))
    assert link._rate([answers], 0.15) == pytest.approx(100)
    assert link._rate([answers], 0.0) == pytest.approx(300 / 2.1)
    assert link._rate([answers], 9.0) == pytest.approx(100)  # the last two, whenever they came
    with pytest.raises(UnreachableError, match="too slow"):
        link._rate([answers[:1]], 0.0)
