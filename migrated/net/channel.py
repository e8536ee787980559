"""The protocol over a socket: batches go from and to their slots without a copy in Python.

One writer at a time; a send that is cancelled is finished if that takes little time, or else tears the stream,
and a torn stream is closed. Payloads bypass the parser: it never reads further than the unit it needs.
"""

import asyncio
import contextlib
import math
import socket
import time
from dataclasses import replace
from typing import Self

from migrated.engine.ports import Sent
from migrated.errors import ConnectionLostError, MigratedError
from migrated.net.pace import Pacer
from migrated.net.tcp_info import tcp_info
from migrated.net.this_thread import awake_seconds
from migrated.protocol import BatchHeader, BatchLimits, Connection, Message, Ping, Pong, Role

__all__ = ["SocketChannel"]

_FINISH_SECONDS = 1.0
"""How long a cancelled send may take to end on a whole frame: longer than a batch needs at 20 Mb/s."""

_LINGER_SECONDS = 2.0
_UNSENT_BYTES = 256 << 10
"""What the kernel may queue unsent. All of it would have to leave before the last round's pages do."""

_CONTROL_BYTES = 64 << 10

_PIECE_BYTES = 256 << 10
"""What is given to the socket at once: a peer that takes less than this in ``idle_timeout`` is lost."""


_PING_SECONDS = 0.25
"""Who has nothing to say says Ping this often: the peer's idle timeout is not known here, and may be a second."""


class SocketChannel:
    """A connected stream socket as one side of the protocol; see :class:`migrated.engine.ports.Channel`.

    A peer that is silent for ``idle_timeout`` seconds while something is expected of it is lost; this side says
    Ping when it has nothing else to say.
    """

    def __init__(self, sock: socket.socket, role: Role, *, idle_timeout: float, peer: str) -> None:
        self.peer = peer
        self.sent_bytes = 0
        self.received_bytes = 0
        self.heard = False
        """Whether the peer has said anything whole yet, but Ping and Pong."""
        self._sock = sock
        self._connection = Connection(role)
        # A session begins with what the source wants, and with no Ping.
        self._opened = role is not Role.SOURCE
        self._idle_timeout = idle_timeout
        self._pacer = Pacer()
        self._finish_seconds = _FINISH_SECONDS
        self._batches = 0
        self._batch_turn = asyncio.Lock()
        self._loop = asyncio.get_running_loop()
        self._turn = asyncio.Lock()
        self._control = memoryview(bytearray(_CONTROL_BYTES))
        self._waiting_since: float | None = None
        self._pushing_since: float | None = None
        self._last_sent = self._loop.time()
        self._lost: ConnectionLostError | None = None
        self._mute: ConnectionLostError | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._pinging: asyncio.Task[None] | None = None
        sock.setblocking(False)
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT_BYTES)

    async def start(self) -> Self:
        """Greet the peer. Must come before anything else."""
        self._keeper = self._loop.create_task(self._keep_alive())
        async with self._turn:
            await self._write(self._connection.preamble())
        return self

    @property
    def connections(self) -> int:
        """How many carry batches: this one."""
        return 1

    def carried(self) -> None:
        """No batch is sent any more."""

    @property
    def sending(self) -> bool:
        """Whether a send is under way, so that another would wait for it."""
        return self._turn.locked()

    def agree(self, limits: BatchLimits) -> None:
        """Set what both sides agreed on for batches."""
        self._connection.agree(limits)

    def set_rate(self, bytes_per_second: float) -> None:
        """Limit what is sent from now on; infinity for no limit."""
        self._pacer.set_rate(bytes_per_second)

    def help(self, first: "SocketChannel") -> None:
        """Only carry batches of the session that ``first`` holds, both together within its rate limit. A send that is
        cancelled is not finished then: that would take time on the link from what ``first`` has to say."""
        self._pacer = first._pacer
        self._pacer.sharers += 1
        self._finish_seconds = 0.0

    @property
    def round_trip(self) -> float:
        """Seconds to the peer and back as the kernel has seen them; 0 for a socket of this host."""
        info = tcp_info(self._sock)
        return info.round_trip if info else 0.0

    @property
    def delivery_rate(self) -> float:
        """Bytes per second that the link carries, by the kernel, as last seen while there was enough to send; 0 if that
        was not just now, for a socket of this host, and while a rate limit holds."""
        info = tcp_info(self._sock) if math.isinf(self._pacer.rate) else None
        return info.delivery_rate if info else 0.0

    def lose(self, error: ConnectionLostError) -> None:
        """Give the connection up: whoever reads or writes gets ``error``."""
        self._tear(error)

    # -- sending -----------------------------------------------------------------------------------

    async def send(self, message: Message) -> None:
        """Send a control message."""
        self._opened = self._opened or not isinstance(message, Ping | Pong)
        async with self._turn:
            await self._write(self._connection.send(message))

    async def send_batch(self, header: BatchHeader, payload: memoryview) -> Sent:
        """Send a batch straight from its slot, as the next one of this connection."""
        waited = self._batch_turn.locked()
        # Batches wait here, and a control message between two of them for one at most.
        async with self._batch_turn:
            # The loop's own time has whole milliseconds, and stands still in a callback.
            began, awake = time.monotonic(), awake_seconds()
            async with self._turn:
                head = self._connection.send_batch(replace(header, sequence=self._batches + 1))
                self._batches += 1
                await self._write(head, payload)
            seconds = time.monotonic() - began
            asleep = max(0.0, seconds - (awake_seconds() - awake))
            return Sent(len(head) + len(payload), seconds, asleep, waited, self.delivery_rate)

    async def _write(self, *parts: bytes | memoryview) -> None:
        writing = self._loop.create_task(self._send_all(parts))
        writing.add_done_callback(_heed)
        try:
            await asyncio.shield(writing)
        except asyncio.CancelledError:
            try:
                await asyncio.wait({writing}, timeout=self._finish_seconds)
            finally:
                if not writing.done():
                    self._tear(ConnectionLostError(f"sending to {self.peer} was cancelled in the middle"))
                    writing.cancel()
            raise

    async def _send_all(self, parts: tuple[bytes | memoryview, ...]) -> None:
        gone = self._lost or self._mute
        if gone is not None:
            raise gone
        try:
            for part in parts:
                start = 0
                while start < len(part):
                    # Asked for each piece: the limit may have been lowered during the last one.
                    chunk = part[start : start + (self._pacer.piece or _PIECE_BYTES)]
                    delay = self._pacer.delay(len(chunk), self._loop.time())
                    if delay > 0:
                        await asyncio.sleep(delay)
                    await self._push(chunk)
                    start += len(chunk)
        except OSError as error:
            # Only this direction: what the peer said before it hung up may say why, and is still to be read.
            self._mute = _lost(self.peer, error)
            raise self._lost or self._mute from error
        self._last_sent = self._loop.time()

    async def _push(self, chunk: bytes | memoryview) -> None:
        """Give it to the socket; how long that takes is the peer's doing."""
        self._pushing_since = self._loop.time()
        try:
            await self._loop.sock_sendall(self._sock, chunk)
        finally:
            self._pushing_since = None
        self.sent_bytes += len(chunk)

    # -- receiving ---------------------------------------------------------------------------------

    async def receive(self) -> Message | BatchHeader:
        """The next message. Raises ProtocolError for what is none, ConnectionLostError when there is no more."""
        while True:
            event = self._connection.next_event()
            if event is not None:
                self.heard = self.heard or not isinstance(event, Ping | Pong)
                return event
            wanted = min(self._connection.wanted, _CONTROL_BYTES)
            count = await self._read(self._control[:wanted])
            self._connection.receive_data(self._control[:count])

    async def receive_payload(self, into: memoryview) -> None:
        """Fill ``into`` with the payload of the header just received."""
        done = self._connection.take_buffered(into)
        while done < len(into):
            done += await self._read(into[done:])
        self._connection.payload_done()

    async def _read(self, into: memoryview) -> int:
        if self._lost is not None:
            raise self._lost
        self._waiting_since = self._loop.time()
        try:
            count = await self._loop.sock_recv_into(self._sock, into)
        except OSError as error:
            raise self._tear(_lost(self.peer, error)) from error
        finally:
            self._waiting_since = None
        if count == 0:
            if self._lost is None:
                self._connection.receive_eof()
            raise self._lost or ConnectionLostError(
                f"{self.peer} closed the connection", "see the other host's log"
            )
        self.received_bytes += count
        return count

    # -- life --------------------------------------------------------------------------------------

    async def _keep_alive(self) -> None:
        """Say Ping when there is nothing else to say, and notice a peer that says nothing at all."""
        pause = min(_PING_SECONDS, self._idle_timeout / 4)
        while self._lost is None:
            await asyncio.sleep(pause)
            now = self._loop.time()
            for since, what in ((self._waiting_since, "said"), (self._pushing_since, "took")):
                if since is not None and now - since > self._idle_timeout:
                    text = f"{self.peer} {what} nothing for {self._idle_timeout:.0f} s"
                    self._tear(ConnectionLostError(text, "check the link and the other host"))
                    return
            quiet = self._opened and not self._turn.locked() and not self._connection.finished
            if quiet and now - self._last_sent >= pause:
                # Not waited for: a peer that does not take even this is to be noticed.
                self._pinging = self._loop.create_task(self._ping())

    async def _ping(self) -> None:
        with contextlib.suppress(MigratedError):
            await self.send(Ping())

    def _tear(self, error: ConnectionLostError) -> ConnectionLostError:
        """The stream is of no use any more: whoever reads or writes gets ``error``."""
        if self._lost is None:
            self._lost = error
            # Not close(): a read may be under way, and the number could be somebody else's by then.
            with contextlib.suppress(OSError):
                self._sock.shutdown(socket.SHUT_RDWR)
        return self._lost

    async def finish(self) -> None:
        """Close in order: say no more, and let the peer read what was said last. Never raises."""
        if self._lost is None:
            with contextlib.suppress(OSError, TimeoutError):
                self._sock.shutdown(socket.SHUT_WR)
                async with asyncio.timeout(_LINGER_SECONDS):
                    while await self._loop.sock_recv_into(self._sock, self._control):
                        pass
        await self.close()

    async def close(self) -> None:
        """End the connection at once. Never raises."""
        self._tear(ConnectionLostError(f"the connection to {self.peer} was closed here"))
        ours = [task for task in (self._keeper, self._pinging) if task is not None]
        self._keeper = self._pinging = None
        for task in ours:
            task.cancel()
        await asyncio.gather(*ours, return_exceptions=True)
        self._sock.close()


def _heed(writing: "asyncio.Task[None]") -> None:
    """Look at how it ended: after a cancellation nobody else does, and the loop would complain."""
    if not writing.cancelled():
        writing.exception()


def _lost(peer: str, error: OSError) -> ConnectionLostError:
    return ConnectionLostError(
        f"the connection to {peer} was lost: {error.strerror or error}",
        "check the link and the other host's log",
    )
