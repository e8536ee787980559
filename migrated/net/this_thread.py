"""What the thread that runs had of the cores, by which it is known how long it slept."""

import os
import time

__all__ = ["awake_seconds"]

_SCHEDULED = "/proc/thread-self/schedstat"
"""Nanoseconds that it ran, nanoseconds that it waited for a core, and how often (Linux, sched-stats)."""


def awake_seconds() -> float:
    """Seconds in which this thread ran or waited for a core, since it began; in all others it slept.

    Where the kernel does not tell what it waited, only those in which it ran.
    """
    try:
        waited = int(_scheduled().split()[1])
    except (OSError, IndexError, ValueError):
        waited = 0
    return time.thread_time() + waited * 1e-9  # the kernel's own first number is that of its last tick


def _scheduled() -> bytes:
    """Without a Path and a file object: they take as long as the rest, and this is asked twice a batch."""
    descriptor = os.open(_SCHEDULED, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, 64)
    finally:
        os.close(descriptor)
