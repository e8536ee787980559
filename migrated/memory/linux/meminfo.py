"""How this host's memory is used, from /proc/meminfo."""

from pathlib import Path

__all__ = ["free_bytes", "host_memory"]

_KILOBYTE = 1024


def host_memory() -> dict[str, int]:
    """Its fields by the names that the kernel gives them, e.g. ``MemAvailable``: bytes, or a count where the kernel
    gives one (``HugePages_Free``).

    Raises ``OSError`` where there is no such file.
    """
    found = {}
    for line in Path("/proc/meminfo").read_text().splitlines():
        name, _, value = line.partition(":")
        number, *unit = value.split()
        found[name] = int(number) * (_KILOBYTE if unit else 1)
    return found


def free_bytes() -> int:
    """What new memory may take, swap included."""
    found = host_memory()
    return found["MemAvailable"] + found["SwapFree"]
