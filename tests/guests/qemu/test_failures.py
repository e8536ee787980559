"""Who moves a machine is killed, somebody interferes, a machine cannot be moved: it goes on where it was."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from moments import Before, Moment, arrange, nothing_left
from qemu_sides import Home, Sides
from qemu_vm import Shape, Stable, Vm, entry, listens, wait_until

from migrated.errors import GuestError, GuestNotFoundError, MigratedError, RefusedError, UnsafeGuestError
from migrated.guests.qemu.monitor import Monitor
from migrated.guests.uri import open_source, revive

pytestmark = [pytest.mark.slow, pytest.mark.needs("qemu-system-x86_64", "gcc", "apt-get")]

CLIENT = """
import json, sys, time
from migrated.guests.uri import open_source
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
@pytest.mark.parametrize("was", ["running", "paused"])
async def test_a_guardian_puts_all_back_if_the_client_is_killed(
    home: Home, was: str, words: tuple[str, ...]
) -> None:
    vm = home.vm()
    with vm.monitor() as monitor:
        if was == "paused":
            monitor.qmp.execute("stop")
        before = Before.of(vm)
        assert before.status == was
        killed_client(vm, *words)
        wait_until(lambda: vm.status == was and vm.settings == before.settings, "the guardian")
        await before.is_again()
        monitor.qmp.execute("cont")
    vm.goes_on()


async def test_a_frozen_one_waits_for_the_word(home: Home, tmp_path: Path) -> None:
    vm = home.vm()
    before = Before.of(vm)
    record = tmp_path / "record"
    killed_client(vm, "devices", "freeze", str(record))
    beat = vm.last_beat()
    with pytest.raises(AssertionError):
        wait_until(lambda: vm.status == "running" or vm.last_beat() > beat, "nobody", 1.0)
    revive(json.loads(record.read_text())).resume()
    vm.goes_on(beat)
    await before.is_again()


@pytest.mark.parametrize(
    ("commands", "told"), [(["cont"], True), (["cont"], False), (["cont", "stop"], True)], ids=str
)
async def test_one_that_somebody_lets_go_on_meanwhile_stays_here(
    home: Home, sides: Sides, monkeypatch: pytest.MonkeyPatch, commands: list[str], told: bool
) -> None:
    """What it wrote since is not at the destination; also if the news of it comes late, which is as good as never."""
    here = home.vm()
    before = Before.of(here)
    there = sides.other(here)
    if not told:
        hear = Monitor._hear
        monkeypatch.setattr(
            Monitor, "_hear", lambda monitor, event, data: event == "RESUME" or hear(monitor, event, data)
        )
    with here.monitor() as monitor:
        await sides.serve(a=entry(there, command=True))
        observe = arrange(
            sides, Moment.COMMIT, lambda: [monitor.qmp.execute(each) for each in commands], monkeypatch
        )
        moving = await sides.outgoing(here, "a", observe)
        with pytest.raises(GuestError, match="somebody let the VM"):
            await moving.run()
    await nothing_left(there)
    await before.is_again()


async def test_one_that_somebody_lets_go_on_there_too_early_runs_here_only(
    home: Home, sides: Sides, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = home.vm()
    before = Before.of(here)
    there = sides.other(here)
    wait = Monitor.wait_for_migration

    def wait_then_go_on(monitor: Monitor, patience: float) -> str:
        state = wait(monitor, patience)
        if monitor.qmp.path == there.socket:
            monitor.qmp.execute("cont")
        return state

    monkeypatch.setattr(Monitor, "wait_for_migration", wait_then_go_on)
    await sides.serve(a=entry(there, command=True))
    with pytest.raises(MigratedError, match="before it was decided"):
        await sides.move(here, "a")
    await nothing_left(there)
    await before.is_again()


async def test_a_disk_that_is_not_shared_is_refused(home: Home, sides: Sides) -> None:
    here = home.vm()
    before = Before.of(here)
    there = sides.other(here)
    there.disk = sides.folder / "another"
    there.disk.write_bytes(bytes(1 << 20))
    await sides.serve(a=entry(there, command=True))
    with pytest.raises(RefusedError, match="not the source's storage"):
        await sides.move(here, "a")
    await nothing_left(there)
    await before.is_again()


def test_private_memory_is_refused(stable: Stable, tmp_path: Path) -> None:
    vm = Vm(tmp_path, "a", Shape(), stable.image, tmp_path / "disk")
    command = [word.replace("share=on", "share=off") for word in vm.command("-S")]
    qemu = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    try:
        wait_until(lambda: listens(vm.socket), "its monitor")
        with pytest.raises(UnsafeGuestError, match="private to QEMU"):
            open_source(f"qemu:{vm.socket}")
    finally:
        qemu.kill()
        qemu.wait()


async def test_a_monitor_that_is_busy_says_so(home: Home, tmp_path: Path) -> None:
    vm = home.vm()
    before = Before.of(vm)
    first = open_source(f"qemu:{vm.socket}")
    try:
        with pytest.raises(MigratedError, match="another client has its monitor"):
            open_source(f"qemu:{vm.socket}")
    finally:
        first.close()
    await before.is_again()
    with pytest.raises(GuestNotFoundError, match="no QEMU listens"):
        open_source(f"qemu:{tmp_path / 'nobody'}")
