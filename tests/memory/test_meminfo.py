"""What /proc/meminfo says, beside what other calls do."""

import os

from migrated.memory.linux.meminfo import free_bytes, host_memory


def test_bytes_and_counts() -> None:
    found = host_memory()
    in_all = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGESIZE")
    assert found["MemTotal"] == in_all
    assert 0 < found["MemAvailable"] <= in_all
    # A count: taken for kilobytes it would be more than all memory, where there are such pages.
    assert found["HugePages_Total"] * found["Hugepagesize"] <= in_all


def test_swap_counts_as_room() -> None:
    found = host_memory()
    assert abs(free_bytes() - found["MemAvailable"] - found["SwapFree"]) < 1 << 30
