"""Regions: stretches of guest memory that are read page by page at the source and written at the destination.

A region's pages are numbered from 0. ``read`` fills a buffer that the caller keeps; nothing here maps guest
memory into our own process (it would be charged to us), except to write to files on huge pages, which know no
write(2).
"""

import contextlib
import errno
import mmap
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from migrated.errors import (
    AccessError,
    GuestDiedError,
    GuestError,
    GuestNotFoundError,
    MigratedError,
    ResourceError,
)
from migrated.memory.handover import FdTicket
from migrated.memory.linux import files, huge_pages, pagemap, vm
from migrated.memory.linux.inotify import FileWatch
from migrated.memory.maps import read_maps
from migrated.pages import PAGE_SIZE, PageSet, Runs

__all__ = ["FileRegion", "ProcessRegion", "Region", "RegionSpec"]


class RegionSpec(Protocol):
    """A small picklable description; survives ``spawn`` and ``forkserver`` with its descriptors."""

    def open(self) -> "Region":
        """An equal region in this process, with descriptors of its own."""


_LOOK_AGAIN_RANGES = 4096
_WORTH_WALKING_PAGES = 20
"""Walking from data to hole and on takes 3 us a range, asking for each page whether it is in memory 0.16 us a page:
after every 4096 ranges (12 ms) it shows which is the faster for the rest. Where every second page of 1 GiB is a
hole that is 42 instead of 440 ms; where every fourth group of 16 pages holds data, 12 instead of 42."""


class Region(ABC):
    """``size`` bytes of guest memory, a multiple of the page size."""

    def __init__(self, name: str, size: int) -> None:
        if size <= 0 or size % PAGE_SIZE:
            raise GuestError(
                f"region {name!r} has {size} bytes, which is not a whole number of {PAGE_SIZE}-byte pages",
                "only whole pages can be moved; `truncate --size` the file up to the next page",
            )
        self.name = name
        self.size = size
        self.pages = size // PAGE_SIZE

    @abstractmethod
    def read(self, runs: Runs, into: memoryview) -> None:
        """Read the pages of ``runs`` (sorted, apart), concatenated, into the first bytes of ``into``.

        ``into`` is writable, contiguous and has room for all of them. Raises ``GuestDiedError``,
        ``GuestError`` (pages can't be read any more) or ``AccessError``; the buffer is then undefined.
        """

    @abstractmethod
    def populated(self) -> PageSet:
        """The pages that may be non-zero: holes and never touched pages are left out, nothing is read."""

    def changed_by_call(self) -> bool | None:
        """Whether it was changed since the last time in a way that no mapping shows: a hole was made, by whatever call,
        or a write(2). None where that can't be told, and the first time, when it begins to be watched."""
        return None

    @abstractmethod
    def spec(self) -> RegionSpec:
        """What a worker needs to open the same region."""

    @abstractmethod
    def close(self) -> None:
        """Close our descriptors; the memory stays as it is. May be called twice."""


class FileRegion(Region):
    """A file, from its start: shared memory (tmpfs, memfd), huge pages, or a plain file.

    ``file`` is a path, or a descriptor that is duplicated (``populated`` moves its file offset). ``size`` is
    that of the file if not given; a file that is smaller is refused.
    """

    def __init__(
        self, file: int | str | Path, size: int | None = None, *, writable: bool = False, name: str = "memory"
    ) -> None:
        self._fd = _open_file(file, writable)
        self._mapping: mmap.mmap | None = None
        self._watch: FileWatch | None = None
        self.writable = writable
        try:
            available = os.fstat(self._fd).st_size
            if not isinstance(file, int):
                files.check_plain(file, self._fd, whole=size is None)
            super().__init__(name, available if size is None else size)
            if available < self.size:
                raise GuestError(
                    f"the file of region {name!r} has {available} bytes, {self.size} were expected"
                )
            self._huge = files.is_hugetlbfs(self._fd)
            if self._huge and writable:
                self._mapping = _map(self._fd, self.size, name)
        except BaseException:
            os.close(self._fd)
            self._fd = -1
            raise

    def fileno(self) -> int:
        """The descriptor, for locks and ``fstat``; it stays ours."""
        return self._fd

    def read(self, runs: Runs, into: memoryview) -> None:
        """See :meth:`Region.read`. A file that became shorter is a ``GuestError``."""
        position = 0
        for start, length in _byte_ranges(runs, self.pages):
            self._read_at(start, into[position : position + length])
            position += length

    def write(self, runs: Runs, data: memoryview) -> None:
        """Write the pages of ``runs`` from ``data``, where they lie concatenated.

        Raises ``ResourceError`` when the file system is full; some pages are then written.
        """
        position = 0
        for start, length in _byte_ranges(runs, self.pages):
            piece = data[position : position + length]
            if self._mapping is not None:
                memoryview(self._mapping)[start : start + length] = piece
            else:
                self._write_at(start, piece)
            position += length

    def punch(self, runs: Runs) -> None:
        """Make the pages of ``runs`` read as zero, giving their memory back where the file system can."""
        for start, length in _byte_ranges(runs, self.pages):
            try:
                files.punch_hole(self._fd, start, length)
            except OSError as error:
                if error.errno != errno.EOPNOTSUPP:
                    raise _file_failed("punching holes into", self.name, error) from error
                self._write_zeros(start, length)

    def populated(self) -> PageSet:
        """The pages with data by SEEK_DATA and SEEK_HOLE, or those of the huge pages that are there."""
        found = PageSet(self.pages)
        try:
            if self._huge:
                found.mask[:] = huge_pages.present_pages(self._fd, self.size)
                return found
            looked = 0
            for number, (start, stop) in enumerate(files.data_ranges(self._fd, self.size), 1):
                rest = -(-stop // PAGE_SIZE)
                found.mask[start // PAGE_SIZE : rest] = True
                if number % _LOOK_AGAIN_RANGES == 0:
                    fragmented = rest - looked < _LOOK_AGAIN_RANGES * _WORTH_WALKING_PAGES
                    if fragmented and self._find_resident(found, rest):
                        break
                    looked = rest
        except OSError as error:
            raise _file_failed("looking for holes in", self.name, error) from error
        return found

    def _find_resident(self, found: PageSet, first: int) -> bool:
        """Fill ``found`` from page ``first`` on by what is in memory; False where that does not tell."""
        if first >= self.pages:
            return False
        offset = first * PAGE_SIZE
        resident = files.resident_pages(self._fd, offset, self.size - offset)
        if resident is not None:
            found.mask[first:] = resident
        return resident is not None

    def changed_by_call(self) -> bool | None:
        """See :meth:`Region.changed_by_call`: known of files of a mounted tmpfs, with a name or without."""
        if self._watch is not None:
            return self._watch.changed()
        # There may be no more watches for this user, or descriptors: it can do without.
        with contextlib.suppress(OSError):
            if files.is_named_memory(self._fd):
                self._watch = FileWatch(self._fd)
        return None

    def spec(self) -> RegionSpec:
        """See :meth:`Region.spec`; the file stays open as long as the spec lives."""
        return _FileRegionSpec(FdTicket(os.dup(self._fd)), self.size, self.writable, self.name)

    def close(self) -> None:
        """See :meth:`Region.close`."""
        if self._mapping is not None:
            with contextlib.suppress(BufferError):  # a worker's view is still in use: it goes with that
                self._mapping.close()
        if self._watch is not None:
            self._watch.close()
            self._watch = None
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _read_at(self, start: int, piece: memoryview) -> None:
        done = 0
        while done < len(piece):
            try:
                got = os.preadv(self._fd, [piece[done:] if done else piece], start + done)
            except OSError as error:
                raise _file_failed("reading", self.name, error) from error
            if got == 0:
                raise GuestError(
                    f"the file of region {self.name!r} was cut to {os.fstat(self._fd).st_size} bytes"
                )
            done += got

    def _write_at(self, start: int, piece: memoryview) -> None:
        done = 0
        while done < len(piece):
            try:
                done += os.pwritev(self._fd, [piece[done:] if done else piece], start + done)
            except OSError as error:
                raise _file_failed("writing", self.name, error) from error

    def _write_zeros(self, start: int, length: int) -> None:
        zeros = memoryview(bytes(min(length, 1 << 20)))
        for offset in range(start, start + length, len(zeros)):
            piece = zeros[: start + length - offset]
            if self._mapping is not None:
                memoryview(self._mapping)[offset : offset + len(piece)] = piece
            else:
                self._write_at(offset, piece)


class ProcessRegion(Region):
    """Address ranges of a process, one behind the other, read with process_vm_readv.

    ``ranges`` are (start, stop) addresses, page-aligned and apart. The region is bound to the address space
    that the process has when the region is made: exec, exit and a reused pid are a ``GuestDiedError``.
    Reading a page that was never touched makes it present (the kernel's shared zero page), so ask
    :meth:`populated` first.
    """

    def __init__(
        self,
        pid: int,
        ranges: Sequence[tuple[int, int]],
        *,
        name: str = "memory",
        address_space: int | None = None,
    ) -> None:
        if any(start % PAGE_SIZE or stop % PAGE_SIZE or start >= stop for start, stop in ranges):
            raise GuestError(
                f"region {name!r}: an address range is empty or does not begin and end on a page"
            )
        super().__init__(name, sum(stop - start for start, stop in ranges))
        self.pid = pid
        self.ranges = tuple(ranges)
        counts = np.array([(stop - start) // PAGE_SIZE for start, stop in ranges], dtype=np.int64)
        self._first_pages = np.concatenate(([0], np.cumsum(counts)[:-1])).astype(np.int64)
        self._addresses = np.array([start for start, _ in ranges], dtype=np.int64)
        if address_space is None:
            try:
                self._pagemap = pagemap.open_pagemap(pid)
            except OSError as error:
                raise _process_failed("opening the memory of", pid, error) from error
        else:
            self._pagemap = os.dup(address_space)

    def read(self, runs: Runs, into: memoryview) -> None:
        """See :meth:`Region.read`."""
        vectors = self._vectors(runs)
        target = vm.address_of(into)
        room = len(into)
        for first in range(0, len(vectors), vm.IOV_MAX):
            chunk = vectors[first : first + vm.IOV_MAX]
            length = int(chunk[:, 1].sum())
            if length > room:
                raise ValueError(f"the buffer lacks {length - room} bytes")
            self._read_vectors(chunk, target, length)
            target += length
            room -= length
        # After the read: whatever was read, it came from the address space that we know.
        self._check_alive()

    def populated(self) -> PageSet:
        """Present or swapped pages of anonymous mappings; every page where a file lies behind the mapping."""
        found = PageSet(self.pages)
        mappings = read_maps(self.pid)
        try:
            for first, (start, stop) in zip(self._first_pages.tolist(), self.ranges, strict=True):
                pages = found.mask[first : first + (stop - start) // PAGE_SIZE]
                pages |= pagemap.touched_pages(pagemap.read_entries(self._pagemap, start, stop))
                for each in mappings:
                    if not each.anonymous and each.start < stop and start < each.stop:
                        low, high = max(each.start, start), min(each.stop, stop)
                        pages[(low - start) // PAGE_SIZE : (high - start) // PAGE_SIZE] = True
        except OSError as error:
            raise _process_failed("looking for touched pages of", self.pid, error) from error
        self._check_alive()
        return found

    def spec(self) -> RegionSpec:
        """See :meth:`Region.spec`."""
        return _ProcessRegionSpec(FdTicket(os.dup(self._pagemap)), self.pid, self.ranges, self.name)

    def close(self) -> None:
        """See :meth:`Region.close`."""
        if self._pagemap >= 0:
            os.close(self._pagemap)
            self._pagemap = -1

    def _vectors(self, runs: Runs) -> vm.Vectors:
        starts, stops = runs[:, 0], runs[:, 0] + runs[:, 1]
        if len(runs) and (starts[0] < 0 or stops[-1] > self.pages):
            raise ValueError(f"pages {starts[0]} to {stops[-1]} are not within a region of {self.pages}")
        borders = self._first_pages[1:]
        if len(borders) and len(runs):
            # A run that goes over a border between two ranges is cut there.
            owner = np.searchsorted(starts, borders, side="right") - 1
            cuts = borders[(owner >= 0) & (borders > starts[owner]) & (borders < stops[owner])]
            starts, stops = np.sort(np.concatenate((starts, cuts))), np.sort(np.concatenate((stops, cuts)))
        which = np.searchsorted(self._first_pages, starts, side="right") - 1
        vectors = np.empty((len(starts), 2), dtype=np.uint64)
        vectors[:, 0] = self._addresses[which] + (starts - self._first_pages[which]) * PAGE_SIZE
        vectors[:, 1] = (stops - starts) * PAGE_SIZE
        return vectors

    def _read_vectors(self, vectors: vm.Vectors, target: int, length: int) -> None:
        while length:
            try:
                got = vm.process_vm_readv(self.pid, vectors, target, length)
            except OSError as error:
                if error.errno == errno.EFAULT:
                    self._check_alive()
                    raise GuestError(
                        f"process {self.pid} has no readable memory at {int(vectors[0, 0]):#x} any more",
                        "it was unmapped or protected meanwhile; start again to see its new mappings",
                    ) from error
                raise _process_failed("reading the memory of", self.pid, error) from error
            if got == length:
                return
            # Short: a page in the middle can't be read, or 2 GiB were asked for. Go on behind what arrived.
            ends = np.cumsum(vectors[:, 1])
            full = int(np.searchsorted(ends, got, side="right"))
            vectors = vectors[full:].copy()
            partly = got - (int(ends[full - 1]) if full else 0)
            vectors[0, 0] += np.uint64(partly)
            vectors[0, 1] -= np.uint64(partly)
            target += got
            length -= got

    def _check_alive(self) -> None:
        if not pagemap.is_mm_alive(self._pagemap):
            raise GuestDiedError(f"process {self.pid} ended or replaced its program (exec) meanwhile")


class _FileRegionSpec:
    def __init__(self, ticket: FdTicket, size: int, writable: bool, name: str) -> None:
        self.ticket, self.size, self.writable, self.name = ticket, size, writable, name

    def open(self) -> FileRegion:
        return FileRegion(self.ticket.fd, self.size, writable=self.writable, name=self.name)


class _ProcessRegionSpec:
    def __init__(self, ticket: FdTicket, pid: int, ranges: tuple[tuple[int, int], ...], name: str) -> None:
        self.ticket, self.pid, self.ranges, self.name = ticket, pid, ranges, name

    def open(self) -> ProcessRegion:
        return ProcessRegion(self.pid, self.ranges, name=self.name, address_space=self.ticket.fd)


def _open_file(file: int | str | Path, writable: bool) -> int:
    if isinstance(file, int):
        return os.dup(file)
    try:
        return os.open(file, (os.O_RDWR if writable else os.O_RDONLY) | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise GuestNotFoundError(f"there is no memory file {file}") from error
    except OSError as error:
        raise _file_failed("opening", str(file), error) from error


def _map(fd: int, size: int, name: str) -> mmap.mmap:
    """The whole file on huge pages, which are reserved for it: a store that found none would kill us."""
    try:
        return mmap.mmap(fd, size, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
    except OSError as error:
        if error.errno != errno.ENOMEM:
            raise _file_failed("mapping", name, error) from error
        raise ResourceError(
            f"there are too few huge pages for memory file {name!r} of {size >> 20} MiB",
            "set more of them aside on this host: sysctl vm.nr_hugepages",
        ) from error


def _byte_ranges(runs: Runs, pages: int) -> list[tuple[int, int]]:
    """``runs`` in bytes as (start, length), with neighbours joined."""
    if len(runs) == 0:
        return []
    starts, stops = runs[:, 0], runs[:, 0] + runs[:, 1]
    if starts.min() < 0 or stops.max() > pages:
        raise ValueError(f"pages {starts.min()} to {stops.max()} are not within a region of {pages}")
    first = np.concatenate(([True], starts[1:] != stops[:-1]))
    last = np.concatenate((first[1:], [True]))
    begin = starts[first] * PAGE_SIZE
    lengths = stops[last] * PAGE_SIZE - begin
    return list(zip(begin.tolist(), lengths.tolist(), strict=True))


def _file_failed(doing: str, name: str, error: OSError) -> MigratedError:
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return AccessError(f"{doing} memory file {name!r}: {error.strerror}", "check its owner and mode")
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.ENOMEM, errno.EMFILE, errno.ENFILE):
        return ResourceError(
            f"{doing} memory file {name!r}: {error.strerror}", "free memory or disk space on this host"
        )
    return GuestError(f"{doing} memory file {name!r}: {error.strerror}")


def _process_failed(doing: str, pid: int, error: OSError) -> MigratedError:
    if isinstance(error, ProcessLookupError | FileNotFoundError):
        return GuestDiedError(f"{doing} process {pid}: it ended")
    if isinstance(error, PermissionError):
        return AccessError(
            f"{doing} process {pid}: not allowed",
            "run as the same user with kernel.yama.ptrace_scope=0, or give CAP_SYS_PTRACE",
        )
    return GuestError(f"{doing} process {pid}: {error.strerror}")
