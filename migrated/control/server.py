"""Serving the application: on a Unix socket, and for the daemon on TCP too."""

import asyncio
import contextlib
import errno
import logging
import socket
from pathlib import Path
from typing import Self, cast

from aiohttp import web

from migrated.control import sockets
from migrated.control.app import Metrics, make_app
from migrated.control.directory import Directory
from migrated.engine.ports import in_thread
from migrated.errors import AccessError, MigratedError, ResourceError
from migrated.net.address import Address

__all__ = ["ControlServer"]

_KEEPALIVE_SECONDS = 30.0
_BACKLOG = 64

_MOST_CONNECTIONS = 100
"""Over TCP: Prometheus keeps one, a browser six. One that says nothing is hung up on after the time above."""

_log = logging.getLogger(__name__)


class ControlServer:
    """The control plane of one process, between :meth:`start` and :meth:`close`.

    ``name`` is the Unix socket's, as in ``serve-123``. Without a folder to put it in there is none, and a
    warning in the log: a migration is not to fail for that. The address is a person's wish, so it is an error
    if it can't be had.
    """

    def __init__(
        self, directory: Directory, metrics: Metrics, *, name: str, address: Address | None = None
    ) -> None:
        names = [address.host] if address and address.host else []
        self._runner = web.AppRunner(
            make_app(directory, metrics, names=names),
            access_log=None,
            handle_signals=False,
            keepalive_timeout=_KEEPALIVE_SECONDS,
        )
        self._name = name
        self._address = address
        self._paths: list[Path] = []
        self._tcp: asyncio.Server | None = None
        self.address: Address | None = None
        """The configured address, with the port that it got; once started."""

    @property
    def url(self) -> str:
        """Where it can be reached; empty if only its own Unix socket is there."""
        if self.address is None:
            return ""
        return str(self.address) if self.address.path else f"http://{self.address}"

    @property
    def path(self) -> Path | None:
        """Its own Unix socket, once started."""
        return self._paths[-1] if self._paths else None

    async def start(self) -> Self:
        """Serve from now on. ResourceError or AccessError if the address can't be had; nothing is left."""
        await self._runner.setup()
        try:
            if self._address is not None:
                made, got = await in_thread(_bind, self._address)
                self.address = got
                if got.path:
                    self._paths.append(Path(got.path))
                # No site of aiohttp's: those take any number of connections.
                self._tcp = await asyncio.get_running_loop().create_server(self._admit, sock=made)
            await self._start_own()
        except BaseException:
            await self.close()
            raise
        return self

    def _admit(self) -> asyncio.BaseProtocol:
        assert self._runner.server is not None
        if len(self._runner.server.connections) < _MOST_CONNECTIONS:
            return self._runner.server()
        return _TurnedAway()

    async def _start_own(self) -> None:
        try:
            path = sockets.runtime_dir() / (self._name + sockets.SUFFIX)
            made = sockets.listen(path)
        except MigratedError as error:
            _log.warning("`migrated status` will not see this process: %s", error)
            return
        self._paths.append(path)
        await web.SockSite(self._runner, made).start()

    async def close(self) -> None:
        """Serve no more, and remove the Unix sockets. May be called twice."""
        while self._paths:
            with contextlib.suppress(OSError):
                self._paths.pop().unlink()
        if self._tcp is not None:
            self._tcp.close()
            self._tcp = None
        await self._runner.cleanup()


class _TurnedAway(asyncio.Protocol):
    """A connection too many."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast("asyncio.Transport", transport).abort()


def _bind(address: Address) -> tuple[socket.socket, Address]:
    if address.path:
        path = Path(address.path)
        return sockets.listen(path), address
    made: socket.socket | None = None
    try:
        found = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        family, kind, proto, _, target = found[0]
        made = socket.socket(family, kind, proto)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(target)
        made.listen(_BACKLOG)
        made.setblocking(False)
    except OSError as error:
        if made is not None:
            made.close()
        what = f"cannot serve the control plane on {address}: {error.strerror or error}"
        if error.errno == errno.EADDRINUSE:
            hint = "another program has it; stop that one or choose another with --control"
            raise ResourceError(what, hint) from error
        if error.errno in (errno.EACCES, errno.EPERM):
            raise AccessError(what, "choose a port of 1024 or higher with --control") from error
        raise ResourceError(what, "choose an address of this host with --control") from error
    return made, Address(address.host, made.getsockname()[1])
