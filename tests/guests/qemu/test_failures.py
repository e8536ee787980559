"""Moves that do not come about: the machine goes on where it was, and nothing is left where it was to go."""

import asyncio
import contextlib
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from qemu_vm import Shape, Sides, Vm, entry, until, wait_until

from migrated.client import Outgoing, resolve
from migrated.engine.events import Event, State, StateChanged
from migrated.engine.records import Outcome
from migrated.errors import (
    CancelledByPersonError,
    GuestDiedError,
    GuestError,
    GuestNotFoundError,
    MigratedError,
    OutcomeUnknownError,
    PeerFailedError,
    RefusedError,
    UnsafeGuestError,
)
from migrated.guests.uri import open_source, revive

pytestmark = [pytest.mark.slow, pytest.mark.needs("qemu-system-x86_64", "gcc", "apt-get")]

OFF: set[str] = set()
PHASES = [State.PRE_COPY, State.STOP_AND_COPY, State.COMMIT]
DISK = Shape(disk=True)


def at(state: State, then: Callable[[], object]) -> Callable[[Event], None]:
    """An observer that does ``then`` when the migration enters ``state``."""

    def observe(event: Event) -> None:
        if isinstance(event, StateChanged) and event.state is state:
            then()

    return observe


async def goes_on_here(here: Vm, there: Vm) -> None:
    """It runs here as before; where it was to go nobody runs, and no memory is taken up."""
    await asyncio.to_thread(here.goes_on)
    await asyncio.to_thread(here.checks_all)
    assert here.status == "running"
    assert here.settings == OFF
    with contextlib.suppress(AssertionError):
        there.find()
    await until(lambda: not there.alive, "end of the QEMU there")
    if there.memory().exists():
        assert there.memory().stat().st_blocks == 0


async def moving_to(sides: Sides, here: Vm, state: State, then: Callable[[Outgoing], object]) -> Outgoing:
    """A migration to a machine ``b`` that does ``then`` at ``state``; sent slowly, for time to do it in."""
    there = sides.other(here)
    await sides.serve(a=entry(there, command=True))
    moving: list[Outgoing] = []
    moving.append(
        await sides.outgoing(here, "a", at(state, lambda: then(moving[0])), codec="none", bandwidth=60e6)
    )
    return moving[0]


@pytest.mark.parametrize("state", PHASES)
async def test_a_person_cancels(sides: Sides, state: State) -> None:
    """At COMMIT the devices were loaded there already, and the disk given back."""
    here = sides.vm("a", DISK)
    moving = await moving_to(sides, here, state, lambda moving: moving.cancel("enough"))
    with pytest.raises(CancelledByPersonError):
        await moving.run()
    await goes_on_here(here, sides.vms[1])
    # And it can go, after all.
    there = sides.other(here, "c")
    await sides.daemon.drain(0.0)
    await sides.serve(a=entry(there, command=True))
    before = here.last_beat()
    await sides.move(here, "a")
    there.find()
    await asyncio.to_thread(there.goes_on, before)


@pytest.mark.parametrize("state", PHASES)
async def test_the_link_is_cut(sides: Sides, state: State) -> None:
    tasks: list[Awaitable[None]] = []

    def cut(moving: Outgoing) -> None:
        assert moving._sender is not None
        tasks.append(asyncio.ensure_future(moving._sender._channel.close()))

    here = sides.vm("a", DISK)
    moving = await moving_to(sides, here, state, cut)
    with pytest.raises(MigratedError) as caught:
        await moving.run()
    assert not isinstance(caught.value, OutcomeUnknownError)
    await asyncio.gather(*tasks)
    await goes_on_here(here, sides.vms[1])


@pytest.mark.parametrize("state", [State.PRE_COPY, State.STOP_AND_COPY])
async def test_the_source_is_killed(sides: Sides, state: State) -> None:
    here = sides.vm()
    moving = await moving_to(sides, here, state, lambda _: here.kill())
    with pytest.raises(GuestDiedError):
        await moving.run()
    there = sides.vms[1]
    with contextlib.suppress(AssertionError):
        there.find()
    await until(lambda: not there.alive, "end of the QEMU there")


@pytest.mark.parametrize("state", [State.PRE_COPY, State.STOP_AND_COPY])
async def test_the_destination_is_killed(sides: Sides, state: State) -> None:
    here = sides.vm()
    moving = await moving_to(sides, here, state, lambda _: sides.vms[1].find().kill())
    with pytest.raises(PeerFailedError, match="QEMU"):
        await moving.run()
    await goes_on_here(here, sides.vms[1])


async def test_the_destination_is_killed_when_it_was_to_start(sides: Sides) -> None:
    """It is decided, and nobody can know: a person fences the destination and says so."""
    here = sides.vm("a", DISK)
    there = sides.other(here)
    await sides.serve(a=entry(there, command=True))
    sides.observe_far = at(State.COMMIT, lambda: there.find().kill())
    moving = await sides.outgoing(here, "a")
    with pytest.raises(OutcomeUnknownError):
        await moving.run()
    assert here.status == "postmigrate"
    record = await resolve(sides._settings, moving.migration_id, resume_here=True)
    assert record.outcome is Outcome.ABORTED
    await asyncio.to_thread(here.goes_on)
    assert here.settings == OFF


CLIENT = """
import sys, time
from migrated.guests.uri import open_source
import json
source = open_source(sys.argv[1])
source.pause()
if "devices" in sys.argv:
    b"".join(source.device_state())
if "freeze" in sys.argv:
    source.freeze()
    json.dump(source.describe(), open(sys.argv[-1], "w"))
print("there", flush=True)
time.sleep(60)
"""


def killed_client(vm: Vm, *words: str) -> None:
    """A client that gets as far as ``words`` say, and is killed."""
    command = [sys.executable, "-c", CLIENT, f"qemu:{vm.socket}", *words]
    client = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert client.stdout is not None
    assert client.stdout.readline() == b"there\n"
    assert vm.status in ("paused", "postmigrate")
    client.send_signal(signal.SIGKILL)
    client.wait()
    client.stdout.close()


@pytest.mark.parametrize("words", [(), ("devices",)])
def test_a_guardian_lets_it_go_on_if_the_client_is_killed(
    stable: Any, tmp_path: Any, words: tuple[str, ...]
) -> None:
    vm = stable.copy(tmp_path, "a", DISK)
    try:
        killed_client(vm, *words)
        wait_until(lambda: vm.status == "running", "the guardian")
        vm.goes_on()
        wait_until(lambda: vm.settings == OFF, "its settings as before")
    finally:
        vm.kill()


def test_a_frozen_one_waits_for_the_word(stable: Any, tmp_path: Any) -> None:
    import json

    vm = stable.copy(tmp_path, "a", Shape())
    try:
        record = tmp_path / "record"
        killed_client(vm, "devices", "freeze", str(record))
        before = vm.last_beat()
        with pytest.raises(AssertionError):
            wait_until(lambda: vm.status == "running" or vm.last_beat() > before, "nobody", 1.0)
        revive(json.loads(record.read_text())).resume()
        vm.goes_on(before)
        assert vm.settings == OFF
    finally:
        vm.kill()


async def test_one_that_somebody_lets_go_on_meanwhile_stays_here(sides: Sides) -> None:
    """What it wrote since is not at the destination."""

    def go_on(_: Outgoing) -> None:
        with here.monitor() as monitor:
            monitor.qmp.execute("cont")

    here = sides.vm()
    moving = await moving_to(sides, here, State.COMMIT, go_on)
    with pytest.raises(GuestError, match="somebody let the VM"):
        await moving.run()
    await goes_on_here(here, sides.vms[1])


async def test_a_disk_that_is_not_shared_is_refused(sides: Sides) -> None:
    here = sides.vm("a", DISK)
    there = sides.other(here)
    there.disk = sides.folder / "another"
    there.disk.write_bytes(bytes(1 << 20))
    await sides.serve(a=entry(there, command=True))
    with pytest.raises(RefusedError, match="not the source's storage"):
        await sides.move(here, "a")
    await goes_on_here(here, there)


def test_private_memory_is_refused(stable: Any, tmp_path: Any) -> None:
    vm = Vm(tmp_path, "a", Shape(), stable.image, tmp_path / "disk")
    command = [word.replace("share=on", "share=off") for word in vm.command("-S")]
    qemu = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    try:
        wait_until(vm.socket.exists, "its monitor")
        with pytest.raises(UnsafeGuestError, match="private to QEMU"):
            open_source(f"qemu:{vm.socket}")
    finally:
        qemu.kill()
        qemu.wait()


def test_a_monitor_that_is_busy_says_so(stable: Any, tmp_path: Any) -> None:
    vm = stable.copy(tmp_path, "a", Shape())
    try:
        first = open_source(f"qemu:{vm.socket}")
        try:
            with pytest.raises(MigratedError, match="another client has its monitor"):
                open_source(f"qemu:{vm.socket}")
        finally:
            first.close()
        vm.goes_on()
    finally:
        vm.kill()
    with pytest.raises(GuestNotFoundError, match="no QEMU listens"):
        open_source(f"qemu:{vm.socket}")
