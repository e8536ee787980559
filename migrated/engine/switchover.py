"""Stop-and-copy at the source: pause, last round, digest, device state, until the destination is ready."""

import asyncio
from collections.abc import Callable

import numpy as np
import xxhash

from migrated.compression.stage import Stage
from migrated.engine.conversation import Conversation
from migrated.engine.events import Observer, State, StateChanged
from migrated.engine.options import MAX_DEVICE_STATE, Verify
from migrated.engine.ports import Channel, in_thread, see_through
from migrated.engine.precopy import PreCopy
from migrated.errors import ResourceError
from migrated.guests.base import SourceGuest
from migrated.pages import PageSet
from migrated.protocol import DeviceState, DeviceStateEnd, Digest, Ready

__all__ = ["Stopwatch", "Switchover"]


class Stopwatch:
    """Splits a stretch of time into named parts that add up to the whole."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.began = self._last = clock()
        self.parts: dict[str, float] = {}

    def lap(self, name: str) -> None:
        """A part ends here."""
        now = self._clock()
        self.parts[name] = now - self._last
        self._last = now

    @property
    def running(self) -> float:
        """Seconds until now."""
        return self._clock() - self.began

    @property
    def seconds(self) -> float:
        """Seconds until the last lap."""
        return self._last - self.began


class Switchover:
    """Begins with the guest running and ends with it paused here and ready there. ``digest`` is set by then."""

    def __init__(
        self,
        channel: Channel,
        conversation: Conversation,
        guest: SourceGuest,
        stage: Stage,
        rounds: PreCopy,
        *,
        verify: Verify,
        batch_pages: int,
        observer: Observer,
        clock: Callable[[], float],
    ) -> None:
        self.digest = ""
        self._channel = channel
        self._conversation = conversation
        self._guest = guest
        self._stage = stage
        self._rounds = rounds
        self._verify = verify
        self._batch_pages = batch_pages
        self._observe = observer
        self._clock = clock

    async def run(self, pending: list[PageSet]) -> Stopwatch:
        """Pause, send the rest, have the digest compared; returns when the destination is ready."""
        guest = self._guest
        if self._rounds.throttled:
            await in_thread(guest.throttle, 0.0)
        self._observe(StateChanged(State.STOP_AND_COPY))
        stopwatch = Stopwatch(self._clock)
        await in_thread(guest.pause)
        stopwatch.lap("pause")
        # Beside the last round: it is the guest's to give, and its memory does not change by it.
        devices = asyncio.ensure_future(in_thread(_device_state, guest))
        try:
            return await self._paused(pending, stopwatch, devices)
        finally:
            devices.cancel()
            await see_through(_ended(devices))

    async def _paused(
        self,
        pending: list[PageSet],
        stopwatch: Stopwatch,
        devices: "asyncio.Future[list[bytes] | None]",
    ) -> Stopwatch:
        guest = self._guest
        final = await self._rounds.collect(last=True)
        for pages, more in zip(pending, final, strict=True):
            pages |= more
        stopwatch.lap("last scan")
        await self._rounds.push_round(pending, last=True)
        # The digest follows at once; the destination works on both in their order.
        if self._verify is Verify.FULL:
            terms = tuple([await self._stage.reread(n) for n in range(len(self._guest.regions))])
        else:
            terms = await in_thread(self._stage.digest)
        await self._channel.send(Digest(terms, guest.was_running))
        await self._conversation.barrier(self._rounds.round)
        stopwatch.lap("last round")
        state = await devices
        if state is not None:
            await self._send_device_state(state)
        await self._conversation.answer(Ready)
        stopwatch.lap("digest" if state is None else "device state")
        self.digest = _digest_text(terms)
        return stopwatch

    async def _send_device_state(self, state: list[bytes]) -> None:
        checksum = xxhash.xxh3_64()
        for piece in state:
            checksum.update(piece)
            await self._channel.send(DeviceState(piece))
        await self._channel.send(DeviceStateEnd(sum(map(len, state)), checksum.intdigest()))


def _device_state(guest: SourceGuest) -> list[bytes] | None:
    pieces = guest.device_state()
    if pieces is None:
        return None
    kept: list[bytes] = []
    room = MAX_DEVICE_STATE
    for piece in pieces:
        kept.append(piece)
        room -= len(piece)
        if room < 0:
            raise ResourceError(
                f"the guest's device state is larger than {MAX_DEVICE_STATE >> 20} MiB",
                "only its devices belong there: is there memory that is not in its memory files?",
            )
    return kept


async def _ended(work: "asyncio.Future[list[bytes] | None]") -> None:
    await asyncio.wait({work})


def _digest_text(terms: tuple[int, ...]) -> str:
    with np.errstate(over="ignore"):
        return f"{int(np.array(terms, dtype=np.uint64).sum()):016x}"
