"""Ratio and speed of every installed codec, at blocks of 4 and 256 KiB, 1 and 4 MiB, on one core.

    .venv/bin/python tests/bench/bench_codecs.py
    .venv/bin/python tests/bench/bench_codecs.py --image guest.mem --codecs zlib,zstd --levels 1,2,3

Without --image the data is synthetic: the ratios say nothing about any real guest, and are good only for
comparing codecs, levels and versions with one another. With it, zero pages are left out first.
"""

import argparse
import random
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from migrated.compression import registry
from migrated.memory.linux.heap import keep_large_blocks
from migrated.protocol import BLOCK_BYTES

PAGE = 4096
MIB = 1 << 20
SIZES = 4, 256, 1024, BLOCK_BYTES >> 10
"""KiB."""


def synthetic(size: int) -> bytes:
    """Runs of 16 pages each: text, records with pointers, code-like bytes, and 1 in 10 random."""
    rng = random.Random(1)
    words = ["".join(rng.choices("etaoinshrdlcu", k=rng.randint(2, 9))) for _ in range(4000)]
    zipf = [1 / rank for rank in range(1, len(words) + 1)]
    opcodes = [rng.randbytes(rng.randint(2, 6)) for _ in range(600)]

    def text() -> bytes:
        return " ".join(rng.choices(words, weights=zipf, k=16 * PAGE // 5)).encode()

    def records() -> bytes:
        base = rng.getrandbits(40) & ~0xFFF
        addresses = (
            np.cumsum(np.array(rng.choices((16, 32, 48, 64, 4096), k=16 * PAGE // 32)), dtype=np.int64) + base
        )
        table = np.zeros((len(addresses), 4), dtype=np.int64)
        table[:, 0], table[:, 1], table[:, 3] = addresses, 0x5500_0000_1000, addresses % 509
        return table.tobytes()

    def code() -> bytes:
        return b"".join(rng.choices(opcodes, k=16 * PAGE // 3))

    def noise() -> bytes:
        return rng.randbytes(16 * PAGE)

    kinds = rng.choices((text, records, code, noise), weights=(30, 35, 25, 10), k=size // (16 * PAGE))
    return b"".join(make()[: 16 * PAGE] for make in kinds)


def pages_of(image: Path, size: int) -> bytes:
    """Up to ``size`` bytes of non-zero pages from the whole of a memory image."""
    mapped = np.memmap(image, dtype=np.uint8, mode="r")
    pages = mapped[: len(mapped) // PAGE * PAGE].reshape(-1, PAGE)
    kept = np.flatnonzero(pages.any(axis=1))
    extents = np.array_split(kept, max(1, len(kept) * PAGE // BLOCK_BYTES))
    stride = max(1, len(extents) * BLOCK_BYTES // size)
    return b"".join(pages[extent].tobytes() for extent in extents[::stride])[:size]


def timed(work: Callable[[], None]) -> float:
    """Processor seconds of the better of two runs, so that a neighbour on the core counts for less."""
    best = float("inf")
    for _ in range(2):
        start = time.process_time()
        work()
        best = min(best, time.process_time() - start)
    return best


def measure(name: str, level: int, blocks: list[memoryview]) -> tuple[float, float, float]:
    """Ratio, MB/s of compression and of decompression. A block that does not shrink counts as raw."""
    codec = registry.create(name, level)
    total = sum(map(len, blocks))
    slots = [memoryview(bytearray(len(block) - 1)) for block in blocks]
    target = memoryview(bytearray(len(blocks[0])))
    sizes = [0] * len(blocks)

    def compress() -> None:
        sizes[:] = [codec.compress_into(block, slot) for block, slot in zip(blocks, slots, strict=True)]

    def decompress() -> None:
        for size, slot in zip(sizes, slots, strict=True):
            if size:
                codec.decompress_into(slot[:size], target)

    packing, unpacking = timed(compress), timed(decompress)
    decoded = sum(len(block) for block, size in zip(blocks, sizes, strict=True) if size)
    stored = sum(size or len(block) for block, size in zip(blocks, sizes, strict=True))
    return total / stored, total / packing / 1e6, decoded / unpacking / 1e6 if decoded else 0.0


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--image", type=Path, help="a file of guest memory to measure on instead")
    parser.add_argument("--codecs", default=",".join(registry.names()))
    parser.add_argument("--levels", default="1,3")
    parser.add_argument("--mib", type=int, default=8, help="how much data (default 8)")
    options = parser.parse_args()
    keep_large_blocks()
    if options.image:
        data = memoryview(pages_of(options.image, options.mib * MIB))
        print(f"{len(data) / MIB:.0f} MiB of non-zero pages of {options.image}")
    else:
        data = memoryview(synthetic(options.mib * MIB))
        print(f"{len(data) / MIB:.0f} MiB of SYNTHETIC data: compare codecs with it, not guests")
    print(f"{'':24}" + "".join(f"{f'{size} KiB: ratio, MB/s, decode':>32}" for size in SIZES))
    for name in options.codecs.split(","):
        labels = registry.info(name).levels
        for level in map(int, options.levels.split(",")):
            cells = []
            for size in SIZES:
                step = size * 1024
                blocks = [data[start : start + step] for start in range(0, len(data) // step * step, step)]
                ratio, packing, unpacking = measure(name, level, blocks)
                cells.append(f"{ratio:18.2f}{packing:7.0f}{unpacking:7.0f}")
            print(f"{f'{name} {level} ({labels[level]})':24}" + "".join(cells), flush=True)


if __name__ == "__main__":
    main()
