"""The processes of a guest are held together or not at all."""

import os
import signal
from collections.abc import Callable
from typing import Any

import pytest

from migrated.errors import GuestDiedError, GuestNotFoundError
from migrated.guests.held import HeldProcesses
from migrated.memory.linux import process

SLEEPER = "import sys; print('ready', flush=True); sys.stdin.read()"


def _states(*children: Any) -> str:
    return "".join(process.state(child.pid) for child in children)


def test_all_or_none(spawn: Any, wait_until: Callable[..., None]) -> None:
    one, two = spawn(SLEEPER), spawn(SLEEPER)
    held = HeldProcesses([(one.pid, None), (two.pid, None), (one.pid, None)], 1.0)
    held.pause()
    assert _states(one, two) == "tt"
    held.resume()
    two.kill()
    two.wait(10)
    with pytest.raises(GuestDiedError):
        held.pause()
    wait_until(lambda: _states(one) == "S")
    with pytest.raises(GuestDiedError):
        held.check()
    held.close()


def test_a_process_that_is_not_there_is_told_at_once(spawn: Any, wait_until: Callable[..., None]) -> None:
    one = spawn(SLEEPER)
    with pytest.raises(GuestNotFoundError):
        HeldProcesses([(one.pid, None), (4194304, None)], 1.0)
    with pytest.raises(GuestDiedError):
        HeldProcesses([(one.pid, 12345)], 1.0)
    wait_until(lambda: _states(one) == "S")


def test_frozen_and_back(spawn: Any, wait_until: Callable[..., None]) -> None:
    ran, paused = spawn(SLEEPER), spawn(SLEEPER)
    os.kill(paused.pid, signal.SIGSTOP)
    wait_until(lambda: _states(paused) == "T")
    held = HeldProcesses([(ran.pid, None), (paused.pid, None)], 1.0)
    held.pause()
    assert held.was_running
    held.freeze()
    assert _states(ran, paused) == "TT"
    assert [each["was_stopped"] for each in held.describe()] == [False, True]
    held.resume()
    wait_until(lambda: _states(ran, paused) == "ST")
    held.close()


def test_without_processes_there_is_nothing_to_do() -> None:
    held = HeldProcesses([], 1.0)
    held.pause()
    held.freeze()
    assert held.was_running
    assert held.describe() == []
    held.close()
