"""Commands that pause and resume a guest, and the guardian that outlives us."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from migrated.errors import GuestError
from migrated.guests.hooks import Guardian, Hook
from migrated.memory.linux import process


def _hook(what: str, script: str, folder: Path, timeout: float = 10.0) -> Hook:
    return Hook(what, ("sh", "-c", script), timeout, "g", str(folder))


def _noting(folder: Path) -> tuple[Hook, Hook]:
    return (
        _hook("pause", "echo pause $MIGRATED_GUEST >> $MIGRATED_PATH/notes", folder),
        _hook("resume", "echo resume $MIGRATED_GUEST >> $MIGRATED_PATH/notes", folder),
    )


def _notes(folder: Path) -> list[str]:
    notes = folder / "notes"
    return notes.read_text().split() if notes.exists() else []


def test_a_failing_command_is_told_with_its_last_words(tmp_path: Path) -> None:
    with pytest.raises(GuestError, match=r"exit code 3: .*no such database"):
        _hook("resume", "echo no such database >&2; exit 3", tmp_path).run()
    with pytest.raises(GuestError, match="cannot be run: /nowhere"):
        Hook("pause", ("/nowhere",), 1.0, "g", "").run()


def test_a_command_that_hangs_is_ended_with_its_children(tmp_path: Path, wait_until: Any) -> None:
    with pytest.raises(GuestError, match="did not end within 1 s"):
        _hook("pause", "sleep 77 & echo $! > $MIGRATED_PATH/pid; wait", tmp_path, 1.0).run()
    child = int((tmp_path / "pid").read_text())
    wait_until(lambda: process.state(child) in "ZX")


def test_what_a_command_starts_in_the_background_goes_on(tmp_path: Path) -> None:
    _hook("resume", "sleep 77 & echo $! > $MIGRATED_PATH/pid", tmp_path).run()
    child = int((tmp_path / "pid").read_text())
    os.kill(child, signal.SIGKILL)


def test_pause_and_resume(tmp_path: Path) -> None:
    guardian = Guardian(*_noting(tmp_path))
    guardian.resume()
    guardian.pause()
    guardian.resume()
    guardian.resume()
    guardian.close()
    guardian.close()
    assert _notes(tmp_path) == ["pause", "g", "resume", "g"]


def test_closing_resumes_unless_settled(tmp_path: Path) -> None:
    guardian = Guardian(*_noting(tmp_path))
    guardian.pause()
    guardian.close()
    assert _notes(tmp_path) == ["pause", "g", "resume", "g"]
    guardian = Guardian(*_noting(tmp_path))
    guardian.pause()
    guardian.settle()
    guardian.close()
    assert _notes(tmp_path)[4:] == ["pause", "g"]


def test_a_settled_guest_can_be_resumed(tmp_path: Path) -> None:
    guardian = Guardian(*_noting(tmp_path))
    guardian.pause()
    guardian.settle()
    guardian.resume()
    guardian.close()
    assert _notes(tmp_path) == ["pause", "g", "resume", "g"]


def test_a_failing_pause_is_told_and_can_be_undone(tmp_path: Path) -> None:
    pause, resume = _hook("pause", "echo too busy; exit 1", tmp_path), _noting(tmp_path)[1]
    guardian = Guardian(pause, resume)
    with pytest.raises(GuestError, match="too busy"):
        guardian.pause()
    guardian.resume()
    guardian.close()
    assert _notes(tmp_path) == ["resume", "g"]


def test_the_guest_goes_on_when_we_are_killed(tmp_path: Path, wait_until: Any) -> None:
    code = """
import sys, time
from pathlib import Path
from test_hooks import _noting
from migrated.guests.hooks import Guardian
guardian = Guardian(*_noting(Path(sys.argv[1])))
guardian.pause()
print("paused", flush=True)
time.sleep(60)
"""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    client = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True, env=environment
    )
    assert client.stdout is not None
    assert client.stdout.readline() == "paused\n"
    assert _notes(tmp_path) == ["pause", "g"]
    client.kill()
    client.communicate(timeout=10)
    wait_until(lambda: _notes(tmp_path) == ["pause", "g", "resume", "g"])


def test_without_its_guardian_the_guest_is_resumed_by_us(tmp_path: Path) -> None:
    guardian = Guardian(*_noting(tmp_path))
    guardian.pause()
    helper: Any = guardian._process
    helper.kill()
    helper.wait()
    guardian.resume()
    guardian.close()
    assert _notes(tmp_path) == ["pause", "g", "resume", "g"]


def test_hooks_travel_as_json() -> None:
    hook = Hook("resume", ("a", "b c"), 2.5, "g", "/p")
    assert Hook.of(hook.describe()) == hook
