"""What is kept of a migration that ended, and the observer by which a daemon keeps it."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from migrated.engine.events import Event, Finished, Report, StateChanged
from migrated.engine.progress import Progress, Tally
from migrated.errors import MigratedError
from migrated.telemetry.history import History

__all__ = ["Keeper", "entry_of"]


def entry_of(
    progress: Progress, report: Report | None, error: MigratedError | None, *, ended: float
) -> dict[str, Any]:
    """An entry of the history: the last progress, and the report or the error; ``ended``: Unix time."""
    entry = progress.as_dict() | {"ended": ended}
    if report is not None:
        entry["report"] = asdict(report)
    if error is not None:
        entry |= {
            "reason": error.reason,
            "error": error.what,
            "hint": error.hint,
            "exit_code": error.exit_code,
        }
    return entry


class Keeper:
    """An observer that adds one migration to ``history`` when it ends.

    Writing takes a disk's time, so it happens in a thread; :meth:`Keeper.wait` of the class waits for all.
    """

    _writing: set["asyncio.Future[bool]"] = set()  # noqa: RUF012  shared: all that is still to be written

    def __init__(self, history: History, migration_id: str, *, now: Callable[[], float] = time.time) -> None:
        self._history = history
        self._tally = Tally()
        self._tally.progress.migration_id = migration_id
        self._report: Report | None = None
        self._now = now

    def __call__(self, event: Event) -> None:
        """Take one event in."""
        self._tally(event)
        if isinstance(event, Finished):
            self._report = event.report
        if isinstance(event, StateChanged) and event.state.final:
            entry = entry_of(self._tally.snapshot(), self._report, None, ended=self._now())
            writing = asyncio.ensure_future(asyncio.to_thread(self._history.add, entry))
            self._writing.add(writing)
            writing.add_done_callback(self._writing.discard)

    @classmethod
    async def wait(cls) -> None:
        """Until everything that ended so far is written."""
        await asyncio.gather(*cls._writing, return_exceptions=True)
