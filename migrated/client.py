"""One migration from this host: dial, move, and settle the outcome."""

import asyncio
import contextlib
import uuid
from collections.abc import Callable

from migrated.compression import registry
from migrated.compression.stage import default_workers, usable_cores
from migrated.config import SendSettings, Settings, read_setting
from migrated.config.model import NO_CODEC
from migrated.engine.events import Connected, Failed, Observer, Report, State, StateChanged, fan_out
from migrated.engine.options import AUTO, START_FAILED, OnStall, SendOptions, Verify
from migrated.engine.ports import in_thread
from migrated.engine.progress import Progress, Tally
from migrated.engine.records import OPEN, Outcome, Record, Records
from migrated.engine.rounds import Tuning
from migrated.engine.sender import Sender
from migrated.errors import (
    CancelledByPersonError,
    GuestDiedError,
    MigratedError,
    OutcomeUnknownError,
    PeerFailedError,
    ProtocolError,
    UsageError,
)
from migrated.guests.base import SourceGuest
from migrated.guests.uri import revive
from migrated.net.address import Address, parse_address
from migrated.net.channel import SocketChannel
from migrated.net.endpoints import dial
from migrated.net.streams import Streams, streams_for
from migrated.pages import PAGE_SIZE
from migrated.protocol import Aborted, Capabilities, Commit, Message, Ping, Pong, Query, Running
from migrated.protocol import Failed as PeerFailed

__all__ = ["Outgoing", "ask_outcome", "capabilities", "outgoing_records", "resolve", "worker_counts"]

_ASK_AGAIN_SECONDS = (0.2, 0.5, 1.0, 2.0, 5.0)
"""Pauses between questions for the outcome; the last one repeats for ever."""

_COMMIT_SECONDS = 30.0
"""How long a destination may take to start the guest before it is asked again."""


def outgoing_records(settings: Settings) -> Records:
    """The records of migrations that began on this host."""
    return Records(settings.host.state_path / "outgoing")


class Outgoing:
    """Moves one open guest to ``address``, once. The guest is closed when :meth:`run` ends, however it ends."""

    def __init__(
        self,
        guest: SourceGuest,
        address: Address,
        settings: Settings,
        *,
        name: str,
        observer: Observer,
        say: Callable[[str], None] = lambda _text: None,
    ) -> None:
        self.migration_id = uuid.uuid4().hex
        self._guest = guest
        self._address = address
        self._send = settings.send
        self._records = outgoing_records(settings)
        self._name = name
        self._tally = Tally()
        self._observer = fan_out(self._tally, observer)
        self._say = say
        self._sender: Sender | None = None
        self._task: asyncio.Task[Report] | None = None
        self._cancelled = ""
        level = 0 if self._send.codec == NO_CODEC else self._send.level
        self.tuning = Tuning(self._send.codec, level, self._send.bandwidth, self._send.downtime)
        self._tally.progress.migration_id = self.migration_id
        self._tally.progress.guest = name  # known also if the two sides never agree

    # -- while it runs -----------------------------------------------------------------------------

    def progress(self) -> Progress:
        """How far it is."""
        return self._tally.snapshot()

    @property
    def committed(self) -> bool:
        """Whether COMMIT may have been sent: from then on nothing here takes the guest back."""
        return self._sender is not None and self._sender.committed

    @property
    def settled(self) -> bool:
        """Whether the outcome is known: what is left is tidying up here, which nothing cuts short."""
        return self._sender is not None and self._sender.settled

    def cancel(self, why: str) -> bool:
        """Give the guest back and stop. False, and nothing happens, once COMMIT may have been sent."""
        if self.committed or self._task is None:
            return False
        self._cancelled = self._cancelled or why
        self._task.cancel()
        return True

    def leave(self) -> None:
        """Stop asking for the outcome; the guest stays paused until `migrated resolve`. Nothing happens if it is
        known already."""
        if self._task is not None and not self.settled:
            self._task.cancel()

    def change(self, key: str, value: str) -> None:
        """Change ``bandwidth``, ``downtime``, ``level`` or ``codec`` from now on, as typed. UsageError if not."""
        match key:
            case "bandwidth":
                self.tuning.bandwidth = read_setting("bandwidth", value)
            case "downtime":
                self.tuning.downtime = read_setting("downtime", value)
            case "level":
                if value not in "0123456789" or len(value) != 1:
                    raise UsageError(
                        f"not a level: {value!r}", "levels go from 0 (no compression) to 9 (best ratio)"
                    )
                self._change_level(int(value))
            case "codec":
                self._change_codec(value)
            case _:
                raise UsageError(
                    f"{key!r} can't be changed while it runs", "bandwidth, downtime, level and codec can"
                )
        if self._sender is not None:
            self._sender.retuned()

    def _change_level(self, level: int) -> None:
        codec = self.tuning.codec
        if level and (codec == NO_CODEC or (codec == AUTO and self.tuning.level)):
            auto = "codec auto chooses the level itself"
            raise UsageError(
                auto if codec == AUTO else "no codec is chosen that has levels",
                f"name one first: migrated set {self.migration_id[:4]} codec zstd",
            )
        if level and self._sender is not None:
            self._check_shared(codec)
        self.tuning.level = level

    def _change_codec(self, name: str) -> None:
        if name == NO_CODEC:
            self.tuning.level = 0
            return
        self._check_shared(name)
        self.tuning.codec = name
        self.tuning.level = self.tuning.level or max(1, self._send.level)

    def _check_shared(self, name: str) -> None:
        usable = self._sender.codecs if self._sender is not None else ()
        if name not in usable and name != AUTO:
            raise UsageError(
                f"the two sides do not share codec {name!r}", f"they share {', '.join(usable) or 'none yet'}"
            )

    # -- the whole ---------------------------------------------------------------------------------

    async def run(self) -> Report:
        """Move the guest. Raises any MigratedError; the guest runs here then, unless it is OutcomeUnknownError."""
        # A task of its own: whoever cancels or leaves ends the migration, and not what is told of it afterwards.
        self._task = asyncio.ensure_future(self._run())
        try:
            return await self._task
        except asyncio.CancelledError:
            raise self._told(self._interrupted()) from None
        except MigratedError as error:
            raise self._told(error) from error.__cause__
        finally:
            await in_thread(self._guest.close)

    def _interrupted(self) -> MigratedError:
        if self.committed:
            return OutcomeUnknownError(
                "left before the destination said whether it runs the guest",
                f"the guest stays paused here; settle it with: migrated resolve {self.migration_id}",
                self.migration_id,
            )
        return CancelledByPersonError(self._cancelled or "cancelled", "the guest goes on here")

    def _told(self, error: MigratedError) -> MigratedError:
        self._observer(Failed(error.reason, error.what, error.hint))
        match error:
            case CancelledByPersonError():
                state = State.CANCELLED
            case OutcomeUnknownError():
                state = State.UNKNOWN
            case _:
                state = State.FAILED
        self._observer(StateChanged(state))
        return error

    async def _run(self) -> Report:
        send = self._send

        async def connect() -> SocketChannel:
            return await dial(
                self._address, connect_timeout=send.connect_timeout, idle_timeout=send.idle_timeout
            )

        first = await connect()
        channel = Streams(first, connect, self._say, lambda count: self._observer(Connected(count)))
        try:
            # In a thread: to import the codecs takes 10 ms and more, in which nobody else would have a turn.
            options = await in_thread(self._options, send.streams or streams_for(first.round_trip))
            self._sender = Sender(
                channel,
                self._guest,
                options,
                self.tuning,
                self._records,
                self._observer,
                migration_id=self.migration_id,
                ask=self._ask,
                spread=channel.spread,
            )
            return await self._sender.run()
        finally:
            await channel.close()

    def _options(self, streams: int) -> SendOptions:
        send = self._send
        workers, far_workers = worker_counts(send)
        return SendOptions(
            guest_name=self._name,
            codecs=registry.offered((send.codec,) if self.tuning.level and send.codec != AUTO else ()),
            compress_workers=workers,
            decompress_workers=far_workers,
            batch_pages=send.batch_size // PAGE_SIZE,
            max_rounds=send.max_rounds,
            on_stall=OnStall(send.on_stall),
            verify=Verify(send.verify),
            commit_timeout=_COMMIT_SECONDS,
            destination=str(self._address),
            delta_cache=send.delta_cache,
            streams=streams,
        )

    async def _ask(self, migration_id: str) -> Message:
        self._say("the connection was lost after COMMIT; asking the destination whether it runs the guest")
        return await ask_outcome(self._address, migration_id, self._send)


def worker_counts(send: SendSettings) -> tuple[int, int]:
    """Compression workers here, and decompression workers to ask the destination for: by `migrated bench stages` a GiB
    with zstd or LZ4 takes them half as long as those here."""
    workers = default_workers(send.compress_workers, usable_cores())
    return workers, send.decompress_workers or max(1, workers // 2)


async def ask_outcome(
    address: Address, migration_id: str, send: SendSettings, *, tries: int | None = None
) -> Message:
    """Repeat COMMIT on new connections until there is an answer: Running, Aborted, or Failed (it can't start it).

    ``tries`` bounds the questions; the last one's error is then raised.
    """
    asked = 0
    while True:
        asked += 1
        try:
            answer = await _exchange(address, Commit(migration_id), send, seconds=_COMMIT_SECONDS)
            if not isinstance(answer, PeerFailed) or answer.code == START_FAILED:
                return answer
            raise PeerFailedError(
                f"the destination could not answer: {answer.what}", answer.hint, answer.code
            )
        except MigratedError:
            if tries is not None and asked >= tries:
                raise
        await asyncio.sleep(_ASK_AGAIN_SECONDS[min(asked, len(_ASK_AGAIN_SECONDS)) - 1])


async def _exchange(address: Address, message: Message, send: SendSettings, *, seconds: float) -> Message:
    """One message, one answer, on a connection of its own."""
    channel: SocketChannel = await dial(
        address, connect_timeout=send.connect_timeout, idle_timeout=send.idle_timeout
    )
    try:
        async with asyncio.timeout(seconds):
            await channel.send(message)
            while True:
                answer = await channel.receive()
                if not isinstance(answer, Ping | Pong):
                    break
    except TimeoutError as error:
        raise ProtocolError(f"{address} took longer than {seconds:.0f} s to answer") from error
    finally:
        await channel.close()
    if not isinstance(answer, Message):
        raise ProtocolError(f"{address} answered with a batch")
    return answer


async def capabilities(address: Address, send: SendSettings) -> Capabilities:
    """What a destination can do."""
    answer = await _exchange(address, Query(), send, seconds=send.connect_timeout)
    if isinstance(answer, Capabilities):
        return answer
    raise ProtocolError(f"{address} answered a query with {type(answer).__name__}")


async def resolve(
    settings: Settings, migration_id: str, *, resume_here: bool = False, tries: int | None = None
) -> Record:
    """Settle a migration whose COMMIT had no answer, and return its record, now decided.

    ``resume_here`` is a person's word that the destination is fenced and will never run the guest; then nobody
    is asked. OutcomeUnknownError if there was no answer in ``tries`` questions, or the destination decided to run it
    but cannot start it; GuestDiedError if it was to go on here and has ended: that is settled then.
    """
    records = outgoing_records(settings)
    record = await in_thread(records.read, migration_id)
    if record is None:
        known = [each.migration_id for each in records.all() if each.outcome in OPEN]
        raise UsageError(
            f"no migration {migration_id!r} began on this host",
            f"waiting for an outcome are: {', '.join(known) or 'none'}",
        )
    if record.outcome not in OPEN:
        return record
    address = parse_address(str(record.details["destination"]))
    answer: Message = Aborted("a person said so, or nobody was ever told to run it")
    if not resume_here and record.outcome is Outcome.COMMITTING:
        try:
            answer = await ask_outcome(address, migration_id, settings.send, tries=tries)
        except MigratedError as error:
            raise _still_unknown(address, migration_id, tries or 0, error) from error
    frozen = await in_thread(revive, record.details)
    gone: GuestDiedError | None = None
    try:
        match answer:
            case Running():
                outcome = Outcome.COMPLETED
                with contextlib.suppress(GuestDiedError):  # it was to be given up
                    await in_thread(frozen.release, bool(record.details.get("moved", True)))
            case Aborted():
                outcome = Outcome.ABORTED
                try:
                    await in_thread(frozen.resume)
                except GuestDiedError as error:
                    gone = error
            case PeerFailed():
                raise OutcomeUnknownError(
                    f"the destination {answer.what}", answer.hint or "see its log", migration_id
                )
            case _:
                raise OutcomeUnknownError(
                    f"{address} answered COMMIT with {type(answer).__name__}", "see its log", migration_id
                )
    finally:
        with contextlib.suppress(MigratedError):
            await in_thread(frozen.close)
    settled = Record(migration_id, outcome, record.guest, record.details)
    await in_thread(records.write, settled)
    if gone is not None:
        raise gone
    return settled


def _still_unknown(
    address: Address, migration_id: str, tries: int, error: MigratedError
) -> OutcomeUnknownError:
    times = "1 try" if tries == 1 else f"{tries} tries"
    return OutcomeUnknownError(
        f"{address} did not say in {times} whether it runs the guest: {error.what}",
        f"the guest stays paused here; ask again with: migrated resolve {migration_id}",
        migration_id,
    )
