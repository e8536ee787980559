"""How quiet a host is: the same bit of work again and again, and how long it takes each time."""

import os
import time
from pathlib import Path

__all__ = ["busy_seconds", "probe", "stolen_seconds"]

_STEPS = 1_000_000


def probe() -> float:
    """Seconds that a fixed piece of work takes, some 0.05: all that varies is the host."""
    began = time.perf_counter()
    total = 0
    for step in range(_STEPS):
        total += step
    return time.perf_counter() - began


def busy_seconds() -> float:
    """Processor seconds that this host has worked since it was started, for whomever."""
    user, nice, system, _, _, irq, softirq, _ = _processor_seconds()
    return user + nice + system + irq + softirq


def stolen_seconds() -> float:
    """Processor seconds since this host was started that it would have worked, but another one had the processor."""
    return _processor_seconds()[-1]


def _processor_seconds() -> list[float]:
    """user nice system idle iowait irq softirq steal, of all processors; guests are counted in user."""
    fields = Path("/proc/stat").read_text().splitlines()[0].split()[1:9]
    return [int(each) / os.sysconf("SC_CLK_TCK") for each in fields]
