"""What changed unseen by a tracker, in real memory, and when nobody has to look."""

import mmap
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from migrated.engine.unseen import Unseen
from migrated.memory.linux import files
from migrated.memory.region import FileRegion
from migrated.pages import PAGE_SIZE, PageSet

PAGES = 16
SENT = [0, 1, 2, 3, 8]
"""Pages that were sent with content; those up to 3 have it."""


class Region(FileRegion):
    """Shared memory that counts how often it was looked through."""

    looks = 0
    tells = True

    def populated(self) -> PageSet:
        self.looks += 1
        return super().populated()

    def changed_by_call(self) -> bool | None:
        return super().changed_by_call() if self.tells else None


@pytest.fixture
def region() -> Iterator[Region]:
    path = Path("/dev/shm") / f"migrated-unseen-{os.getpid()}"
    with path.open("wb") as file:
        file.truncate(PAGES * PAGE_SIZE)
    made = Region(path, writable=True)
    path.unlink()
    with mmap.mmap(made.fileno(), made.size) as memory:
        memory[: 4 * PAGE_SIZE] = b"x" * 4 * PAGE_SIZE
    yield made
    made.close()


@pytest.fixture
def terms() -> NDArray[np.uint64]:
    made = np.zeros(PAGES, np.uint64)
    made[SENT] = 1
    return made


def watched(region: Region, terms: NDArray[np.uint64], *, holes_are_zeros: bool = True) -> Unseen:
    """From the first look on."""
    unseen = Unseen((region,), (terms,), holes_are_zeros=holes_are_zeros)
    (pages,) = unseen.populated()
    assert pages.runs().tolist() == [[0, 4]]
    return unseen


def found(unseen: Unseen) -> list[int]:
    (pages,) = unseen.collect()
    return np.flatnonzero(pages.mask).tolist()


def test_nobody_looks_while_only_mapped_memory_is_used(region: Region, terms: NDArray[np.uint64]) -> None:
    unseen = watched(region, terms)
    with mmap.mmap(region.fileno(), region.size) as memory:
        memory[: 6 * PAGE_SIZE] = b"y" * 6 * PAGE_SIZE
    assert [found(unseen) for _ in range(3)] == [[], [], []]
    assert region.looks == 1
    assert not unseen.candidates


def test_after_a_hole_all_that_was_sent_or_is_there_may_be_another(
    region: Region, terms: NDArray[np.uint64]
) -> None:
    unseen = watched(region, terms)
    region.punch(np.array([[1, 2]]))
    with mmap.mmap(region.fileno(), region.size) as memory:
        assert not memory[PAGE_SIZE]  # it is there again
        memory[6 * PAGE_SIZE] = 1
    assert found(unseen) == [0, 1, 2, 3, 6, 8]
    assert unseen.candidates
    assert found(unseen) == []
    assert not unseen.candidates


def test_a_file_that_seems_to_lose_its_last_name_is_watched_on(
    region: Region, terms: NDArray[np.uint64], tmp_path: Path
) -> None:
    """The kernel gives the watch up when a name that nobody has open is the last one to go."""
    first, second = (Path("/dev/shm") / f"{tmp_path.name}-{os.getpid()}-{n}" for n in (1, 2))
    first.write_bytes(b"x" * PAGES * PAGE_SIZE)
    second.hardlink_to(first)
    linked = Region(first, writable=True)
    unseen = Unseen((linked,), (terms,), holes_are_zeros=False)
    unseen.populated()
    for path in (first, second):
        path.unlink()
    found(unseen)
    for page in (1, 3):
        linked.punch(np.array([[page, 1]]))
        assert page in found(unseen)
    linked.close()


def test_a_write_through_no_mapping(region: Region, terms: NDArray[np.uint64]) -> None:
    unseen = watched(region, terms)
    os.pwrite(region.fileno(), b"new", 12 * PAGE_SIZE)
    assert 12 in found(unseen)


def test_where_holes_need_not_be_zeros_what_is_gone_is_enough(
    region: Region, terms: NDArray[np.uint64]
) -> None:
    unseen = watched(region, terms, holes_are_zeros=False)
    region.punch(np.array([[1, 2]]))
    assert found(unseen) == [1, 2, 8]
    assert not unseen.candidates


def test_what_changes_beside_a_look_is_found_by_the_next_one(
    region: Region, terms: NDArray[np.uint64], monkeypatch: pytest.MonkeyPatch
) -> None:
    look = files.data_ranges

    def punches(fd: int, size: int) -> Iterator[tuple[int, int]]:
        ranges = list(look(fd, size))
        monkeypatch.undo()
        region.punch(np.array([[2, 1]]))
        return iter(ranges)

    monkeypatch.setattr(files, "data_ranges", punches)
    unseen = watched(region, terms, holes_are_zeros=False)
    assert found(unseen) == [2, 8]


def test_memory_that_does_not_tell_is_looked_through_each_time(
    region: Region, terms: NDArray[np.uint64]
) -> None:
    region.tells = False
    unseen = watched(region, terms)
    assert found(unseen) == [8]
    region.punch(np.array([[0, 1]]))
    assert found(unseen) == [0, 8]
    assert region.looks == 3
    assert not unseen.candidates


def test_each_region_for_itself(region: Region, terms: NDArray[np.uint64]) -> None:
    other = Region(region.fileno())
    other.tells = False
    unseen = Unseen((region, other), (terms, terms), holes_are_zeros=True)
    unseen.populated()
    assert [len(pages) for pages in unseen.collect()] == [0, 1]
    assert (region.looks, other.looks) == (1, 2)
    other.close()
