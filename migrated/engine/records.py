"""The durable records by which both sides agree on where the guest runs, whatever crashes.

One JSON file a migration. Every change is written beside it, fsynced, renamed over it, and the folder is
fsynced: after a crash the file holds the old text or the new one. The destination's record decides.
"""

import asyncio
import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from migrated.engine.ports import in_thread
from migrated.errors import AccessError, MigratedError, ResourceError

__all__ = ["OPEN", "Outcome", "Record", "Records", "write_at_last"]

_KEPT_SECONDS = 90 * 86400.0
"""How long outcomes are remembered. A COMMIT that is later than this is refused like any unknown one."""

_MOST_ABORTED = 1000
"""Of guests that never came so many are remembered: whoever may make an offer may make many."""


_AGAIN_SECONDS = 1.0

_at_last: set[asyncio.Task[None]] = set()
"""The loop itself keeps tasks only weakly."""


class Outcome(StrEnum):
    """What a side has decided, durably."""

    FREEZING = "freezing"  # source: it may be paused for good, and COMMIT was not sent: it goes on here
    COMMITTING = "committing"  # source: COMMIT may have been sent; only the destination knows
    COMPLETED = "completed"  # source: the destination runs the guest
    RECEIVING = "receiving"  # destination: memory is being made here; discard it after a crash
    RUN = "run"  # destination: the guest runs here; start it if it does not
    RUNNING = "running"  # destination: it was started
    ABORTED = "aborted"  # either: it does not run at the destination


OPEN = (Outcome.FREEZING, Outcome.COMMITTING)
"""Of a source whose guest may wait, paused, for ``migrated resolve``."""


@dataclass(frozen=True, slots=True)
class Record:
    """What is known of a migration. ``details`` is what the guest needs to be found again."""

    migration_id: str
    outcome: Outcome
    guest: str
    details: dict[str, Any] = field(default_factory=dict)
    written: float = 0.0


class Records:
    """The records of one role in one folder, which is made when it is first written to."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def _path(self, migration_id: str) -> Path:
        if not migration_id.isalnum():
            raise ValueError(f"not a migration id: {migration_id!r}")
        return self.folder / f"{migration_id}.json"

    def claim(self) -> int:
        """Keep the folder for this process: until the descriptor that is returned is closed, nobody else gets it.

        ResourceError if another process has it; AccessError or ResourceError if there can be no such folder.
        """
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            folder = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            kind = AccessError if isinstance(error, PermissionError) else ResourceError
            raise kind(
                f"cannot keep records in {self.folder}: {error.strerror}", "set another host.state_dir"
            ) from error
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(folder)
            raise ResourceError(
                f"another `migrated serve` keeps its records in {self.folder}",
                "stop it first, or give each a host.state_dir of its own",
            ) from error
        except OSError:
            pass  # a network file system without locks: two are not kept apart there
        return folder

    def write(self, record: Record) -> None:
        """Make ``record`` durable. Raises ResourceError, and then the old record still stands."""
        path = self._path(record.migration_id)
        partial = path.with_suffix(".new")
        text = json.dumps(asdict(record) | {"written": time.time()}, indent=1)
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with partial.open("w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
            folder = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            with contextlib.suppress(OSError):
                partial.unlink()
            raise ResourceError(
                f"cannot record the outcome of migration {record.migration_id} in {self.folder}: {error.strerror}",
                "free space there, or set another host.state_dir",
            ) from error

    def read(self, migration_id: str) -> Record | None:
        """The record, or None if this side knows nothing of it."""
        try:
            path = self._path(migration_id)
        except ValueError:
            return None
        return self._load(path) if path.exists() else None

    def _load(self, path: Path) -> Record:
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            return Record(
                str(data["migration_id"]),
                Outcome(data["outcome"]),
                str(data["guest"]),
                dict(data["details"]),
                float(data["written"]),
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise MigratedError(
                f"the record {path} cannot be read: {error}",
                "it decides where a guest runs; look at it before you go on",
            ) from error

    def all(self) -> Iterator[Record]:
        """Every record here, oldest first."""
        if self.folder.is_dir():
            yield from sorted(
                (self._load(path) for path in self.folder.glob("*.json")), key=lambda each: each.written
            )

    def count(self) -> int:
        """How many there are."""
        return sum(1 for _ in self.folder.glob("*.json"))

    def forget_old(self, now: float) -> None:
        """Remove decided records that nobody will ask for any more, and all but the last thousand of guests that did
        not come: a COMMIT for one is answered the same without. ``now`` in seconds of the wall clock."""
        records = list(self.all())
        aborted = [record.migration_id for record in records if record.outcome is Outcome.ABORTED]
        too_many = set(aborted[:-_MOST_ABORTED])
        for record in records:
            decided = record.outcome not in (*OPEN, Outcome.RECEIVING, Outcome.RUN)
            old = now - record.written > _KEPT_SECONDS
            if decided and (old or record.migration_id in too_many):
                self._path(record.migration_id).unlink(missing_ok=True)


def write_at_last(records: Records, record: Record) -> None:
    """Write ``record`` as soon as that can be done, beside all else: the disk was full a moment ago. Until then the
    record before it stands."""

    async def write() -> None:
        while True:
            await asyncio.sleep(_AGAIN_SECONDS)
            with contextlib.suppress(MigratedError):
                await in_thread(records.write, record)
                return

    task = asyncio.ensure_future(write())
    _at_last.add(task)
    task.add_done_callback(_at_last.discard)
