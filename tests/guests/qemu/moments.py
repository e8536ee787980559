"""The moments of a migration at which something may happen, and what must be as before when it came to nothing."""

import asyncio
import hashlib
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

import pytest
from qemu_sides import Sides, until
from qemu_vm import Vm

from migrated.engine.events import BatchMoved, Event, RoundStarted, State, StateChanged
from migrated.guests.qemu.target import QemuTarget

__all__ = ["Before", "Moment", "arrange", "nothing_left", "processes_of"]


class Moment(StrEnum):
    """In their order."""

    SETUP = "setup"
    """The destination has prepared itself."""
    PRE_COPY = "pre-copy"
    """Some pages are there."""
    STOP_AND_COPY = "stop-and-copy"
    """The guest is paused, its last pages are not sent yet."""
    DEVICES = "device state"
    """The first piece of it is about to be loaded."""
    COMMIT = "commit"
    """The destination is ready; COMMIT was not sent."""
    START = "start"
    """The destination has COMMIT and is about to record that it runs the guest."""


def arrange(
    sides: Sides, moment: Moment, then: Callable[[], object], monkeypatch: pytest.MonkeyPatch
) -> Callable[[Event], None]:
    """Have ``then()`` called, on the loop, once and at that moment; returns the source's observer."""
    once = [then]

    def now() -> None:
        if once:
            once.pop()()

    def far(event: Event) -> None:
        match event:
            case StateChanged(State.SETUP) if moment is Moment.SETUP:
                now()
            case StateChanged(State.COMMIT) if moment is Moment.START:
                now()

    def near(event: Event) -> None:
        match event:
            case BatchMoved() if moment is Moment.PRE_COPY:
                now()
            case RoundStarted(last=True) if moment is Moment.STOP_AND_COPY:
                now()
            case StateChanged(State.COMMIT) if moment is Moment.COMMIT:
                now()

    if moment is Moment.DEVICES:
        loop = asyncio.get_running_loop()
        load = QemuTarget.load_device_state

        def load_then(self: QemuTarget, piece: bytes) -> None:
            happened = threading.Event()
            loop.call_soon_threadsafe(lambda: (now(), happened.set()))
            happened.wait(10.0)
            load(self, piece)

        monkeypatch.setattr(QemuTarget, "load_device_state", load_then)
    sides.observe_far = far
    return near


@dataclass(frozen=True)
class Before:
    """A machine and what belongs to it, before something is tried with it."""

    vm: Vm
    status: str
    settings: frozenset[str]
    descriptors: int = field(compare=False)
    processes: frozenset[int]
    memory: str

    @classmethod
    def of(cls, vm: Vm) -> "Before":
        status = vm.status
        digest = hashlib.blake2b(vm.memory().read_bytes()).hexdigest() if status == "paused" else ""
        return cls(
            vm, status, frozenset(vm.settings), _descriptors(vm.pid), frozenset(processes_of(vm)), digest
        )

    async def is_again(self) -> None:
        """It is as it was."""
        vm = self.vm
        if self.status == "running":
            await asyncio.to_thread(vm.goes_on)
            await asyncio.to_thread(vm.checks_all)
        await until(lambda: frozenset(processes_of(vm)) == self.processes, "the end of who watched it")
        # QEMU closes what a client has hung up on in its own time.
        await until(lambda: _descriptors(vm.pid) <= self.descriptors, "descriptors of QEMU to be closed", 5.0)
        now = Before.of(vm)
        assert (now.status, now.settings, now.processes, now.memory) == (
            *(self.status, self.settings, self.processes, self.memory),
        )


async def nothing_left(there: Vm) -> None:
    """Nobody runs there, and no memory is taken up."""
    await until(lambda: not processes_of(there), "the end of the QEMU there")
    memory = there.memory()
    await until(lambda: not memory.exists() or memory.stat().st_blocks == 0, "its memory to be given back")
    mark = there.socket.with_name(f"{there.socket.name}.receiving")
    await until(lambda: not mark.exists(), "the end of its mark")


def processes_of(vm: Vm) -> set[int]:
    """The processes that know the machine by its monitor: its QEMU, a guardian; and who could hold it."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            monitor = str(vm.socket).encode()
            holds = b"migrated.memory.holder" in b" ".join(words) and str(vm.pid).encode() in words
            if holds or any(monitor == word or monitor + b"," in word for word in words):
                found.add(int(entry.name))
    return found


def _descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208 - a number is all that is wanted
