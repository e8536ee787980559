"""The protocol over a socket: whole batches, and every way in which a connection ends."""

import asyncio
import contextlib
import math
import os
import socket
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest

from migrated.errors import ConnectionLostError, ProtocolError
from migrated.net.channel import SocketChannel
from migrated.net.pace import SLOWEST_RATE
from migrated.net.tcp_info import TcpInfo
from migrated.protocol import (
    RAW_CODEC,
    Aborted,
    BatchHeader,
    Cancel,
    Commit,
    Ping,
    Pong,
    Query,
    Role,
    RoundEnd,
)
from migrated.protocol.frames import PREAMBLE

PAGES = 64
PAYLOAD = os.urandom(PAGES * 4096 + 8 + 4)

Ends = tuple[SocketChannel, SocketChannel]


def header(sequence: int = 1) -> BatchHeader:
    return BatchHeader(
        round=1,
        sequence=sequence,
        region=0,
        codec=RAW_CODEC,
        level=0,
        data_pages=PAGES,
        zero_pages=0,
        data_runs=1,
        zero_runs=0,
        blocks=1,
        payload_bytes=len(PAYLOAD),
        checksum=0,
    )


async def take(channel: SocketChannel) -> bytes:
    """Receive a batch; the payload."""
    got = await channel.receive()
    assert isinstance(got, BatchHeader)
    payload = bytearray(got.payload_bytes)
    await channel.receive_payload(memoryview(payload))
    return bytes(payload)


async def blocked(task: "asyncio.Future[Any]") -> None:
    """Let everything run until ``task`` waits for the peer alone."""
    for _ in range(50):
        await asyncio.sleep(0)
    assert not task.done()


async def test_a_batch_arrives_as_it_was_sent_and_messages_around_it(agreed: Ends) -> None:
    source, destination = agreed

    async def send() -> None:
        for sequence in (1, 2):
            await source.send_batch(header(sequence), memoryview(PAYLOAD))
            await source.send(RoundEnd(sequence, 1, PAGES))

    sending = asyncio.ensure_future(send())
    for sequence in (1, 2):
        assert await take(destination) == PAYLOAD
        assert await destination.receive() == RoundEnd(sequence, 1, PAGES)
    await sending
    assert source.sent_bytes == destination.received_bytes > 2 * len(PAYLOAD)
    assert source.received_bytes == destination.sent_bytes > 0


@pytest.mark.parametrize(("busy", "share"), [(lambda: 7.0, 1.0), (time.monotonic, 0.0)], ids=["idle", "busy"])
async def test_what_a_batch_took_is_told_from_what_its_sender_did(
    busy: Callable[[], float], share: float, agreed: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("migrated.net.channel.awake_seconds", busy)
    source, destination = agreed
    sending = asyncio.ensure_future(source.send_batch(header(), memoryview(PAYLOAD)))
    await blocked(sending)
    await take(destination)
    sent = await sending
    assert sent.seconds > 0
    assert sent.asleep == pytest.approx(share * sent.seconds, abs=1e-3)


async def test_a_batch_tells_what_the_link_carries_unless_a_limit_holds(
    agreed: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("migrated.net.channel.tcp_info", lambda _: TcpInfo(0.01, 1e9))
    source, destination = agreed
    taking = asyncio.ensure_future(take(destination))
    assert (await source.send_batch(header(), memoryview(PAYLOAD))).carries == 1e9
    await taking
    source.set_rate(1e12)
    taking = asyncio.ensure_future(take(destination))
    assert (await source.send_batch(header(2), memoryview(PAYLOAD))).carries == 0.0
    await taking


async def test_senders_at_once_take_turns(agreed: Ends) -> None:
    source, destination = agreed
    sending = asyncio.gather(
        *(source.send_batch(header(n), memoryview(PAYLOAD)) for n in range(1, 4)), source.send(Ping())
    )
    assert await take(destination) == PAYLOAD
    assert await destination.receive() == Ping()  # it waits for one batch, not for all that wait
    for _ in range(2):
        assert await take(destination) == PAYLOAD
    *sent, _ = await sending
    assert [each.waited for each in sent] == [False, True, True]
    assert sum(each.wire_bytes for each in sent) < source.sent_bytes


async def test_a_cancelled_send_that_can_end_on_a_whole_frame_does(agreed: Ends) -> None:
    source, destination = agreed
    sending = asyncio.ensure_future(source.send_batch(header(), memoryview(PAYLOAD)))
    await blocked(sending)
    sending.cancel()
    await blocked(sending)
    assert await take(destination) == PAYLOAD
    with pytest.raises(asyncio.CancelledError):
        await sending
    await source.send(Cancel("by hand"))
    assert await destination.receive() == Cancel("by hand")


async def test_a_send_that_is_cancelled_twice_tears_the_stream(agreed: Ends) -> None:
    """A torn stream is closed: nothing that follows could be told from the rest of the payload."""
    source, destination = agreed
    sending = asyncio.ensure_future(source.send_batch(header(), memoryview(PAYLOAD)))
    await blocked(sending)
    sending.cancel()
    await blocked(sending)
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending
    with pytest.raises(ConnectionLostError, match="cancelled in the middle"):
        await source.send(Ping())
    with pytest.raises(ConnectionLostError):
        await take(destination)


async def test_a_cancelled_receive_loses_nothing(ends: Ends) -> None:
    source, destination = ends
    for _ in range(3):
        receiving = asyncio.ensure_future(destination.receive())
        await blocked(receiving)
        receiving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await receiving
    await source.send(Query())
    assert await destination.receive() == Query()


async def test_a_peer_that_hangs_up_is_lost(ends: Ends) -> None:
    source, destination = ends
    receiving = asyncio.ensure_future(destination.receive())
    await blocked(receiving)
    await source.close()
    with pytest.raises(ConnectionLostError, match="closed the connection"):
        await receiving


async def test_what_the_peer_said_before_it_hung_up_is_still_read(ends: Ends) -> None:
    """A write fails, and the reason for it waits to be read."""
    source, destination = ends
    await source.send(Commit("a" * 32))
    assert await destination.receive() == Commit("a" * 32)
    await destination.send(Aborted("too late"))
    await destination.close()
    with pytest.raises(ConnectionLostError):
        await asyncio.gather(*(source.send(Ping()) for _ in range(20)))
    assert await source.receive() == Aborted("too late")


async def test_closing_here_ends_whoever_waits_here(ends: Ends) -> None:
    source, _ = ends
    receiving = asyncio.ensure_future(source.receive())
    await blocked(receiving)
    await source.close()
    with pytest.raises(ConnectionLostError, match="closed here"):
        await receiving
    with pytest.raises(ConnectionLostError, match="closed here"):
        await source.send(Ping())
    await source.close()


async def test_an_orderly_end_waits_for_the_peer_to_have_read_everything(ends: Ends) -> None:
    source, destination = ends
    await source.send(Commit("a" * 32))
    await destination.receive()
    await destination.send(Aborted("no"))
    finishing = asyncio.ensure_future(destination.finish())
    await blocked(finishing)
    assert await source.receive() == Aborted("no")
    await source.close()
    await finishing


async def test_a_silent_peer_is_lost() -> None:
    near, far = socket.socketpair()
    with far:
        channel = await SocketChannel(near, Role.SOURCE, idle_timeout=0.04, peer="there").start()
        with pytest.raises(ConnectionLostError, match="there said nothing for 0 s"):
            await channel.receive()
        await channel.close()


async def test_who_has_nothing_to_say_says_ping() -> None:
    near, far = socket.socketpair()
    source = await SocketChannel(near, Role.SOURCE, idle_timeout=3.0, peer="there").start()
    destination = await SocketChannel(far, Role.DESTINATION, idle_timeout=60.0, peer="here").start()
    await source.send(Query())
    assert await destination.receive() == Query()
    assert await destination.receive() == Ping()
    await destination.send(Pong())
    while (said := await source.receive()) == Ping():  # the other one pings as well
        pass
    assert said == Pong()
    await source.close()
    await destination.close()


async def test_a_peer_that_does_not_even_take_a_ping_is_lost() -> None:
    near, far = socket.socketpair()
    with far:
        channel = await SocketChannel(near, Role.DESTINATION, idle_timeout=0.2, peer="there").start()
        with contextlib.suppress(BlockingIOError):
            while True:
                near.send(bytes(4096))
        try:
            async with asyncio.timeout(10):
                while not channel.sending:
                    await asyncio.sleep(0)
                with pytest.raises(ConnectionLostError, match="there took nothing"):
                    await channel.send(Pong())
        finally:
            await channel.close()


async def test_who_sends_to_a_peer_that_takes_nothing_learns_why(agreed: Ends) -> None:
    source, _ = agreed
    assert source._keeper is not None
    source._keeper.cancel()
    source._idle_timeout = 0.2
    source._keeper = asyncio.ensure_future(source._keep_alive())
    async with asyncio.timeout(10):
        with pytest.raises(ConnectionLostError, match="destination took nothing"):
            await source.send_batch(header(), memoryview(PAYLOAD))


@pytest.mark.parametrize("sent", [b"GET / HTTP/1.1\r\n", b"\x16\x03\x01\x02\x00\x01", bytes(100)])
async def test_what_is_no_peer_is_a_protocol_error(sent: bytes) -> None:
    near, far = socket.socketpair()
    with far:
        channel = await SocketChannel(near, Role.DESTINATION, idle_timeout=60.0, peer="there").start()
        far.send(sent)
        with pytest.raises(ProtocolError, match="does not speak"):
            await channel.receive()
        await channel.close()


@pytest.mark.parametrize("cut", range(len(PREAMBLE)))
async def test_a_cut_in_the_greeting_is_a_lost_connection(cut: int) -> None:
    near, far = socket.socketpair()
    channel = await SocketChannel(near, Role.DESTINATION, idle_timeout=60.0, peer="there").start()
    far.send(PREAMBLE[:cut])
    far.close()
    with pytest.raises(ConnectionLostError):
        await channel.receive()
    await channel.close()


async def test_a_limit_cuts_a_batch_into_pieces(agreed: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    source, destination = agreed
    delays: list[float] = []
    sleep = asyncio.sleep

    async def counted(delay: float) -> None:
        delays.append(delay)
        await sleep(0)

    monkeypatch.setattr("migrated.net.channel.asyncio.sleep", counted)
    source.set_rate(1e6)
    sending = asyncio.ensure_future(source.send_batch(header(), memoryview(PAYLOAD)))
    assert await take(destination) == PAYLOAD
    await sending
    waits = [delay for delay in delays if delay]
    assert len(waits) >= len(PAYLOAD) // 50_000 - 1
    assert sum(waits) > 0


async def test_a_limit_that_is_lowered_in_the_middle_of_a_batch_leaves_no_long_silence(
    agreed: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The peer takes who is silent for lost, and so do we who takes nothing - but not while we wait ourselves."""
    source, destination = agreed
    delays = [0.0]
    sleep = asyncio.sleep

    async def counted(delay: float) -> None:
        if asyncio.current_task() in (source._keeper, destination._keeper):
            await sleep(delay)
        elif delay:
            assert source._pushing_since is None
            source.set_rate(SLOWEST_RATE if len(delays) < 10 else math.inf)
            delays.append(delay)
        await sleep(0)

    monkeypatch.setattr("migrated.net.channel.asyncio.sleep", counted)
    source.set_rate(1e6)
    sending = asyncio.ensure_future(source.send_batch(header(), memoryview(PAYLOAD)))
    assert await take(destination) == PAYLOAD
    await sending
    assert len(delays) > 10
    # The clock hardly moves meanwhile, so each has all those before it in it.
    assert max(later - earlier for earlier, later in pairwise(delays)) <= 0.3


async def test_a_source_does_not_begin_with_a_ping() -> None:
    """On a busy host it takes its time until it says what it wants, and a session begins with that."""
    near, far = socket.socketpair()
    source = await SocketChannel(near, Role.SOURCE, idle_timeout=0.01, peer="there").start()
    destination = await SocketChannel(far, Role.DESTINATION, idle_timeout=60.0, peer="here").start()
    while source._loop.time() - source._last_sent < 0.1:
        await asyncio.sleep(0)
    await source.send(Query())
    assert await destination.receive() == Query()
    await source.close()
    await destination.close()


async def test_a_ping_does_not_count_as_said(ends: Ends) -> None:
    source, destination = ends
    await source.send(Ping())
    assert await destination.receive() == Ping()
    assert not destination.heard
    await source.send(Query())
    assert await destination.receive() == Query()
    assert destination.heard


async def test_who_waits_for_a_peer_with_a_shorter_timeout_pings_in_time() -> None:
    """Each side has its own idle timeout, of a second or more, and neither knows the other's."""
    near, far = socket.socketpair()
    began = asyncio.get_running_loop().time()
    source = await SocketChannel(near, Role.SOURCE, idle_timeout=3600.0, peer="there").start()
    destination = await SocketChannel(far, Role.DESTINATION, idle_timeout=3600.0, peer="here").start()
    async with asyncio.timeout(30):
        assert await source.receive() == Ping()
    assert asyncio.get_running_loop().time() - began < 20
    await source.close()
    await destination.close()
