"""Server and client together, over real sockets."""

import asyncio
import contextlib
import logging
import socket
from pathlib import Path

import aiohttp
import pytest

from migrated.control.client import ControlClient, everything, only
from migrated.control.server import ControlServer
from migrated.errors import AccessError, ProtocolError, ResourceError, UnreachableError, UsageError
from migrated.net.address import Address
from tests.control.conftest import ENDED, FIRST, SECOND, Migrations, metrics


async def test_everything_a_client_can_do(migrations: Migrations, folder: Path) -> None:
    server = await ControlServer(migrations, metrics, name="send-1").start()
    assert server.path == folder / "send-1.sock"
    assert server.url == ""
    client = ControlClient(server.path)
    assert [found.migration_id for found in await client.list()] == [FIRST, SECOND, ENDED]
    assert (await client.get("3f2"))["guest"] == "one"
    await client.cancel("3f7")
    assert migrations.cancelled == [SECOND]
    await client.change(FIRST, {"level": "9"})
    assert migrations.changed == [(FIRST, "level", "9")]
    assert (await client.forget(FIRST))["outcome"] == "aborted"
    assert migrations.forgotten == [FIRST]
    assert (await client.info())["software"] == "test"
    await server.close()
    await server.close()
    assert list(folder.iterdir()) == []


async def test_errors_come_back_as_what_they_were(migrations: Migrations, folder: Path) -> None:
    server = await ControlServer(migrations, metrics, name="send-1").start()
    assert server.path is not None
    client = ControlClient(server.path)
    with pytest.raises(UsageError, match="no migration") as caught:
        await client.get("zz")
    assert caught.value.hint == "see `migrated status`"
    with pytest.raises(UsageError, match="it is over"):
        await client.cancel(ENDED)
    await server.close()
    with pytest.raises(UnreachableError):
        await client.list()


async def test_tcp_has_the_port_that_it_got(migrations: Migrations, folder: Path) -> None:
    server = await ControlServer(migrations, metrics, name="serve-1", address=Address("127.0.0.1", 0)).start()
    try:
        async with aiohttp.ClientSession() as session, session.get(f"{server.url}/healthz") as response:
            assert response.status == 200
    finally:
        await server.close()


async def test_no_more_than_so_many_connect_over_tcp(
    migrations: Migrations, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who opens the address to a network has its port scans, too. Its own user is heard over the Unix socket."""
    monkeypatch.setattr("migrated.control.server._MOST_CONNECTIONS", 2)
    server = await ControlServer(migrations, metrics, name="serve-1", address=Address("127.0.0.1", 0)).start()
    assert server.address is not None
    assert server.path is not None
    loop = asyncio.get_running_loop()
    try:
        with contextlib.ExitStack() as opened:
            for admitted in (True, True, False):
                visitor = opened.enter_context(socket.socket())
                visitor.setblocking(False)
                await loop.sock_connect(visitor, ("127.0.0.1", server.address.port))
                async with asyncio.timeout(10):
                    with contextlib.suppress(OSError):
                        await loop.sock_sendall(visitor, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
                        assert bool(await loop.sock_recv(visitor, 100)) == admitted
            assert await ControlClient(server.path).list()
    finally:
        await server.close()


async def test_a_unix_address(migrations: Migrations, folder: Path) -> None:
    address = Address(path=str(folder / "own.sock"))
    server = await ControlServer(migrations, metrics, name="serve-1", address=address).start()
    assert server.url == f"unix:{folder}/own.sock"
    assert len(await ControlClient(folder / "own.sock").list()) == 3
    await server.close()
    assert list(folder.iterdir()) == []


async def test_a_port_that_is_taken(migrations: Migrations, folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = Address("127.0.0.1", taken.getsockname()[1])
        server = ControlServer(migrations, metrics, name="serve-1", address=address)
        with pytest.raises(ResourceError, match="in use") as caught:
            await server.start()
    assert "--control" in caught.value.hint
    assert list(folder.iterdir()) == []


async def test_an_address_of_another_host(migrations: Migrations, folder: Path) -> None:
    with pytest.raises((ResourceError, AccessError), match=r"192\.0\.2\.1"):
        await ControlServer(migrations, metrics, name="s", address=Address("192.0.2.1", 1)).start()


async def test_without_a_folder_there_is_a_warning_and_no_failure(
    migrations: Migrations, folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "file").touch()
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(folder / "file"))
    with caplog.at_level(logging.WARNING):
        server = await ControlServer(migrations, metrics, name="send-1").start()
    assert "will not see this process" in caplog.text
    assert server.path is None
    await server.close()


async def test_everything_skips_who_just_ended(migrations: Migrations, folder: Path) -> None:
    server = await ControlServer(migrations, metrics, name="send-1").start()

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with await asyncio.start_unix_server(hang_up, folder / "send-2.sock"):
        found = await everything()
    await server.close()
    assert [each.migration_id for each in found] == [FIRST, SECOND, ENDED]


@pytest.mark.parametrize("answer", [b"<html>", b"[1]", b"nonsense"])
async def test_somebody_else_on_the_socket(folder: Path, answer: bytes) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(answer), answer))
        writer.close()

    async with await asyncio.start_unix_server(talk, folder / "send-1.sock"):
        with pytest.raises(ProtocolError):
            await ControlClient(folder / "send-1.sock").info()


async def test_only_prefers_the_source(migrations: Migrations, folder: Path) -> None:
    other = Migrations()
    for row in other.rows:
        row["role"] = "destination"
    servers = [
        await ControlServer(other, metrics, name="a").start(),
        await ControlServer(migrations, metrics, name="b").start(),
    ]
    found = await everything()
    assert len(found) == 6
    assert only(found, "3f2").client.path == folder / "b.sock"
    with pytest.raises(UsageError, match="could be"):
        only(found, "3f")
    with pytest.raises(UsageError, match="no migration"):
        only(found, "")
    for server in servers:
        await server.close()
