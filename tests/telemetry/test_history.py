"""What ended is kept, bounded, whatever the disk does."""

import fcntl
import subprocess
import sys
from pathlib import Path

import pytest

from migrated.errors import ResourceError
from migrated.telemetry import history as module
from migrated.telemetry.history import History


@pytest.fixture
def history(tmp_path: Path) -> History:
    return History(tmp_path / "state", limit=10)


def ids(history: History, count: int = 1000) -> list[str]:
    return [each["migration_id"] for each in history.recent(count)]


def fill(history: History, count: int, first: int = 0) -> None:
    for number in range(first, first + count):
        assert history.add({"migration_id": f"m{number}", "number": number})


def test_nothing_is_known_at_first(history: History) -> None:
    assert history.recent(5) == []
    assert history.find("m0") is None
    assert not history.path.parent.exists()


def test_newest_first(history: History) -> None:
    fill(history, 4)
    assert ids(history, 2) == ["m3", "m2"]
    assert ids(history) == ["m3", "m2", "m1", "m0"]
    assert ids(history, 0) == ids(history, -1) == []
    assert history.find("m1") == {"migration_id": "m1", "number": 1}


def test_the_newest_entry_of_a_migration_is_found(history: History) -> None:
    history.add({"migration_id": "a", "state": "unknown"})
    history.add({"migration_id": "a", "state": "completed"})
    assert history.find("a") == {"migration_id": "a", "state": "completed"}


def test_another_process_finds_it_later(history: History) -> None:
    fill(history, 1)
    assert ids(History(history.path.parent)) == ["m0"]


def test_it_stays_bounded_and_keeps_the_newest(history: History) -> None:
    fill(history, 35)
    assert ids(history) == [f"m{number}" for number in range(34, 19, -1)]
    assert history.find("m20") is not None
    assert sorted(each.name for each in history.path.parent.iterdir()) == ["history.jsonl", "history.jsonl.1"]


def test_between_rotation_and_the_next_entry_nothing_is_lost(history: History) -> None:
    fill(history, 10)
    history.path.replace(history.path.with_suffix(".jsonl.1"))
    assert len(ids(history)) == 10


def test_a_torn_last_line_costs_only_itself(history: History) -> None:
    fill(history, 3)
    whole = history.path.read_bytes()
    history.path.write_bytes(whole[:-9])
    assert ids(history) == ["m1", "m0"]
    fill(history, 1, first=7)
    assert ids(history) == ["m7", "m1", "m0"]


@pytest.mark.parametrize(
    "rubbish", [b"\xff\xfe\n", b"\0" * 50 + b"\n", b"[1]\n", b"[" * 100_000 + b"\n", b"\n\n"]
)
def test_rubbish_is_passed_over(history: History, rubbish: bytes) -> None:
    fill(history, 1)
    with history.path.open("ab") as file:
        file.write(rubbish)
    fill(history, 1, first=1)
    assert ids(history) == ["m1", "m0"]


FULL_DISK = """
import logging, resource, sys
from pathlib import Path
from migrated.telemetry.history import History

logging.basicConfig(format="%(levelname)s %(message)s", stream=sys.stdout)
history = History(Path(sys.argv[1]))
most = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
resource.setrlimit(resource.RLIMIT_FSIZE, (history.path.stat().st_size + 20, most))
print(history.add({"migration_id": "m2", "text": "x" * 100}))
"""


def test_a_full_disk_is_a_warning_and_leaves_nothing(history: History) -> None:
    """The file may not grow by more than 20 bytes: a write is cut short, and the next one fails."""
    fill(history, 2)
    before = history.path.read_bytes()
    # In a process of its own: the limit is one for all that a process writes, this one's output among it.
    command = [sys.executable, "-c", FULL_DISK, str(history.path.parent)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert history.path.read_bytes() == before
    warning, added = done.stdout.splitlines()
    assert added == "False"
    assert warning.startswith("WARNING")
    assert "cannot add migration m2" in warning
    assert "File too large" in warning


def test_a_folder_that_cannot_be_made_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").touch()
    assert not History(tmp_path / "file" / "state").add({"migration_id": "m0"})
    assert "cannot add migration m0" in caplog.text


def test_what_cannot_be_read_is_an_error(history: History) -> None:
    history.path.mkdir(parents=True)
    with pytest.raises(ResourceError, match="cannot read the history"):
        history.recent(1)


def test_an_entry_is_durable_before_add_returns(history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    monkeypatch.setattr(
        module.os, "fsync", lambda fd: synced.append(str(Path(f"/proc/self/fd/{fd}").readlink()))
    )
    fill(history, 1)
    assert synced == [str(history.path), str(history.path.parent)]


def test_only_the_owner_may_read(history: History) -> None:
    fill(history, 1)
    assert history.path.stat().st_mode & 0o777 == 0o600
    assert history.path.parent.stat().st_mode & 0o777 == 0o700


def test_long_texts_are_cut(history: History) -> None:
    history.add({"migration_id": "m0", "error": "x" * 1_000_000})
    assert history.path.stat().st_size < 5000
    assert ids(history) == ["m0"]


def test_an_add_waits_for_a_rotation_and_goes_to_the_new_file(
    history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process rotates between our open and our lock: what we hold is the old file then."""
    fill(history, 1)
    rotated = []

    def flock(descriptor: int, how: int) -> None:
        if not rotated:
            history.path.replace(history.path.with_suffix(".jsonl.1"))
            rotated.append(descriptor)

    monkeypatch.setattr(fcntl, "flock", flock)
    fill(history, 1, first=1)
    assert history.path.read_text().count("\n") == 1
    assert ids(history) == ["m1", "m0"]


@pytest.mark.parametrize(
    ("held", "adds", "reads"), [(fcntl.LOCK_SH, False, True), (fcntl.LOCK_EX, False, False)]
)
def test_writers_wait_for_everybody_and_readers_for_writers(
    history: History, monkeypatch: pytest.MonkeyPatch, held: int, adds: bool, reads: bool
) -> None:
    """Tried with a lock that fails where it would wait."""
    fill(history, 1)
    flock = fcntl.flock
    monkeypatch.setattr(fcntl, "flock", lambda descriptor, how: flock(descriptor, how | fcntl.LOCK_NB))
    with history.path.open() as file:
        flock(file, held)
        assert history.add({"migration_id": "m1"}) is adds
        if reads:
            assert ids(history) == ["m0"]
        else:
            with pytest.raises(ResourceError, match="temporarily unavailable"):
                history.recent(1)


ADD_MANY = """
import pathlib, sys
from migrated.telemetry.history import History
history = History(pathlib.Path(sys.argv[1]), limit=60)
for number in range(50):
    assert history.add({"migration_id": f"{sys.argv[2]}{number}"})
"""


@pytest.mark.slow
def test_processes_add_at_once(tmp_path: Path) -> None:
    """100 entries with a limit of 60: one rotation in the middle of the race, and every entry still there."""
    writers = [subprocess.Popen([sys.executable, "-c", ADD_MANY, tmp_path, name]) for name in "ab"]
    assert [writer.wait(60) for writer in writers] == [0, 0]
    found = ids(History(tmp_path))
    assert sorted(found) == sorted(f"{name}{number}" for name in "ab" for number in range(50))
    assert [each for each in found if each[0] == "a"] == [f"a{number}" for number in range(49, -1, -1)]
