"""Several connections as one channel of a source: the first says everything, the others help it with batches.

A batch takes whichever connection is idle. The others are dialled once the destination has said how many it takes, and
are used as they come up: nothing waits for them, and one that can't be had is told of and done without. One that is
lost later takes pages with it, and so ends the migration.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine

from migrated.engine.ports import Sent
from migrated.errors import ConnectionLostError, MigratedError, PeerFailedError, ProtocolError
from migrated.net.channel import SocketChannel
from migrated.protocol import BatchHeader, BatchLimits, Failed, Join, Joined, Message, Ping, Pong

__all__ = ["LONG_STREAMS", "Streams", "streams_for"]

_LONG_ROUND_TRIP = 0.005
"""Seconds. Up to here the 4 MiB that Linux lets a connection have on its way carry 6 Gb/s."""

LONG_STREAMS = 4
"""Connections for a long way."""

_REASON_SECONDS = 1.0
"""How long a connection that is lost waits for the first one to say why."""


def streams_for(round_trip: float) -> int:
    """How many connections a link is worth by its round trip: one carries no more than its buffers in each."""
    return 1 if round_trip < _LONG_ROUND_TRIP else LONG_STREAMS


class Streams:
    """See :class:`migrated.engine.ports.Channel`. ``dial`` makes another connection to the peer of ``first``, greeted;
    ``say`` is told of what could not be had, and ``grown`` how many carry batches when there is one more."""

    def __init__(
        self,
        first: SocketChannel,
        dial: Callable[[], Awaitable[SocketChannel]],
        say: Callable[[str], None] = lambda _text: None,
        grown: Callable[[int], None] = lambda _connections: None,
    ) -> None:
        self._first = first
        self._dial = dial
        self._say = say
        self._grown = grown
        self._limits: BatchLimits | None = None
        self._carried = False
        self._lanes = [first]
        self._idle: asyncio.Queue[SocketChannel] = asyncio.Queue()
        self._idle.put_nowait(first)
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def connections(self) -> int:
        """How many carry batches by now."""
        return len(self._lanes)

    @property
    def sent_bytes(self) -> int:
        """All bytes given to the network so far."""
        return sum(lane.sent_bytes for lane in self._lanes)

    @property
    def received_bytes(self) -> int:
        """All bytes taken from the network so far."""
        return sum(lane.received_bytes for lane in self._lanes)

    @property
    def sending(self) -> bool:
        """Whether a control message would have to wait."""
        return self._first.sending

    def agree(self, limits: BatchLimits) -> None:
        """Set what both sides agreed on for batches."""
        self._limits = limits
        self._first.agree(limits)

    def set_rate(self, bytes_per_second: float) -> None:
        """Limit what all of them send together from now on; infinity for no limit."""
        self._first.set_rate(bytes_per_second)

    def carried(self) -> None:
        """All batches have arrived: what becomes of the other connections does not matter any more."""
        self._carried = True

    def spread(self, count: int, join: Join) -> None:
        """Have ``count`` connections in all, by and by; each new one begins with ``join``."""
        if count > 1:
            self._start(self._spread(count, join))

    def _start(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _spread(self, count: int, join: Join) -> None:
        failed = [
            error
            for error in await asyncio.gather(
                *(self._join(join) for _ in range(count - 1)), return_exceptions=True
            )
            if isinstance(error, BaseException)
        ]
        for error in failed:
            if not isinstance(error, MigratedError):
                raise error
        if failed:
            self._say(f"{self.connections} of {count} connections are in use: {failed[0]}")

    async def _join(self, join: Join) -> None:
        assert self._limits is not None, "agree() comes before spread()"
        lane = await self._dial()
        try:
            await lane.send(join)
            answer = await _answer(lane)
            if isinstance(answer, Failed):
                raise PeerFailedError(answer.what, answer.hint, answer.code)
            if not isinstance(answer, Joined):
                raise ProtocolError(f"the destination answered Join with {type(answer).__name__}")
            lane.agree(self._limits)
            lane.help(self._first)
        except BaseException:
            await lane.close()
            raise
        self._lanes.append(lane)
        self._idle.put_nowait(lane)
        self._start(self._watch(lane))
        self._grown(self.connections)

    async def _watch(self, lane: SocketChannel) -> None:
        """Keep the connection alive; when it is lost, so is the migration."""
        try:
            while True:
                await _answer(lane)
        except MigratedError as error:
            await asyncio.sleep(_REASON_SECONDS)
            if self._carried:
                return
            self._first.lose(ConnectionLostError(f"one of {self.connections} connections was lost: {error}"))

    async def send(self, message: Message) -> None:
        """Send a control message, over the first one."""
        await self._first.send(message)

    async def send_batch(self, header: BatchHeader, payload: memoryview) -> Sent:
        """Send a batch straight from its slot, over the first that is idle."""
        waited = self._idle.qsize() < len(self._lanes)  # the link is in use, by whichever of them
        lane = await self._idle.get()
        busy = len(self._lanes) - self._idle.qsize()
        try:
            sent = await lane.send_batch(header, payload)
        except ConnectionLostError:
            if lane is not self._first:  # which may be about to hear why
                await asyncio.sleep(_REASON_SECONDS)
            raise
        finally:
            self._idle.put_nowait(lane)
        # Those that send at a time share the link.
        return Sent(sent.wire_bytes, sent.seconds / busy, sent.asleep / busy, waited, sent.carries * busy)

    async def receive(self) -> Message | BatchHeader:
        """The next message."""
        return await self._first.receive()

    async def receive_payload(self, into: memoryview) -> None:
        """Fill ``into`` with the payload of the header just received."""
        await self._first.receive_payload(into)

    async def close(self) -> None:
        """End all of them; never raises."""
        tasks = [*self._tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*(lane.close() for lane in self._lanes))


async def _answer(lane: SocketChannel) -> Message | BatchHeader:
    """What the peer says, but for keeping the connection alive."""
    while isinstance(said := await lane.receive(), Ping | Pong):
        pass
    return said
