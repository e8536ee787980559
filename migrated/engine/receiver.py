"""A migration at the destination, from the accepted offer to RUNNING.

This side's durable record decides. Until RUN is on disk it may abort, and does so whenever it cannot go on;
from RUN on it only goes forward, also after a crash.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Any

import xxhash

from migrated.compression.layout import RAW
from migrated.compression.stage import Stage
from migrated.engine.events import (
    Connected,
    Estimated,
    Event,
    Finished,
    Observer,
    Report,
    Role,
    RoundFinished,
    RoundStarted,
    Started,
    State,
    StateChanged,
)
from migrated.engine.events import Failed as FailedEvent
from migrated.engine.lanes import Lane, Lanes
from migrated.engine.options import MAX_DEVICE_STATE, START_FAILED
from migrated.engine.placing import Placing
from migrated.engine.ports import Channel, in_thread, readable, see_through
from migrated.engine.progress import Progress as Shown
from migrated.engine.progress import Tally
from migrated.engine.records import Outcome, Record, Records, write_at_last
from migrated.engine.relay import relayed
from migrated.errors import (
    CancelledByPersonError,
    ConnectionLostError,
    IntegrityError,
    MigratedError,
    PeerFailedError,
    ProtocolError,
    RefusedError,
)
from migrated.guests.base import TargetGuest
from migrated.protocol import (
    COPIES,
    DELTA,
    Aborted,
    Accept,
    BatchHeader,
    BatchLimits,
    Cancel,
    Commit,
    Copies,
    DeviceState,
    DeviceStateEnd,
    Digest,
    Estimate,
    Failed,
    Join,
    Message,
    Offer,
    Ping,
    Pong,
    Progress,
    Ready,
    RoundDone,
    RoundEnd,
    Running,
)

__all__ = ["THIS_SIDE", "Receiver"]

THIS_SIDE = "the destination"
"""What a person at the source is told who failed."""

_RECORD_AGAIN_SECONDS = 1.0
_TELL_SECONDS = 1.0

_PROGRESS_SECONDS = 0.1
"""At most this often the source is told how far the pages got."""

_MOST_PICOSECONDS = (1 << 32) - 1


class Receiver:
    """Takes one guest in. ``target`` was prepared: its regions are empty, and nobody else uses them."""

    def __init__(
        self,
        channel: Channel,
        target: TargetGuest,
        offer: Offer,
        accept: Accept,
        records: Records,
        observer: Observer,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.migration_id = offer.migration_id
        self.decided = asyncio.Event()
        self._channel = channel
        self._target = target
        self._offer = offer
        self._accept = accept
        self._records = records
        self._tally = Tally(clock)
        self._outer = observer
        self._clock = clock
        self._began = clock()
        self._commit_at = 0.0
        self._paused_before = 0.0
        self._run_tried = False
        self._ready = False
        self._aborted = False
        self._why_aborted = ""
        self._was_running = True
        self._commit_answered = False
        self._outcome: Running | Failed | None = None
        self._compared = False
        self._device_bytes = 0
        self._device_checksum = xxhash.xxh3_64()
        self._digest = 0
        self._rounds = 0
        self._round_began = 0.0
        self._shown_round = 0
        self._announced = sum(region.size_bytes for region in offer.regions) // offer.page_size
        self._told = 0.0
        self._lanes = Lanes(
            channel,
            most=accept.streams,
            take=self._batch,
            fail=self.cancel,
            grown=lambda count: self._observe(Connected(count)),
        )
        self._ending = False
        self._commit_turn = asyncio.Lock()
        self._stage = Stage(
            target.regions,
            workers=accept.decompress_workers,
            batch_pages=accept.batch_pages,
            page_size=offer.page_size,
            seed=offer.digest_seed,
        )
        self._placing = Placing(
            self._stage,
            codecs=accept.codecs,
            page_size=offer.page_size,
            observer=self._observe,
            fail=self.cancel,
            placed=self._tell_progress,
        )
        self._broken: MigratedError | None = None
        self._reader: asyncio.Task[None] | None = None

    def _observe(self, event: Event) -> None:
        self._tally(event)
        self._outer(event)

    def progress(self) -> Shown:
        """How far it is."""
        return self._tally.snapshot()

    def cancel(self, error: MigratedError) -> None:
        """Abort with ``error``, unless it is decided already."""
        if self.decided.is_set() or self._reader is None or self._broken is not None or self._ending:
            return
        self._broken = error
        self._reader.cancel()

    async def run(self) -> None:
        """Take batches until the guest runs here.

        Raises any MigratedError; the outcome ABORTED is then durable and nothing is left of the guest's
        memory here - unless the error came after RUN was: then only the start is missing.
        """
        self._reader = asyncio.current_task()
        try:
            with readable(self._target.watched(), lambda: self.cancel(self._target.why_ended())):
                await self._take()
        except asyncio.CancelledError as cancelled:
            self._ending = True
            if self.decided.is_set():
                if self._commit_answered:
                    return  # COMMIT came over another connection; this one has nothing more to say
                await see_through(self._tell_outcome())
            error = self._broken or cancelled
            await see_through(self._abort(error))
            raise error from None
        except BaseException as error:
            self._ending = True
            await see_through(self._abort(error))
            raise
        finally:
            try:
                await see_through(self._put_away())
            finally:
                self._lanes.end()

    async def join(self, channel: Channel, join: Join) -> None:
        """Take batches from another connection of the same source, too, until the migration ends.

        RefusedError if that is not its source, or it has as many as were agreed on.
        """
        if join.digest_seed != self._offer.digest_seed:
            raise RefusedError(f"migration {self.migration_id} is somebody else's", "", "join")
        await self._lanes.join(channel)

    def _limits(self) -> BatchLimits:
        return BatchLimits(
            batch_pages=self._accept.batch_pages,
            page_size=self._offer.page_size,
            region_pages=tuple(region.pages for region in self._target.regions),
            codecs=len(self._accept.codecs),
            deltas=DELTA in self._accept.features,
        )

    async def _take(self) -> None:
        self._observe(StateChanged(State.SETUP))
        self._observe(
            self._started()
        )  # before the source hears of it: from then on people ask for it by its id
        limits = self._limits()
        self._channel.agree(limits)
        await self._channel.send(self._accept)
        await self._stage.start()
        self._lanes.open(limits)
        self._observe(StateChanged(State.PRE_COPY))
        self._round_began = self._clock()
        while not self.decided.is_set():
            await self._handle(await self._lanes.receive())

    def _started(self) -> Started:
        codec = self._accept.codecs[0] if self._accept.codecs else RAW
        return Started(
            self.migration_id,
            Role.DESTINATION,
            self._offer.guest,
            self._offer.kind,
            sum(region.size_bytes for region in self._offer.regions),
            self._offer.page_size,
            codec,
            0,
            self._accept.decompress_workers,
        )

    # -- messages ----------------------------------------------------------------------------------

    async def _handle(self, message: Message | BatchHeader) -> None:
        match message:
            case BatchHeader():
                await self._batch(message, self._lanes.first)
            case Copies():
                await self._copies(message)
            case RoundEnd():
                await self._end_round(message)
            case Digest():
                await self._compare(message)
            case DeviceState() | DeviceStateEnd():
                await self._take_device_state(message)
            case Commit():
                if message.migration_id != self.migration_id:
                    raise ProtocolError("the source commits another migration than its own")
                self._paused_before = message.paused_ms / 1000
                await self._channel.send(await self.commit())
            case Cancel(code=CancelledByPersonError.reason):
                raise CancelledByPersonError(f"the source cancelled: {message.reason}")
            case Cancel():
                raise PeerFailedError(f"the source gave up: {message.reason}", "", message.code)
            case Estimate():
                self._estimate(message)
            case Ping():
                await self._channel.send(Pong())
            case Pong():
                pass
            case _:
                raise ProtocolError(f"the source sent {type(message).__name__} during a migration")

    def _estimate(self, told: Estimate) -> None:
        pages = told.remaining_bytes // self._offer.page_size
        self._announced = pages
        self._observe(
            Estimated(
                pages,
                told.remaining_wire_bytes,
                told.dirty_bytes_per_second,
                told.wire_bytes_per_second,
                told.expected_downtime_ms / 1000,
            )
        )

    async def _batch(self, header: BatchHeader, lane: Lane) -> None:
        lane.batches += 1
        if header.sequence != lane.batches or header.round != self._rounds + 1 or self._lanes.complete:
            raise ProtocolError(
                f"batch {header.sequence} of round {header.round} came where "
                + ("none" if self._lanes.complete else f"batch {lane.batches} of round {self._rounds + 1}")
                + " was due"
            )
        self._show_round(header.round)
        slot = await self._stage.take_slot()
        try:
            await lane.channel.receive_payload(self._stage.view(slot, header.payload_bytes))
        except BaseException:
            self._stage.give_slot(slot)
            raise
        self._lanes.came()
        self._placing.batch(header, slot)
        await asyncio.sleep(0)  # more may be there already, and others have their turn

    async def _tell_progress(self) -> None:
        """Behind a batch: now and then, and only where nothing more important is being said."""
        now = self._clock()
        if now - self._told < _PROGRESS_SECONDS or self._ready or self._channel.sending:
            return
        self._told = now
        picoseconds = min(_MOST_PICOSECONDS, int(1e12 * self._placing.unpacking))
        with contextlib.suppress(MigratedError):
            await self._channel.send(Progress(self._placing.batches, self._placing.raw_bytes, picoseconds))

    def _show_round(self, number: int) -> None:
        """The first of a round has come; until its end no digest is taken."""
        if self._shown_round != number:
            self._shown_round = number
            self._observe(RoundStarted(number, self._announced, last=False))

    async def _copies(self, message: Copies) -> None:
        if COPIES not in self._accept.features or message.round != self._rounds + 1 or self._lanes.complete:
            raise ProtocolError(f"the source sent copies in round {message.round}, where none were due")
        if message.region >= len(self._target.regions) or message.pages > self._accept.batch_pages:
            raise ProtocolError(
                f"the source sent {message.pages} copies of region {message.region}, which were not agreed on"
            )
        self._show_round(message.round)
        self._placing.copies(message, await self._stage.take_slot())

    async def _put_away(self) -> None:
        await self._lanes.stop()
        await self._placing.drain()
        await self._stage.close()

    async def _end_round(self, message: RoundEnd) -> None:
        """The barrier: every page of the round is in place before one of the next is touched."""
        await self._lanes.rest_of_round(message.batches, self._handle)
        await self._placing.drain()
        if self._broken is not None:
            raise self._broken
        ended = (message.round, message.batches, message.pages)
        had = (self._rounds + 1, self._lanes.arrived, self._placing.round_pages)
        if ended != had:
            if self._lanes.error is not None:
                raise self._lanes.error
            raise ProtocolError(
                "the source ends round {} with {} batches and {} pages; ".format(*ended)
                + "round {} had {} and {}".format(*had)
            )
        self._rounds = message.round
        now = self._clock()
        took, placing = now - self._round_began, self._placing
        self._observe(RoundFinished(message.round, took, placing.round_pages, placing.round_bytes))
        self._round_began, self._lanes.arrived = now, 0
        placing.next_round()
        await self._channel.send(RoundDone(message.round))

    # -- switchover --------------------------------------------------------------------------------

    async def _compare(self, message: Digest) -> None:
        if self._shown_round > self._rounds:
            raise ProtocolError("the source sent its digest in the middle of a round")
        self._lanes.complete = True
        self._observe(StateChanged(State.STOP_AND_COPY))
        if self._offer.verify_full:
            ours = tuple([await self._stage.reread(n) for n in range(len(self._target.regions))])
        else:
            ours = await in_thread(self._stage.digest)
        if ours != message.terms:
            wrong = [
                region.name
                for region, a, b in zip(self._offer.regions, ours, message.terms, strict=False)
                if a != b
            ]
            raise IntegrityError(
                f"the memory that arrived differs from the source's in region {', '.join(wrong) or '?'}",
                "the guest goes on at the source; report this with both logs, and try --tracker hash",
            )
        self._digest = sum(ours) & (1 << 64) - 1
        self._was_running = message.was_running
        self._compared = True
        if not self._target.has_device_state:
            await self._make_ready()

    async def _take_device_state(self, message: DeviceState | DeviceStateEnd) -> None:
        """Only on memory that is known to be right, and only once."""
        if not self._compared or self._ready or not self._target.has_device_state:
            raise ProtocolError("the source sent device state where none was due")
        if isinstance(message, DeviceState):
            self._device_bytes += len(message.data)
            if self._device_bytes > MAX_DEVICE_STATE:
                raise ProtocolError(f"the source sent more than {MAX_DEVICE_STATE >> 20} MiB of device state")
            self._device_checksum.update(message.data)
            await in_thread(self._target.load_device_state, message.data)
            return
        if (message.size, message.checksum) != (self._device_bytes, self._device_checksum.intdigest()):
            raise IntegrityError(
                f"the device state that arrived ({self._device_bytes} bytes) is not what the source sent "
                f"({message.size} bytes)",
                "the guest goes on at the source; try again, and report this with both logs",
            )
        await self._make_ready()

    async def _make_ready(self) -> None:
        await in_thread(self._target.make_ready)
        self._ready = True
        await self._channel.send(Ready())

    async def commit(self) -> Running | Aborted | Failed:
        """Decide, durably, and start the guest. Idempotent; also called for a COMMIT on a new connection."""
        async with self._commit_turn:
            record = await in_thread(self._records.read, self.migration_id)
            if self._aborted or (record is not None and record.outcome is Outcome.ABORTED):
                return Aborted(self._why_aborted or "the destination had aborted")
            if not self._ready:
                raise ProtocolError("the source commits before the destination is ready")
            if record is None or record.outcome is not Outcome.RUNNING:
                answer = await see_through(self._run_guest())
                if isinstance(answer, Failed):
                    return answer
            if self._reader is not None and asyncio.current_task() is not self._reader:
                self._commit_answered = True
                self._reader.cancel()
            return Running()

    async def _run_guest(self) -> Running | Failed:
        self._outcome = await self._decide_and_start()
        return self._outcome

    async def _decide_and_start(self) -> Running | Failed:
        self._commit_at = self._clock()
        self._observe(StateChanged(State.COMMIT))
        self._run_tried = True
        await in_thread(self._records.write, self._record(Outcome.RUN))
        # From here on there is no way back: the guest runs here, or nowhere until a person decides.
        self.decided.set()
        try:
            await in_thread(self._target.start, self._was_running)
        except MigratedError as error:
            self._observe(FailedEvent(error.reason, error.what, error.hint))
            what, hint = relayed(error, THIS_SIDE)
            return Failed(START_FAILED, f"it decided to run the guest, but cannot start it: {what}", hint)
        running = self._record(Outcome.RUNNING)
        try:
            await in_thread(self._records.write, running)
        except MigratedError:
            # RUN says enough, and the guest does run; but a RUN that stays would start it once more some day.
            write_at_last(self._records, running)
        self._observe(Finished(self._report()))
        self._observe(StateChanged(State.COMPLETED))
        return Running()

    async def _tell_outcome(self) -> None:
        """This side was stopped in the middle of the start, which was seen through."""
        if self._outcome is not None:
            with contextlib.suppress(MigratedError, TimeoutError):
                async with asyncio.timeout(_TELL_SECONDS):
                    await self._channel.send(self._outcome)

    def _record(self, outcome: Outcome) -> Record:
        details: dict[str, Any] = {"was_running": self._was_running}
        if outcome is Outcome.ABORTED:
            details["why"] = self._why_aborted
        return Record(self.migration_id, outcome, self._offer.guest, details)

    async def _abort(self, error: BaseException) -> None:
        """Make ABORTED durable, leave nothing behind, and say why; unless RUN already is."""
        async with self._commit_turn:
            if self.decided.is_set():
                return
            self._aborted = True  # also if the record can't be written: what is discarded now never runs
            known = error if isinstance(error, MigratedError) else MigratedError(f"it stopped: {error!r}")
            self._why_aborted = relayed(known, THIS_SIDE)[0]
            await self._lanes.stop()
            await self._placing.drain()
            await self._record_aborted()
            try:
                await in_thread(self._target.discard)
            except Exception as failure:
                known.hint = f"{known.hint}; what had arrived could not be removed: {failure}".lstrip("; ")
            cancelled = isinstance(error, CancelledByPersonError)
            self._observe(FailedEvent(known.reason, known.what, known.hint))
            self._observe(StateChanged(State.CANCELLED if cancelled else State.FAILED))
        if not isinstance(error, ConnectionLostError) or error is self._lanes.error:
            with contextlib.suppress(MigratedError, TimeoutError):
                async with asyncio.timeout(_TELL_SECONDS):
                    await self._channel.send(Failed(known.reason, *relayed(known, THIS_SIDE)))

    async def _record_aborted(self) -> None:
        """Without a record this is a crash to the next start, which discards too - unless RUN may have got to the
        disk: then nothing is discarded, and nobody told so, before ABORTED is there."""
        while True:
            try:
                await in_thread(self._records.write, self._record(Outcome.ABORTED))
            except MigratedError:
                if not self._run_tried:
                    return
                await asyncio.sleep(_RECORD_AGAIN_SECONDS)
            else:
                return

    def _report(self) -> Report:
        shown = self._tally.snapshot()
        now = self._clock()
        return Report(
            migration_id=self.migration_id,
            guest=self._offer.guest,
            total_seconds=now - self._began,
            downtime_seconds=self._paused_before + now - self._commit_at,
            downtime_parts={"source": self._paused_before, "start": now - self._commit_at},
            setup_seconds=0.0,
            rounds=self._rounds,
            total_bytes=shown.total_bytes,
            sent_pages=shown.sent_pages,
            zero_pages=shown.zero_pages,
            unchanged_pages=0,
            raw_bytes=shown.raw_bytes,
            raw_bytes_by_codec=dict(shown.raw_bytes_by_codec),
            delta_pages=shown.delta_pages,
            copied_pages=shown.copied_pages,
            wire_bytes=self._lanes.received_bytes,
            codec=shown.codec,
            level=0,
            page_size=self._offer.page_size,
            tracker="",
            digest=f"{self._digest:016x}",
            connections=self._lanes.count,
            moved=self._target.starts_guest,
        )
