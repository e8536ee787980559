"""The long-running destination: takes in several guests at once, and answers for those it took.

What it decided, and what it makes of that after a crash, is in :mod:`migrated.outcomes`.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from migrated import __version__
from migrated.compression import fork_server, registry
from migrated.compression.stage import default_workers, usable_cores
from migrated.config import GuestEntry, Settings
from migrated.engine.events import Observer
from migrated.engine.options import STARTS_GUEST
from migrated.engine.ports import in_thread, see_through
from migrated.engine.progress import Progress
from migrated.engine.receiver import THIS_SIDE, Receiver
from migrated.engine.records import Outcome, Record
from migrated.engine.relay import relayed
from migrated.errors import (
    CancelledByPersonError,
    ConnectionLostError,
    MigratedError,
    RefusedError,
    UsageError,
)
from migrated.guests.base import TargetGuest
from migrated.guests.target import make_target
from migrated.net.address import Address
from migrated.net.channel import SocketChannel
from migrated.net.endpoints import Listener
from migrated.net.this_host import this_host
from migrated.outcomes import Outcomes
from migrated.pages import PAGE_SIZE
from migrated.protocol import (
    COPIES,
    DELTA,
    Accept,
    BatchHeader,
    Commit,
    Failed,
    Join,
    Message,
    Offer,
    Ping,
    Pong,
    Query,
    Refuse,
    Support,
    negotiate,
)

__all__ = ["Daemon"]

_log = logging.getLogger("migrated.daemon")


class Daemon:
    """Serves until :meth:`drain` is done. ``observe`` gives the observer for a migration that is offered; ``dropped``
    is told of every connection that was hung up on: "silent", it did not say what it wants in time or while there was
    room; "full", there was none."""

    def __init__(
        self,
        settings: Settings,
        observe: Callable[[Offer], Observer],
        *,
        dropped: Callable[[str], object] = lambda _reason: None,
    ) -> None:
        self._settings = settings
        self._observe = observe
        self._dropped = dropped
        self._outcomes = Outcomes(settings)
        self._records = self._outcomes.records
        self._receivers: dict[str, Receiver] = {}
        self._taken: dict[str, str] = {}
        self._offers = 0
        self._joined = 0
        self._finished: dict[str, Progress] = {}
        self._draining = False
        self._idle = asyncio.Event()
        self._idle.set()
        self._listener: Listener | None = None

    @property
    def address(self) -> Address:
        """Where it listens, with the port that it got."""
        assert self._listener is not None
        return self._listener.address

    async def start(self) -> None:
        """Finish what a crash left, then listen. ResourceError or AccessError if the address can't be had, or another
        process decides by the same records."""
        await in_thread(self._outcomes.claim)
        try:
            await in_thread(fork_server.start)
            await in_thread(self._load)
            await self._outcomes.recover()
            serve = self._settings.serve
            listener = Listener(
                serve.listen,
                self._handle,
                idle_timeout=serve.idle_timeout,
                max_connections=serve.max_connections,
                dropped=self._dropped,
            )
            await listener.start()
        except BaseException:
            self._outcomes.release()
            raise
        self._listener = listener

    def _load(self) -> None:
        """Import the codecs and the kinds of guests, 20 ms each: now, and not on the loop of the first migration."""
        self._support(())
        for name, entry in self._settings.guests.items():
            make_target(name, entry)

    async def drain(self, seconds: float) -> None:
        """Refuse what is new, give running migrations ``seconds`` to finish, abort the rest, stop."""
        self._draining = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._idle.wait()
        for receiver in self._receivers.values():
            receiver.cancel(
                CancelledByPersonError("the destination was stopped", "the guest goes on at the source")
            )
        # What is undone tells its source why; a second cancellation in the middle of that would cut it short.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_UNDO_SECONDS):
                await self._idle.wait()
        assert self._listener is not None
        await self._listener.close()
        await self._listener.end_all()
        self._outcomes.release()

    # -- what the control plane sees ---------------------------------------------------------------

    def migrations(self) -> list[Progress]:
        """The migrations under way, and the last ones that ended since this process started."""
        return [*self._finished.values(), *(receiver.progress() for receiver in self._receivers.values())]

    @property
    def state_path(self) -> Path:
        """Where its records are."""
        return self._settings.host.state_path

    @property
    def draining(self) -> bool:
        """Whether it takes nothing new any more."""
        return self._draining

    def cancel(self, migration_id: str) -> bool:
        """Abort a migration; False if it is decided already. UsageError if there is none of that id under way."""
        receiver = self._receivers.get(migration_id)
        if receiver is None:
            raise UsageError(f"no migration {migration_id} is under way here", "see `migrated status`")
        if receiver.decided.is_set():
            return False
        receiver.cancel(
            CancelledByPersonError("it was cancelled at the destination", "the guest goes on at the source")
        )
        return True

    async def forget(self, migration_id: str) -> Record:
        """See :meth:`Outcomes.forget`. UsageError, too, if the guest is being started just now."""
        if migration_id in self._receivers:
            raise UsageError(f"migration {migration_id} is under way here", "see `migrated status`")
        return await self._outcomes.forget(migration_id)

    # -- one connection ----------------------------------------------------------------------------

    async def _handle(self, channel: SocketChannel) -> None:
        try:
            first = await self._first(channel)
            match first:
                case Query():
                    found = self._support(()).capabilities()
                    await channel.send(replace(found, cores=usable_cores(), host=this_host()))
                case Commit():
                    await channel.send(await self._decided(first.migration_id))
                case Offer():
                    await self._take_in(channel, first)
                case Join():
                    await self._join(channel, first)
                case _:
                    await channel.send(
                        Refuse("protocol", f"a session does not begin with {type(first).__name__}")
                    )
        except MigratedError as error:
            # A port scan or a health check comes and goes without a word.
            gone = isinstance(error, ConnectionLostError) and not channel.heard
            _log.log(logging.DEBUG if gone else logging.WARNING, "%s: %s", channel.peer, error)
            with contextlib.suppress(MigratedError):
                await channel.send(Failed(error.reason, *relayed(error, THIS_SIDE)))
        except Exception:
            _log.exception("%s: an error of this program", channel.peer)
        await channel.finish()

    async def _decided(self, migration_id: str) -> Message:
        """Answer a COMMIT that came on a connection of its own: it is also the question how things stand."""
        receiver = self._receivers.get(migration_id)
        return await (receiver.commit() if receiver is not None else self._outcomes.answer(migration_id))

    async def _join(self, channel: SocketChannel, join: Join) -> None:
        receiver = self._receivers.get(join.migration_id)
        if receiver is None:
            raise RefusedError(f"no migration {join.migration_id} takes pages here", "", "join")
        serve = self._settings.serve
        if self._joined >= serve.max_connections - serve.max_migrations - 1:
            # Offers, and the question how a migration ended, must find room.
            raise RefusedError(
                "the destination has no more connections to spare", "raise max_connections there", "join"
            )
        self._joined += 1
        try:
            await receiver.join(channel, join)
        finally:
            self._joined -= 1

    async def _first(self, channel: SocketChannel) -> Message | BatchHeader:
        seconds = self._settings.serve.handshake_timeout
        try:
            async with asyncio.timeout(seconds):
                while isinstance(first := await channel.receive(), Ping | Pong):
                    if isinstance(first, Ping):
                        await channel.send(Pong())
                return first
        except TimeoutError:
            self._dropped("silent")
            raise ConnectionLostError(f"{channel.peer} said nothing for {seconds:.0f} s") from None

    async def _take_in(self, channel: SocketChannel, offer: Offer) -> None:
        answer = await self._consider(offer)
        if isinstance(answer, Refuse):
            _log.warning("refused %s from %s: %s (%s)", offer.guest, channel.peer, answer.what, answer.code)
            await channel.send(answer)
            return
        target, accept = answer
        try:
            receiver = Receiver(channel, target, offer, accept, self._records, self._observe(offer))
        except BaseException:
            # No memory for its buffers, for example; what was prepared for the guest is of no use now.
            await see_through(self._take_back(target, offer))
            raise
        try:
            self._receivers[offer.migration_id] = receiver
            try:
                await receiver.run()
            finally:
                del self._receivers[offer.migration_id]
                self._remember(receiver.progress())
        finally:
            try:
                await in_thread(target.close)
            finally:
                self._free(offer.guest)

    async def _forget_old(self) -> None:
        self._offers += 1
        if self._offers % _OFFERS_TO_TIDY == 0:
            await in_thread(self._records.forget_old, time.time())

    async def _consider(self, offer: Offer) -> Refuse | tuple[TargetGuest, Accept]:
        """Refuse, with a reason to act on; or take the guest's name and prepare its memory."""
        await self._forget_old()
        entry = self._settings.guests.get(offer.guest)
        refusal = await self._why_not(offer, entry)
        if refusal is not None:
            return refusal
        assert entry is not None
        target = make_target(offer.guest, entry)
        support = self._support((STARTS_GUEST,) if target.starts_guest else ())
        accept = negotiate(offer, support)
        if isinstance(accept, Refuse):
            return accept
        # Taken before the next await: two offers of one guest can't both get through.
        self._taken[offer.guest] = offer.migration_id
        self._idle.clear()
        target.expect(dict(offer.facts))
        try:
            await in_thread(self._records.write, Record(offer.migration_id, Outcome.RECEIVING, offer.guest))
            await in_thread(
                target.prepare, tuple((region.name, region.size_bytes) for region in offer.regions)
            )
        except BaseException as error:
            await see_through(self._take_back(target, offer))
            if isinstance(error, MigratedError):
                return Refuse(error.reason, *relayed(error, THIS_SIDE))
            raise
        return target, accept

    async def _take_back(self, target: TargetGuest, offer: Offer) -> None:
        try:
            if target.regions:  # it was prepared, and cancelled just then
                await in_thread(target.discard)
            await in_thread(target.close)
            with contextlib.suppress(MigratedError):
                await in_thread(self._records.write, Record(offer.migration_id, Outcome.ABORTED, offer.guest))
        finally:
            self._free(offer.guest)

    def _free(self, guest: str) -> None:
        del self._taken[guest]
        if not self._taken:
            self._idle.set()

    async def _why_not(self, offer: Offer, entry: GuestEntry | None) -> Refuse | None:
        serve = self._settings.serve
        if (stopping := self._stopping()) is not None:
            return stopping
        if entry is None:
            return Refuse(
                "guest-unknown",
                f"this destination has no guest {offer.guest!r}",
                f"add [guests.{offer.guest}] to its configuration, or choose another name with --name",
            )
        if entry.kind != offer.kind:
            return Refuse(
                "guest-kind",
                f"guest {offer.guest!r} is {entry.kind}: here, {offer.kind}: at the source",
                "correct kind in the destination's configuration, or choose another name with --name",
            )
        # All that awaits comes first: what is found below still holds when the guest's name is taken.
        seen = await self._outcomes.seen(offer.migration_id)
        undecided = await self._outcomes.undecided(offer.guest)
        if (stopping := self._stopping()) is not None:
            return stopping
        if seen:
            return Refuse("duplicate", f"migration {offer.migration_id} was here before", "start a new one")
        if offer.migration_id in self._taken.values():
            return Refuse("duplicate", f"migration {offer.migration_id} is under way here", "start a new one")
        if offer.guest in self._taken:
            return Refuse(
                "guest-busy",
                f"guest {offer.guest!r} is being received already",
                f"wait for migration {self._taken[offer.guest]}, or cancel it",
            )
        if undecided is not None:
            return Refuse(
                "guest-undecided",
                f"guest {offer.guest!r} is to run here by migration {undecided}, and could not be started yet",
                f"`migrated resolve {undecided}` at its source tries again; if it goes on there by now: "
                f"`migrated resolve {undecided} --forget` at the destination",
            )
        if len(self._taken) >= serve.max_migrations:
            return Refuse(
                "busy",
                f"{len(self._taken)} migrations run here already",
                "try again later, or raise max_migrations",
            )
        return None

    def _stopping(self) -> Refuse | None:
        if not self._draining:
            return None
        return Refuse("draining", "this destination is stopping", "use another one, or wait until it is back")

    def _support(self, features: tuple[str, ...]) -> Support:
        serve = self._settings.serve
        cores = usable_cores()
        codecs = registry.offered(serve.codecs)
        return Support(
            software=f"migrated {__version__}",
            codecs={name: codecs[name] for name in serve.codecs or codecs},
            max_region_bytes=serve.max_region,
            batch_pages_max=serve.max_batch // PAGE_SIZE,
            decompress_workers=default_workers(serve.decompress_workers or 1, cores),
            decompress_workers_max=default_workers(serve.decompress_workers or cores, cores),
            features=(*features, DELTA, COPIES),
            streams=serve.max_streams,
            guests=tuple(f"{name} ({entry.kind})" for name, entry in sorted(self._settings.guests.items())),
        )

    def _remember(self, progress: Progress) -> None:
        self._finished[progress.migration_id] = replace(progress)
        while len(self._finished) > _REMEMBERED:
            del self._finished[next(iter(self._finished))]


_UNDO_SECONDS = 10.0
"""How long it may take to discard what had arrived and to say so: punching a large file is the most of it."""

_OFFERS_TO_TIDY = 250
"""Each leaves a record, and those that are not needed any more go now and then."""

_REMEMBERED = 50
"""Ended migrations that `migrated status` still shows; the history has them all."""
