"""`migrated status`: live rows, history and records as one picture."""

import io
import json
import re
import time
from pathlib import Path

import pytest
from rich.console import Console

from migrated.cli import main as cli
from migrated.cli.overview import Overview, table
from migrated.client import outgoing_records
from migrated.config import load
from migrated.control.server import ControlServer
from migrated.engine.progress import Progress
from migrated.engine.records import Outcome, Record
from migrated.errors import UsageError
from migrated.telemetry.history import History

LIVE, OLD, LOST = "1" * 32, "2" * 32, "3" * 32


class One:
    """A process with one migration."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress

    def list(self) -> list[dict[str, object]]:
        return [self.progress.as_dict()]

    def cancel(self, migration_id: str) -> bool:
        self.progress.state = "cancelled"
        return True

    def change(self, migration_id: str, key: str, value: str) -> None:
        raise UsageError("no")

    def info(self) -> dict[str, object]:
        return {"stopping": False}


@pytest.fixture
def _past(surroundings: Path, tmp_path: Path) -> None:
    settings = load()
    entry = Progress(migration_id=OLD, role="source", guest="old", state="failed", error="it broke").as_dict()
    History(settings.host.state_path).add(entry | {"ended": 1e9, "exit_code": 8})
    details = {"destination": "127.0.0.1:1"}
    outgoing_records(settings).write(Record(LOST, Outcome.COMMITTING, "lost", details))


def running(**more: object) -> Progress:
    shown = {"role": "source", "guest": "db", "state": "pre-copy", "round": 2, "wire_bytes": 3 << 20}
    return Progress(migration_id=LIVE, **(shown | more))


@pytest.mark.usefixtures("_past")
async def test_all_of_them(capsys: pytest.CaptureFixture[str]) -> None:
    directory = One(running(dirty_bytes_per_second=1e6, expected_downtime=0.4))
    server = await ControlServer(directory, lambda accept: (b"", ""), name="send-1").start()
    await Overview(load(), None).show()
    await server.close()
    head, first, *rest = capsys.readouterr().out.splitlines()
    assert head.split()[:4] == ["id", "guest", "state", "round"]
    assert first.split() == [
        "11111111",
        "out",
        "db",
        "pre-copy",
        "2",
        "3",
        "MiB",
        "977",
        "KiB/s",
        "~400",
        "ms",
        "now",
    ]
    assert [line.split()[0] for line in rest] == [LOST[:8], OLD[:8]]
    assert "unknown" in rest[0]
    assert "failed" in rest[1]


def shown_in(width: int, *rows: Progress) -> list[str]:
    console = Console(width=width, file=io.StringIO(), force_terminal=False)
    console.print(table([row.as_dict() for row in rows], width))
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined]


@pytest.mark.parametrize("width", [60, 80, 100, 160])
def test_on_a_narrow_terminal_columns_are_left_out_and_none_is_cut(width: int) -> None:
    row = running(
        wire_bytes_per_second=1e8, dirty_bytes_per_second=1e7, remaining_bytes=1 << 28, expected_downtime=0.4
    )
    head, line = shown_in(width, row)
    assert ("when" in head, "round" in head) == (width >= 80, width >= 100)
    assert {"id", "guest", "state", "rate", "downtime"} <= set(head.split())
    assert "…" not in line
    assert line.startswith("11111111  out  db     pre-copy  ")
    assert ("256 MiB" in line) == (width > 60)


def test_on_a_terminal_what_ended_today_has_a_time_only() -> None:
    now = time.time()
    ended = running(state="completed").as_dict()
    shown = Console(width=160, file=io.StringIO())
    shown.print(table([ended | {"ended": now}, ended | {"ended": 1e9}], 160))
    _, today, before = shown.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert re.search(r"  \d\d:\d\d:\d\d\s*$", today)
    assert "2001-09-0" in before


@pytest.mark.usefixtures("_past")
def test_the_past_only(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["status", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["migrations"]
    assert {row["migration_id"]: row["state"] for row in rows} == {LOST: "unknown", OLD: "failed"}
    assert cli.main(["status", "--json", "--recent", "0"]) == 0
    rows = json.loads(capsys.readouterr().out)["migrations"]
    assert [row["migration_id"] for row in rows] == [LOST]  # what is unsettled is always shown


@pytest.mark.usefixtures("_past")
def test_one_in_detail(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["status", "22"]) == 0
    shown = capsys.readouterr().out
    assert OLD in shown
    assert "it broke" in shown
    assert cli.main(["status", "33"]) == 0
    assert f"migrated resolve {LOST}" in capsys.readouterr().out
    assert cli.main(["status", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["guest"] == "old"


@pytest.mark.usefixtures("_past")
@pytest.mark.parametrize(
    ("outcome", "state"), [(Outcome.COMPLETED, "completed"), (Outcome.ABORTED, "failed")]
)
def test_what_was_resolved_since_is_no_longer_unknown(
    capsys: pytest.CaptureFixture[str], outcome: Outcome, state: str
) -> None:
    settings = load()
    History(settings.host.state_path).add(
        Progress(migration_id=LOST, role="source", state="unknown").as_dict()
    )
    assert cli.main(["status", LOST, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["state"] == "unknown"
    outgoing_records(settings).write(Record(LOST, outcome, "lost"))
    assert cli.main(["status", LOST, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["state"] == state


@pytest.mark.usefixtures("surroundings")
async def test_watching_one_ends_with_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("migrated.cli.overview._SECONDS", 0)
    directory = One(running())
    server = await ControlServer(directory, lambda accept: (b"", ""), name="send-1").start()
    shown = 0

    def rows() -> list[dict[str, object]]:
        nonlocal shown
        shown += 1
        directory.progress.state = "pre-copy" if shown < 3 else "completed"
        return [directory.progress.as_dict()]

    monkeypatch.setattr(directory, "list", rows)
    await Overview(load(), "11", as_json=True).watch()
    await server.close()
    states = [json.loads(line)["state"] for line in capsys.readouterr().out.splitlines()]
    assert states == ["pre-copy", "pre-copy", "completed"]


@pytest.mark.usefixtures("surroundings")
async def test_history_adds_what_a_live_row_has_not(surroundings: Path) -> None:
    settings = load()
    ended = running(state="completed").as_dict() | {"ended": 5.0}
    History(settings.host.state_path).add(ended)
    server = await ControlServer(One(running(state="completed")), lambda accept: (b"", ""), name="a").start()
    rows = await Overview(settings, None)._rows()
    await server.close()
    assert len(rows) == 1
    assert rows[0]["ended"] == 5.0


@pytest.mark.usefixtures("_past")
def test_two_that_begin_alike(capsys: pytest.CaptureFixture[str]) -> None:
    settings = load()
    History(settings.host.state_path).add(Progress(migration_id="2" + "0" * 31, state="failed").as_dict())
    assert cli.main(["status", "2"]) == 2
    assert "could be" in capsys.readouterr().err
