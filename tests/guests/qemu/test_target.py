"""The destination's end after a crash of its daemon: what is found again, and what is left alone."""

from pathlib import Path
from typing import Any

import pytest
from qemu_vm import Shape, Stable, Vm, entry, wait_until

from migrated.errors import GuestError
from migrated.guests.qemu.target import QemuTarget

pytestmark = [pytest.mark.slow, pytest.mark.needs("qemu-system-x86_64", "gcc", "apt-get")]

SIZES = [("m0", 128 << 20)]


def fresh(vm: Vm, **more: Any) -> QemuTarget:
    """As a daemon makes it that has just started."""
    return QemuTarget("a", entry(vm, **more))


@pytest.fixture
def waiting(stable: Stable, tmp_path: Path) -> Any:
    """A QEMU that waits, and one that took it in but was not told the outcome."""
    vm = Vm(tmp_path, "a", Shape(), stable.image, tmp_path / "disk")
    vm.start("-incoming", "defer")
    yield vm
    vm.kill()


def fill(vm: Vm, stable: Stable) -> None:
    """All has arrived; then the daemon is gone."""
    target = fresh(vm)
    target.prepare(SIZES)
    stable.fill(target, vm.shape)
    target.make_ready()
    target.close()


def test_what_was_decided_is_started_after_a_crash(stable: Stable, waiting: Vm) -> None:
    fill(waiting, stable)
    assert waiting.status == "paused"
    for _ in range(2):  # and once more: nothing happens
        target = fresh(waiting)
        target.start(was_running=True)
        target.close()
    waiting.goes_on(0)
    assert not waiting.settings
    assert not list(waiting.folder.glob("*.receiving"))


def test_what_was_not_decided_is_discarded_after_a_crash(stable: Stable, waiting: Vm) -> None:
    fill(waiting, stable)
    target = fresh(waiting)
    target.discard()
    target.close()
    wait_until(lambda: not waiting.alive, "its end")
    assert waiting.memory().stat().st_blocks == 0
    assert not list(waiting.folder.glob("*.receiving"))


def test_one_that_waits_goes_on_waiting(waiting: Vm) -> None:
    target = fresh(waiting)
    target.prepare(SIZES)
    target.close()
    again = fresh(waiting)
    again.discard()
    again.close()
    assert waiting.status == "inmigrate"
    assert not waiting.settings
    once_more = fresh(waiting)
    once_more.prepare(SIZES)
    once_more.discard()
    once_more.close()


def test_one_is_not_filled_by_two(waiting: Vm) -> None:
    target = fresh(waiting)
    target.prepare(SIZES)
    with pytest.raises(GuestError, match="another client has its monitor"):
        fresh(waiting).prepare(SIZES)
    assert list(waiting.folder.glob("*.receiving"))
    target.discard()
    target.close()


def test_another_machine_at_that_place_is_left_alone(stable: Stable, waiting: Vm) -> None:
    """It arrived here, paused, before; what an earlier migration left undecided is not it."""
    fill(waiting, stable)
    target = fresh(waiting)
    target.start(was_running=False)
    target.close()
    late = fresh(waiting)
    late.discard()
    late.close()
    assert waiting.alive
    assert waiting.status == "paused"
    assert waiting.memory().stat().st_blocks > 0


def test_a_command_that_ends_is_told(stable: Stable, tmp_path: Path) -> None:
    vm = Vm(tmp_path, "a", Shape(more=("-no-such-option",)), stable.image, tmp_path / "disk")
    with pytest.raises(GuestError, match=r"ended with 1.*no-such-option"):
        fresh(vm, command=True).prepare(SIZES)
