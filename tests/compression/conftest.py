import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# What these tests share is a module beside them: worker_sides.
sys.path.insert(0, str(Path(__file__).parent))

from worker_sides import SLOT, Side

from migrated.memory.shared import SharedMemory


@pytest.fixture
def arena() -> SharedMemory:
    return SharedMemory(2 * SLOT)


@pytest.fixture
def target(tmp_path: Path, arena: SharedMemory) -> Iterator[Side]:
    side = Side(tmp_path, "target", arena)
    yield side
    side.close()
