"""Settings of QEMU's own migration ("capabilities"): what moving the devices takes, and what would get in its way.

QEMU is asked which it has; versions say little, since distributions add and drop them.
"""

from collections.abc import Mapping, Sequence

from migrated.guests.qemu.monitor import Monitor

__all__ = ["IGNORE_SHARED", "LATE_ACTIVATE", "adopt", "missing"]

IGNORE_SHARED = "x-ignore-shared"
"""Memory in shared files is not in the stream. Since QEMU 4.0."""

LATE_ACTIVATE = "late-block-activate"
"""The destination takes the disks when the VM goes on there, and not when its devices are loaded: until then it can
go on at the source. Since QEMU 3.0."""

_EVENTS = "events"
"""QEMU tells how its migration gets on; where that is missing it is asked."""

_HINDERING = frozenset(
    {
        "background-snapshot",
        "block",
        "compress",
        "dirty-limit",
        "mapped-ram",
        "multifd",
        "pause-before-switchover",
        "postcopy-preempt",
        "postcopy-ram",
        "rdma-pin-all",
        "release-ram",
        "return-path",
        "switchover-ack",
        "x-colo",
        "xbzrle",
        "zero-copy-send",
    }
)
"""Somebody's choices for QEMU's own migration of memory: they need several channels or a way back, or wait for a
person's word."""


def missing(monitor: Monitor, needed: Sequence[str]) -> list[str]:
    """Those of ``needed`` that this QEMU does not have."""
    had = monitor.capabilities()
    return [name for name in needed if name not in had]


def adopt(monitor: Monitor, needed: Sequence[str]) -> dict[str, bool]:
    """Turn ``needed`` on, which this QEMU must have, and what hinders off; returns what was changed, as it was."""
    had = monitor.capabilities()
    wanted: Mapping[str, bool] = dict.fromkeys(_HINDERING, False) | dict.fromkeys((*needed, _EVENTS), True)
    changes = {name: state for name, state in wanted.items() if had.get(name, state) is not state}
    monitor.set_capabilities(changes)
    return {name: not state for name, state in changes.items()}
