"""Which tracker: the best one that works for these processes, tried in this order.

pagemap-scan (exact, next to free), soft-dirty (exact, holds the guest for a moment each round), hash (works
everywhere, reads all memory each round). What is asked for by name is used or refused, never replaced.
"""

from collections.abc import Callable, Mapping, Sequence

from migrated.errors import GuestDiedError, GuestNotFoundError, MigratedError, ResourceError, UsageError
from migrated.memory.hold import Holder
from migrated.memory.region import Region
from migrated.memory.trackers.base import Tracker, TrackTarget
from migrated.memory.trackers.hashes import HashTracker
from migrated.memory.trackers.pagemap_scan import PagemapScanTracker
from migrated.memory.trackers.probes import Probe, probe_pagemap_scan, probe_soft_dirty
from migrated.memory.trackers.soft_dirty import SoftDirtyTracker

__all__ = ["TRACKER_NAMES", "choose"]

TRACKER_NAMES = ("auto", "pagemap-scan", "soft-dirty", "hash")


def choose(
    name: str,
    targets: Sequence[TrackTarget],
    regions: Sequence[Region],
    *,
    holders: Mapping[int, Holder] | None = None,
    force: bool = False,
) -> tuple[Tracker, str]:
    """The tracker ``name`` (of ``TRACKER_NAMES``), not armed yet, and a sentence on why it is this one.

    ``targets`` are all writers of ``regions``; without any, only hash can work. ``holders`` are used for
    pids that have one. ``force`` runs a call inside processes under unknown seccomp filters. Raises
    ``UsageError``, what stands in the way of the tracker that was named, or that a process ended.
    """
    if name not in TRACKER_NAMES:
        raise UsageError(f"there is no tracker {name!r}", f"known are {', '.join(TRACKER_NAMES)}")
    pages = [region.pages for region in regions]

    def pagemap_scan() -> Tracker:
        _require(probe_pagemap_scan())
        tracker = PagemapScanTracker(targets, pages, holders=holders, force=force)
        tracker.open()
        return tracker

    def soft_dirty() -> Tracker:
        _require(probe_soft_dirty())
        return SoftDirtyTracker(targets, pages, holders=holders)

    exact: dict[str, Callable[[], Tracker]] = {"pagemap-scan": pagemap_scan, "soft-dirty": soft_dirty}
    if name in exact:
        if not targets:
            raise UsageError(f"tracker {name} needs to know who writes the memory", "name it by --pid N")
        return exact[name](), f"{name}, as asked for"
    if name == "hash":
        return HashTracker(regions), "hash, as asked for"
    if not targets:
        return HashTracker(regions), "hash: nobody is named who writes the memory, so contents are compared"
    reasons = []
    for each, make in exact.items():
        try:
            tracker = make()
        except (GuestDiedError, GuestNotFoundError):
            raise
        except MigratedError as error:
            reasons.append(f"{each} can't be used: {error.what}")
        else:
            return tracker, "; ".join([f"{each}: exact", *reasons])
    return HashTracker(regions), "; ".join(["hash: works everywhere", *reasons])


def _require(probe: Probe) -> None:
    if not probe.works:
        raise ResourceError(f"tracker {probe.name} does not work on this host: {probe.why}", probe.hint)
