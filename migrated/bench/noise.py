"""How quiet a host is: the same bit of work again and again, and how long it takes each time."""

import os
import time
from pathlib import Path

__all__ = ["busy_seconds", "probe"]

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
    # user nice system idle iowait irq softirq steal guest guest_nice; guests are counted in user.
    fields = Path("/proc/stat").read_text().splitlines()[0].split()[1:9]
    user, nice, system, _, _, irq, softirq, _ = map(int, fields)
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")
