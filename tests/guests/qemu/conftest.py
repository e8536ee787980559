"""Real machines under QEMU's emulation; without KVM they boot in seconds, once per shape."""

import os
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def stable() -> Iterator[object]:
    """See :class:`qemu_vm.Stable`."""
    from qemu_vm import Stable

    from migrated.bench.vm.image import build

    folder = Path(tempfile.mkdtemp(prefix="vm-booted-", dir=_memory()))
    yield Stable(folder, build())
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def home(stable: object) -> Iterator[object]:
    """See :class:`qemu_sides.Home`."""
    from qemu_sides import Home
    from qemu_vm import Shape

    made = Home(stable, Shape(disk=True))  # type: ignore[arg-type]
    yield made
    made.close()


@pytest.fixture
async def sides(stable: object) -> AsyncIterator[object]:
    """See :class:`qemu_sides.Sides`."""
    from qemu_sides import Sides

    made = Sides(Path(tempfile.mkdtemp(prefix="vm-", dir=_memory())), stable)  # type: ignore[arg-type]
    yield made
    await made.close()


def _memory() -> str | None:
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
