"""A migration over several connections: what is lost with one of them, and what is said on which."""

import asyncio
import filecmp
import time
from dataclasses import replace
from typing import Any

import pytest

from migrated.engine.events import Finished
from migrated.engine.records import Outcome, Records
from migrated.errors import (
    CancelledByPersonError,
    ConnectionLostError,
    PeerFailedError,
    ProtocolError,
    UnreachableError,
)
from migrated.net.channel import SocketChannel
from migrated.protocol import BatchHeader, Join, Message, RoundEnd

ID = "5" * 32
SMALL_BATCHES = 16
"""Pages: a hundred batches of 64 KiB."""


def sender(sides: Any, streams: int) -> Any:
    """A sender that waits with its batches until all are there: this memory would be gone before the first joins."""
    made = sides.sender(streams=streams, batch_pages=SMALL_BATCHES)
    send_batch = sides.channel.send_batch

    async def later(header: BatchHeader, payload: memoryview) -> Any:
        async with asyncio.timeout(20):
            while sides.channel.connections < streams:
                await asyncio.sleep(0.001)
        return await send_batch(header, payload)

    sides.channel.send_batch = later
    return made


def assert_given_back(sides: Any) -> None:
    assert sides.source.calls[-1] == "resume"
    assert not sides.target.path.exists()
    record = Records(sides.folder / "incoming").read(ID)
    assert record is not None
    assert record.outcome is Outcome.ABORTED


def first_batch_over_the_other(sides: Any) -> Any:
    """A sender over two connections, of which the second carries one batch: the first of all."""
    moving = sides.sender(streams=2, batch_pages=SMALL_BATCHES)
    begun: list[BatchHeader] = []

    async def one_of_them(header: BatchHeader, payload: memoryview) -> Any:
        begun.append(header)
        if len(begun) > 1:
            return await sides.ends[0].send_batch(header, payload)
        async with asyncio.timeout(20):
            while sides.channel.connections < 2:
                await asyncio.sleep(0.001)
        return await sides.lanes[0][0].send_batch(header, payload)

    sides.channel.send_batch = one_of_them
    return moving


def hold_back(sides: Any, monkeypatch: pytest.MonkeyPatch, until: asyncio.Event) -> None:
    """What comes over another connection than the first is not there before that event."""
    receive_payload = SocketChannel.receive_payload

    async def slow(self: SocketChannel, into: memoryview) -> None:
        if self is not sides.ends[1]:
            await until.wait()
        await receive_payload(self, into)

    monkeypatch.setattr(SocketChannel, "receive_payload", slow)


async def test_batches_take_every_connection(sides: Any) -> None:
    report = await sides.move(sender(sides, 4))
    assert filecmp.cmp(sides.source.path, sides.target.path, shallow=False)
    assert report.connections == 4
    assert all(lane.batches for lane in sides.receiver._lanes._all)
    carried = [far.received_bytes for _, far in ((None, sides.ends[1]), *sides.lanes)]
    assert report.wire_bytes == pytest.approx(sum(carried), abs=1000)  # to say that one is there goes on
    (arrived,) = [event.report for event in sides.far_events if isinstance(event, Finished)]
    assert arrived.connections == 4
    assert arrived.wire_bytes == pytest.approx(report.wire_bytes, abs=1000)
    assert sides.said == []


async def test_a_round_waits_for_batches_of_the_other_connections(
    sides: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The end of the round is read before the first of its batches."""
    ended = asyncio.Event()
    hold_back(sides, monkeypatch, until=ended)
    receive = SocketChannel.receive

    async def seen(self: SocketChannel) -> Message | BatchHeader:
        message = await receive(self)
        if isinstance(message, RoundEnd):
            ended.set()
        return message

    monkeypatch.setattr(SocketChannel, "receive", seen)
    await sides.move(first_batch_over_the_other(sides))
    assert ended.is_set()
    assert filecmp.cmp(sides.source.path, sides.target.path, shallow=False)


async def test_a_cancel_is_heard_while_a_round_waits_for_its_batches(
    sides: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    hold_back(sides, monkeypatch, until=asyncio.Event())
    moving = asyncio.ensure_future(sides.move(first_batch_over_the_other(sides)))
    async with asyncio.timeout(20):
        while not (sides.receiver and sides.receiver._lanes._next):  # it listens, and waits
            await asyncio.sleep(0.001)
    moving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await moving
    assert isinstance(sides.far_error, CancelledByPersonError)
    assert_given_back(sides)


async def test_a_connection_that_is_lost_in_the_middle_ends_it(
    sides: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("migrated.net.streams._REASON_SECONDS", 0.05)
    monkeypatch.setattr("migrated.engine.lanes._REASON_SECONDS", 0.05)
    moving = sender(sides, 3)
    receive_payload = SocketChannel.receive_payload

    async def cut(self: SocketChannel, into: memoryview) -> None:
        if sides.lanes and self is sides.lanes[0][1] and self.received_bytes > 256 << 10:
            self.lose(ConnectionLostError("a cable was pulled"))
        await receive_payload(self, into)

    monkeypatch.setattr(SocketChannel, "receive_payload", cut)
    with pytest.raises((ConnectionLostError, PeerFailedError), match=r"connection.* lost|closed"):
        await sides.move(moving)
    assert_given_back(sides)


async def test_what_the_destination_says_is_the_reason(sides: Any) -> None:
    """It comes over the first connection, while the others just end."""
    moving = sender(sides, 3)
    send_batch = SocketChannel.send_batch

    async def damaged(self: SocketChannel, header: BatchHeader, payload: memoryview) -> Any:
        if self is not sides.ends[0]:
            payload[len(payload) // 2] ^= 1
        return await send_batch(self, header, payload)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SocketChannel, "send_batch", damaged)
        with pytest.raises(PeerFailedError, match="checksum"):
            await sides.move(moving)
    assert_given_back(sides)


async def test_it_goes_on_with_the_connections_that_it_gets(sides: Any) -> None:
    moving = sides.sender(streams=3, batch_pages=SMALL_BATCHES)
    dial, send_batch = sides.dial, sides.channel.send_batch
    tries: list[str] = []

    async def once() -> SocketChannel:
        tries.append("dial")
        if len(tries) > 1:
            raise UnreachableError("the firewall says no")
        return await dial()  # type: ignore[no-any-return]

    async def later(header: BatchHeader, payload: memoryview) -> Any:
        async with asyncio.timeout(20):
            while not sides.said:
                await asyncio.sleep(0.001)
        return await send_batch(header, payload)

    sides.channel._dial, sides.channel.send_batch = once, later
    report = await sides.move(moving)
    assert filecmp.cmp(sides.source.path, sides.target.path, shallow=False)
    assert report.connections == 2
    assert sides.said == ["2 of 3 connections are in use: the firewall says no"]


@pytest.mark.parametrize(
    ("most", "wanted", "change", "why"),
    [
        (2, 4, {}, ""),
        (4, 2, {"count": 3}, "takes no more connections"),
        (4, 2, {"digest_seed": 1}, "is somebody else's"),
    ],
)
async def test_the_destination_bounds_them(
    sides: Any, most: int, wanted: int, change: dict[str, int], why: str
) -> None:
    sides.most_streams = most
    moving = sides.sender(streams=wanted)
    asked: list[tuple[int, Join]] = []

    def spread(count: int, join: Join) -> None:
        asked.append((count, join))
        seed = change.get("digest_seed", join.digest_seed)
        sides.channel.spread(change.get("count", count), replace(join, digest_seed=seed))

    async def later(header: BatchHeader, payload: memoryview) -> Any:
        async with asyncio.timeout(20):
            while sides.channel.connections < count - len(sides.said) and not sides.said:
                await asyncio.sleep(0.001)
        return await send_batch(header, payload)

    count = 2
    moving._spread = spread
    send_batch, sides.channel.send_batch = sides.channel.send_batch, later
    report = await sides.move(moving)
    assert [count for count, _ in asked] == [min(most, wanted)]
    assert report.connections == (1 if "digest_seed" in change else 2)
    assert why in "".join(sides.said)
    assert bool(why) == bool(sides.said)
    assert filecmp.cmp(sides.source.path, sides.target.path, shallow=False)


async def test_a_batch_that_never_came_is_missed(sides: Any) -> None:
    """The other connection, over which it might have come, ends without a batch."""
    moving = sender(sides, 2)
    sides.channel.send_batch = sides.ends[0].send_batch
    send = sides.channel.send

    async def boasting(message: Message) -> None:
        if isinstance(message, RoundEnd):
            message = replace(message, batches=message.batches + 1)
        await send(message)
        if isinstance(message, RoundEnd):
            async with asyncio.timeout(20):
                while sides.channel.connections < 2:
                    await asyncio.sleep(0.001)
            await sides.lanes[0][0].close()

    sides.channel.send = boasting
    with pytest.raises(ConnectionLostError, match="one of 2 connections was lost"):
        await sides.move(moving)
    assert_given_back(sides)


async def test_one_that_is_lost_once_all_has_arrived_does_not_matter(
    sides: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("migrated.net.streams._REASON_SECONDS", 0.0)
    monkeypatch.setattr("migrated.engine.lanes._REASON_SECONDS", 0.0)
    moving = sender(sides, 3)
    make_ready, loop = sides.target.make_ready, asyncio.get_running_loop()

    async def cut() -> None:
        await sides.lanes[0][0].close()
        await sides.lanes[1][1].close()
        for _ in range(100):  # whoever watches them has seen it
            await asyncio.sleep(0.001)

    def meanwhile() -> None:
        asyncio.run_coroutine_threadsafe(cut(), loop).result(20)
        make_ready()

    sides.target.make_ready = meanwhile
    report = await sides.move(moving)
    assert report.connections == 3
    assert filecmp.cmp(sides.source.path, sides.target.path, shallow=False)


async def test_a_loss_that_is_noticed_late_does_not_cut_short_what_is_undone(
    sides: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of them end at once, and to discard takes longer than the others wait for a reason."""
    monkeypatch.setattr("migrated.engine.lanes._REASON_SECONDS", 0.01)
    moving = sender(sides, 3)
    discard = sides.target.discard
    send = sides.channel.send

    def slowly() -> None:
        time.sleep(0.1)
        discard()

    async def cut(message: Message) -> None:
        if isinstance(message, RoundEnd):
            for each, _ in ((sides.ends[0], None), *sides.lanes):
                each.lose(ConnectionLostError("the host is gone"))
        await send(message)

    sides.target.discard, sides.channel.send = slowly, cut
    with pytest.raises(ConnectionLostError):
        await sides.move(moving)
    assert isinstance(sides.far_error, ConnectionLostError)
    assert_given_back(sides)


async def test_no_batch_is_taken_once_all_were_compared(sides: Any) -> None:
    headers: list[BatchHeader] = []
    moving = sender(sides, 2)
    send_batch = sides.channel.send_batch

    async def kept(header: BatchHeader, payload: memoryview) -> Any:
        headers.append(header)
        return await send_batch(header, payload)

    sides.channel.send_batch = kept
    report = await sides.move(moving)
    lane = sides.receiver._lanes._all[1]
    late = replace(headers[-1], round=report.rounds + 1, sequence=lane.batches + 1)
    with pytest.raises(ProtocolError, match="where none was due"):
        await sides.receiver._batch(late, lane)
