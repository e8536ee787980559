"""Files on huge pages: their holes, found without reading and without filling them."""

import contextlib
import mmap
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from migrated.errors import ResourceError
from migrated.memory.linux import huge_pages
from migrated.memory.region import FileRegion
from migrated.pages import PAGE_SIZE, PageSet

HUGE = 2 << 20
SMALL = HUGE // PAGE_SIZE
COUNT = 6


class HugeFile:
    """Six huge pages, of which 1, 2 and 4 are there; all of 2 is zero."""

    def __init__(self) -> None:
        self.fd = os.memfd_create("huge", os.MFD_CLOEXEC | os.MFD_HUGETLB)
        self._regions: list[FileRegion] = []

    def fill(self) -> None:
        os.ftruncate(self.fd, COUNT * HUGE)
        with mmap.mmap(self.fd, COUNT * HUGE) as memory:  # reserves them all, so that no store is fatal
            for number, value in ((1, 7), (2, 0), (4, 9)):
                memory[number * HUGE + 5000] = value

    @property
    def allocated(self) -> int:
        return os.fstat(self.fd).st_blocks * 512 // HUGE

    def region(self, *size: int, **more: Any) -> FileRegion:
        made = FileRegion(self.fd, *size, **more)
        self._regions.append(made)
        return made

    def close(self) -> None:
        for each in self._regions:
            each.close()
        os.close(self.fd)


@pytest.fixture
def huge() -> Iterator[HugeFile]:
    with contextlib.closing(HugeFile()) as made:
        try:
            made.fill()
        except OSError as error:
            pytest.skip(f"kernel: no huge pages are set aside on this host: {error}")
        yield made


def found(region: FileRegion) -> list[int]:
    """The huge pages of which every page is in :meth:`FileRegion.populated`; the others have none there."""
    mask = region.populated().mask.reshape(-1, SMALL)
    assert (mask.all(axis=1) == mask.any(axis=1)).all()
    return np.flatnonzero(mask.all(axis=1)).tolist()


def test_holes_are_left_out_and_stay_holes(huge: HugeFile) -> None:
    region = huge.region()
    assert found(region) == [1, 2, 4]
    assert huge.allocated == 3
    huge.region(writable=True).punch(np.array([[SMALL, SMALL]], dtype=np.int64))
    assert found(region) == [2, 4]
    assert huge.allocated == 2


def test_a_source_opens_its_guests_memory_for_reading_only(huge: HugeFile) -> None:
    descriptor = os.open(f"/proc/self/fd/{huge.fd}", os.O_RDONLY)
    try:
        pages = huge_pages.present_pages(descriptor, COUNT * HUGE)
    finally:
        os.close(descriptor)
    assert list(np.flatnonzero(pages[:: HUGE // PAGE_SIZE])) == [1, 2, 4]
    assert huge.allocated == 3


def test_where_the_kernel_does_not_tell_contents_do(huge: HugeFile, monkeypatch: pytest.MonkeyPatch) -> None:
    """A container may forbid userfaultfd. A page of zeros may as well be a hole."""

    def forbidden() -> int:
        raise PermissionError

    monkeypatch.setattr(huge_pages, "create_userfaultfd", forbidden)
    assert found(huge.region()) == [1, 4]
    assert huge.allocated == 3


def test_a_file_without_holes_is_not_searched(huge: HugeFile, monkeypatch: pytest.MonkeyPatch) -> None:
    with mmap.mmap(huge.fd, COUNT * HUGE) as memory:
        for number in range(COUNT):
            memory[number * HUGE] = 0
    monkeypatch.setattr(huge_pages, "create_userfaultfd", lambda: pytest.fail("it was searched"))
    assert found(huge.region()) == list(range(COUNT))


def test_part_of_a_file(huge: HugeFile) -> None:
    region = huge.region(HUGE + 3 * PAGE_SIZE)
    assert region.populated().runs().tolist() == [[SMALL, 3]]


def test_reading_takes_no_huge_page_and_reserves_none(huge: HugeFile) -> None:
    """The source's host may have none left for the holes of the guest's memory."""
    os.ftruncate(huge.fd, 1 << 40)
    region = huge.region()
    assert region.size == 1 << 40
    into = memoryview(bytearray(2 * PAGE_SIZE))
    region.read(np.array([[0, 1], [SMALL + 1, 1]], dtype=np.int64), into)
    assert not any(into[:PAGE_SIZE])
    assert into[PAGE_SIZE + 5000 - PAGE_SIZE] == 7
    assert huge.allocated == 3


def test_too_few_huge_pages_to_write_to_are_a_lack_of_memory_and_say_what_to_do(huge: HugeFile) -> None:
    os.ftruncate(huge.fd, 1 << 40)
    with pytest.raises(ResourceError) as caught:
        huge.region(writable=True)
    assert "vm.nr_hugepages" in caught.value.hint


def test_what_is_written_and_punched_is_read(huge: HugeFile) -> None:
    region = huge.region(writable=True)
    region.write(np.array([[3 * SMALL, 1]], dtype=np.int64), memoryview(b"x" * PAGE_SIZE))
    into = memoryview(bytearray(PAGE_SIZE))
    region.read(np.array([[3 * SMALL, 1]], dtype=np.int64), into)
    assert into == b"x" * PAGE_SIZE
    assert found(region) == [1, 2, 3, 4]
    region.punch(PageSet.full(region.pages).runs())
    assert found(region) == []
