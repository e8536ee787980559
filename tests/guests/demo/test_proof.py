"""One wrong byte anywhere in a demo guest's memory is found, and named."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from migrated.errors import IntegrityError, MigratedError
from migrated.guests.demo.layout import MIN_SIZE, Counter, Header, Layout
from migrated.guests.demo.proof import Prover, WrongByteError, check_file
from migrated.guests.demo.state import GuestMemory, create_memory
from migrated.pages import PAGE_SIZE

LAYOUT = Layout.of(MIN_SIZE)


@pytest.fixture
def descriptor(tmp_path: Path) -> Iterator[int]:
    opened = os.open(tmp_path / "guest.mem", os.O_RDWR | os.O_CREAT)
    create_memory(opened, Header(MIN_SIZE, 3, (1, 2, 2, 1), 1e6))
    memory = GuestMemory(opened)
    memory.commit(np.arange(16, 20), np.arange(3), np.arange(3, dtype=np.uint64), {Counter.HEARTBEATS: 1})
    yield opened
    os.close(opened)


def _flip(descriptor: int, offset: int) -> None:
    byte = os.pread(descriptor, 1, offset)[0]
    os.pwrite(descriptor, bytes([byte ^ 0x10]), offset)


def _group_of(descriptor: int, kind: int) -> int:
    return int(np.flatnonzero(GuestMemory(descriptor, private=True).kinds == kind)[0])


@pytest.mark.parametrize("kind", [0, 1, 2, 3])
def test_a_wrong_byte_of_a_data_page_is_named(descriptor: int, kind: int) -> None:
    group = _group_of(descriptor, kind)
    offset = LAYOUT.data_at + (group * 16 + 5) * PAGE_SIZE + 1234
    _flip(descriptor, offset)
    prover = Prover(GuestMemory(descriptor))
    with pytest.raises(WrongByteError) as caught:
        prover.prove_group(group)
    error = caught.value
    assert (error.offset, error.page, error.byte) == (offset, offset // PAGE_SIZE, 1234)
    assert error.found == error.expected ^ 0x10
    assert f"page {offset // PAGE_SIZE} (data page {group * 16 + 5}" in str(error)
    assert "byte 1234 of the page" in str(error)
    assert error.exit_code == 12


def test_a_page_of_another_time_is_named_with_both_versions(descriptor: int) -> None:
    group = _group_of(descriptor, 1)
    memory = GuestMemory(descriptor)
    old = memory.data[group * 16].copy()
    memory.commit(np.array([group * 16]), np.arange(0), np.empty(0, np.uint64), {})
    memory.data[group * 16] = old
    with pytest.raises(
        WrongByteError, match=rf"should have version \d; it is stamped page {group * 16} version \d"
    ):
        Prover(memory).prove_group(group)


def test_every_page_is_proved_offline(descriptor: int) -> None:
    """Flip a byte in each page of the file but the dead journal's: all are found, most to the byte."""
    exact = 0
    journal = range(2 * PAGE_SIZE, LAYOUT.table_at)
    for page in range(MIN_SIZE // PAGE_SIZE):
        offset = page * PAGE_SIZE + (page * 37 + 8) % PAGE_SIZE
        if offset in journal:
            continue
        if page == 0:
            offset = 20
        _flip(descriptor, offset)
        with pytest.raises(MigratedError) as caught:
            check_file(descriptor)
        exact += isinstance(caught.value, WrongByteError) and caught.value.offset == offset
        _flip(descriptor, offset)
    check_file(descriptor)
    assert exact > 240


def test_a_lost_update_of_the_table_is_found(descriptor: int) -> None:
    memory = GuestMemory(descriptor)
    old = memory.table[7].copy()
    memory.commit(np.arange(0), np.array([7]), np.array([99], np.uint64), {})
    Prover(memory).prove_tables()
    memory.table[7] = old
    with pytest.raises(IntegrityError, match="lost an update"):
        Prover(memory).prove_tables()


def test_a_wrong_slot_of_the_table_is_named(descriptor: int) -> None:
    _flip(descriptor, LAYOUT.table_at + 16 * 40)
    with pytest.raises(WrongByteError, match="slot 40"):
        Prover(GuestMemory(descriptor)).prove_tables()


def test_a_page_and_its_version_lost_together_are_found(descriptor: int) -> None:
    """As if two dirty pages had been missed: what is there agrees with itself, but is old."""
    memory = GuestMemory(descriptor)
    page = _group_of(descriptor, 2) * 16
    old, version = memory.data[page].copy(), memory.versions[page].copy()
    memory.commit(np.array([page]), np.arange(0), np.empty(0, np.uint64), {})
    memory.data[page], memory.versions[page] = old, version
    prover = Prover(memory)
    prover.prove_group(page // 16)
    with pytest.raises(IntegrityError, match="of another time"):
        prover.prove_tables()


def test_proving_gives_holes_no_memory(tmp_path: Path) -> None:
    with (tmp_path / "zeros").open("wb+") as file:
        create_memory(file.fileno(), Header(16 << 20, 3, (1, 0, 0, 0), 1e6))
        before = os.fstat(file.fileno()).st_blocks
        prover = Prover(GuestMemory(file.fileno()))
        for group in range(200):
            prover.prove_group(group)
        os.fsync(file.fileno())
        assert os.fstat(file.fileno()).st_blocks - before <= 8
