"""What the control plane shows and changes: the migrations of one process, whichever role it has."""

import os
from collections.abc import Sequence
from typing import Any, Protocol

from migrated import __version__
from migrated.client import Outgoing
from migrated.daemon import Daemon
from migrated.engine.events import State
from migrated.errors import UsageError

__all__ = ["DaemonDirectory", "Directory", "OutgoingDirectory", "Row", "matching"]

Row = dict[str, Any]
"""A migration, as :meth:`migrated.engine.progress.Progress.as_dict` gives it."""


class Directory(Protocol):
    """The migrations of one process. Called on its event loop; nothing here blocks."""

    def list(self) -> list[Row]:
        """Every migration that is known, newest last."""

    def cancel(self, migration_id: str) -> bool:
        """Cancel one of :meth:`list`, by its full id; False if it is decided and no longer can be."""

    def change(self, migration_id: str, key: str, value: str) -> None:
        """Change a setting of one of :meth:`list`, by its full id, from now on; UsageError says why not."""

    async def forget(self, migration_id: str) -> Row:
        """Never run a guest that was to run here and does not, by the full id of its migration; returns
        ``migration_id``, ``outcome`` and ``guest``. UsageError says why not."""

    def info(self) -> Row:
        """Who this is; has at least ``role``, ``pid`` and ``stopping``."""


def matching(rows: Sequence[Row], migration_id: str) -> list[Row]:
    """Those rows whose id is, or else begins with, ``migration_id``."""
    exact = [row for row in rows if row["migration_id"] == migration_id]
    return exact or [row for row in rows if migration_id and row["migration_id"].startswith(migration_id)]


def _final(row: Row) -> bool:
    return State(row["state"]).final


class DaemonDirectory:
    """The guests that a daemon takes in, and the last ones that it took."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon

    def list(self) -> list[Row]:
        """See :class:`Directory`."""
        return [progress.as_dict() for progress in self._daemon.migrations()]

    def cancel(self, migration_id: str) -> bool:
        """See :class:`Directory`."""
        if any(row["migration_id"] == migration_id and _final(row) for row in self.list()):
            return False
        return self._daemon.cancel(migration_id)

    def change(self, migration_id: str, key: str, value: str) -> None:  # noqa: ARG002
        """A destination takes what comes: the source decides how it is sent."""
        for row in self.list():
            if row["migration_id"] == migration_id and _final(row):
                raise UsageError(f"migration {migration_id[:8]} is over: {row['state']}")
        raise UsageError(
            f"{key} is changed where the guest comes from", f"run `migrated set {migration_id[:8]} ...` there"
        )

    async def forget(self, migration_id: str) -> Row:
        """See :class:`Directory`."""
        record = await self._daemon.forget(migration_id)
        return {"migration_id": record.migration_id, "outcome": record.outcome, "guest": record.guest}

    def info(self) -> Row:
        """See :class:`Directory`."""
        return {
            "software": f"migrated {__version__}",
            "role": "destination",
            "pid": os.getpid(),
            "state_dir": str(self._daemon.state_path.resolve()),
            "listen": str(self._daemon.address),
            "stopping": self._daemon.draining,
        }


class OutgoingDirectory:
    """The one migration of `migrated send`."""

    def __init__(self, outgoing: Outgoing) -> None:
        self._outgoing = outgoing

    def list(self) -> list[Row]:
        """See :class:`Directory`."""
        return [self._outgoing.progress().as_dict()]

    def cancel(self, migration_id: str) -> bool:
        """See :class:`Directory`."""
        return self._outgoing.cancel(f"cancelled by `migrated cancel {migration_id[:8]}`")

    def change(self, migration_id: str, key: str, value: str) -> None:  # noqa: ARG002
        """See :class:`Directory`."""
        self._outgoing.change(key, value)

    async def forget(self, migration_id: str) -> Row:
        """A source keeps no guest for others."""
        raise UsageError(f"migration {migration_id[:8]} did not come to this process")

    def info(self) -> Row:
        """See :class:`Directory`."""
        return {
            "software": f"migrated {__version__}",
            "role": "source",
            "pid": os.getpid(),
            "stopping": self._outgoing.committed,
        }
