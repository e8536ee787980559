"""Exact tracking from outside: asynchronous write protection, read and renewed by PAGEMAP_SCAN (Linux 6.7).

A userfaultfd of each target's own address space is made by a system call run inside it, once; from then on
everything happens from here. Closing the descriptor takes every protection away, so a crash leaves nothing.
It sees the writes that go through the target's own mappings, the kernel's on its behalf (read(2)) included,
and no other writer: list every process that maps the memory as a target, or compare hashes. Nor does it see a page of
shared memory that was given back and then read (Linux 6.18): protection outlives the page, and no write ends it.
"""

import contextlib
import errno
import os
import platform
from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np

from migrated.errors import (
    AccessError,
    GuestDiedError,
    GuestError,
    MigratedError,
    ResourceError,
    UnsafeGuestError,
)
from migrated.memory.hold import Holder
from migrated.memory.linux import pagemap, process, userfaultfd
from migrated.memory.trackers.base import Tracker, TrackTarget
from migrated.memory.trackers.watch import MappingWatch
from migrated.pages import PAGE_SIZE, PageSet, Runs

__all__ = ["PagemapScanTracker", "check_injectable"]

_KNOWN_FILTERS = "qemu-system"
"""QEMU's own sandbox is a deny-list without userfaultfd; its processes' names begin so."""


def check_injectable(pid: int) -> None:
    """Raise ``UnsafeGuestError`` if a system call run inside the process could kill it: an unknown filter."""
    if process.comm(pid).startswith(_KNOWN_FILTERS):
        return
    for tid in process.thread_ids(pid):
        if process.read_status_field(pid, tid, "Seccomp") not in ("0", ""):
            raise UnsafeGuestError(
                f"process {pid} ({process.comm(pid)}) runs under a seccomp filter, which may kill it for one "
                "userfaultfd call",
                "use --tracker hash, or --force if the filter allows that call",
            )


class PagemapScanTracker(Tracker):
    """Tracks ``targets``, whose regions have ``region_pages`` pages.

    ``holders`` are used for pids that have one (a process can be traced only once); for others a helper is
    started and ended in :meth:`open`. ``force`` injects in spite of an unknown seccomp filter.
    """

    name: ClassVar[str] = "pagemap-scan"
    exact: ClassVar[bool] = True
    sees_discards: ClassVar[bool] = True

    def __init__(
        self,
        targets: Sequence[TrackTarget],
        region_pages: Sequence[int],
        *,
        holders: Mapping[int, Holder] | None = None,
        force: bool = False,
    ) -> None:
        self._targets = tuple(targets)
        self._region_pages = tuple(region_pages)
        self._holders = dict(holders or {})
        self._force = force
        self._scan = pagemap.PagemapScan()
        self._pagemaps: dict[int, int] = {}
        self._descriptors: dict[int, int] = {}
        self._watch: MappingWatch | None = None

    def open(self) -> None:
        """Inject and register, without protecting anything yet; done once. Leaves nothing after a failure."""
        if self._watch is not None:
            return
        if platform.machine() != "x86_64":
            raise ResourceError(
                f"a call inside another process is not known for {platform.machine()}", "use --tracker hash"
            )
        try:
            for pid in dict.fromkeys(target.pid for target in self._targets):
                self._open_process(pid)
            watch = MappingWatch(self._targets)
            for target in self._targets:
                self._register(target)
            self._watch = watch
        except BaseException:
            self.close()
            raise

    def arm(self) -> None:
        """See :meth:`Tracker.arm`: protects every page, whatever was written before."""
        self.open()
        self._collect()

    def collect(self) -> list[PageSet]:
        """See :meth:`Tracker.collect`. Takes 2 to 9 ms per GiB, and as much for 10,000 scattered pages."""
        return self._collect()

    def close(self) -> None:
        """See :meth:`Tracker.close`."""
        for descriptor in (*self._descriptors.values(), *self._pagemaps.values()):
            os.close(descriptor)
        self._descriptors.clear()
        self._pagemaps.clear()
        self._watch = None

    def _open_process(self, pid: int) -> None:
        if not self._force:
            check_injectable(pid)
        try:
            self._pagemaps[pid] = pagemap.open_pagemap(pid)
        except PermissionError as error:
            raise AccessError(
                f"opening the page map of process {pid}: not allowed",
                "run as the same user, or give CAP_SYS_PTRACE",
            ) from error
        except OSError as error:
            raise GuestDiedError(f"process {pid} ended") from error
        holder = self._holders.get(pid)
        with contextlib.nullcontext(holder) if holder else Holder(pid) as own:
            self._descriptors[pid] = own.inject_userfaultfd()
        if not pagemap.is_mm_alive(self._pagemaps[pid]):
            raise GuestDiedError(f"process {pid} replaced its program (exec) meanwhile")
        try:
            userfaultfd.enable_async_protection(self._descriptors[pid])
        except OSError as error:
            raise ResourceError(
                "this kernel has no asynchronous write protection", "Linux 6.7 has; or use --tracker hash"
            ) from error

    def _register(self, target: TrackTarget) -> None:
        try:
            userfaultfd.register(self._descriptors[target.pid], target.start, target.stop)
        except OSError as error:
            what = f"watching {target.start:#x}-{target.stop:#x} of process {target.pid}"
            if error.errno == errno.EBUSY:
                raise GuestError(
                    f"{what}: it uses a userfaultfd there itself (post-copy, a garbage collector)",
                    "use --tracker hash",
                ) from error
            if error.errno in (errno.ENOENT, errno.ESRCH):
                raise GuestDiedError(f"{what}: it ended or called exec") from error
            raise GuestError(
                f"{what}: {error.strerror}",
                "files on disk can't be watched, only anonymous and shared memory; use --tracker hash",
            ) from error

    def _collect(self) -> list[PageSet]:
        if self._watch is None:
            raise MigratedError("the tracker was not armed, or was closed")
        found = [PageSet(pages) for pages in self._region_pages]
        for target in self._targets:
            found[target.region_index].add_runs(self._written(target))
        # After the scan: a change before it shows now, a change from now on shows the next time. The scan
        # of an address space that is gone finds nothing and says nothing (seen on Linux 6.18).
        for pid, page_map in self._pagemaps.items():
            if not pagemap.is_mm_alive(page_map):
                raise GuestDiedError(f"process {pid} ended or replaced its program (exec)")
        self._watch.check()
        return found

    def _written(self, target: TrackTarget) -> Runs:
        try:
            ranges = self._scan.written(self._pagemaps[target.pid], target.start, target.stop)
        except ProcessLookupError as error:
            raise GuestDiedError(f"process {target.pid} ended or replaced its program (exec)") from error
        except PermissionError as error:
            self._check_watch()
            raise GuestError(
                f"process {target.pid} mapped memory anew within {target.start:#x}-{target.stop:#x}",
                "what it wrote there can't be known; start the migration again",
            ) from error
        except OSError as error:
            raise GuestError(f"scanning the page map of process {target.pid}: {error.strerror}") from error
        pages = (ranges - target.start) // PAGE_SIZE
        return np.stack((pages[:, 0] + target.first_page, pages[:, 1] - pages[:, 0]), axis=1)

    def _check_watch(self) -> None:
        if self._watch is not None:
            self._watch.check()
