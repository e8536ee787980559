"""Tracking by the soft-dirty bit: /proc/PID/clear_refs and bit 55 of the page map.

Reading the bits and clearing them are two steps, and what is written between them is lost; so the process is
held for both. Many kernels lack the bit, and then clearing "succeeds" and nothing is ever dirty: only a try
tells (:func:`migrated.memory.trackers.probes.probe_soft_dirty`).
"""

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from migrated.errors import AccessError, GuestDiedError, GuestError, MigratedError
from migrated.memory.hold import Holder
from migrated.memory.linux import pagemap
from migrated.memory.trackers.base import Tracker, TrackTarget
from migrated.memory.trackers.watch import MappingWatch
from migrated.pages import PageSet

__all__ = ["ProcSoftDirty", "SoftDirtySource", "SoftDirtyTracker"]


class SoftDirtySource(Protocol):
    """The soft-dirty bits of one process."""

    def clear(self) -> None:
        """Clear every bit of the process, and watch for writes from now on."""

    def read(self, start: int, stop: int) -> NDArray[np.bool_]:
        """The bits of the pages from address ``start`` to ``stop``."""

    def close(self) -> None:
        """Close what was opened."""


class ProcSoftDirty:
    """The bits in /proc of a real process, bound to the address space that it has now."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        with self._translated("opening the page map of"):
            self._pagemap = pagemap.open_pagemap(pid)

    def clear(self) -> None:
        """See :class:`SoftDirtySource`."""
        with self._translated("clearing the soft-dirty bits of"):
            if not pagemap.is_mm_alive(self._pagemap):
                raise ProcessLookupError
            Path(f"/proc/{self._pid}/clear_refs").write_text("4")

    def read(self, start: int, stop: int) -> NDArray[np.bool_]:
        """See :class:`SoftDirtySource`."""
        with self._translated("reading the page map of"):
            return pagemap.soft_dirty_pages(pagemap.read_entries(self._pagemap, start, stop))

    def close(self) -> None:
        """See :class:`SoftDirtySource`."""
        if self._pagemap >= 0:
            os.close(self._pagemap)
            self._pagemap = -1

    @contextlib.contextmanager
    def _translated(self, doing: str) -> Iterator[None]:
        try:
            yield
        except (ProcessLookupError, FileNotFoundError) as error:
            raise GuestDiedError(f"{doing} process {self._pid}: it ended or called exec") from error
        except PermissionError as error:
            raise AccessError(
                f"{doing} process {self._pid}: not allowed", "run as the same user, or give CAP_SYS_PTRACE"
            ) from error
        except OSError as error:
            raise GuestError(f"{doing} process {self._pid}: {error.strerror}") from error


class SoftDirtyTracker(Tracker):
    """Tracks ``targets`` by soft-dirty bits; the processes are held for the moment of each ``collect``.

    ``holders`` are used for the pids that have one; others get their own. There is one bit a page for the
    whole system: another user of them (CRIU) would clear ours.
    """

    name: ClassVar[str] = "soft-dirty"
    exact: ClassVar[bool] = True

    def __init__(
        self,
        targets: Sequence[TrackTarget],
        region_pages: Sequence[int],
        *,
        holders: Mapping[int, Holder] | None = None,
        source: Callable[[int], SoftDirtySource] = ProcSoftDirty,
        watch: Callable[[Sequence[TrackTarget]], MappingWatch] = MappingWatch,
    ) -> None:
        self._targets = tuple(targets)
        self._region_pages = tuple(region_pages)
        self._pids = tuple(dict.fromkeys(target.pid for target in self._targets))
        self._holders = {pid: holder for pid, holder in (holders or {}).items() if pid in self._pids}
        self._own_holders: list[Holder] = []
        self._source = source
        self._make_watch = watch
        self._sources: dict[int, SoftDirtySource] = {}
        self._watch: MappingWatch | None = None

    def arm(self) -> None:
        """See :meth:`Tracker.arm`. Nothing has been read yet, so nobody is held for it."""
        for pid in self._pids:
            if pid not in self._holders:
                self._own_holders.append(Holder(pid))
                self._holders[pid] = self._own_holders[-1]
            if pid not in self._sources:
                self._sources[pid] = self._source(pid)
        self._watch = self._make_watch(self._targets)
        for pid in self._pids:
            self._sources[pid].clear()

    def collect(self) -> list[PageSet]:
        """See :meth:`Tracker.collect`. A process that is held already stays so."""
        if self._watch is None:
            raise MigratedError("the tracker was not armed, or was closed")
        found = [PageSet(pages) for pages in self._region_pages]
        with contextlib.ExitStack() as held:
            for holder in self._holders.values():
                held.enter_context(_held(holder))
            for target in self._targets:
                dirty = self._sources[target.pid].read(target.start, target.stop)
                pages = found[target.region_index].mask[target.first_page : target.first_page + target.pages]
                pages |= dirty
            for pid in self._pids:
                self._sources[pid].clear()
            self._watch.check()
            for holder in self._holders.values():
                holder.check()  # had the hold ended in between, writes could be lost
        return found

    def close(self) -> None:
        """See :meth:`Tracker.close`. The bits themselves hurt nobody."""
        for source in self._sources.values():
            source.close()
        self._sources.clear()
        for holder in self._own_holders:
            holder.close()
        self._watch = None


@contextlib.contextmanager
def _held(holder: Holder) -> Iterator[None]:
    if holder.held or holder.frozen:
        yield
        return
    throttled = holder.throttled
    holder.hold()
    try:
        yield
    finally:
        holder.release()
        if throttled:
            holder.throttle(throttled)
