"""A migration at the source, from the offer to the destination's RUNNING.

Before COMMIT every failure resumes the guest here. After it the source never resumes on its own: it asks the
destination until it has an answer.
"""

import asyncio
import contextlib
import math
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeVar

import numpy as np
import xxhash

from migrated import __version__
from migrated.compression import worker
from migrated.compression.stage import Stage
from migrated.engine.convergence import Decision, Measured, Trend, decide, expected_downtime
from migrated.engine.events import (
    Estimated,
    Event,
    Finished,
    Observer,
    Report,
    Role,
    RoundFinished,
    RoundStarted,
    Stalled,
    Started,
    State,
    StateChanged,
)
from migrated.engine.ports import Channel, in_thread, see_through
from migrated.engine.progress import Tally
from migrated.engine.records import Outcome, Record, Records
from migrated.engine.rounds import Pusher, RoundResult, Tuning
from migrated.errors import (
    MigratedError,
    OutcomeUnknownError,
    PeerFailedError,
    ProtocolError,
    RefusedError,
    ResourceError,
    StalledError,
)
from migrated.guests.base import SourceGuest
from migrated.pages import PAGE_SIZE, PageSet, cut_runs
from migrated.protocol import (
    MIN_VERSION,
    VERSION,
    Aborted,
    Accept,
    BatchHeader,
    Cancel,
    Commit,
    DeviceState,
    DeviceStateEnd,
    Digest,
    Estimate,
    Failed,
    Message,
    Offer,
    Ping,
    Pong,
    Ready,
    Refuse,
    RegionInfo,
    RoundDone,
    RoundEnd,
    Running,
    limits_of,
)
from migrated.protocol import Progress as PeerProgress

__all__ = ["STARTS_GUEST", "OnStall", "SendOptions", "Sender", "Verify"]

STARTS_GUEST = "starts-guest"
"""The feature of a destination that will run the guest. Without it the memory is copied, and the source's goes on."""


class OnStall(StrEnum):
    """What to do when rounds stop helping."""

    FAIL = "fail"
    THROTTLE = "throttle"
    SWITCH = "switch"


class Verify(StrEnum):
    """What is compared before COMMIT: the terms of the pages as sent, or all memory read again."""

    DIGEST = "digest"
    FULL = "full"


@dataclass(frozen=True, slots=True)
class SendOptions:
    """What one migration was asked to do. ``codecs`` are those this side offers, with their levels."""

    guest_name: str
    codecs: dict[str, tuple[int, ...]]
    compress_workers: int
    decompress_workers: int
    batch_pages: int
    max_rounds: int
    on_stall: OnStall
    verify: Verify
    commit_timeout: float
    destination: str


_M = TypeVar("_M", bound=Message)

_FIRST_THROTTLE, _THROTTLE_STEP, _MOST_THROTTLE = 0.2, 0.1, 0.99
"""The share of time a guest is held to let rounds converge: QEMU's auto-converge steps."""

_GUESSED_FIXED_SECONDS = 0.03
"""Pause, digest, fsyncs and start before they have been measured: what the demo guest takes."""

_MAX_DEVICE_STATE = 256 << 20
"""Bytes. 0.3 to 0.6 MB are usual; the memory of a large display is sent with it."""

_RATE_BYTES = 1 << 20
"""A round with fewer bytes than this says more of the barrier's latency than of the link's rate: it counts only
until another has sent more."""


class _Stopwatch:
    """Splits a stretch of time into named parts that add up to the whole."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.began = self._last = clock()
        self.parts: dict[str, float] = {}

    def lap(self, name: str) -> None:
        now = self._clock()
        self.parts[name] = now - self._last
        self._last = now

    @property
    def seconds(self) -> float:
        return self._last - self.began


class Sender:
    """Moves one guest. ``ask`` puts a repeated COMMIT on a new connection and returns the answer.

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
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.migration_id = migration_id
        self.tuning = tuning
        self.committed = False
        self._channel = channel
        self._guest = guest
        self._options = options
        self._records = records
        self._tally = Tally(clock)
        self._outer = observer
        self._ask = ask
        self._clock = clock
        self._began = clock()
        self._seed = secrets.randbits(64)
        self._stage: Stage | None = None
        self._answers: asyncio.Queue[Message | MigratedError] = asyncio.Queue()
        self._round = 0
        self._wire_rate = 0.0
        self._rate_bytes = 0
        self._bytes_per_page = float(PAGE_SIZE)
        self._throttle = 0.0
        self._moved = True
        self.codecs: tuple[str, ...] = ()

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
        accept = await self._negotiate()
        listener = asyncio.ensure_future(self._listen())
        try:
            stopwatch = await self._until_ready(listener, accept)
            return await self._commit(stopwatch)
        finally:
            listener.cancel()
            await asyncio.gather(listener, return_exceptions=True)

    async def _until_ready(self, listener: "asyncio.Future[None]", accept: Accept) -> _Stopwatch:
        """Copy until the destination is ready. On any failure the guest has been given back."""
        work = asyncio.ensure_future(self._copy_and_switch(accept))
        error: BaseException
        try:
            both: set[asyncio.Future[Any]] = {work, listener}
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            if work.done() and work.exception() is None:
                return work.result()
            error = _first_of(listener, work)
        except asyncio.CancelledError as cancelled:
            error = cancelled
        await see_through(self._give_up(work, error))
        raise error

    async def _give_up(self, work: "asyncio.Future[_Stopwatch]", error: BaseException) -> None:
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)  # its own error, if any, is not the first
        await self._undo(error)

    async def _undo(self, error: BaseException | None) -> None:
        """Give the guest back before COMMIT, and tell the other side if it listens."""
        if self._throttle:
            with contextlib.suppress(MigratedError):
                await in_thread(self._guest.throttle, 0.0)
        with contextlib.suppress(MigratedError):
            await in_thread(self._guest.resume)
        with contextlib.suppress(MigratedError, TimeoutError):
            async with asyncio.timeout(1.0):
                await self._channel.send(
                    Cancel(str(error) if isinstance(error, MigratedError) else "cancelled")
                )

    # -- negotiation and messages ------------------------------------------------------------------

    async def _negotiate(self) -> Accept:
        options, guest = self._options, self._guest
        offer = Offer(
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
            features=(STARTS_GUEST,),
            sender=f"migrated {__version__}",
            facts=tuple(guest.facts.items()),
        )
        self._offer = offer
        await self._channel.send(offer)
        answer = await self._channel.receive()
        while isinstance(answer, Ping | Pong):
            answer = await self._channel.receive()
        match answer:
            case Refuse():
                raise RefusedError(f"the destination refused: {answer.what}", answer.hint, answer.code)
            case Failed():
                raise PeerFailedError(f"the destination failed: {answer.what}", answer.hint, answer.code)
            case Accept():
                return answer
            case _:
                raise ProtocolError(f"the destination answered an offer with {type(answer).__name__}")

    async def _listen(self) -> None:
        """Take the destination's messages; ends only by an error, which is also the next answer."""
        try:
            while True:
                self._heard(await self._channel.receive())
        except MigratedError as error:
            self._answers.put_nowait(error)
            raise

    def _heard(self, message: Message | BatchHeader) -> None:
        match message:
            case Failed():
                raise PeerFailedError(f"the destination failed: {message.what}", message.hint, message.code)
            case Aborted() if not self.committed:
                raise PeerFailedError(f"the destination aborted: {message.reason}", "", "aborted")
            case Ping() | Pong() | PeerProgress():
                pass
            case BatchHeader():
                raise ProtocolError("the destination sent a batch")
            case _:
                self._answers.put_nowait(message)

    async def _answer(self, *kinds: type[_M]) -> _M:
        message = await self._answers.get()
        if isinstance(message, MigratedError):
            raise message
        if not isinstance(message, kinds):
            due = " or ".join(kind.__name__ for kind in kinds)
            raise ProtocolError(f"the destination sent {type(message).__name__} where {due} was due")
        return message

    # -- pre-copy ----------------------------------------------------------------------------------

    async def _start_stage(self, accept: Accept) -> Pusher:
        options, guest = self._options, self._guest
        if self.tuning.level and self.tuning.codec not in accept.codecs:
            raise RefusedError(
                f"the destination does not take codec {self.tuning.codec}",
                f"it takes {', '.join(accept.codecs) or 'none'}; choose with --codec",
                "codec",
            )
        self._channel.agree(limits_of(self._offer, accept))
        self._moved = STARTS_GUEST in accept.features
        self.codecs = accept.codecs
        self._channel.set_rate(self.tuning.bandwidth)
        self._stage = Stage(
            guest.regions,
            workers=options.compress_workers,
            batch_pages=accept.batch_pages,
            page_size=PAGE_SIZE,
            seed=self._seed,
        )
        await self._stage.start()
        codec, level = self.tuning.packing
        self._observe(
            Started(
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
        )
        return Pusher(
            self._channel,
            self._stage,
            self.tuning,
            codecs=accept.codecs,
            batch_pages=accept.batch_pages,
            page_size=PAGE_SIZE,
            observer=self._observe,
        )

    async def _copy_and_switch(self, accept: Accept) -> _Stopwatch:
        pusher = await self._start_stage(accept)
        self._accepted = accept
        self._setup_seconds = self._clock() - self._began
        pending = await self._pre_copy(pusher)
        return await self._switch(pusher, pending)

    async def _pre_copy(self, pusher: Pusher) -> list[PageSet]:
        """Rounds until the rest fits the downtime limit; returns the pages that are still to be sent."""
        guest = self._guest
        self._observe(StateChanged(State.PRE_COPY))
        await in_thread(guest.tracker.arm)
        pending = [await in_thread(region.populated) for region in guest.regions]
        scanned_at = self._clock()
        trend = Trend()
        while True:
            result = await self._push_round(pusher, pending, last=False)
            await in_thread(guest.check)
            scan_began = self._clock()
            pending = await self._collect()
            now = self._clock()
            measured = self._measure(pending, result, scan_seconds=now - scan_began)
            expected = expected_downtime(measured)
            estimate = Estimated(
                measured.remaining_pages,
                measured.remaining_wire_bytes,
                measured.remaining_pages * PAGE_SIZE / max(now - scanned_at, 1e-6),
                measured.wire_bytes_per_second,
                expected,
            )
            self._observe(estimate)
            await self._channel.send(_on_wire(estimate))
            scanned_at = now
            trend = trend.after(expected)
            # A tracker that only names candidates knows nothing before a round has compared them.
            known = guest.tracker.exact or self._round > 1
            decision = decide(
                measured, trend, downtime_limit=self.tuning.downtime, max_rounds=self._options.max_rounds
            )
            if decision is Decision.SWITCH and known:
                return pending
            if decision is Decision.STALL and await self._stalled(trend, expected):
                return pending
            if decision is Decision.STALL:
                trend = Trend(trend.best, 0, 0)

    async def _push_round(self, pusher: Pusher, pending: list[PageSet], *, last: bool) -> RoundResult:
        self._round += 1
        pages = sum(map(len, pending))
        self._observe(RoundStarted(self._round, pages, last))
        began = self._clock()
        self._channel.set_rate(self.tuning.bandwidth)
        result = await pusher.push(self._round, pending, first=self._round == 1, last=last)
        await self._channel.send(RoundEnd(self._round, result.batches, result.data_pages))
        if not last:
            await self._barrier()
        seconds = self._clock() - began
        if result.wire_bytes >= min(_RATE_BYTES, self._rate_bytes):
            self._wire_rate, self._rate_bytes = result.wire_bytes / max(seconds, 1e-6), result.wire_bytes
        # Memory that was never used says nothing of the pages that are being written.
        counted = result.data_pages if self._round == 1 else result.pages
        if counted:
            self._bytes_per_page = result.wire_bytes / counted
        self._observe(RoundFinished(self._round, seconds, result.data_pages, result.wire_bytes))
        return result

    async def _barrier(self) -> None:
        done = await self._answer(RoundDone)
        if done.round != self._round:
            raise ProtocolError(f"the destination finished round {done.round} instead of {self._round}")

    async def _collect(self, *, last: bool = False) -> list[PageSet]:
        """The pages that must travel again: those written since, and those that became holes."""
        return await in_thread(self._collect_blocking, last)

    def _collect_blocking(self, last: bool) -> list[PageSet]:
        assert self._stage is not None
        tracker = self._guest.tracker
        dirty = tracker.last() if last else tracker.collect()
        for region, pages, terms in zip(self._guest.regions, dirty, self._stage.terms, strict=True):
            # A punched hole, a truncation, private memory given back (MADV_DONTNEED): no write for any tracker.
            pages.mask |= (terms != 0) & ~region.populated().mask
        return dirty

    def _measure(self, pending: list[PageSet], result: RoundResult, *, scan_seconds: float) -> Measured:
        fixed = _GUESSED_FIXED_SECONDS + self._guest.switch_seconds + scan_seconds
        rate = min(self._wire_rate, self.tuning.bandwidth)
        if self._guest.tracker.exact:
            return Measured(sum(map(len, pending)), self._bytes_per_page, rate, fixed)
        # Every page is a candidate: expect as many changed pages as last time, plus reading them all.
        per_page = result.wire_bytes / result.data_pages if result.data_pages else 0.0
        return Measured(result.data_pages, per_page, rate, fixed + self._last_scan_seconds(pending))

    def _last_scan_seconds(self, pending: list[PageSet]) -> float:
        """Reading and hashing every candidate once, by all workers."""
        return (
            sum(map(len, pending)) * PAGE_SIZE / (_HASHED_BYTES_PER_SECOND * self._options.compress_workers)
        )

    async def _stalled(self, trend: Trend, expected: float) -> bool:
        """True to switch over now; False to go on with rounds, the guest slowed down."""
        why = (
            f"after {self._round} rounds the guest would be paused for {_seconds(expected)}, "
            f"and the limit is {_seconds(self.tuning.downtime)} (best so far {_seconds(trend.best)})"
        )
        action = self._options.on_stall
        self._observe(Stalled(action, why))
        if action is OnStall.SWITCH:
            return True
        if action is OnStall.THROTTLE:
            if self._throttle < _MOST_THROTTLE:
                step = self._throttle + _THROTTLE_STEP if self._throttle else _FIRST_THROTTLE
                self._throttle = min(step, _MOST_THROTTLE)
                await in_thread(self._guest.throttle, self._throttle)
                return False
            why += ", even with the guest slowed down by 99 %"
        raise StalledError(
            f"the guest writes faster than it can be moved: {why}",
            "allow more with --downtime, or use --on-stall throttle or switch, a stronger codec, or a faster link",
        )

    # -- switchover --------------------------------------------------------------------------------

    async def _switch(self, pusher: Pusher, pending: list[PageSet]) -> _Stopwatch:
        """Pause, send the rest, have the digest compared; returns when the destination is ready."""
        guest = self._guest
        if self._throttle:
            await in_thread(guest.throttle, 0.0)
        self._observe(StateChanged(State.STOP_AND_COPY))
        stopwatch = _Stopwatch(self._clock)
        await in_thread(guest.pause)
        stopwatch.lap("pause")
        # Beside the last round: it is the guest's to give, and its memory does not change by it.
        devices = asyncio.ensure_future(in_thread(_device_state, guest))
        try:
            return await self._switch_paused(pusher, pending, stopwatch, devices)
        finally:
            devices.cancel()
            await see_through(_ended(devices))

    async def _switch_paused(
        self,
        pusher: Pusher,
        pending: list[PageSet],
        stopwatch: _Stopwatch,
        devices: "asyncio.Future[list[bytes] | None]",
    ) -> _Stopwatch:
        guest = self._guest
        final = await self._collect(last=True)
        for pages, more in zip(pending, final, strict=True):
            pages |= more
        stopwatch.lap("last scan")
        await self._push_round(pusher, pending, last=True)
        # The digest follows at once; the destination works on both in their order.
        assert self._stage is not None
        terms = (
            await self._reread()
            if self._options.verify is Verify.FULL
            else await in_thread(self._stage.digest)
        )
        await self._channel.send(Digest(terms, guest.was_running))
        await self._barrier()
        stopwatch.lap("last round")
        state = await devices
        if state is not None:
            await self._send_device_state(state)
        await self._answer(Ready)
        stopwatch.lap("digest" if state is None else "device state")
        self._digest = _digest_text(terms)
        return stopwatch

    async def _send_device_state(self, state: list[bytes]) -> None:
        checksum = xxhash.xxh3_64()
        for piece in state:
            checksum.update(piece)
            await self._channel.send(DeviceState(piece))
        await self._channel.send(DeviceStateEnd(sum(map(len, state)), checksum.intdigest()))

    async def _reread(self) -> tuple[int, ...]:
        """The digest of all memory as it is now: proves that the tracking missed nothing."""
        assert self._stage is not None
        stage = self._stage
        limit = self._accepted.batch_pages

        async def region(index: int) -> int:
            populated = await in_thread(self._guest.regions[index].populated)
            pieces = [
                stage.run(worker.rehash, index, runs.tobytes()) for runs in cut_runs(populated.runs(), limit)
            ]
            return sum(await asyncio.gather(*pieces)) & (1 << 64) - 1

        return tuple([await region(index) for index in range(len(self._guest.regions))])

    # -- commit ------------------------------------------------------------------------------------

    async def _commit(self, stopwatch: _Stopwatch) -> Report:
        self._observe(StateChanged(State.COMMIT))
        guest = self._guest
        try:
            await in_thread(guest.freeze)
            await self._record(Outcome.COMMITTING)
        except BaseException as error:
            await see_through(self._undo(error))
            with contextlib.suppress(MigratedError):
                await self._record(Outcome.ABORTED)
            raise
        self.committed = True
        answer = await self._outcome()
        stopwatch.lap("start")
        if isinstance(answer, Aborted):
            await in_thread(guest.resume)
            await self._record(Outcome.ABORTED)
            raise PeerFailedError(
                f"the destination aborted before it started the guest: {answer.reason}",
                "the guest goes on here; try again",
                "aborted",
            )
        notes: tuple[str, ...] = ()
        try:
            await in_thread(guest.release, self._moved)
            await self._record(Outcome.COMPLETED)
        except MigratedError as error:
            # The guest runs there: nothing that fails here can change that.
            notes = (f"the destination runs the guest, but not all could be tidied up here: {error}",)
        report = self._report(stopwatch, notes)
        self._observe(Finished(report))
        self._observe(StateChanged(State.COMPLETED))
        return report

    async def _record(self, outcome: Outcome) -> None:
        details = self._guest.describe() | {"destination": self._options.destination, "moved": self._moved}
        record = Record(self.migration_id, outcome, self._options.guest_name, details)
        await in_thread(self._records.write, record)

    async def _outcome(self) -> Running | Aborted:
        """Send COMMIT and return the answer, over a new connection if this one fails."""
        try:
            async with asyncio.timeout(self._options.commit_timeout):
                await self._channel.send(Commit(self.migration_id))
                return await self._answer(Running, Aborted)
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

    def _report(self, stopwatch: _Stopwatch, notes: tuple[str, ...]) -> Report:
        shown = self._tally.snapshot()
        return Report(
            migration_id=self.migration_id,
            guest=self._options.guest_name,
            total_seconds=self._clock() - self._began,
            downtime_seconds=stopwatch.seconds,
            downtime_parts=stopwatch.parts,
            setup_seconds=self._setup_seconds,
            rounds=self._round,
            total_bytes=shown.total_bytes,
            sent_pages=shown.sent_pages,
            zero_pages=shown.zero_pages,
            unchanged_pages=shown.unchanged_pages,
            raw_bytes=shown.raw_bytes,
            wire_bytes=self._channel.sent_bytes,
            codec=self.tuning.packing[0],
            level=self.tuning.level,
            page_size=PAGE_SIZE,
            tracker=self._guest.tracker.name,
            digest=self._digest,
            moved=self._moved,
            notes=notes,
        )


_FOR_EVER_SECONDS = 1e9

_HASHED_BYTES_PER_SECOND = 1.5e9
"""One worker reading and hashing pages that did not change; measured by the benchmark of the stages."""


def _on_wire(estimate: Estimated) -> Estimate:
    """An estimate as the other side is told it: whole numbers, and a very long time for ever."""
    return Estimate(
        remaining_bytes=estimate.remaining_pages * PAGE_SIZE,
        remaining_wire_bytes=int(estimate.remaining_wire_bytes),
        dirty_bytes_per_second=int(estimate.dirty_bytes_per_second),
        wire_bytes_per_second=int(estimate.wire_bytes_per_second),
        expected_downtime_ms=int(1000 * min(estimate.expected_downtime, _FOR_EVER_SECONDS)),
    )


def _device_state(guest: SourceGuest) -> list[bytes] | None:
    pieces = guest.device_state()
    if pieces is None:
        return None
    kept: list[bytes] = []
    room = _MAX_DEVICE_STATE
    for piece in pieces:
        kept.append(piece)
        room -= len(piece)
        if room < 0:
            raise ResourceError(
                f"the guest's device state is larger than {_MAX_DEVICE_STATE >> 20} MiB",
                "only its devices belong there: is there memory that is not in its memory files?",
            )
    return kept


async def _ended(work: "asyncio.Future[list[bytes] | None]") -> None:
    await asyncio.wait({work})


def _seconds(value: float) -> str:
    return "for ever" if math.isinf(value) else f"{value * 1000:.0f} ms"


def _digest_text(terms: tuple[int, ...]) -> str:
    with np.errstate(over="ignore"):
        return f"{int(np.array(terms, dtype=np.uint64).sum()):016x}"


def _first_of(listener: "asyncio.Future[None]", work: "asyncio.Future[_Stopwatch]") -> BaseException:
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
