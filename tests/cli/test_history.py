"""What is kept of a migration that ended."""

from pathlib import Path

from migrated.cli.history import Keeper, entry_of
from migrated.engine.events import State, StateChanged
from migrated.engine.progress import Progress
from migrated.errors import StalledError
from migrated.telemetry.history import History
from tests.cli.events import MIGRATION_ID, REPORT, STORY


async def test_a_daemon_keeps_each_once_with_its_report(tmp_path: Path) -> None:
    history = History(tmp_path)
    keeper = Keeper(history, MIGRATION_ID, now=lambda: 12.5)
    for event in STORY:
        keeper(event)
    await Keeper.wait()
    (entry,) = history.recent(9)
    assert entry["migration_id"] == MIGRATION_ID
    assert entry["state"] == "completed"
    assert entry["ended"] == 12.5
    assert entry["report"]["rounds"] == REPORT.rounds


async def test_one_that_never_began_is_kept_too(tmp_path: Path) -> None:
    history = History(tmp_path)
    Keeper(history, "abc")(StateChanged(State.FAILED))
    await Keeper.wait()
    (entry,) = history.recent(9)
    assert (entry["migration_id"], entry["state"]) == ("abc", "failed")
    assert "report" not in entry


def test_an_entry_of_a_failure() -> None:
    entry = entry_of(Progress(migration_id="abc"), None, StalledError("too fast", "wait"), ended=1.0)
    assert entry["exit_code"] == 14
    assert (entry["reason"], entry["error"], entry["hint"]) == ("stalled", "too fast", "wait")
