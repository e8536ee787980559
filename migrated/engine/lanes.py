"""The connections over which a destination gets its batches: the first, which says all else, and those that join it."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from migrated.engine.ports import Channel
from migrated.errors import ConnectionLostError, MigratedError, RefusedError
from migrated.protocol import BatchHeader, BatchLimits, Cancel, Joined, Message, Ping, Pong

__all__ = ["Lane", "Lanes"]

_REASON_SECONDS = 3.0
"""How long a lost connection that only carries batches waits for the first one to say why: longer than the source may
take to finish a batch that is cancelled."""

_MOST_HELD = 16
"""Messages that may follow the end of a round while its last batches are on their way: the digest and device state."""


@dataclass(eq=False, slots=True)
class Lane:
    """A connection that batches come over, and how many have."""

    channel: Channel
    batches: int = 0


class Lanes:
    """Those of one migration. ``take`` receives a batch whose header came, ``fail`` ends the migration, ``grown`` is
    told how many there are when there is one more.

    ``arrived`` is how many batches of this round are here; ``error`` the loss of a connection that may have taken some
    with it. ``complete`` is set when no batch is due any more.
    """

    def __init__(
        self,
        first: Channel,
        *,
        most: int,
        take: Callable[[BatchHeader, Lane], Awaitable[None]],
        fail: Callable[[MigratedError], None],
        grown: Callable[[int], None],
    ) -> None:
        self.arrived = 0
        self.complete = False
        self.error: ConnectionLostError | None = None
        self._most = most
        self._take, self._fail, self._grown = take, fail, grown
        self._all = [Lane(first)]
        self._limits: BatchLimits | None = None
        self._open, self._more, self._over = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._stopped = False
        self._reading: set[asyncio.Task[None]] = set()
        self._next: asyncio.Task[Message | BatchHeader] | None = None
        self._held: deque[Message | BatchHeader] = deque()

    @property
    def first(self) -> Lane:
        """The one that says all else."""
        return self._all[0]

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self._all)

    @property
    def received_bytes(self) -> int:
        """What came over all of them."""
        return sum(lane.channel.received_bytes for lane in self._all)

    def open(self, limits: BatchLimits) -> None:
        """Batches can be taken from now on."""
        self._limits = limits
        self._open.set()

    # -- the others --------------------------------------------------------------------------------

    async def join(self, channel: Channel) -> None:
        """Take batches from one more connection until all is over. RefusedError if there are enough."""
        if self.count >= self._most or self.complete or self._stopped:
            raise RefusedError("the migration takes no more connections", "", "join")
        lane = Lane(channel)
        self._all.append(lane)
        over = asyncio.ensure_future(self._over.wait())
        reading = asyncio.get_running_loop().create_task(self._read(lane))
        self._reading.add(reading)
        try:
            await asyncio.wait({over, reading}, return_when=asyncio.FIRST_COMPLETED)
            if not over.done() and not reading.cancelled() and (error := reading.exception()) is not None:
                await self._lost(lane, error, over)
            if lane in self._all:
                await over  # a connection that goes before the reason is told would be taken for it
        finally:
            for task in (over, reading):
                task.cancel()
            await asyncio.gather(over, reading, return_exceptions=True)
            self._reading.discard(reading)

    async def _read(self, lane: Lane) -> None:
        """Take batches until the connection ends."""
        await self._open.wait()
        assert self._limits is not None
        lane.channel.agree(self._limits)
        await lane.channel.send(Joined())
        self._grown(self.count)
        while True:
            match await lane.channel.receive():
                case BatchHeader() as header:
                    await self._take(header, lane)
                case Ping():
                    await lane.channel.send(Pong())
                case _:
                    pass

    async def _lost(self, lane: Lane, error: BaseException, over: "asyncio.Future[Any]") -> None:
        """A connection ended early: pages may be lost with it, unless all are known to be here."""
        if not isinstance(error, MigratedError):
            error = MigratedError(f"taking pages failed: {error!r}")
        if isinstance(error, ConnectionLostError):
            lost = ConnectionLostError(f"one of {self.count} connections was lost: {error}")
            error = self.error = self.error or lost
            if not lane.batches:
                # The source may do without it; a batch that is missing is found by their number.
                self._all.remove(lane)
                self._more.set()
                return
            await asyncio.wait({over}, timeout=_REASON_SECONDS)
            if self.complete:
                return
        self._fail(error)

    async def stop(self) -> None:
        """Take no batch any more; the connections stay."""
        self._stopped = True
        tasks: list[asyncio.Task[Any]] = [*self._reading, *([self._next] if self._next else ())]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def end(self) -> None:
        """All is said: every :meth:`join` returns."""
        self._over.set()

    # -- the first, in step with them --------------------------------------------------------------

    async def receive(self) -> Message | BatchHeader:
        """What the first one says next."""
        if self._held:
            return self._held.popleft()
        return await (self.first.channel.receive() if self._next is None else self._read_ahead())

    async def _read_ahead(self) -> Message | BatchHeader:
        assert self._next is not None
        task, self._next = self._next, None
        return await task

    def came(self) -> None:
        """A batch of this round is here."""
        self.arrived += 1
        self._more.set()

    async def rest_of_round(
        self, batches: int, handle: Callable[[Message | BatchHeader], Awaitable[None]]
    ) -> None:
        """Wait until ``batches`` of this round are here, or the first connection is the only one.

        What the first one says meanwhile is held for later; but if it ends or cancels (``handle``), that is at once.
        """
        while self.arrived < batches and self.count > 1:
            self._more.clear()
            more = asyncio.ensure_future(self._more.wait())
            waiting: set[asyncio.Future[Any]] = {more}
            try:
                if len(self._held) < _MOST_HELD:
                    self._next = self._next or asyncio.ensure_future(self.first.channel.receive())
                    waiting.add(self._next)
                await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            finally:
                more.cancel()
            if self._next is not None and self._next.done():
                said = await self._read_ahead()
                if isinstance(said, Cancel | Ping | Pong):
                    await handle(said)
                else:
                    self._held.append(said)
