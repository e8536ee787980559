"""A frozen guest is found again by what was written down of it, and by nothing less."""

import os
import signal
from typing import Any

import pytest

from migrated.errors import GuestDiedError
from migrated.guests.base import After
from migrated.guests.frozen import FrozenGuest, describe_frozen
from migrated.memory.linux import process

SLEEPER = "import sys; print('ready', flush=True); sys.stdin.read()"


def _stopped_sleeper(spawn: Any, wait_until: Any) -> tuple[Any, dict[str, Any]]:
    child = spawn(SLEEPER)
    os.kill(child.pid, signal.SIGSTOP)
    wait_until(lambda: process.is_stopped(child.pid))
    found: dict[str, Any] = {"pid": child.pid, "start": process.start_time(child.pid), "was_stopped": False}
    return child, found


@pytest.mark.parametrize("changed", ["start", "boot"])
def test_another_process_with_its_pid_is_left_alone(changed: str, spawn: Any, wait_until: Any) -> None:
    child, found = _stopped_sleeper(spawn, wait_until)
    if changed == "start":
        found["start"] += 1
    details = describe_frozen("demo:/a", [found], moved=After.KILL, copied=After.KILL)
    if changed == "boot":
        details["boot"] = "another"
    frozen = FrozenGuest(details)
    frozen.release(True)
    frozen.release(False)
    with pytest.raises(GuestDiedError, match=str(child.pid)):
        frozen.resume()
    frozen.close()
    assert process.is_stopped(child.pid)


def test_what_was_stopped_before_stays_stopped(spawn: Any, wait_until: Any) -> None:
    ran, found = _stopped_sleeper(spawn, wait_until)
    before, other = _stopped_sleeper(spawn, wait_until)
    details = describe_frozen(
        "shm:/a", [found, other | {"was_stopped": True}], moved=After.STOP, copied=After.RESUME
    )
    frozen = FrozenGuest(details)
    frozen.release(True)
    assert process.is_stopped(ran.pid)
    frozen.release(False)
    wait_until(lambda: not process.is_stopped(ran.pid))
    assert process.is_stopped(before.pid)
    frozen.close()
