"""Pages that are in use until somebody else takes them."""

import ctypes
import mmap
from pathlib import Path

import numpy as np
import pytest

from migrated.bench import warm
from migrated.memory.linux.libc import LIBC

SIZE = 16 << 20


def resident(made: warm.WarmPages) -> int:
    """Bytes of its file that are in memory."""
    there = np.empty(SIZE // mmap.PAGESIZE, dtype=np.uint8)
    with mmap.mmap(made._file.fileno(), SIZE) as mapping:
        address = ctypes.c_void_p(ctypes.addressof(ctypes.c_char.from_buffer(mapping)))
        assert LIBC.mincore(address, ctypes.c_size_t(SIZE), there.ctypes.data_as(ctypes.c_void_p)) == 0
    return int((there & 1).sum()) * mmap.PAGESIZE


def test_they_go_as_they_are_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warm, "_AHEAD_BYTES", 0)
    monkeypatch.setattr(warm, "_ON_DISK", str(tmp_path))
    taker = tmp_path / "taker"
    with warm.WarmPages(SIZE, taker) as made:
        assert resident(made) == SIZE
        taker.write_bytes(b"x" * (SIZE // 2))
        while resident(made) > SIZE // 2:
            made._over.wait(0.005)
        assert resident(made) > 0
        taker.write_bytes(b"x" * SIZE)
        while resident(made):
            made._over.wait(0.005)
