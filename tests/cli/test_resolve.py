"""`migrated resolve`: who is asked, what a person must say, and what is printed."""

import asyncio
import contextlib
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from migrated import client
from migrated.cli import main as cli
from migrated.client import outgoing_records
from migrated.config import Settings, load
from migrated.control import sockets
from migrated.control.server import ControlServer
from migrated.engine.records import Outcome, Record, Records
from migrated.outcomes import Outcomes
from tests.control.conftest import Migrations, metrics

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
    captured = capsys.readouterr()
    assert json.loads(captured.out)["outcome"] == "aborted"
    assert f"migrated resolve {WAITING} --forget" in captured.err


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


class TestForget:
    """At the destination, whose daemon may run or not."""

    @pytest.fixture
    def incoming(self, surroundings: Path) -> Records:
        """Two records of guests that came: one is to run here and does not, one runs."""
        records = Outcomes(load()).records
        for migration_id, outcome in ((WAITING, Outcome.RUN), (SETTLED, Outcome.RUNNING)):
            records.write(Record(migration_id, outcome, "db"))
        return records

    def test_without_a_daemon(self, incoming: Records, capsys: pytest.CaptureFixture[str]) -> None:
        for _ in range(2):  # once more is no harm
            assert cli.main(["resolve", "abab", "--forget", "--fenced"]) == 0
            assert capsys.readouterr().out.startswith("forgotten: guest db will not run here by")
            record = incoming.read(WAITING)
            assert record is not None
            assert record.outcome is Outcome.ABORTED

    def test_by_the_daemon(
        self, incoming: Records, surroundings: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """It is asked, since it may be starting the guest just then."""
        with daemon_of(load()) as forgotten:
            assert cli.main(["resolve", WAITING, "--forget", "--fenced", "--json"]) == 0
        assert forgotten == [WAITING]
        assert json.loads(capsys.readouterr().out)["outcome"] == "aborted"

    def test_by_a_daemon_that_cannot_be_asked(
        self, incoming: Records, capsys: pytest.CaptureFixture[str]
    ) -> None:
        claimed = incoming.claim()
        assert cli.main(["resolve", WAITING, "--forget", "--fenced"]) == 6
        os.close(claimed)
        assert "can't be asked" in capsys.readouterr().err
        assert incoming.read(WAITING).outcome is Outcome.RUN  # type: ignore[union-attr]

    def test_it_needs_a_persons_word(
        self, incoming: Records, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert cli.main(["resolve", WAITING, "--forget"]) == 2
        assert "--fenced" in capsys.readouterr().err
        monkeypatch.setattr("sys.stdin.isatty", lambda: True)
        for answer, code in ((False, 2), (True, 0)):
            assert incoming.read(WAITING).outcome is Outcome.RUN  # type: ignore[union-attr]
            monkeypatch.setattr("typer.confirm", lambda *_question, answer=answer, **_more: answer)
            assert cli.main(["resolve", WAITING, "--forget"]) == code

    def test_what_runs_here_is_not_forgotten(
        self, incoming: Records, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert cli.main(["resolve", SETTLED, "--forget", "--fenced"]) == 2
        assert "was started here" in capsys.readouterr().err

    @pytest.mark.parametrize("more", [["--resume-here"], ["--tries", "1"]])
    def test_it_goes_with_nothing_else(self, incoming: Records, more: list[str]) -> None:
        assert cli.main(["resolve", WAITING, "--forget", "--fenced", *more]) == 2
        assert incoming.read(WAITING).outcome is Outcome.RUN  # type: ignore[union-attr]

    def test_what_waits_is_named(self, incoming: Records, capsys: pytest.CaptureFixture[str]) -> None:
        assert cli.main(["resolve", "zz", "--forget"]) == 2
        shown = capsys.readouterr().err
        assert "came to this host" in shown
        assert WAITING in shown
        assert SETTLED not in shown


@contextlib.contextmanager
def daemon_of(settings: Settings) -> Iterator[list[str]]:
    """A process that has claimed the records of ``settings``, and notes what it is to forget."""
    forgotten: list[str] = []

    class Daemon(Migrations):
        def info(self) -> dict[str, Any]:
            return super().info() | {"state_dir": str(settings.host.state_path.resolve())}

    directory = Daemon()
    directory.forgotten = forgotten
    begun, end = threading.Event(), threading.Event()

    async def serve() -> None:
        server = await ControlServer(directory, metrics, name="serve-1").start()
        begun.set()
        await asyncio.to_thread(end.wait)
        await server.close()

    running = threading.Thread(target=asyncio.run, args=(serve(),))
    outcomes = Outcomes(settings)
    outcomes.claim()
    running.start()
    try:
        assert begun.wait(10)
        yield forgotten
    finally:
        end.set()
        running.join()
        outcomes.release()
