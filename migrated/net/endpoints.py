"""Dialling a destination, and listening for sources."""

import asyncio
import contextlib
import errno
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

from migrated.engine.ports import in_thread
from migrated.errors import AccessError, ConnectionLostError, ResourceError, UnreachableError
from migrated.net.address import Address
from migrated.net.channel import SocketChannel
from migrated.protocol import Role

__all__ = ["Listener", "dial"]

_BACKLOG = 128
"""Whoever comes while it is full waits a second for the kernel's next try, as if this host were slow."""


async def dial(address: Address, *, connect_timeout: float, idle_timeout: float) -> SocketChannel:
    """Connect as a source. UnreachableError says what was tried, why it failed, and what to look at."""
    loop = asyncio.get_running_loop()
    hint = f"is `migrated serve` running there, and does a firewall let port {address.port} through?"
    sock: socket.socket | None = None
    try:
        async with asyncio.timeout(connect_timeout):
            if address.path:
                hint = "is `migrated serve` listening on this socket?"
                sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                sock.setblocking(False)
                await loop.sock_connect(sock, address.path)
            else:
                sock = await _connect_tcp(loop, address, connect_timeout)
    except OSError as error:
        if sock is not None:
            sock.close()
        if isinstance(error, TimeoutError):
            raise UnreachableError(
                f"no answer from {address} within {connect_timeout:.0f} s", hint
            ) from error
        raise UnreachableError(f"cannot connect to {address}: {error.strerror or error}", hint) from error
    channel = SocketChannel(sock, Role.SOURCE, idle_timeout=idle_timeout, peer=str(address))
    try:
        return await channel.start()
    except BaseException:
        await channel.close()
        raise


async def _connect_tcp(loop: asyncio.AbstractEventLoop, address: Address, seconds: float) -> socket.socket:
    """The first of the host's addresses that answers; each gets its share of the time."""
    found = await loop.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    failed: OSError | None = None
    for family, kind, proto, _, target in found:
        sock = socket.socket(family, kind, proto)
        sock.setblocking(False)
        try:
            async with asyncio.timeout(seconds / len(found)):
                await loop.sock_connect(sock, target)
        except BaseException as error:
            sock.close()
            if not isinstance(error, OSError):
                raise
            failed = error
        else:
            return sock
    raise failed or OSError(errno.EADDRNOTAVAIL, "the name has no address")


class Listener:
    """Takes connections at an address and gives each, greeted, to ``handle`` in a task of its own.

    At most ``max_connections`` are open at once. If they are, a newcomer takes the place of the one that has waited
    longest without having said anything whole; if all have, it is turned away. ``dropped`` is told of either, by
    the words "silent" and "full".
    """

    def __init__(
        self,
        address: Address,
        handle: Callable[[SocketChannel], Awaitable[None]],
        *,
        idle_timeout: float,
        max_connections: int,
        dropped: Callable[[str], object] = lambda _reason: None,
    ) -> None:
        self.address = address
        """Where it listens; once started, with the port that it got."""
        self._handle = handle
        self._idle_timeout = idle_timeout
        self._most = max_connections
        self._dropped = dropped
        self._socket: socket.socket | None = None
        self._visits: dict[asyncio.Task[None], SocketChannel] = {}
        self._leaving: set[asyncio.Task[None]] = set()
        self._accepting: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Accept from now on. ResourceError or AccessError if the address can't be had."""
        listening, self.address = await in_thread(_bind, self.address)
        self._socket = listening
        self._accepting = asyncio.get_running_loop().create_task(self._accept(listening))

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                sock, peer = await loop.sock_accept(listening)
            except OSError as error:
                # Out of descriptors or memory, or a connection that was gone again: none may end the service.
                await asyncio.sleep(0 if error.errno == errno.ECONNABORTED else 0.1)
                continue
            if len(self._visits) < self._most or self._make_room():
                name = f"{peer[0]}:{peer[1]}" if isinstance(peer, tuple) else "a local client"
                self._admit(sock, name)
            else:
                sock.close()
                self._dropped("full")
            await asyncio.sleep(0)  # a flood is accepted without waiting, and others have their turn

    def _admit(self, sock: socket.socket, name: str) -> None:
        try:
            channel = SocketChannel(sock, Role.DESTINATION, idle_timeout=self._idle_timeout, peer=name)
        except OSError:  # it is gone again
            sock.close()
            return
        task = asyncio.get_running_loop().create_task(self._serve(channel))
        self._visits[task] = channel
        task.add_done_callback(lambda task: self._forget(task, sock))

    def _make_room(self) -> bool:
        """Hang up on the one that has waited longest without a word; False if all have spoken."""
        for task, channel in self._visits.items():
            if not channel.heard:
                del self._visits[task]
                self._leaving.add(task)
                task.cancel()
                self._dropped("silent")
                return True
        return False

    def _forget(self, task: "asyncio.Task[None]", sock: socket.socket) -> None:
        self._visits.pop(task, None)
        self._leaving.discard(task)
        sock.close()  # a task that was cancelled before it began has closed nothing

    async def _serve(self, channel: SocketChannel) -> None:
        try:
            with contextlib.suppress(ConnectionLostError):  # gone again: a port scan, a health check
                await channel.start()
                await self._handle(channel)
        finally:
            await channel.close()

    async def close(self) -> None:
        """Accept no more. Connections that are open go on; see :meth:`end_all`."""
        if self._accepting is not None:
            self._accepting.cancel()
            await asyncio.gather(self._accepting, return_exceptions=True)
        if self._socket is not None:
            self._socket.close()
            if self.address.path:
                _remove_stale(self.address.path)

    async def end_all(self) -> None:
        """Cancel every connection's task, and wait until each has tidied up."""
        tasks = {*self._visits, *self._leaving}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _bind(address: Address) -> tuple[socket.socket, Address]:
    sock: socket.socket | None = None
    try:
        if address.path:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            _remove_stale(address.path)
            sock.bind(address.path)
            bound = address
        else:
            family, kind, proto, _, target = socket.getaddrinfo(
                address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )[0]
            sock = socket.socket(family, kind, proto)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(target)
            bound = Address(address.host, sock.getsockname()[1])
        sock.listen(_BACKLOG)
        sock.setblocking(False)
    except OSError as error:
        if sock is not None:
            sock.close()
        raise _cannot_bind(address, error) from error
    return sock, bound


def _remove_stale(path: str) -> None:
    """Remove the socket of a service that is gone; a live one answers, and is left alone."""
    if not Path(path).is_socket():
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            Path(path).unlink(missing_ok=True)
        except OSError:
            pass  # somebody is there, and busy


def _cannot_bind(address: Address, error: OSError) -> AccessError | ResourceError:
    what = f"cannot listen on {address}: {error.strerror or error}"
    if error.errno == errno.EADDRINUSE:
        return ResourceError(what, "another program has it; stop that one or choose another with --listen")
    if error.errno in (errno.EACCES, errno.EPERM):
        return AccessError(what, "choose a port of 1024 or higher, or a folder that you may write to")
    return ResourceError(what, "choose an address of this host with --listen")
