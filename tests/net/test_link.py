"""Measuring a link: what arrives, over a connection whose rate is known, and from a peer that answers wrongly."""

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator

import pytest

from migrated.errors import PeerFailedError, ProtocolError, UnreachableError
from migrated.net import link
from migrated.net.channel import SocketChannel
from migrated.net.link import MeasuredLink, measure_link
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


async def measured(ends: Ends, rate: float, seconds: float = 0.4) -> MeasuredLink:
    source, destination = ends
    source.set_rate(rate)
    async with answering(destination):
        return await measure_link(source, seconds=seconds)


@pytest.mark.parametrize("rate", [0.5e6, 3e6])
async def test_the_rate_is_what_the_link_lets_through(ends: Ends, rate: float) -> None:
    found = await measured(ends, rate)
    assert found.bytes_per_second == pytest.approx(rate, rel=0.25)
    assert 0 < found.round_trip < 1


async def test_a_link_without_a_limit_is_faster_than_any_limit(ends: Ends) -> None:
    assert (await measured(ends, math.inf)).bytes_per_second > 4e6


async def test_a_slow_link_is_not_measured_for_long(ends: Ends) -> None:
    """Pings grow only as long as they are taken at once."""
    found = await measured(ends, 20e3, seconds=0.2)
    assert found.bytes_per_second == pytest.approx(20e3, rel=0.5)


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


def test_what_came_before_the_link_was_warm_does_not_count() -> None:
    sent, arrived = [100, 200, 300, 400], [0.1, 0.2, 1.2, 2.2]
    assert link._rate(sent, arrived, 0.15) == pytest.approx(100)
    assert link._rate(sent, arrived, 0.0) == pytest.approx(300 / 2.1)
    assert link._rate(sent, arrived, 9.0) == pytest.approx(100)  # the last two, whenever they came
    with pytest.raises(UnreachableError, match="too slow"):
        link._rate(sent, arrived[:1], 0.0)
