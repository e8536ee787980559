"""What this host decided about guests that came to it, durably: its records say where a guest runs.

When the daemon starts, it finishes what a crash left: memory that was being received is discarded, a guest that it
had decided to run is started. One process at a time decides; see :meth:`Outcomes.claim`.
"""

import asyncio
import logging
import os
import time
from dataclasses import replace

from migrated.config import Settings
from migrated.engine.options import START_FAILED
from migrated.engine.ports import in_thread, see_through
from migrated.engine.receiver import THIS_SIDE
from migrated.engine.records import Outcome, Record, Records, write_at_last
from migrated.engine.relay import relayed
from migrated.errors import MigratedError, ResourceError, UsageError
from migrated.guests.base import TargetGuest
from migrated.guests.target import make_target
from migrated.protocol import Aborted, Failed, Message, Running

__all__ = ["Outcomes"]

_log = logging.getLogger("migrated.daemon")

_MOST_STRANGERS = 10_000
"""Anybody can ask for the outcome of any id, and each one that is unknown leaves a small file."""


class Outcomes:
    """The records of guests that came to this host, and what follows from them."""

    def __init__(self, settings: Settings) -> None:
        folder = settings.host.state_path / "incoming"
        self.records = Records(folder)
        self._strangers = Records(folder / "strangers")
        self._settings = settings
        self._turns: dict[str, asyncio.Lock] = {}
        self._claim = -1

    def claim(self) -> None:
        """Decide here, and nobody else, until :meth:`release`. Blocks on the disk.

        ResourceError: another process does; AccessError or ResourceError: no records can be kept.
        """
        self._claim = self.records.claim()

    def release(self) -> None:
        """Let others decide. May be called twice."""
        if self._claim >= 0:
            os.close(self._claim)
            self._claim = -1

    async def recover(self) -> None:
        """Finish what a crash left; what can't be is logged, and stays as it is."""
        records = await in_thread(lambda: list(self.records.all()))
        # What is decided comes first; then what an earlier migration left of the same guest is no more.
        for record in sorted(records, key=lambda each: each.outcome is not Outcome.RUN):
            try:
                if record.outcome is Outcome.RUN:
                    await self._roll_forward(record)
                    _log.info("guest %s runs here: finished migration %s", record.guest, record.migration_id)
                elif record.outcome is Outcome.RECEIVING and await self.undecided(record.guest) is None:
                    await self._roll_back(record)
                    _log.info("guest %s: discarded what migration %s left", record.guest, record.migration_id)
            except MigratedError as error:
                _log.error("guest %s, migration %s: %s", record.guest, record.migration_id, error)
        for each in (self.records, self._strangers):
            await in_thread(each.forget_old, time.time())

    async def seen(self, migration_id: str) -> bool:
        """Whether this migration was here before, or was asked for."""
        known = [await in_thread(each.read, migration_id) for each in (self.records, self._strangers)]
        return any(known)

    async def undecided(self, guest: str) -> str | None:
        """The migration by which this guest is to run here and does not yet: its memory must stay as it is."""

        def look() -> str | None:
            for record in self.records.all():
                if record.guest == guest and record.outcome is Outcome.RUN:
                    return record.migration_id
            return None

        return await in_thread(look)

    # -- questions ---------------------------------------------------------------------------------

    async def answer(self, migration_id: str) -> Message:
        """Answer a COMMIT of a migration that is not under way: Running, Aborted, or Failed if it can't be started."""
        record = await in_thread(self.records.read, migration_id)
        if record is None:
            await in_thread(self._refuse_for_ever, migration_id)
            return Aborted("this destination does not know the migration, and will never run it")
        if record.outcome is Outcome.RUN:
            return await self._start_late(migration_id)
        if record.outcome is Outcome.RUNNING:
            return Running()
        return Aborted(str(record.details.get("why") or "the destination had aborted"))

    def _refuse_for_ever(self, migration_id: str) -> None:
        if self._strangers.read(migration_id) is None:
            if self._strangers.count() >= _MOST_STRANGERS:
                raise ResourceError(
                    f"{_MOST_STRANGERS} migrations that were never here were asked for",
                    f"find out who asks; then remove the records in {self._strangers.folder}",
                )
            self._strangers.write(Record(migration_id, Outcome.ABORTED, "?"))

    def _turn(self, migration_id: str) -> asyncio.Lock:
        return self._turns.setdefault(migration_id, asyncio.Lock())

    async def _start_late(self, migration_id: str) -> Message:
        """Start what was decided and is not known to run. Whoever asks meanwhile waits: a start is not for two."""
        async with self._turn(migration_id):
            record = await in_thread(self.records.read, migration_id)
            if record is None or record.outcome is Outcome.ABORTED:
                return Aborted("it was forgotten at the destination, by hand")
            if record.outcome is Outcome.RUN:
                try:
                    await see_through(self._roll_forward(record))
                except MigratedError as error:
                    what, hint = relayed(error, THIS_SIDE)
                    return Failed(
                        START_FAILED, f"it decided to run the guest, but cannot start it: {what}", hint
                    )
            return Running()

    # -- by hand -----------------------------------------------------------------------------------

    async def forget(self, migration_id: str) -> Record:
        """Never run a guest that was to run here and does not: a person knows that it goes on at its source.

        What had arrived is removed, and the source is told Aborted if it asks. Once more: nothing more happens.
        UsageError if there is no such migration here, or it is not one that was to run and does not.
        """
        async with self._turn(migration_id):
            record = await in_thread(self.records.read, migration_id)
            if record is None:
                raise UsageError(f"no migration {migration_id} came to this host")
            match record.outcome:
                case Outcome.RUN:
                    return await see_through(self._forget(record))
                case Outcome.RUNNING:
                    raise UsageError(
                        f"guest {record.guest} was started here by migration {migration_id}",
                        "if it runs at its source too, end it at one of the two",
                    )
                case Outcome.RECEIVING:
                    raise UsageError(
                        f"guest {record.guest} is being received by migration {migration_id}, or was before a crash",
                        "cancel it with `migrated cancel`; what a crash left is removed when `migrated serve` starts",
                    )
            return record

    async def _forget(self, record: Record) -> Record:
        forgotten = replace(record, outcome=Outcome.ABORTED)
        # First of all: what is removed below must never be started.
        await in_thread(self.records.write, forgotten)
        _log.info("guest %s: forgot migration %s, by hand", record.guest, record.migration_id)
        try:
            await self._discard(record)
        except MigratedError as error:
            _log.warning("guest %s: what had arrived could not be removed: %s", record.guest, error)
        return forgotten

    # -- what follows ------------------------------------------------------------------------------

    def _target(self, record: Record) -> TargetGuest:
        entry = self._settings.guests.get(record.guest)
        if entry is None:
            raise UsageError(
                f"guest {record.guest!r} is no longer in the configuration",
                f"add [guests.{record.guest}] again",
            )
        return make_target(record.guest, entry)

    async def _roll_forward(self, record: Record) -> None:
        target = self._target(record)
        try:
            await in_thread(target.start, bool(record.details.get("was_running", True)))
        finally:
            await in_thread(target.close)
        running = replace(record, outcome=Outcome.RUNNING)
        try:
            await in_thread(self.records.write, running)
        except MigratedError as error:
            _log.warning("guest %s runs here; that is recorded as soon as it can be: %s", record.guest, error)
            write_at_last(self.records, running)

    async def _roll_back(self, record: Record) -> None:
        await self._discard(record)
        await in_thread(self.records.write, replace(record, outcome=Outcome.ABORTED))

    async def _discard(self, record: Record) -> None:
        target = self._target(record)
        try:
            await in_thread(target.discard)
        finally:
            await in_thread(target.close)
