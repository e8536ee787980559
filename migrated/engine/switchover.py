"""Stop-and-copy at the source: pause, last round, digest, device state, until the destination is ready."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import numpy as np

from migrated.compression.stage import Stage
from migrated.engine.conversation import Conversation
from migrated.engine.devices import Devices
from migrated.engine.events import Observer, State, StateChanged
from migrated.engine.options import Verify
from migrated.engine.ports import Channel, in_thread
from migrated.engine.precopy import PreCopy
from migrated.guests.base import SourceGuest
from migrated.pages import PageSet
from migrated.protocol import Digest, Ready

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
    """Begins with the guest running and ends with it paused here and ready there. ``digest`` is set by then.
    ``complete``: all of the guest was sent. ``record`` notes durably that the guest is paused, beside the last round.
    """

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
        record: Callable[[], Coroutine[Any, Any, None]],
        clock: Callable[[], float],
    ) -> None:
        self.digest = ""
        self.complete = False
        self._channel = channel
        self._conversation = conversation
        self._guest = guest
        self._stage = stage
        self._rounds = rounds
        self._verify = verify
        self._batch_pages = batch_pages
        self._observe = observer
        self._record = record
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
        devices = Devices(guest)
        recording = asyncio.ensure_future(self._record())
        unseen = asyncio.ensure_future(self._rounds.unseen())
        try:
            stopwatch = await self._paused(pending, unseen, stopwatch, devices)
            await recording
            return stopwatch
        finally:
            await asyncio.gather(recording, unseen, return_exceptions=True)
            await devices.close()

    async def _paused(
        self,
        pending: list[PageSet],
        unseen: "asyncio.Future[list[PageSet]]",
        stopwatch: Stopwatch,
        devices: Devices,
    ) -> Stopwatch:
        guest = self._guest
        final = await in_thread(guest.tracker.last)
        for pages, more in zip(pending, final, strict=True):
            pages |= more
        stopwatch.lap("last scan")
        await self._rounds.push_last(pending, unseen)
        # The digest follows at once; the destination works on both in their order.
        if self._verify is Verify.FULL:
            terms = tuple([await self._stage.reread(n) for n in range(len(self._guest.regions))])
        else:
            terms = await in_thread(self._stage.digest)
        await self._channel.send(Digest(terms, guest.was_running))
        # Behind the digest, and not after the answer to the last round: the destination takes all in its order.
        sending = asyncio.ensure_future(devices.send(self._channel))
        try:
            await self._conversation.barrier(self._rounds.round)
            self._channel.carried()
            stopwatch.lap("last round")
            has_devices = await sending
            self.complete = True
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
        await self._conversation.answer(Ready)
        stopwatch.lap("device state" if has_devices else "digest")
        self.digest = _digest_text(terms)
        return stopwatch


def _digest_text(terms: tuple[int, ...]) -> str:
    with np.errstate(over="ignore"):
        return f"{int(np.array(terms, dtype=np.uint64).sum()):016x}"
