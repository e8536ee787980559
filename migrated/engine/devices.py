"""The guest's device state at the source: taken from the pause on, beside the last round, and sent as it comes."""

import asyncio
from collections import deque

import xxhash

from migrated.engine.options import MAX_DEVICE_STATE
from migrated.engine.ports import Channel, in_thread, see_through
from migrated.errors import ResourceError
from migrated.guests.base import SourceGuest
from migrated.protocol import MAX_DEVICE_STATE_CHUNK, DeviceState, DeviceStateEnd

__all__ = ["Devices"]


class Devices:
    """Begins to take the state of ``guest``, which is paused, when made; after :meth:`close` nobody takes it."""

    def __init__(self, guest: SourceGuest) -> None:
        self._loop = asyncio.get_running_loop()
        self._came: deque[bytes] = deque()
        self._over = False
        self._news = asyncio.Event()
        self._taking = asyncio.ensure_future(in_thread(self._take, guest))

    async def send(self, channel: Channel) -> bool:
        """Send what came and what comes, to its end; False if the guest has none. Raises why it can't be had."""
        checksum, size = xxhash.xxh3_64(), 0
        while gathered := await self._gather():
            checksum.update(gathered)
            size += len(gathered)
            await channel.send(DeviceState(gathered))
        if not await self._taking:
            return False
        await channel.send(DeviceStateEnd(size, checksum.intdigest()))
        return True

    async def close(self) -> None:
        """Wait until the guest is done with it."""
        self._taking.cancel()
        await see_through(self._ended())

    async def _ended(self) -> None:
        await asyncio.wait({self._taking})

    async def _gather(self) -> bytes:
        """What came since the last time, as one message: each costs the other side a turn of a thread. Empty at the
        end."""
        while not self._came and not self._over:
            await self._news.wait()
            self._news.clear()
        gathered = bytearray()
        while self._came and (not gathered or len(gathered) + len(self._came[0]) <= MAX_DEVICE_STATE_CHUNK):
            gathered += self._came.popleft()
        return bytes(gathered)

    def _take(self, guest: SourceGuest) -> bool:
        try:
            pieces = guest.device_state()
            if pieces is None:
                return False
            room = MAX_DEVICE_STATE
            for piece in pieces:
                room -= len(piece)
                if room < 0:
                    raise ResourceError(
                        f"the guest's device state is larger than {MAX_DEVICE_STATE >> 20} MiB",
                        "only its devices belong there: is there memory that is not in its memory files?",
                    )
                self._loop.call_soon_threadsafe(self._hear, piece)
            return True
        finally:
            self._loop.call_soon_threadsafe(self._hear, b"")

    def _hear(self, piece: bytes) -> None:
        if piece:
            self._came.append(piece)
        else:
            self._over = True
        self._news.set()
