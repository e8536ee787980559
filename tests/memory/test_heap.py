"""Buffers that are kept."""

import os
from pathlib import Path

from migrated.memory.linux.heap import kept_buffer

SIZE = 64 << 20


def resident() -> int:
    """Bytes of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def test_a_buffer_takes_no_memory_before_it_is_used() -> None:
    before = resident()
    buffer = kept_buffer(SIZE)
    assert resident() - before < SIZE // 4
    assert buffer[0] == buffer[SIZE - 1] == 0


def test_a_buffer_is_all_there_to_be_written() -> None:
    buffer = kept_buffer(1 << 20)
    buffer[:] = bytes(range(256)) * (1 << 12)
    assert bytes(buffer[-256:]) == bytes(range(256))
    assert len(buffer) == buffer.nbytes == 1 << 20
