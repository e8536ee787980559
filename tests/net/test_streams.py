"""Several connections as one channel: who takes a batch, whose limit holds, and what ends them all."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator

import pytest

from migrated.engine.ports import Sent
from migrated.errors import ConnectionLostError
from migrated.net.address import Address
from migrated.net.channel import SocketChannel
from migrated.net.endpoints import Listener, dial
from migrated.net.streams import LONG_STREAMS, Streams, streams_for
from migrated.protocol import (
    RAW_CODEC,
    Accept,
    BatchHeader,
    BatchLimits,
    Failed,
    Join,
    Joined,
    Offer,
    Ping,
    RegionInfo,
    Role,
)

OFFER = Offer(1, 1, "a" * 32, "web", "demo", 4096, (RegionInfo("memory", 1 << 20),), {}, 64, 1, streams=3)
ACCEPT = Accept(version=1, codecs=(), batch_pages=64, decompress_workers=1, streams=3)
LIMITS = BatchLimits(batch_pages=64, page_size=4096, region_pages=(256,), codecs=0)
JOIN = Join("a" * 32, 1)
PAGES = 64
PAYLOAD = os.urandom(PAGES * 4096 + 8 + 4)
HEADER = BatchHeader(1, 0, 0, RAW_CODEC, 0, PAGES, 0, 1, 0, 1, len(PAYLOAD), 0)


class Far:
    """The destination's ends, in the order of their connections, each answered ``answer`` when it joins."""

    def __init__(self) -> None:
        self.ends: list[SocketChannel] = []
        self.near: list[SocketChannel] = []
        self.answer: Joined | Failed = Joined()

    async def connect(self) -> SocketChannel:
        near, far = socket.socketpair()
        for sock in (near, far):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 64 << 10)
        self.ends.append(end := SocketChannel(far, Role.DESTINATION, idle_timeout=60.0, peer="here"))
        self.near.append(made := SocketChannel(near, Role.SOURCE, idle_timeout=60.0, peer="there"))
        await end.start()
        return await made.start()

    async def take_join(self, number: int) -> None:
        while len(self.ends) <= number:
            await asyncio.sleep(0)
        end = self.ends[number]
        assert await end.receive() == JOIN
        await end.send(self.answer)
        if isinstance(self.answer, Joined):
            end.agree(LIMITS)


async def take(end: SocketChannel) -> BatchHeader:
    got = await end.receive()
    assert isinstance(got, BatchHeader)
    payload = bytearray(got.payload_bytes)
    await end.receive_payload(memoryview(payload))
    assert bytes(payload) == PAYLOAD
    return got


@pytest.fixture
async def far(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Far]:
    monkeypatch.setattr("migrated.net.channel._PING_SECONDS", 60.0)
    monkeypatch.setattr("migrated.net.streams._REASON_SECONDS", 0.01)
    made = Far()
    yield made
    for end in (*made.ends, *made.near):
        await end.close()


async def streams(far: Far, said: list[str] | None = None) -> Streams:
    made = Streams(await far.connect(), far.connect, [].append if said is None else said.append)
    await made.send(OFFER)
    assert await far.ends[0].receive() == OFFER
    await far.ends[0].send(ACCEPT)
    assert await made.receive() == ACCEPT
    made.agree(LIMITS)
    far.ends[0].agree(LIMITS)
    return made


async def spread(far: Far, made: Streams, count: int) -> None:
    made.spread(count, JOIN)
    await asyncio.gather(*(far.take_join(number) for number in range(1, count)))
    while made.connections < count:
        await asyncio.sleep(0)


async def test_batches_at_once_take_connections_of_their_own(far: Far) -> None:
    made = await streams(far)
    await spread(far, made, 3)
    numbers: list[list[int]] = [[] for _ in far.ends]

    async def take_all(end: SocketChannel, taken: list[int]) -> None:
        while True:
            taken.append((await take(end)).sequence)

    taking = [asyncio.ensure_future(take_all(*each)) for each in zip(far.ends, numbers, strict=True)]
    sent = await asyncio.gather(*(made.send_batch(HEADER, memoryview(PAYLOAD)) for _ in range(6)))
    while sum(map(len, numbers)) < 6:
        await asyncio.sleep(0)
    for each in taking:
        each.cancel()
    assert [each.waited for each in sent] == [False] + [True] * 5
    assert all(numbers)
    assert all(taken == [*range(1, len(taken) + 1)] for taken in numbers)
    assert made.sent_bytes == sum(end.received_bytes for end in far.ends)
    assert sum(each.wire_bytes for each in sent) < made.sent_bytes
    await made.close()


async def test_those_that_send_at_a_time_share_what_a_batch_took(
    far: Far, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def send_batch(*_: object) -> Sent:
        await asyncio.sleep(0)
        return Sent(len(PAYLOAD), seconds=4.0, asleep=2.0, waited=False, carries=1e8)

    made = await streams(far)
    await spread(far, made, 2)
    monkeypatch.setattr(SocketChannel, "send_batch", send_batch)
    sent = await asyncio.gather(*(made.send_batch(HEADER, memoryview(PAYLOAD)) for _ in range(2)))
    assert [(each.seconds, each.asleep, each.carries) for each in sent] == [(4.0, 2.0, 1e8), (2.0, 1.0, 2e8)]
    await made.close()


async def test_messages_go_over_the_first(far: Far) -> None:
    made = await streams(far)
    await spread(far, made, 2)
    await made.send(Ping())
    assert await far.ends[0].receive() == Ping()
    await far.ends[0].send(Ping())
    assert await made.receive() == Ping()
    await made.close()


async def test_they_share_one_limit(far: Far, monkeypatch: pytest.MonkeyPatch) -> None:
    made = await streams(far)
    await spread(far, made, 2)
    made.set_rate(1e6)
    due: list[float] = []
    loop = asyncio.get_running_loop()

    async def at_once(delay: float) -> None:
        due.append(loop.time() + delay)

    with monkeypatch.context() as patch:
        patch.setattr("migrated.net.channel.asyncio.sleep", at_once)
        sending = asyncio.gather(*(made.send_batch(HEADER, memoryview(PAYLOAD)) for _ in range(2)))
        await asyncio.gather(*(take(end) for end in far.ends))
        began = loop.time()
        await sending
    # Both together take twice the time of one.
    assert max(due) - began > 1.5 * len(PAYLOAD) / 1e6
    await made.close()


async def test_one_that_may_not_join_is_told_of(far: Far) -> None:
    said: list[str] = []
    made = await streams(far, said)
    far.answer = Failed("join", "two are enough")
    made.spread(2, JOIN)
    await far.take_join(1)
    while not said:
        await asyncio.sleep(0)
    assert said == ["1 of 2 connections are in use: two are enough"]
    assert made.connections == 1
    await made.close()


async def test_one_that_is_lost_ends_them_all(far: Far) -> None:
    made = await streams(far)
    await spread(far, made, 2)
    await far.ends[1].close()
    with pytest.raises(ConnectionLostError, match="one of 2 connections was lost"):
        await made.receive()
    await made.close()


async def test_closing_ends_those_that_are_on_their_way(far: Far) -> None:
    made = await streams(far)
    made.spread(3, JOIN)
    while len(far.ends) < 3:
        await asyncio.sleep(0)
    for end in far.ends[1:]:
        assert await end.receive() == JOIN
    await made.close()
    assert asyncio.all_tasks() - {asyncio.current_task()} == {  # type: ignore[arg-type]
        end._keeper for end in far.ends
    }


@pytest.mark.parametrize(
    ("round_trip", "count"), [(0.0, 1), (0.0049, 1), (0.005, LONG_STREAMS), (3, LONG_STREAMS)]
)
def test_a_long_way_is_worth_several(round_trip: float, count: int) -> None:
    assert streams_for(round_trip) == count


async def test_the_round_trip_is_the_kernels(far: Far) -> None:
    async def greeted(channel: SocketChannel) -> None:
        await channel.receive()

    assert (await far.connect()).round_trip == 0.0
    listener = Listener(Address("127.0.0.1", 0), greeted, idle_timeout=60.0, max_connections=2)
    await listener.start()
    channel = await dial(listener.address, connect_timeout=5.0, idle_timeout=60.0)
    assert channel.round_trip > 0
    await channel.close()
    await listener.close()
    await listener.end_all()
