"""What a daemon and a sending client show of themselves."""

from pathlib import Path
from typing import Any, cast

import pytest

from migrated.client import Outgoing
from migrated.control.directory import DaemonDirectory, OutgoingDirectory, matching
from migrated.daemon import Daemon
from migrated.engine.progress import Progress
from migrated.engine.records import Outcome, Record
from migrated.errors import UsageError
from migrated.net.address import Address


class OneDaemon:
    """Two migrations: one under way, one that ended."""

    draining = False
    address = Address("127.0.0.1", 4440)
    state_path = Path("/var/lib/../lib/migrated")

    def __init__(self) -> None:
        self.cancelled: list[str] = []

    def migrations(self) -> list[Progress]:
        return [Progress(migration_id="old", state="completed"), Progress(migration_id="new")]

    def cancel(self, migration_id: str) -> bool:
        self.cancelled.append(migration_id)
        return True

    async def forget(self, migration_id: str) -> Record:
        return Record(migration_id, Outcome.ABORTED, "web")


class OneOutgoing:
    """A migration that takes every change."""

    committed = False

    def __init__(self) -> None:
        self.said: list[Any] = []

    def progress(self) -> Progress:
        return Progress(migration_id="abc")

    def cancel(self, why: str) -> bool:
        self.said.append(why)
        return not self.committed

    def change(self, key: str, value: str) -> None:
        self.said.append((key, value))


def test_a_daemon() -> None:
    daemon = OneDaemon()
    directory = DaemonDirectory(cast("Daemon", daemon))
    assert [row["migration_id"] for row in directory.list()] == ["old", "new"]
    assert directory.cancel("new")
    assert not directory.cancel("old")
    assert daemon.cancelled == ["new"]
    with pytest.raises(UsageError, match="where the guest comes from"):
        directory.change("new", "level", "3")
    with pytest.raises(UsageError, match=r"old is over: completed"):
        directory.change("old", "level", "3")
    assert directory.info() | {"software": "", "pid": 0} == {
        "software": "",
        "pid": 0,
        "role": "destination",
        "listen": "127.0.0.1:4440",
        "state_dir": str(Path("/var/lib/migrated").resolve()),
        "stopping": False,
    }


def test_an_outgoing_migration() -> None:
    outgoing = OneOutgoing()
    directory = OutgoingDirectory(cast("Outgoing", outgoing))
    assert [row["migration_id"] for row in directory.list()] == ["abc"]
    directory.change("abc", "level", "3")
    assert directory.cancel("abc")
    assert outgoing.said == [("level", "3"), "cancelled by `migrated cancel abc`"]
    outgoing.committed = True
    assert not directory.cancel("abc")
    assert directory.info()["stopping"]


async def test_a_daemon_forgets_and_a_source_has_nothing_to_forget() -> None:
    row = await DaemonDirectory(cast("Daemon", OneDaemon())).forget("abc")
    assert row == {"migration_id": "abc", "outcome": "aborted", "guest": "web"}
    with pytest.raises(UsageError, match="did not come"):
        await OutgoingDirectory(cast("Outgoing", OneOutgoing())).forget("abc")


def test_an_exact_id_wins_over_those_that_begin_with_it() -> None:
    rows = [{"migration_id": "ab"}, {"migration_id": "abc"}]
    assert matching(rows, "ab") == rows[:1]
    assert matching(rows, "a") == rows
    assert matching(rows, "") == []
