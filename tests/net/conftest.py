"""Two ends of a connection in this process, on both event loops."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable

import pytest
import uvloop

from migrated.net.channel import SocketChannel
from migrated.protocol import Accept, BatchLimits, Offer, RegionInfo, Role

OFFER = Offer(
    min_version=1,
    max_version=1,
    migration_id="a" * 32,
    guest="web",
    kind="demo",
    page_size=4096,
    regions=(RegionInfo("memory", 1 << 20),),
    codecs={},
    batch_pages=64,
    digest_seed=1,
)
ACCEPT = Accept(version=1, codecs=(), batch_pages=64, decompress_workers=1)
LIMITS = BatchLimits(batch_pages=64, page_size=4096, region_pages=(256,), codecs=0)


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The daemon and the client run on uvloop, much else on asyncio's own loop."""
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@pytest.fixture
async def ends(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[SocketChannel, SocketChannel]]:
    """Source and destination, greeted; nothing was said yet, and nobody says Ping by itself."""
    monkeypatch.setattr("migrated.net.channel._PING_SECONDS", 60.0)
    near, far = socket.socketpair()
    for sock in (near, far):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 64 << 10)
    source = await SocketChannel(near, Role.SOURCE, idle_timeout=60.0, peer="destination").start()
    destination = await SocketChannel(far, Role.DESTINATION, idle_timeout=60.0, peer="source").start()
    yield source, destination
    await source.close()
    await destination.close()


@pytest.fixture
async def agreed(ends: tuple[SocketChannel, SocketChannel]) -> tuple[SocketChannel, SocketChannel]:
    """The same, ready for batches."""
    source, destination = ends
    await source.send(OFFER)
    assert await destination.receive() == OFFER
    await destination.send(ACCEPT)
    assert await source.receive() == ACCEPT
    source.agree(LIMITS)
    destination.agree(LIMITS)
    return ends
