"""How the devices of a VM are asked for, with a monitor that does what QEMU seldom does."""

import socket
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from migrated.errors import GuestError
from migrated.guests.qemu.qmp import CommandFailedError, Sent
from migrated.guests.qemu.source import QemuSource

STATE = bytes(range(256)) * (16 << 10)
"""More than a socket takes while nobody reads."""


class Machine:
    """A QEMU that answers when it has written all, as it does when its migration thread is the first to get its lock;
    or that refuses."""

    def __init__(self, error: Exception | None = None) -> None:
        self.ours, self._theirs = socket.socketpair()
        self._error = error
        self._answer: Future[Any] = Future()
        self._thread = threading.Thread(target=self._migrate)

    def begin_migration(self, command: str) -> Sent:
        assert command == "migrate"
        self._thread.start()
        return Sent(Path("/monitor"), command, self._answer)

    def _migrate(self) -> None:
        if self._error is not None:
            self._answer.set_exception(self._error)
            return
        with self._theirs:
            self._theirs.sendall(STATE)
        self._answer.set_result({})

    def wait_for_migration(self, _patience: float) -> str:
        return "completed"

    def close(self) -> None:
        self.ours.close()
        self._thread.join()
        self._theirs.close()


@pytest.fixture
def devices(request: pytest.FixtureRequest) -> Iterator[Iterator[bytes]]:
    """What a source yields that has such a machine."""
    machine = Machine(getattr(request, "param", None))
    source: Any = QemuSource.__new__(QemuSource)
    source._path, source._devices = Path("/monitor"), machine.ours
    source._monitor = source._guardian = machine
    yield source.device_state()
    machine.close()


def test_they_are_read_before_the_command_is_answered(devices: Iterator[bytes]) -> None:
    """Waited for first, the answer never comes: the guest stood still for the 30 s that a command may take."""
    assert b"".join(devices) == STATE


@pytest.mark.parametrize("devices", [OSError("no such file descriptor")], indirect=True)
def test_who_is_refused_is_told_at_once(devices: Iterator[bytes]) -> None:
    with pytest.raises(GuestError, match="during migrate") as caught:
        list(devices)
    assert not isinstance(caught.value, CommandFailedError)
