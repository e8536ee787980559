"""FileRegion and ProcessRegion against real files and a real process."""

import errno
import mmap
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from migrated.errors import GuestDiedError, GuestError, GuestNotFoundError
from migrated.memory.linux import files
from migrated.memory.linux.inotify import FileWatch
from migrated.memory.maps import read_maps
from migrated.memory.region import FileRegion, ProcessRegion, RegionSpec
from migrated.pages import PAGE_SIZE, PageSet, Runs, runs_of_pages

PAGES = 64


def runs(*pairs: tuple[int, int]) -> Runs:
    return np.array(pairs, dtype=np.int64).reshape(-1, 2)


def page(number: int) -> bytes:
    return bytes([number % 251 + 1]) * PAGE_SIZE


def grown(path: Path, pages: int) -> Path:
    os.truncate(path, pages * PAGE_SIZE)
    return path


@pytest.fixture
def memory_file(tmp_path: Path) -> Path:
    """A sparse file in shared memory where only pages 1, 2, 3, 10 and 63 were written."""
    path = Path("/dev/shm") / f"migrated-test-{os.getpid()}-{tmp_path.name}"
    with path.open("wb") as file:
        file.truncate(PAGES * PAGE_SIZE)
        for number in (1, 2, 3, 10, 63):
            file.seek(number * PAGE_SIZE)
            file.write(page(number))
    yield path
    path.unlink()


class TestFileRegion:
    def test_populated_is_what_was_written(self, memory_file: Path) -> None:
        region = FileRegion(memory_file)
        assert region.pages == PAGES
        assert region.populated().runs().tolist() == [[1, 3], [10, 1], [63, 1]]

    def test_read_concatenates_the_runs(self, memory_file: Path) -> None:
        into = memoryview(bytearray(8 * PAGE_SIZE))
        FileRegion(memory_file).read(runs((2, 1), (3, 1), (9, 2), (63, 1)), into)
        expected = page(2) + page(3) + bytes(PAGE_SIZE) + page(10) + page(63)
        assert into[: 5 * PAGE_SIZE] == expected

    def test_write_then_punch(self, memory_file: Path) -> None:
        region = FileRegion(memory_file, writable=True)
        region.write(runs((5, 2), (7, 1)), memoryview(page(5) + page(6) + page(7)))
        region.punch(runs((6, 1), (10, 1)))
        assert region.populated().runs().tolist() == [[1, 3], [5, 1], [7, 1], [63, 1]]
        into = memoryview(bytearray(3 * PAGE_SIZE))
        region.read(runs((5, 3)), into)
        assert into == page(5) + bytes(PAGE_SIZE) + page(7)

    def test_changes_by_calls_are_told_once(self, memory_file: Path) -> None:
        region = FileRegion(memory_file, writable=True)
        assert region.changed_by_call() is None, "from now on"
        assert region.changed_by_call() is False
        with mmap.mmap(region.fileno(), region.size) as memory:
            memory[20 * PAGE_SIZE] = 1  # a page that was not there
            memory[PAGE_SIZE] = 1
            assert not memory[30 * PAGE_SIZE]  # a read, which makes one
            memory.madvise(mmap.MADV_DONTNEED)  # shared memory stays
            os.pread(region.fileno(), PAGE_SIZE, 0)
            assert region.changed_by_call() is False
            memory.madvise(mmap.MADV_REMOVE, PAGE_SIZE, PAGE_SIZE)
            assert region.changed_by_call()
            assert region.changed_by_call() is False
        region.punch(runs((2, 1)))
        assert region.changed_by_call()
        with memory_file.open("r+b") as other:
            os.truncate(memory_file, PAGE_SIZE)
            os.truncate(memory_file, PAGES * PAGE_SIZE)
            assert region.changed_by_call()
            memory_file.rename(memory_file.with_suffix(".moved"))
            memory_file.touch()
            other.write(b"written")
            other.flush()
        memory_file.with_suffix(".moved").unlink()
        assert region.changed_by_call()
        assert region.changed_by_call() is False
        region.close()

    def test_where_changes_by_calls_are_not_known(self, memory_file: Path, tmp_path: Path) -> None:
        """The kernel tells nothing of a memfd; a file on disk is not written through mappings only."""
        fd = os.memfd_create("guest")
        os.ftruncate(fd, PAGE_SIZE)
        regions = [FileRegion(fd)]
        os.close(fd)
        (tmp_path / "memory").write_bytes(page(1))
        if tmp_path.stat().st_dev != memory_file.stat().st_dev:
            regions.append(FileRegion(tmp_path / "memory"))
        for region in regions:
            assert [region.changed_by_call() for _ in range(2)] == [None, None]
            region.close()

    @pytest.mark.parametrize("what", ["migrated.memory.region.FileWatch", "os.memfd_create"])
    def test_a_file_that_cannot_be_watched(
        self, memory_file: Path, what: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(_: object) -> None:
            raise OSError(errno.EMFILE, "no more of them")

        files._nameless_device.cache_clear()
        monkeypatch.setattr(what, fail)
        region = FileRegion(memory_file)
        assert [region.changed_by_call() for _ in range(2)] == [None, None]
        monkeypatch.undo()
        assert [region.changed_by_call() for _ in range(2)] == [None, False]
        region.close()

    def test_while_a_watch_is_lost_anything_may_have_changed(
        self, memory_file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Its last name goes, and for a while the kernel has no room for another watch."""
        region = FileRegion(memory_file)
        region.changed_by_call()
        other = memory_file.with_suffix(".other")
        other.hardlink_to(memory_file)
        memory_file.unlink()
        other.unlink()

        def fail(_: object) -> None:
            raise OSError(errno.ENOSPC, "no more of them")

        monkeypatch.setattr(FileWatch, "_add", fail)
        assert [region.changed_by_call() for _ in range(3)] == [True, True, True]
        monkeypatch.undo()
        assert [region.changed_by_call() for _ in range(2)] == [True, False]
        region.close()
        memory_file.touch()

    def test_populated_of_a_fragmented_file(self, memory_file: Path) -> None:
        """The rest behind many holes is looked up in another way; the answer is the same."""
        pages = 40_000
        region = FileRegion(grown(memory_file, pages), writable=True)
        expected = np.flatnonzero(np.random.default_rng(1).random(pages) < 0.5)
        region.punch(runs((0, pages)))
        piece = memoryview(bytearray(len(expected) * PAGE_SIZE))
        region.write(runs_of_pages(expected), piece)
        assert len(region.populated().runs()) > 8192
        assert np.array_equal(np.flatnonzero(region.populated().mask), expected)
        region.punch(runs((30_000, 2)))
        assert not region.populated().mask[30_000:30_002].any()

    def test_populated_of_a_file_that_gets_fragmented_further_on(self, memory_file: Path) -> None:
        """Walked while that is the faster way: the change to the other comes in the middle."""
        pages = 130_000
        region = FileRegion(grown(memory_file, pages), writable=True)
        region.punch(runs((0, pages)))
        expected = np.concatenate((np.arange(0, 110_000, 25), np.arange(110_001, pages, 2)))
        region.write(runs_of_pages(expected), memoryview(bytearray(len(expected) * PAGE_SIZE)))
        assert np.array_equal(np.flatnonzero(region.populated().mask), expected)

    def test_nothing_to_do(self, memory_file: Path) -> None:
        region = FileRegion(memory_file, writable=True)
        before = memory_file.read_bytes()
        region.read(runs(), memoryview(bytearray(1)))
        region.write(runs(), memoryview(b""))
        region.punch(runs())
        assert memory_file.read_bytes() == before

    @pytest.mark.parametrize("bad", [(-1, 2), (63, 2), (64, 1)])
    def test_pages_outside_are_refused(self, memory_file: Path, bad: tuple[int, int]) -> None:
        region = FileRegion(memory_file, writable=True)
        buffer = memoryview(bytearray(2 * PAGE_SIZE))
        for call in (region.read, region.write):
            with pytest.raises(ValueError, match="not within"):
                call(runs(bad), buffer)
        with pytest.raises(ValueError, match="not within"):
            region.punch(runs(bad))

    def test_file_cut_meanwhile(self, memory_file: Path) -> None:
        region = FileRegion(memory_file)
        os.truncate(memory_file, 4 * PAGE_SIZE)
        with pytest.raises(GuestError, match="was cut to 16384 bytes"):
            region.read(runs((3, 2)), memoryview(bytearray(2 * PAGE_SIZE)))

    def test_missing_small_and_odd_files(self, tmp_path: Path) -> None:
        with pytest.raises(GuestNotFoundError):
            FileRegion(tmp_path / "none")
        odd = tmp_path / "odd"
        odd.write_bytes(bytes(PAGE_SIZE + 1))
        with pytest.raises(GuestError, match="whole number"):
            FileRegion(odd)
        with pytest.raises(GuestError, match="were expected"):
            FileRegion(odd, 2 * PAGE_SIZE)

    def test_close_twice(self, memory_file: Path) -> None:
        region = FileRegion(memory_file)
        region.close()
        region.close()

    def test_same_process_spec_outlives_the_region(self, memory_file: Path) -> None:
        region = FileRegion(memory_file, name="ram")
        spec = region.spec()
        region.close()
        again = spec.open()
        assert (again.name, again.size) == ("ram", PAGES * PAGE_SIZE)
        assert len(again.populated()) == 5

    def test_huge_pages(self) -> None:
        size = 4 << 20
        try:
            fd = os.memfd_create("huge", os.MFD_CLOEXEC | os.MFD_HUGETLB)
            os.ftruncate(fd, size)
            mmap.mmap(fd, size).close()
            mapping = mmap.mmap(fd, size)
            region = FileRegion(fd, writable=True)
        except OSError as error:
            pytest.skip(f"kernel: no huge pages are set aside on this host: {error}")
        region.write(runs((1, 1), (600, 1)), memoryview(page(1) + page(2)))
        assert mapping[PAGE_SIZE : 2 * PAGE_SIZE] == page(1)
        region.punch(runs((1, 1)))
        into = memoryview(bytearray(2 * PAGE_SIZE))
        region.read(runs((1, 1), (600, 1)), into)
        assert into == bytes(PAGE_SIZE) + page(2)
        assert len(region.populated()) == region.pages


WORKER = """
import numpy
into = memoryview(bytearray(4096))
spec.open().read(numpy.array([[page, 1]]), into)
answer.send_bytes(into)
"""


@pytest.mark.slow
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
class TestSpecInAWorker:
    def test_file(self, memory_file: Path, method: str) -> None:
        region = FileRegion(memory_file)
        memory_file.rename(memory_file.with_suffix(".moved"))  # the descriptor travels, not the path
        try:
            assert self._read(region.spec(), method, 10) == page(10)
        finally:
            memory_file.with_suffix(".moved").rename(memory_file)

    def test_process(self, method: str) -> None:
        memory = mmap.mmap(-1, 4 * PAGE_SIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        memory[PAGE_SIZE : 2 * PAGE_SIZE] = page(1)
        start = np.frombuffer(memory, dtype=np.uint8).ctypes.data
        region = ProcessRegion(os.getpid(), [(start, start + 4 * PAGE_SIZE)])
        assert self._read(region.spec(), method, 1) == page(1)

    def _read(self, spec: RegionSpec, method: str, first: int) -> bytes:
        context = multiprocessing.get_context(method)
        here, there = context.Pipe()
        worker = context.Process(target=exec, args=(WORKER, {"spec": spec, "page": first, "answer": there}))
        worker.start()
        assert here.poll(60)
        answer = here.recv_bytes()
        worker.join(60)
        return answer


GUEST = """
import ctypes, mmap, sys
memory = mmap.mmap(-1, 64 * 4096, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
for number in (1, 2, 40):
    memory[number * 4096 : (number + 1) * 4096] = bytes([number]) * 4096
print(ctypes.addressof(ctypes.c_char.from_buffer(memory)), flush=True)
for line in sys.stdin:
    exec(line)
    print("done", flush=True)
"""


class Guest:
    """A process with 64 private pages, of which 1, 2 and 40 were written; runs Python lines on demand."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", GUEST], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout
        self.start = int(self.process.stdout.readline())
        self.pid = self.process.pid

    def do(self, line: str) -> None:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "done\n"

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def guest() -> Guest:
    guest = Guest()
    yield guest
    guest.close()


class TestProcessRegion:
    def test_reads_scattered_pages(self, guest: Guest) -> None:
        region = ProcessRegion(guest.pid, [(guest.start, guest.start + 64 * PAGE_SIZE)])
        into = memoryview(bytearray(4 * PAGE_SIZE))
        region.read(runs((1, 2), (40, 1), (63, 1)), into)
        assert into == b"\1" * PAGE_SIZE + b"\2" * PAGE_SIZE + b"(" * PAGE_SIZE + bytes(PAGE_SIZE)

    def test_populated_leaves_never_touched_pages_out(self, guest: Guest) -> None:
        region = ProcessRegion(guest.pid, [(guest.start, guest.start + 64 * PAGE_SIZE)])
        assert region.populated().runs().tolist() == [[1, 2], [40, 1]]

    def test_file_behind_a_private_mapping_counts_whole(self, guest: Guest) -> None:
        mapping = next(each for each in read_maps(guest.pid) if each.path.endswith(".so.6") and each.readable)
        assert ProcessRegion(guest.pid, [(mapping.start, mapping.stop)]).populated() == PageSet.full(
            mapping.size // PAGE_SIZE
        )

    def test_runs_over_the_border_of_two_ranges(self, guest: Guest) -> None:
        at = guest.start
        region = ProcessRegion(
            guest.pid, [(at + 40 * PAGE_SIZE, at + 41 * PAGE_SIZE), (at, at + 3 * PAGE_SIZE)]
        )
        assert region.populated().runs().tolist() == [[0, 1], [2, 2]]
        into = memoryview(bytearray(4 * PAGE_SIZE))
        region.read(runs((0, 4)), into)
        assert into == b"(" * PAGE_SIZE + bytes(PAGE_SIZE) + b"\1" * PAGE_SIZE + b"\2" * PAGE_SIZE
        region.read(runs((0, 1), (3, 1)), into)
        assert into[: 2 * PAGE_SIZE] == b"(" * PAGE_SIZE + b"\2" * PAGE_SIZE

    def test_more_vectors_than_a_call_takes(self) -> None:
        size = 4096 * PAGE_SIZE
        memory = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        content = np.frombuffer(memory, dtype=np.uint8)
        content.reshape(4096, -1)[:] = np.arange(4096, dtype=np.uint8)[:, None]
        region = ProcessRegion(os.getpid(), [(content.ctypes.data, content.ctypes.data + size)])
        every_second = np.stack((np.arange(0, 4096, 2), np.ones(2048)), axis=1).astype(np.int64)
        into = np.zeros((2048, PAGE_SIZE), dtype=np.uint8)
        region.read(every_second, memoryview(into).cast("B"))
        assert np.array_equal(into, content.reshape(4096, -1)[::2])

    def test_unmapped_page_is_named(self, guest: Guest) -> None:
        region = ProcessRegion(guest.pid, [(guest.start, guest.start + 64 * PAGE_SIZE)])
        guest.do(f"ctypes.CDLL(None).munmap(ctypes.c_void_p({guest.start + 2 * PAGE_SIZE}), 4096)")
        with pytest.raises(GuestError, match=f"{guest.start + 2 * PAGE_SIZE:#x}"):
            region.read(runs((0, 4)), memoryview(bytearray(4 * PAGE_SIZE)))

    def test_ended(self, guest: Guest) -> None:
        region = ProcessRegion(guest.pid, [(guest.start, guest.start + 64 * PAGE_SIZE)])
        guest.close()
        with pytest.raises(GuestDiedError):
            region.read(runs((0, 4)), memoryview(bytearray(4 * PAGE_SIZE)))
        with pytest.raises(GuestDiedError):
            region.populated()

    def test_exec_is_the_end_even_when_memory_is_readable_there(self) -> None:
        """Without randomisation the new program has memory at the same addresses."""
        program = (
            "import os, sys; print(flush=True); sys.stdin.readline(); os.execv(sys.executable, "
            "[sys.executable, '-c', 'import sys; print(flush=True); sys.stdin.read()'])"
        )
        with subprocess.Popen(
            ["setarch", "-R", sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as process:
            assert process.stdin
            assert process.stdout
            process.stdout.readline()
            heap = next(each for each in read_maps(process.pid) if each.path == "[heap]")
            region = ProcessRegion(process.pid, [(heap.start, heap.start + PAGE_SIZE)])
            region.read(runs((0, 1)), memoryview(bytearray(PAGE_SIZE)))
            process.stdin.write(b"\n")
            process.stdin.flush()
            process.stdout.readline()
            with pytest.raises(GuestDiedError, match="exec"):
                region.read(runs((0, 1)), memoryview(bytearray(PAGE_SIZE)))
            process.stdin.close()

    def test_no_such_process(self) -> None:
        with pytest.raises(GuestDiedError):
            ProcessRegion(2**22 + 1, [(PAGE_SIZE, 2 * PAGE_SIZE)])

    def test_odd_ranges(self) -> None:
        with pytest.raises(GuestError, match="does not begin and end on a page"):
            ProcessRegion(os.getpid(), [(1, PAGE_SIZE)])
