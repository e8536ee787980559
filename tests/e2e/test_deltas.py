"""A process that writes a few bytes all over its memory: what has changed fits the link, pages do not."""

import os
from pathlib import Path

import pytest
from e2e_host import Host
from e2e_processes import Running, look

pytestmark = pytest.mark.slow

HOT = 1000
"""Pages that are written again and again: 4 MB of noise, on a link of 5 MB/s."""

SPARSE = """
import mmap, os, random, sys, time
path, hot = sys.argv[1], int(sys.argv[2])
fd = os.open(path, os.O_RDWR)
memory = mmap.mmap(fd, 0)
memory[:] = random.Random(1).randbytes(len(memory))
print("ready", flush=True)
count = 0
while True:
    count += 1
    for page in range(hot):
        at = page * 8192 + 8 * (page % 512)  # every second page
        memory[at:at + 8] = count.to_bytes(8, "little")
    time.sleep(0.005)
"""

LINK = ("--bandwidth", "5MB/s", "--downtime", "300ms", "--max-rounds", "5")


def writer(host: Host, path: Path) -> Running:
    path.write_bytes(b"")
    os.truncate(path, 8 << 20)
    host.kept.add(path)
    running = host.other("python3", "-c", SPARSE, path, str(HOT))
    running.out.wait("ready")
    return running


def test_a_guest_with_sparse_writes_converges_only_with_deltas(host: Host) -> None:
    path, copy = host.here / "db.mem", host.there / "db.mem"
    source = writer(host, path)
    daemon = host.serve({"db": host.entry("db", "shm")})
    flags = ("--pid", str(source.pid), "--after", "stop", *LINK)
    without = host.send(f"shm:{path}", daemon, *flags, "--delta-cache", "0")
    without.failure(14, "stalled")
    report = host.send(f"shm:{path}", daemon, *flags).report()
    host.kept.add(copy)
    assert report["delta_pages"] >= HOT
    seen = look(source.pid)
    assert seen is not None
    assert seen.stopped
    assert path.read_bytes() == copy.read_bytes()
    assert f"deltas {report['delta_pages']} of" in " ".join(
        host.command("status", report["migration_id"]).split()
    )
