"""Dialling and listening."""

import asyncio
import contextlib
import gc
import socket
import struct
import threading
from pathlib import Path
from typing import Any

import pytest

from migrated.errors import ConnectionLostError, MigratedError, ResourceError, UnreachableError
from migrated.net.address import Address
from migrated.net.channel import SocketChannel
from migrated.net.endpoints import Listener, dial
from migrated.protocol import Capabilities, Ping, Query

CAPABILITIES = Capabilities("test", 1, 1, {}, (), (), 4096, 1, 1)
TCP = Address("127.0.0.1", 0)


async def answer(channel: SocketChannel) -> None:
    assert await channel.receive() == Query()
    await channel.send(CAPABILITIES)
    await channel.finish()


async def listen(address: Address, handle: Any = answer, **more: Any) -> Listener:
    listener = Listener(address, handle, **{"idle_timeout": 60.0, "max_connections": 100} | more)
    await listener.start()
    return listener


async def call(address: Address) -> SocketChannel:
    return await dial(address, connect_timeout=5.0, idle_timeout=60.0)


async def asked(address: Address) -> Any:
    channel = await call(address)
    try:
        await channel.send(Query())
        while isinstance(answer := await channel.receive(), Ping):
            pass
        return answer
    finally:
        await channel.close()


def descriptors() -> set[str]:
    return {each.name for each in Path("/proc/self/fd").iterdir()}


def others() -> set["asyncio.Task[Any]"]:
    return asyncio.all_tasks() - {asyncio.current_task()}  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["tcp", "unix"])
async def test_who_dials_is_answered(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    listener = await listen(TCP if kind == "tcp" else Address(path=str(path)))
    assert listener.address.port or listener.address.path
    assert await asyncio.gather(*(asked(listener.address) for _ in range(5))) == [CAPABILITIES] * 5
    await listener.close()
    await listener.end_all()
    assert not path.exists()
    assert not others()


async def test_nobody_there_is_unreachable_and_says_where(tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        with pytest.raises(UnreachableError, match=f"127.0.0.1:{port}") as caught:
            await call(Address("127.0.0.1", port))
        assert str(port) in caught.value.hint
    with pytest.raises(UnreachableError, match="unix:"):
        await call(Address(path=str(tmp_path / "none")))
    with pytest.raises(UnreachableError, match=r"no\.such\.host\.invalid"):
        await call(Address("no.such.host.invalid"))


async def test_a_host_that_does_not_answer_in_time_is_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(_self: Any, _sock: Any, _address: Any) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(type(asyncio.get_running_loop()), "sock_connect", never)
    for address in (TCP, Address(path="/none")):
        with pytest.raises(UnreachableError, match="no answer"):
            await dial(address, connect_timeout=0.01, idle_timeout=60.0)


async def test_an_address_that_does_not_answer_leaves_time_for_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A host with a working IPv4 and a dead IPv6 address."""
    listener = await listen(TCP)
    loop = asyncio.get_running_loop()
    connect = loop.sock_connect
    dead, alive = ("127.0.0.2", 1), ("127.0.0.1", listener.address.port)

    async def answers(_self: Any, sock: Any, target: Any) -> None:
        if target == dead:
            await asyncio.Event().wait()
        await connect(sock, target)

    async def both(_self: Any, host: str, *_port: Any, **_more: Any) -> Any:
        targets = (dead, alive) if host == "two.test" else (alive,)
        return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", target) for target in targets]

    monkeypatch.setattr(type(loop), "sock_connect", answers)
    monkeypatch.setattr(type(loop), "getaddrinfo", both)
    try:
        channel = await dial(Address("two.test"), connect_timeout=1.0, idle_timeout=60.0)
        await channel.close()
    finally:
        await listener.close()
        await listener.end_all()


async def test_a_peer_that_is_gone_while_it_is_greeted_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Neither a task that says Ping for ever, nor a socket."""

    async def fails(_self: Any, *_parts: Any) -> None:
        raise ConnectionLostError("gone")

    monkeypatch.setattr(SocketChannel, "_write", fails)
    with socket.create_server(("127.0.0.1", 0)) as server:
        before = descriptors()
        with pytest.raises(ConnectionLostError, match="gone"):
            await call(Address("127.0.0.1", server.getsockname()[1]))
        assert not others()
        assert descriptors() == before


async def test_a_visitor_who_is_gone_at_once_is_no_error() -> None:
    """A port scan: connect, reset."""
    wrong: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: wrong.append(context))

    async def handle(channel: SocketChannel) -> None:
        with contextlib.suppress(MigratedError):
            await answer(channel)

    listener = await listen(TCP, handle)
    for _ in range(10):
        visitor = socket.create_connection(("127.0.0.1", listener.address.port))
        visitor.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        visitor.close()
    assert await asked(listener.address) == CAPABILITIES  # who came first was accepted first
    await listener.close()
    await listener.end_all()
    gc.collect()  # an error that nobody took is told of then
    assert wrong == []


async def ended(visitor: socket.socket) -> bool:
    """Whether the other side hangs up."""
    visitor.setblocking(False)
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(10):
        with contextlib.suppress(ConnectionResetError):
            while await loop.sock_recv(visitor, 100):
                pass
    return True


async def test_of_too_many_silent_visitors_the_one_who_waited_longest_makes_room() -> None:
    """A flood of connections holds no more descriptors than it may, and who speaks is still heard."""
    dropped: list[str] = []
    listener = await listen(TCP, max_connections=4, dropped=dropped.append)
    with contextlib.ExitStack() as opened:
        before = len(descriptors())
        visitors = [
            opened.enter_context(socket.create_connection(("127.0.0.1", listener.address.port)))
            for _ in range(20)
        ]
        for each in visitors[:16]:
            assert await ended(each)
        assert dropped == ["silent"] * 16
        while listener._leaving:
            await asyncio.sleep(0)
        assert len(descriptors()) - before == 20 + 4
        assert await asked(listener.address) == CAPABILITIES
        assert await ended(visitors[16])
    await listener.close()
    await listener.end_all()
    assert not others()


async def test_who_has_spoken_does_not_make_room() -> None:
    dropped: list[str] = []
    heard, done = asyncio.Semaphore(0), asyncio.Event()

    async def handle(channel: SocketChannel) -> None:
        await channel.receive()
        heard.release()
        await done.wait()
        await channel.send(CAPABILITIES)
        await channel.finish()

    listener = await listen(TCP, handle, max_connections=2, dropped=dropped.append)
    first = [asyncio.ensure_future(asked(listener.address)) for _ in range(2)]
    for _ in first:
        await heard.acquire()
    with pytest.raises(ConnectionLostError):
        await asked(listener.address)
    assert dropped == ["full"]
    done.set()
    assert await asyncio.gather(*first) == [CAPABILITIES] * 2
    await listener.close()
    await listener.end_all()


async def test_a_name_is_looked_up_beside_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name server that does not answer takes its time; signals are still heard meanwhile."""
    main = threading.get_ident()
    asked_by: list[int] = []
    look_up = socket.getaddrinfo

    def noted(*arguments: Any, **more: Any) -> Any:
        asked_by.append(threading.get_ident())
        return look_up(*arguments, **more)

    monkeypatch.setattr(socket, "getaddrinfo", noted)
    listener = await listen(TCP)
    await listener.close()
    assert asked_by
    assert main not in asked_by


async def test_ending_all_cancels_who_is_connected_and_waits(tmp_path: Path) -> None:
    begun, undone = asyncio.Event(), asyncio.Event()

    async def handle(channel: SocketChannel) -> None:
        begun.set()
        try:
            await channel.receive()
        finally:
            await asyncio.sleep(0)
            undone.set()

    listener = await listen(Address(path=str(tmp_path / "socket")), handle)
    channel = await call(listener.address)
    await begun.wait()
    await listener.close()
    await listener.end_all()
    assert undone.is_set()
    with pytest.raises(ConnectionLostError):
        await channel.receive()
    await channel.close()


async def test_an_address_in_use_is_refused_and_says_what_to_do(tmp_path: Path) -> None:
    for address in (TCP, Address(path=str(tmp_path / "socket"))):
        listener = await listen(address)
        with pytest.raises(ResourceError, match="cannot listen") as caught:
            await listen(listener.address)
        assert "--listen" in caught.value.hint
        assert await asked(listener.address) == CAPABILITIES
        await listener.close()
        await listener.end_all()


async def test_the_socket_of_a_service_that_is_gone_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as gone:
        gone.bind(str(path))
    listener = await listen(Address(path=str(path)))
    assert await asked(listener.address) == CAPABILITIES
    await listener.close()


async def test_a_service_that_is_too_busy_to_answer_is_left_alone(tmp_path: Path) -> None:
    """Its backlog is full; nobody waits for that to end."""
    path = tmp_path / "socket"
    with contextlib.ExitStack() as opened:
        busy = opened.enter_context(socket.socket(socket.AF_UNIX))
        busy.bind(str(path))
        busy.listen(0)
        with contextlib.suppress(BlockingIOError):
            while True:
                waiting = opened.enter_context(socket.socket(socket.AF_UNIX))
                waiting.setblocking(False)
                waiting.connect(str(path))
        with pytest.raises(ResourceError, match="cannot listen"):
            await listen(Address(path=str(path)))
        assert path.exists()


async def test_a_file_is_never_taken_for_a_stale_socket(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    path.write_text("mine")
    with pytest.raises(ResourceError):
        await listen(Address(path=str(path)))
    assert path.read_text() == "mine"


async def test_an_address_of_another_host_is_refused() -> None:
    with pytest.raises(ResourceError, match="cannot listen"):
        await listen(Address("192.0.2.1", 0))
