"""A migration at the source, from the offer to the destination's RUNNING.

Before COMMIT every failure resumes the guest here. After it the source never resumes on its own: it asks the
destination until it has an answer.
"""

import asyncio
import contextlib
import secrets
import time
from collections.abc import Awaitable, Callable
from typing import Any

from migrated import __version__
from migrated.compression.policy import NONE
from migrated.compression.stage import Stage
from migrated.engine.conversation import Conversation
from migrated.engine.events import (
    Event,
    Finished,
    Observer,
    Report,
    Role,
    Started,
    State,
    StateChanged,
)
from migrated.engine.options import STARTS_GUEST, SendOptions, Verify, usable_streams
from migrated.engine.ports import Channel, in_thread, readable, see_through
from migrated.engine.precopy import PreCopy
from migrated.engine.progress import Tally
from migrated.engine.records import Outcome, Record, Records
from migrated.engine.relay import relayed
from migrated.engine.rounds import Pusher, Tuning
from migrated.engine.switchover import Stopwatch, Switchover
from migrated.engine.twins import may_copy
from migrated.engine.unseen import Unseen
from migrated.errors import (
    GuestDiedError,
    MigratedError,
    OutcomeUnknownError,
    PeerFailedError,
    ProtocolError,
    RefusedError,
)
from migrated.guests.base import SourceGuest
from migrated.pages import PAGE_SIZE
from migrated.protocol import (
    COPIES,
    DELTA,
    MIN_VERSION,
    VERSION,
    Aborted,
    Accept,
    Cancel,
    Commit,
    Failed,
    Join,
    Message,
    Offer,
    RegionInfo,
    Running,
    limits_of,
)

__all__ = ["Sender"]


class Sender:
    """Moves one guest. ``ask`` puts a repeated COMMIT on a new connection and returns the answer; ``spread`` has so
    many connections carry batches, each new one greeted with that message.

    ``guest`` is open; whoever made it closes it afterwards.
    """

    def __init__(
        self,
        channel: Channel,
        guest: SourceGuest,
        options: SendOptions,
        tuning: Tuning,
        records: Records,
        observer: Observer,
        *,
        migration_id: str,
        ask: Callable[[str], Awaitable[Message]],
        spread: Callable[[int, Join], object] = lambda _count, _join: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.migration_id = migration_id
        self.tuning = tuning
        self._channel = channel
        self._conversation = Conversation(channel)
        self._guest = guest
        self._options = options
        self._records = records
        self._tally = Tally(clock)
        self._outer = observer
        self._ask = ask
        self._spread = spread
        self._clock = clock
        self._began = clock()
        self._seed = secrets.randbits(64)
        self._stage: Stage | None = None
        self._rounds: PreCopy | None = None
        self._switchover: Switchover | None = None
        self._digest = ""
        self._moved = True
        self._freezing = False
        self.codecs: tuple[str, ...] = ()
        self.settled = False
        """Whether the outcome is known here: what is left is tidying up, and must not be cut short."""

    @property
    def committed(self) -> bool:
        """Whether COMMIT may have been sent: nothing here takes the guest back then."""
        return self._conversation.committed

    def retuned(self) -> None:
        """The tuning was changed: let the rate limit follow at once."""
        self._channel.set_rate(self.tuning.bandwidth)

    def _observe(self, event: Event) -> None:
        self._tally(event)
        self._outer(event)

    # -- the whole ---------------------------------------------------------------------------------

    async def run(self) -> Report:
        """Move the guest; returns when the destination runs it.

        Raises any MigratedError. The guest then runs here, as it did before - except after an
        OutcomeUnknownError, when it stays paused here until `migrated resolve`.
        """
        self._observe(StateChanged(State.SETUP))
        try:
            return await self._move()
        finally:
            if self._stage is not None:
                await see_through(self._stage.close())

    async def _move(self) -> Report:
        offer = self._offer()
        # Workers start while the destination gets ready: by what is offered, which is the most that it accepts.
        self._stage = self._make_stage(offer)
        starting = asyncio.ensure_future(self._stage.start())
        try:
            accept = await self._conversation.negotiate(offer)
            self._channel.agree(limits_of(offer, accept))
            self._spread(accept.streams, Join(self.migration_id, self._seed))
            listener = asyncio.ensure_future(self._conversation.listen())
            try:
                stopwatch = await self._until_ready(listener, starting, accept)
                return await self._commit(stopwatch)
            finally:
                listener.cancel()
                await asyncio.gather(listener, return_exceptions=True)
        finally:
            starting.cancel()
            await asyncio.gather(starting, return_exceptions=True)

    async def _until_ready(
        self, listener: "asyncio.Future[None]", starting: "asyncio.Future[Stage]", accept: Accept
    ) -> Stopwatch:
        """Copy until the destination is ready. On any failure the guest has been given back."""
        work = asyncio.ensure_future(self._copy_and_switch(starting, accept))
        error: BaseException
        try:
            with contextlib.ExitStack() as watched:
                for each in self._guest.watched():
                    watched.enter_context(readable(each, lambda: self._guest_ended(work)))
                both: set[asyncio.Future[Any]] = {work, listener}
                await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            if work.done() and not work.cancelled() and work.exception() is None:
                return work.result()
            error = await self._why(listener, work)
        except asyncio.CancelledError as cancelled:
            error = cancelled
        await see_through(self._give_up(work, error))
        raise error

    def _guest_ended(self, work: "asyncio.Future[Stopwatch]") -> None:
        # What is whole at the destination can still be run there, and that is the guest's only place by now.
        if self._switchover is None or not self._switchover.complete:
            work.cancel()

    async def _why(
        self, listener: "asyncio.Future[None]", work: "asyncio.Future[Stopwatch]"
    ) -> BaseException:
        if work.cancelled():  # a process of the guest ended
            try:
                await in_thread(self._guest.check)
            except MigratedError as error:
                return error
            return GuestDiedError("a process of the guest ended")
        return _first_of(listener, work)

    async def _give_up(self, work: "asyncio.Future[Stopwatch]", error: BaseException) -> None:
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)  # its own error, if any, is not the first
        await self._abort(error)

    async def _abort(self, error: BaseException | None) -> None:
        if await self._undo(error) and self._freezing:  # else the record may stand, and `resolve` tries again
            with contextlib.suppress(MigratedError):
                await self._record(Outcome.ABORTED)

    async def _undo(self, error: BaseException | None) -> bool:
        """Give the guest back before COMMIT, and tell the other side if it listens. Whether the guest goes on."""
        resumed = False
        if self._rounds is not None and self._rounds.throttled:
            with contextlib.suppress(MigratedError):
                await in_thread(self._guest.throttle, 0.0)
        with contextlib.suppress(MigratedError):
            await in_thread(self._guest.resume)
            resumed = True
        with contextlib.suppress(MigratedError, TimeoutError):
            async with asyncio.timeout(1.0):
                known = error if isinstance(error, MigratedError) else None
                await self._channel.send(
                    Cancel("; ".join(filter(None, relayed(known, "the source"))), known.reason)
                    if known
                    else Cancel("cancelled", "cancelled")
                )
        return resumed

    # -- before the commit -------------------------------------------------------------------------

    def _offer(self) -> Offer:
        options, guest = self._options, self._guest
        return Offer(
            min_version=MIN_VERSION,
            max_version=VERSION,
            migration_id=self.migration_id,
            guest=options.guest_name,
            kind=guest.kind,
            page_size=PAGE_SIZE,
            regions=tuple(RegionInfo(region.name, region.size) for region in guest.regions),
            codecs=options.codecs,
            batch_pages=options.batch_pages,
            digest_seed=self._seed,
            decompress_workers=options.decompress_workers,
            verify_full=options.verify is Verify.FULL,
            features=(
                STARTS_GUEST,
                *((DELTA,) if options.delta_cache else ()),
                *((COPIES,) if may_copy(self._guest.tracker, options.max_rounds) else ()),
            ),
            sender=f"migrated {__version__}",
            facts=tuple(guest.facts.items()),
            streams=usable_streams(options.streams, options.compress_workers),
        )

    async def _copy_and_switch(self, starting: "asyncio.Future[Stage]", accept: Accept) -> Stopwatch:
        self._check_codec(accept)
        self._moved = STARTS_GUEST in accept.features
        self.codecs = accept.codecs
        stage = await starting
        self._observe(self._started())
        pusher = Pusher(
            self._channel,
            stage,
            self.tuning,
            codecs=accept.codecs,
            batch_pages=accept.batch_pages,
            page_size=PAGE_SIZE,
            observer=self._observe,
            far_workers=accept.decompress_workers,
            unpacking=lambda: self._conversation.unpacking,
            deltas=DELTA in accept.features,
            copies=COPIES in accept.features,
        )
        self._rounds = rounds = PreCopy(
            self._channel,
            self._conversation,
            self._guest,
            Unseen(self._guest.regions, stage.terms, holes_are_zeros=self._guest.holes_are_zeros),
            pusher,
            self._options,
            self.tuning,
            self._observe,
            self._clock,
        )
        self._setup_seconds = self._clock() - self._began
        pending = await rounds.pre_copy()
        self._switchover = switchover = Switchover(
            self._channel,
            self._conversation,
            self._guest,
            stage,
            rounds,
            verify=self._options.verify,
            batch_pages=accept.batch_pages,
            observer=self._observe,
            record=self._record_freezing,
            clock=self._clock,
        )
        stopwatch = await switchover.run(pending)
        self._digest = switchover.digest
        return stopwatch

    async def _record_freezing(self) -> None:
        """From the freeze on nobody lets the guest go on by himself: whoever finds it so must know of it."""
        self._freezing = True
        await self._record(Outcome.FREEZING)

    def _make_stage(self, offer: Offer) -> Stage:
        return Stage(
            self._guest.regions,
            workers=self._options.compress_workers,
            batch_pages=offer.batch_pages,
            page_size=offer.page_size,
            seed=self._seed,
            delta_cache=self._options.delta_cache,
            duplicates=COPIES in offer.features,
        )

    def _check_codec(self, accept: Accept) -> None:
        wanted = self.tuning.fixed
        if wanted not in (None, NONE) and wanted.codec not in accept.codecs:
            raise RefusedError(
                f"the destination does not take codec {self.tuning.codec}",
                f"it takes {', '.join(accept.codecs) or 'none'}; choose with --codec",
                "codec",
            )

    def _started(self) -> Started:
        options, guest = self._options, self._guest
        codec, level = self.tuning.shown
        return Started(
            self.migration_id,
            Role.SOURCE,
            options.guest_name,
            guest.kind,
            sum(region.size for region in guest.regions),
            PAGE_SIZE,
            codec,
            level,
            options.compress_workers,
            guest.tracker.name,
        )

    # -- commit ------------------------------------------------------------------------------------

    async def _commit(self, stopwatch: Stopwatch) -> Report:
        self._observe(StateChanged(State.COMMIT))
        guest = self._guest
        try:
            await in_thread(guest.freeze)
            await self._record(Outcome.COMMITTING)
        except BaseException as error:
            await see_through(self._abort(error))
            raise
        self._conversation.committed = True
        answer = await self._outcome(stopwatch.running)
        self.settled = True
        stopwatch.lap("start")
        total = self._clock() - self._began  # what is left is tidying up
        if isinstance(answer, Aborted):
            await in_thread(guest.resume)
            await self._record(Outcome.ABORTED)
            raise PeerFailedError(
                f"the destination aborted before it started the guest: {answer.reason}",
                "the guest goes on here; try again",
                "aborted",
            )
        notes = self._notes()
        try:
            await in_thread(guest.release, self._moved)
            await self._record(Outcome.COMPLETED)
        except MigratedError as error:
            # The guest runs there: nothing that fails here can change that.
            notes += (f"the destination runs the guest, but not all could be tidied up here: {error}",)
        report = self._report(total, stopwatch, notes)
        self._observe(Finished(report))
        self._observe(StateChanged(State.COMPLETED))
        return report

    async def _record(self, outcome: Outcome) -> None:
        details = self._guest.describe() | {"destination": self._options.destination, "moved": self._moved}
        record = Record(self.migration_id, outcome, self._options.guest_name, details)
        await in_thread(self._records.write, record)

    async def _outcome(self, paused: float) -> Running | Aborted:
        """Send COMMIT and return the answer, over a new connection if this one fails."""
        try:
            async with asyncio.timeout(self._options.commit_timeout):
                await self._channel.send(Commit(self.migration_id, int(paused * 1000)))
                return await self._conversation.answer(Running, Aborted)
        except (MigratedError, TimeoutError):
            pass  # even a Failed decides nothing now: only the far side's record does
        answer = await self._ask(self.migration_id)
        if isinstance(answer, Running | Aborted):
            return answer
        if isinstance(answer, Failed):
            raise self._unknown(PeerFailedError(answer.what, answer.hint, answer.code))
        raise self._unknown(ProtocolError(f"it answered COMMIT with {type(answer).__name__}"))

    def _unknown(self, error: MigratedError) -> OutcomeUnknownError:
        return OutcomeUnknownError(
            f"the destination has the guest's memory, but did not say that it runs it: {error}",
            f"the guest stays paused here; settle it with: migrated resolve {self.migration_id}",
            self.migration_id,
        )

    def _notes(self) -> tuple[str, ...]:
        """What a person should know of a migration that went well."""
        if self._rounds is None or not self._rounds.compares:
            return ()
        return (
            "all memory was compared in the pause: until then the guest gave pages back, or used write(2)",
        )

    def _report(self, total: float, stopwatch: Stopwatch, notes: tuple[str, ...]) -> Report:
        shown = self._tally.snapshot()
        return Report(
            migration_id=self.migration_id,
            guest=self._options.guest_name,
            total_seconds=total,
            downtime_seconds=stopwatch.seconds,
            downtime_parts=stopwatch.parts,
            setup_seconds=self._setup_seconds,
            rounds=self._rounds.round if self._rounds is not None else 0,
            total_bytes=shown.total_bytes,
            sent_pages=shown.sent_pages,
            zero_pages=shown.zero_pages,
            unchanged_pages=shown.unchanged_pages,
            raw_bytes=shown.raw_bytes,
            raw_bytes_by_codec=dict(shown.raw_bytes_by_codec),
            delta_pages=shown.delta_pages,
            copied_pages=shown.copied_pages,
            wire_bytes=self._channel.sent_bytes,
            codec=self.tuning.shown[0],
            level=self.tuning.shown[1],
            page_size=PAGE_SIZE,
            tracker=self._guest.tracker.name,
            digest=self._digest,
            moved=self._moved,
            connections=self._channel.connections,
            expected_downtime=shown.expected_downtime,
            notes=notes,
        )


def _first_of(listener: "asyncio.Future[None]", work: "asyncio.Future[Stopwatch]") -> BaseException:
    """What the other side said is the reason, where both it and our own work failed."""
    heard = listener.exception() if listener.done() else None
    ours = work.exception() if work.done() else None
    if isinstance(ours, BaseExceptionGroup):
        ours = _leaf(ours)
    if heard is not None and (ours is None or isinstance(heard, PeerFailedError)):
        return heard
    assert ours is not None
    return ours


def _leaf(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The one error of a task group that says why: its first that is no cancellation."""
    for each in group.exceptions:
        found = _leaf(each) if isinstance(each, BaseExceptionGroup) else each
        if not isinstance(found, asyncio.CancelledError):
            return found
    return group.exceptions[0]
