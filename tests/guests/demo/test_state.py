"""Operations of the demo guest's memory are whole or not there, wherever they are cut."""

import os
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest

from migrated.errors import GuestError, IntegrityError, UsageError
from migrated.guests.demo import state
from migrated.guests.demo.layout import JOURNAL_AT, MIN_SIZE, Counter, Header, Layout
from migrated.guests.demo.proof import check_file
from migrated.guests.demo.state import GuestMemory, create_memory

MIX = (1, 2, 2, 1)


@pytest.fixture
def descriptor(tmp_path: Path) -> Iterator[int]:
    opened = os.open(tmp_path / "guest.mem", os.O_RDWR | os.O_CREAT)
    create_memory(opened, Header(MIN_SIZE, 7, MIX, 1e6, punch=True))
    yield opened
    os.close(opened)


def _commit(memory: GuestMemory, seed: int) -> None:
    """An operation on about forty pages, of which some come to be zero, and five slots."""
    chance = np.random.default_rng(seed)
    pages = (memory.writable_groups[:, None] * 16 + np.arange(16)).ravel()
    taken = np.sort(chance.choice(pages, 40, replace=False))
    slots = np.sort(chance.choice(memory.layout.table_slots, 5, replace=False))
    values = chance.integers(0, 2**63, 5).astype(np.uint64)
    memory.commit(taken, slots, values, {Counter.HEARTBEATS: 1, Counter.WALL_NS: seed})


def _copy(descriptor: int, to: Path) -> int:
    copied = os.open(to, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    os.pwrite(copied, os.pread(descriptor, MIN_SIZE, 0), 0)
    return copied


def test_fresh_memory_is_right_and_its_zero_pages_are_holes(descriptor: int) -> None:
    found = check_file(descriptor)
    assert found.counters["operations"] == 0
    layout = Layout.of(MIN_SIZE)
    assert found.data_pages == layout.data_pages == 240
    memory = GuestMemory(descriptor, private=True)
    group = int(np.flatnonzero(memory.kinds == 0)[0])
    at = layout.data_at + group * 65536
    assert os.lseek(descriptor, at, os.SEEK_DATA) >= at + 65536


def test_operations_count_and_stay_right(descriptor: int) -> None:
    memory = GuestMemory(descriptor)
    for number in range(60):
        _commit(memory, number)
    assert memory.versions.max() >= 16, "some pages came to be zero"
    counters = check_file(descriptor).counters
    assert counters["pages_written"] == 60 * 40
    assert counters["slots_written"] == 60 * 5
    assert counters["operations"] == 60 * 45
    assert counters["heartbeats"] == 60
    assert counters["wall_ns"] == 59


def test_an_operation_cut_at_any_line_is_whole_or_not_there(descriptor: int, tmp_path: Path) -> None:
    memory = GuestMemory(descriptor)
    for number in range(40):
        _commit(memory, number)
    before = memory.record.copy()
    cuts: list[bytes] = []

    def at_line(frame: FrameType, event: str, _argument: Any) -> Any:
        if frame.f_code.co_filename != state.__file__:
            return None
        if event == "line":
            cuts.append(os.pread(descriptor, MIN_SIZE, 0))
        return at_line

    sys.settrace(at_line)
    try:
        _commit(memory, 1000)
    finally:
        sys.settrace(None)
    after = memory.record.copy()
    assert not np.array_equal(before, after)

    outcomes, redone = [], 0
    for number, cut in enumerate(dict.fromkeys(cuts)):
        file = tmp_path / f"cut-{number}"
        file.write_bytes(cut)
        copied = os.open(file, os.O_RDWR)
        redone += check_file(copied).redone_pages > 0
        assert file.read_bytes() == cut, "a check changes nothing"
        again = GuestMemory(copied)
        assert again.record.tolist() in (before.tolist(), after.tolist())
        outcomes.append(again.record.tolist() == after.tolist())
        assert check_file(copied).redone_pages == 0
        os.close(copied)
    assert outcomes == sorted(outcomes), "once armed it is done"
    assert True in outcomes
    assert False in outcomes
    assert redone >= 5


def test_a_page_half_written_is_written_again(descriptor: int, tmp_path: Path) -> None:
    memory = GuestMemory(descriptor)
    _commit(memory, 1)
    memory._armed[0] = 1
    page = int(memory._journal["page"][3])
    memory.data[page, 100:] = 0
    memory.versions[page] = 0
    copied = _copy(descriptor, tmp_path / "copy")
    assert check_file(copied).redone_pages == 40
    assert page in GuestMemory(copied).redone
    check_file(copied)
    os.close(copied)


def test_a_damaged_armed_journal_is_refused(descriptor: int) -> None:
    memory = GuestMemory(descriptor)
    _commit(memory, 1)
    memory._journal["value"][0] ^= np.uint64(1)
    memory._armed[0] = 1
    with pytest.raises(IntegrityError, match="journal is damaged"):
        GuestMemory(descriptor)
    os.pwrite(descriptor, (2**40).to_bytes(8, "little"), JOURNAL_AT + 16)
    with pytest.raises(IntegrityError, match="beyond its room"):
        GuestMemory(descriptor)


def test_an_operation_larger_than_the_journal_is_a_mistake_of_ours(descriptor: int) -> None:
    memory = GuestMemory(descriptor)
    pages = np.arange(2049)
    with pytest.raises(ValueError, match="no room"):
        memory.commit(pages, pages[:0], np.empty(0, np.uint64), {})


def test_a_cut_filling_is_no_guest(descriptor: int) -> None:
    os.pwrite(descriptor, bytes(8), 256)
    with pytest.raises(GuestError, match="not filled yet"):
        GuestMemory(descriptor)


def test_other_files_are_no_guests(tmp_path: Path) -> None:
    other = os.open(tmp_path / "other", os.O_RDWR | os.O_CREAT)
    os.pwrite(other, bytes(8192), 0)
    with pytest.raises(GuestError, match="not the memory file of a demo guest"):
        GuestMemory(other)
    os.close(other)


@pytest.mark.parametrize("size", [0, 4096, MIN_SIZE - 4096, MIN_SIZE + 1, 1 << 50])
def test_sizes_without_a_layout_are_refused(size: int) -> None:
    with pytest.raises(UsageError, match="cannot have"):
        Layout.of(size)


def test_tables_and_data_fit_without_overlap_at_every_size() -> None:
    chance = random.Random(4)
    for pages in [256, 257, 1279, 1280, 1281, 131072, *(chance.randrange(256, 1 << 24) for _ in range(500))]:
        layout = Layout.of(pages * 4096)
        assert layout.table_at + layout.table_slots * 16 == layout.versions_at
        assert layout.versions_at + 4 * layout.data_pages <= layout.data_at
        assert 0 <= layout.size - layout.data_at - layout.data_pages * 4096 < 17 * 4096
