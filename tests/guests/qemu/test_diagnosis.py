"""`migrated doctor qemu:SOCKET` on real machines: everything at once, and nothing changed."""

import subprocess
from pathlib import Path

import pytest
from moments import Before
from qemu_sides import Home
from qemu_vm import QEMU, Shape, Stable, Vm, listens, wait_until

from migrated.guests.qemu.diagnosis import diagnose
from migrated.guests.qemu.programs import programs, running

pytestmark = [pytest.mark.slow, pytest.mark.needs("qemu-system-x86_64", "gcc", "apt-get")]


async def test_one_that_can_move_goes_on_as_it_is(home: Home) -> None:
    vm = home.vm()
    before = Before.of(vm)
    found = diagnose(vm.socket)
    assert (found.refusals, found.avoidable) == ([], [])
    assert "disk0" in found.elsewhere[0].what
    assert found.tracker.startswith("pagemap-scan")
    await before.is_again()
    (seen,) = [each for each in running() if each.pid == vm.pid]
    assert str(vm.socket) in seen.monitors
    assert seen.open


def test_all_is_told_at_once(tmp_path: Path) -> None:
    monitor, disk = tmp_path / "qmp", tmp_path / "disk"
    disk.write_bytes(bytes(1 << 20))
    words = f"-accel tcg -nodefaults -display none -S -m 64 -qmp unix:{monitor},server=on,wait=off"
    words += f" -drive file={disk},format=raw,if=virtio,cache.direct=on,file.locking=off"
    qemu = subprocess.Popen([QEMU, *words.split()], stdin=subprocess.DEVNULL)
    try:
        wait_until(lambda: listens(monitor), "its monitor")
        found = diagnose(monitor)
    finally:
        qemu.kill()
        qemu.wait()
    assert "is in no file" in found.refusals[0].what
    assert "cache.direct=on" in found.avoidable[0].what
    assert "no storage that another host" in found.elsewhere[0].what


def test_one_that_waits(stable: Stable, tmp_path: Path) -> None:
    vm = Vm(tmp_path, "a", Shape(), stable.image, tmp_path / "disk").start("-incoming", "defer")
    try:
        found = diagnose(vm.socket)
        assert found.waits
        assert found.refusals == []
        assert vm.status == "inmigrate"
    finally:
        vm.kill()


def test_the_qemu_of_this_host() -> None:
    found = next(each for each in programs() if each.path.name == QEMU)
    assert not found.lacks
    assert not found.problem
    assert found.version[0].isdigit()
