"""`migrated resolve`: who is asked, what a person must say, and what is printed."""

import json
from pathlib import Path

import pytest

from migrated import client
from migrated.cli import main as cli
from migrated.client import outgoing_records
from migrated.config import Settings, load
from migrated.control import sockets
from migrated.engine.records import Outcome, Record

WAITING, SETTLED = "ab" * 16, "cd" * 16


@pytest.fixture
def asked(surroundings: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, bool, int | None]]:
    """Two records; what would be settled is noted instead."""
    records = outgoing_records(load())
    for migration_id, outcome in ((WAITING, Outcome.COMMITTING), (SETTLED, Outcome.COMPLETED)):
        records.write(Record(migration_id, outcome, "db", {"destination": "127.0.0.1:1"}))
    calls: list[tuple[str, bool, int | None]] = []

    async def resolve(
        settings: Settings, migration_id: str, *, resume_here: bool = False, tries: int | None = None
    ) -> Record:
        calls.append((migration_id, resume_here, tries))
        return Record(migration_id, Outcome.ABORTED if resume_here else Outcome.COMPLETED, "db")

    monkeypatch.setattr(client, "resolve", resolve)
    return calls


def test_the_destination_is_asked(asked: list[object], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["resolve", "abab", "--tries", "3"]) == 0
    assert asked == [(WAITING, False, 3)]
    captured = capsys.readouterr()
    assert captured.out == "completed: 127.0.0.1:1 runs guest db; the copy here is given up\n"
    assert captured.err == f"migrated: asking 127.0.0.1:1 what became of migration {WAITING}\n"


def test_resuming_here_needs_a_persons_word(asked: list[object], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["resolve", WAITING, "--resume-here"]) == 2
    assert asked == []
    assert "--fenced" in capsys.readouterr().err
    assert cli.main(["resolve", WAITING, "--resume-here", "--fenced", "--json"]) == 0
    assert asked == [(WAITING, True, None)]
    assert json.loads(capsys.readouterr().out)["outcome"] == "aborted"


@pytest.mark.parametrize(("answer", "code"), [(True, 0), (False, 2)])
def test_on_a_terminal_the_person_is_asked(
    asked: list[object], monkeypatch: pytest.MonkeyPatch, answer: bool, code: int
) -> None:
    questions: list[str] = []

    def confirm(text: str, **more: object) -> bool:
        questions.append(text)
        return answer

    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr("typer.confirm", confirm)
    assert cli.main(["resolve", WAITING, "--resume-here"]) == code
    assert len(asked) == answer
    assert "127.0.0.1:1" in questions[0]


def test_fenced_alone_means_nothing(asked: list[object]) -> None:
    assert cli.main(["resolve", WAITING, "--fenced"]) == 2
    assert asked == []


def test_what_waits_is_named(asked: list[object], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["resolve", "zz"]) == 2
    shown = capsys.readouterr().err
    assert WAITING in shown
    assert SETTLED not in shown


def test_no_answer(surroundings: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outgoing_records(load()).write(Record(WAITING, Outcome.COMMITTING, "db", {"destination": "127.0.0.1:1"}))
    assert cli.main(["resolve", WAITING, "--tries", "1"]) == 20
    assert "cannot connect" in capsys.readouterr().err
    assert outgoing_records(load()).read(WAITING) is not None


def test_what_is_still_being_asked_is_left_to_who_asks(
    asked: list[object], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`migrated send` would give up a guest that was resumed behind its back."""
    monkeypatch.setattr(sockets, "live_sockets", lambda: [tmp_path / f"send-{WAITING}.sock"])
    for more in ([], ["--resume-here", "--fenced"]):
        assert cli.main(["resolve", WAITING, *more]) == 2
    assert "migrated send" in capsys.readouterr().err
    assert asked == []
    assert cli.main(["resolve", SETTLED]) == 0
