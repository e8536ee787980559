"""What looking for pages that are there twice takes a worker, and how many of files' pages are.

    .venv/bin/python tests/bench/bench_duplicates.py
    .venv/bin/python tests/bench/bench_duplicates.py --image guest.mem

Without --image it is 1 GiB of this host's files, each from a page of its own, as a page cache holds them.
"""

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from migrated.compression import duplicates
from migrated.compression.jobs import ToPack
from migrated.compression.worker import Worker, WorkerSetup
from migrated.memory.linux.heap import keep_large_blocks
from migrated.memory.region import FileRegion
from migrated.memory.shared import SharedMemory
from migrated.pages import PAGE_SIZE
from migrated.protocol import max_payload

BATCH = 1024
SIZE = 1 << 30


def gather(path: Path) -> None:
    """Files of this host, one behind the other."""
    with path.open("wb") as out:
        for parent, folders, names in os.walk("/usr"):
            folders.sort()
            for name in sorted(names):
                file = Path(parent, name)
                if file.is_file() and not file.is_symlink() and os.access(file, os.R_OK):
                    data = file.read_bytes()
                    out.write(data + bytes(-len(data) % PAGE_SIZE))
                if out.tell() >= SIZE:
                    out.truncate(SIZE)
                    return


def measure(region: FileRegion, codec: str, *, look: bool) -> tuple[float, int, int]:
    """CPU microseconds a page, pages that were left out, pages with data."""
    slot = -(-max_payload(BATCH, PAGE_SIZE) // PAGE_SIZE) * PAGE_SIZE
    table = SharedMemory(duplicates.table_size(region.pages)) if look else None
    arena, terms = SharedMemory(slot, reserve=True), SharedMemory(region.pages * 8, reserve=True)
    worker = Worker(WorkerSetup(arena, slot, terms, (region.spec(),), PAGE_SIZE, BATCH, 7, duplicates=table))
    seconds, found, pages = 0.0, 0, 0
    for first in range(0, region.pages, BATCH):
        runs = np.array([[first, min(BATCH, region.pages - first)]], dtype=np.int64).tobytes()
        level = 0 if codec == "raw" else 1
        began = time.thread_time()
        packed = worker.pack(ToPack(0, runs, 0, codec, level, skip_unchanged=False, duplicates=look))
        seconds += time.thread_time() - began
        found += len(packed.duplicates) // 16
        pages += packed.data_pages + len(packed.duplicates) // 16
    return 1e6 * seconds / region.pages, found, pages


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--image", type=Path, help="a file of guest memory to measure on instead")
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    keep_large_blocks()
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        path = options.image or Path(folder, "files")
        if not options.image:
            gather(path)
        region = FileRegion(path)
        for codec in ("raw", "lz4", "zstd"):
            taken: dict[bool, list[float]] = {False: [], True: []}
            for _ in range(options.runs):
                for look, costs in taken.items():
                    cost, found, pages = measure(region, codec, look=look)
                    costs.append(cost)
            plain, looking = (statistics.median(taken[look]) for look in (False, True))
            print(
                f"{codec:5} {plain:6.2f} us a page, looking for duplicates {looking:6.2f}; "
                f"left out {found} of {pages} ({found / max(1, pages):.1%})",
                flush=True,
            )


if __name__ == "__main__":
    main()
