"""PAGEMAP_SCAN against real processes: known pages written, exactly those reported."""

import os
import random
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from migrated.errors import GuestDiedError, GuestError, MigratedError, UnsafeGuestError
from migrated.memory.hold import Holder
from migrated.memory.linux.meminfo import host_memory
from migrated.memory.region import ProcessRegion
from migrated.memory.trackers.base import TrackTarget
from migrated.memory.trackers.pagemap_scan import PagemapScanTracker, check_injectable
from migrated.memory.trackers.probes import probe_pagemap_scan
from migrated.pages import PAGE_SIZE, PageSet

PAGES = 1024

pytestmark = pytest.mark.skipif(
    not probe_pagemap_scan().works, reason=f"no PAGEMAP_SCAN tracking here: {probe_pagemap_scan().why}"
)


class Tracked:
    """A guest with one tracked mapping named ``memory``."""

    def __init__(self, guest: Any, how: str, pages: int = PAGES) -> None:
        self.guest = guest
        guest.ask(f"memory = {how}")
        self.start = guest.ask("address_of(memory)")
        self.pages = pages
        self.target = TrackTarget(guest.pid, self.start, self.start + pages * PAGE_SIZE, 0, 0)
        self.tracker = PagemapScanTracker([self.target], [pages])

    def collect(self) -> list[int]:
        (found,) = self.tracker.collect()
        return np.flatnonzero(found.mask).tolist()

    def touch(self, *numbers: int) -> None:
        self.guest.ask(f"touch(memory, *{numbers})")


@pytest.fixture(params=["private", "shared", "sparse private", "sparse shared"])
def tracked(request: Any, guest: Any, shared_file: str) -> Iterator[Tracked]:
    how = f"private({PAGES})" if "private" in request.param else f"shared({shared_file!r})"
    tracked = Tracked(guest, how)
    if "sparse" not in request.param:
        tracked.touch(*range(PAGES))
    yield tracked
    tracked.tracker.close()


class TestExactness:
    def test_reports_what_was_written_and_nothing_else(self, tracked: Tracked) -> None:
        tracked.tracker.arm()
        assert tracked.collect() == []
        tracked.touch(0, 3, 4, 5, 511, 512, 1023)
        assert tracked.collect() == [0, 3, 4, 5, 511, 512, 1023]
        assert tracked.collect() == []
        tracked.touch(3)
        assert tracked.collect() == [3]

    def test_many_random_pages(self, tracked: Tracked) -> None:
        chance = random.Random(1)
        tracked.tracker.arm()
        for _ in range(10):
            pages = sorted(chance.sample(range(PAGES), 200))
            tracked.touch(*pages)
            assert tracked.collect() == pages

    def test_written_before_arming_is_not_reported_later(self, tracked: Tracked) -> None:
        tracked.touch(*range(0, PAGES, 3))
        tracked.tracker.arm()
        assert tracked.collect() == []

    def test_the_kernels_own_writes(self, tracked: Tracked) -> None:
        tracked.tracker.arm()
        tracked.guest.ask("reader, writer = os.pipe()")
        assert tracked.guest.ask("os.write(writer, bytes(100))") == 100
        assert (
            tracked.guest.ask(f"libc.read(reader, ctypes.c_void_p({tracked.start + 7 * PAGE_SIZE}), 100)")
            == 100
        )
        assert tracked.collect() == [7]

    @pytest.mark.skipif(os.geteuid() != 0, reason="markers can be told from swapped pages by root only")
    @pytest.mark.root
    def test_never_touched_pages_stay_unpopulated(self, guest: Any) -> None:
        tracked = Tracked(guest, f"private({PAGES})")
        tracked.touch(3, 700)
        region = ProcessRegion(guest.pid, [(tracked.start, tracked.start + PAGES * PAGE_SIZE)])
        with tracked.tracker as tracker:
            tracker.arm()
            assert region.populated().runs().tolist() == [[3, 1], [700, 1]]
            tracked.touch(4, 700)
            assert region.populated().runs().tolist() == [[3, 2], [700, 1]]
            assert tracked.collect() == [4, 700]
            assert region.populated().runs().tolist() == [[3, 2], [700, 1]]

    def test_more_ranges_than_the_vector_holds(self, guest: Any) -> None:
        pages = 20_000
        with Tracked(guest, f"private({pages})", pages).tracker as tracker:
            tracker.arm()
            guest.ask(f"touch(memory, *range(0, {pages}, 2))")
            (found,) = tracker.collect()
            assert np.array_equal(np.flatnonzero(found.mask), np.arange(0, pages, 2))

    def test_anonymous_memory_given_back(self, guest: Any) -> None:
        """MADV_DONTNEED makes pages zero without a write: they have to be sent again."""
        tracked = Tracked(guest, f"private({PAGES})")
        tracked.touch(*range(PAGES))
        with tracked.tracker as tracker:
            tracker.arm()
            assert guest.ask(f"libc.madvise(ctypes.c_void_p({tracked.start}), {2 * PAGE_SIZE}, 4)") == 0
            tracked.touch(1)
            assert 1 in tracked.collect()

    def test_huge_pages_of_the_kernel(self, guest: Any) -> None:
        pages = 2048
        tracked = Tracked(guest, f"private({pages})", pages)
        guest.ask("memory.madvise(mmap.MADV_HUGEPAGE)")
        tracked.touch(*range(pages))
        with tracked.tracker as tracker:
            tracker.arm()
            tracked.touch(5, 1500)
            found = tracked.collect()
            assert {5, 1500} <= set(found)
            assert tracked.collect() == []

    def test_explicit_huge_pages(self, guest: Any) -> None:
        pages = 1024
        if host_memory()["HugePages_Free"] < 2:
            pytest.skip("kernel: no huge pages are set aside on this host (vm.nr_hugepages)")
        guest.ask("fd = os.memfd_create('huge', os.MFD_HUGETLB)")
        guest.ask(f"os.ftruncate(fd, {pages * PAGE_SIZE})")
        tracked = Tracked(guest, "mmap.mmap(fd, 0)", pages)
        with tracked.tracker as tracker:
            tracked.touch(0, 600)
            tracker.arm()
            tracked.touch(600)
            assert tracked.collect() == list(range(512, 1024))
            assert tracked.collect() == []


class TestSeveral:
    def test_two_processes_one_region(self, start_guest: Callable[[], Any], shared_file: str) -> None:
        guests = [start_guest(), start_guest()]
        targets = []
        for each in guests:
            each.ask(f"memory = shared({shared_file!r})")
            start = each.ask("address_of(memory)")
            targets.append(TrackTarget(each.pid, start, start + PAGES * PAGE_SIZE, 0, 0))
        with PagemapScanTracker(targets, [PAGES]) as tracker:
            tracker.arm()
            guests[0].ask("touch(memory, 1, 2)")
            guests[1].ask("touch(memory, 2, 900)")
            assert tracker.collect()[0].runs().tolist() == [[1, 2], [900, 1]]

    def test_several_regions_and_parts(self, guest: Any) -> None:
        guest.ask("memory, other = private(64), private(64)")
        first, second = guest.ask("(address_of(memory), address_of(other))")
        targets = [
            TrackTarget(guest.pid, first, first + 32 * PAGE_SIZE, 1, 8),
            TrackTarget(guest.pid, second, second + 64 * PAGE_SIZE, 0, 0),
        ]
        with PagemapScanTracker(targets, [64, 40]) as tracker:
            tracker.arm()
            guest.ask("touch(memory, 0, 31, 32)")
            guest.ask("touch(other, 63)")
            assert [each.runs().tolist() for each in tracker.collect()] == [[[63, 1]], [[8, 1], [39, 1]]]

    def test_a_holder_that_exists_is_used(self, guest: Any) -> None:
        tracked = Tracked(guest, f"private({PAGES})")
        with (
            Holder(guest.pid) as holder,
            PagemapScanTracker([tracked.target], [PAGES], holders={guest.pid: holder}) as tracker,
        ):
            holder.hold()
            tracker.arm()
            assert holder.held
            assert tracker.last() == [PageSet(PAGES)]


class TestTargetChanges:
    def test_unmapped(self, tracked: Tracked) -> None:
        tracked.tracker.arm()
        tracked.guest.ask(f"libc.munmap(ctypes.c_void_p({tracked.start}), {PAGE_SIZE})")
        with pytest.raises(GuestError, match="has no memory"):
            tracked.collect()

    def test_mapped_anew_at_the_same_place(self, tracked: Tracked) -> None:
        tracked.tracker.arm()
        tracked.guest.ask("libc.mmap.restype = ctypes.c_void_p")
        at = tracked.start + 8 * PAGE_SIZE
        # PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED
        tracked.guest.ask(f"libc.mmap(ctypes.c_void_p({at}), {PAGE_SIZE}, 3, 0x32, -1, 0)")
        with pytest.raises(GuestError, match="mapped"):
            tracked.collect()

    def test_split_and_merged_is_no_change(self, tracked: Tracked) -> None:
        tracked.tracker.arm()
        at = tracked.start + 8 * PAGE_SIZE
        for protection in (1, 3):
            assert tracked.guest.ask(f"libc.mprotect(ctypes.c_void_p({at}), {PAGE_SIZE}, {protection})") == 0
            assert tracked.collect() == []
        tracked.touch(8)
        assert tracked.collect() == [8]

    def test_exit(self, tracked: Tracked) -> None:
        tracked.tracker.arm()
        tracked.guest.close()
        with pytest.raises(GuestDiedError):
            tracked.collect()

    def test_exec(self, tracked: Tracked) -> None:
        tracked.tracker.arm()
        tracked.guest.tell(
            "os.execv(sys.executable, [sys.executable, '-c', 'print(\"ready\", flush=True); input()'])"
        )
        assert tracked.guest.answer() is None
        with pytest.raises(GuestDiedError):
            tracked.collect()

    def test_not_mapped_at_all(self, guest: Any) -> None:
        with (
            PagemapScanTracker([TrackTarget(guest.pid, PAGE_SIZE, 2 * PAGE_SIZE, 0, 0)], [1]) as tracker,
            pytest.raises(GuestError, match="has no memory"),
        ):
            tracker.arm()

    def test_used_before_arming(self, tracked: Tracked) -> None:
        with pytest.raises(MigratedError, match="not armed"):
            tracked.collect()


class TestNothingStaysBehind:
    def test_close(self, tracked: Tracked) -> None:
        before = protected(tracked)
        tracked.tracker.arm()
        assert protected(tracked) > 0
        assert "uw" in mapping_flags(tracked)
        tracked.tracker.close()
        tracked.tracker.close()
        assert protected(tracked) == before == 0
        tracked.touch(1)
        assert "uw" not in mapping_flags(tracked)

    def test_our_death(self, guest: Any) -> None:
        tracked = Tracked(guest, f"private({PAGES})")
        tracked.touch(*range(PAGES))
        program = textwrap.dedent(f"""
            import time
            from migrated.memory.trackers.base import TrackTarget
            from migrated.memory.trackers.pagemap_scan import PagemapScanTracker
            tracker = PagemapScanTracker([{tracked.target!r}], [{PAGES}])
            tracker.arm()
            print("armed", flush=True)
            time.sleep(60)
        """)
        with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as tracking:
            assert tracking.stdout.readline() == "armed\n"
            assert protected(tracked) == PAGES
            tracking.send_signal(signal.SIGKILL)
            tracking.wait()
        assert protected(tracked) == 0
        assert guest.ask("1 + 1") == 2


class TestSeccomp:
    def test_filter_is_refused_unless_forced(self, guest: Any) -> None:
        check_injectable(guest.pid)
        install_filter(guest)
        with pytest.raises(UnsafeGuestError, match="seccomp"):
            check_injectable(guest.pid)
        tracked = Tracked(guest, f"private({PAGES})")
        with pytest.raises(UnsafeGuestError):
            tracked.tracker.arm()
        with PagemapScanTracker([tracked.target], [PAGES], force=True) as tracker:
            tracker.arm()
            tracked.touch(9)
            assert tracker.collect()[0].runs().tolist() == [[9, 1]]

    def test_qemus_own_is_known(self, guest: Any) -> None:
        install_filter(guest)
        guest.ask("libc.prctl(15, b'qemu-system-x86', 0, 0, 0)")
        check_injectable(guest.pid)


def install_filter(guest: Any) -> None:
    """A seccomp filter of one rule that allows everything: a kind that we can't tell from a deadly one."""
    guest.ask("rule = ctypes.create_string_buffer(b'\\x06\\0\\0\\0\\0\\0\\xff\\x7f')")
    guest.ask("length = (1).to_bytes(8, 'little')")
    guest.ask("program = ctypes.create_string_buffer(length + address_of(rule).to_bytes(8, 'little'))")
    assert guest.ask("libc.prctl(38, 1, 0, 0, 0)") == 0  # PR_SET_NO_NEW_PRIVS
    assert guest.ask("libc.prctl(22, 2, program, 0, 0)") == 0  # PR_SET_SECCOMP


def protected(tracked: Tracked) -> int:
    """How many pages carry the write protection (bit 57 of the page map)."""
    with Path(f"/proc/{tracked.guest.pid}/pagemap").open("rb") as file:
        file.seek(tracked.start // PAGE_SIZE * 8)
        entries = np.frombuffer(file.read(tracked.pages * 8), dtype=np.uint64)
    return int(np.count_nonzero(entries & np.uint64(1 << 57)))


def mapping_flags(tracked: Tracked) -> list[str]:
    """The flags of the mapping around the tracked interval; "uw" is one watched for writes."""
    inside = False
    for line in Path(f"/proc/{tracked.guest.pid}/smaps").read_text().splitlines():
        first = line.split()[0]
        if "-" in first:
            start, stop = (int(part, 16) for part in first.split("-"))
            inside = start <= tracked.start < stop
        elif inside and first == "VmFlags:":
            return line.split()[1:]
    raise AssertionError("the mapping is gone")
