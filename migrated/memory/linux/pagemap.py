"""/proc/PID/pagemap: which pages are there, and the ioctl that finds and protects written ones."""

import fcntl
import os

import numpy as np
from numpy.typing import NDArray

from migrated.pages import PAGE_SIZE

__all__ = ["PagemapScan", "is_mm_alive", "open_pagemap", "read_entries", "soft_dirty_pages", "touched_pages"]

_ENTRY_BYTES = 8
_CHUNK_PAGES = 1 << 17
"""Entries read at once: 1 MiB, for 512 MiB of memory."""

_SOFT_DIRTY = np.uint64(1 << 55)
_GUARD = np.uint64(1 << 58)
_SWAPPED_OR_PRESENT = np.uint64(3 << 62)
_MARKER = np.uint64(1 << 62 | 1 << 57 | 1 << 5 | 31)
"""A write-protected page that was never touched looks like one swapped to "device" 31 (SWP_PTE_MARKER) at
offset 1 (PTE_MARKER_UFFD_WP). Device and offset are shown to CAP_SYS_ADMIN only."""
_ALL_BUT_FLAGS = np.uint64((1 << 55) - 1 | 7 << 61 | 1 << 57)

_PAGEMAP_SCAN = 0xC0606610
_PAGE_IS_WRITTEN = 1 << 1
_PM_SCAN_WP_MATCHING = 1 << 0
_PM_SCAN_CHECK_WPASYNC = 1 << 1
_ARG_WORDS = 12
_VECTOR_ENTRIES = 4096
"""Ranges a call returns at most (96 KiB of vector); the scan goes on where a full vector ended it."""


def open_pagemap(pid: int) -> int:
    """A descriptor that stays bound to the address space which ``pid`` has now, across exec and pid reuse.

    Raises ``OSError``: no such process, or no ptrace access to it.
    """
    return os.open(f"/proc/{pid}/pagemap", os.O_RDONLY | os.O_CLOEXEC)


def is_mm_alive(pagemap: int) -> bool:
    """Whether the address space behind ``pagemap`` still exists: false after exec or exit."""
    return len(os.pread(pagemap, _ENTRY_BYTES, 0)) == _ENTRY_BYTES


def read_entries(pagemap: int, start: int, stop: int) -> NDArray[np.uint64]:
    """The entries of the pages from address ``start`` to ``stop``.

    Raises ``ProcessLookupError`` when the address space is gone.
    """
    pages = (stop - start) // PAGE_SIZE
    entries = np.empty(pages, dtype=np.uint64)
    view = entries.data.cast("B")
    done = 0
    while done < len(view):
        limit = min(done + _CHUNK_PAGES * _ENTRY_BYTES, len(view))
        got = os.preadv(pagemap, [view[done:limit]], start // PAGE_SIZE * _ENTRY_BYTES + done)
        if got == 0:
            raise ProcessLookupError("the address space is gone")
        done += got
    return entries


def touched_pages(entries: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Which pages are present or swapped; guard pages, which nobody can read, are left out.

    Once a write-protecting scan went over anonymous memory, its never touched pages are told from swapped
    ones with CAP_SYS_ADMIN only; without, they count as touched.
    """
    touched: NDArray[np.bool_] = (entries & _SWAPPED_OR_PRESENT) != 0
    touched &= (entries & _GUARD) == 0
    touched &= (entries & _ALL_BUT_FLAGS) != _MARKER
    return touched


def soft_dirty_pages(entries: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Which pages carry the soft-dirty bit."""
    dirty: NDArray[np.bool_] = (entries & _SOFT_DIRTY) != 0
    return dirty


class PagemapScan:
    """The ioctl PAGEMAP_SCAN, with its argument block and vector kept between calls. Not for two threads."""

    def __init__(self) -> None:
        self._vector = np.zeros((_VECTOR_ENTRIES, 3), dtype=np.uint64)
        self._argument = np.zeros(_ARG_WORDS, dtype=np.uint64)

    def written(self, pagemap: int, start: int, stop: int) -> NDArray[np.int64]:
        """Find the pages written in [start, stop), protecting them again in the same step.

        The first scan after registering reports every page and makes page tables for all of them (2 MiB per
        GiB). Returns rows of (first address, address behind), clipped to the interval. Raises
        ``ProcessLookupError`` (the address space is gone) or ``PermissionError`` (a mapping in it is not
        registered for asynchronous write protection). After an error, pages already found are protected and
        their list is lost.
        """
        found: list[NDArray[np.int64]] = []
        position = start
        while position < stop:
            argument = self._argument
            argument[:] = (
                _ARG_WORDS * 8,
                _PM_SCAN_WP_MATCHING | _PM_SCAN_CHECK_WPASYNC,
                position,
                stop,
                0,  # walk_end, filled in by the kernel
                self._vector.ctypes.data,
                _VECTOR_ENTRIES,
                0,  # max_pages: no limit
                0,
                _PAGE_IS_WRITTEN,
                0,
                _PAGE_IS_WRITTEN,
            )
            count = fcntl.ioctl(pagemap, _PAGEMAP_SCAN, argument.data.cast("B"))
            if count:
                found.append(self._vector[:count, :2].astype(np.int64))
            walk_end = int(argument[4])
            if walk_end <= position:
                break
            position = walk_end
        if not found:
            return np.empty((0, 2), dtype=np.int64)
        ranges = np.concatenate(found)
        np.clip(ranges, start, stop, out=ranges)
        return ranges
