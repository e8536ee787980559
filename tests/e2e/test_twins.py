"""Pages that are there twice travel once, whatever their owner does with them meanwhile."""

import os
from pathlib import Path

import pytest
from e2e_host import Host
from e2e_processes import Running, look

pytestmark = pytest.mark.slow

PAGE = 4096
PAGES = 32768
DIFFERENT = 3000
"""Enough of them that each worker sees that leaving pages out pays: after some 8192."""

SHUFFLER = """
import ctypes, mmap, os, random, sys, time
path, pages, different, busy = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4] == "busy"
libc = ctypes.CDLL(None, use_errno=True)
fallocate = libc.fallocate
fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
fd = os.open(path, os.O_RDWR)
memory = mmap.mmap(fd, 0)
draw = random.Random(1)
some = [draw.randbytes(4096) for _ in range(different)]
for page in range(pages):
    memory[4096 * page:4096 * page + 4096] = some[page % different]
print("ready", flush=True)
while True:
    for _ in range(20 if busy else 0):
        page = 4096 * draw.randrange(pages)
        what = draw.randrange(4)
        if what == 0:
            memory[page:page + 4096] = draw.choice(some)
        elif what == 1:
            memory[page:page + 8] = draw.randbytes(8)
        elif what == 2:
            memory[page:page + 4096] = bytes(4096)
        else:
            assert fallocate(fd, 3, page, 4096) == 0
    time.sleep(0.002)
"""


def shuffler(host: Host, path: Path, how: str) -> Running:
    path.write_bytes(b"")
    os.truncate(path, PAGES * PAGE)
    host.kept |= {path, host.there / path.name}
    running = host.other("python3", "-c", SHUFFLER, path, str(PAGES), str(DIFFERENT), how)
    running.out.wait("ready")
    return running


def test_what_is_there_twice_travels_once(host: Host) -> None:
    path, copy = host.here / "db.mem", host.there / "db.mem"
    source = shuffler(host, path, "idle")
    daemon = host.serve({"db": host.entry("db", "shm")})
    send = host.send(f"shm:{path}", daemon, "--pid", str(source.pid), "--after", "stop", "--codec", "lz4")
    report = send.report()
    assert path.read_bytes() == copy.read_bytes()
    # Not while it did not know yet that it pays, nor where one content has the place of another in the table.
    assert 0.2 * (PAGES - DIFFERENT) < report["copied_pages"] <= PAGES - DIFFERENT
    assert report["copied_pages"] + report["sent_pages"] == PAGES
    assert report["wire_bytes"] < 1.01 * report["sent_pages"] * PAGE
    told = " ".join(host.command("status", report["migration_id"]).split())
    assert f"copied {report['copied_pages']} pages (there twice)" in told


@pytest.mark.parametrize(
    "flags",
    [("--codec", "zstd"), ("--codec", "lz4", "--streams", "3"), ("--verify", "full", "--downtime", "1s")],
    ids=lambda flags: " ".join(flags),
)
def test_both_files_are_equal_though_pages_come_and_go(host: Host, flags: tuple[str, ...]) -> None:
    path, copy = host.here / "db.mem", host.there / "db.mem"
    source = shuffler(host, path, "busy")
    daemon = host.serve({"db": host.entry("db", "shm")})
    send = host.send(
        f"shm:{path}", daemon, "--pid", str(source.pid), "--after", "stop", "--bandwidth", "20MB/s", *flags
    )
    report = send.report()
    assert report["copied_pages"] > 0
    assert report["rounds"] >= 3
    seen = look(source.pid)
    assert seen is not None
    assert seen.stopped
    assert path.read_bytes() == copy.read_bytes()


@pytest.mark.parametrize(
    "flags",
    [("--tracker", "hash"), ("--max-rounds", "1", "--on-stall", "switch"), ("--codec", "none")],
    ids=lambda flags: " ".join(flags),
)
def test_where_it_does_not_pay_all_are_sent(host: Host, flags: tuple[str, ...]) -> None:
    """Where every page is a candidate in each round, where there is no second round before the guest is paused, and
    where sending a page costs less than looking."""
    path, copy = host.here / "db.mem", host.there / "db.mem"
    source = shuffler(host, path, "idle")
    daemon = host.serve({"db": host.entry("db", "shm")})
    report = host.send(f"shm:{path}", daemon, "--pid", str(source.pid), "--after", "stop", *flags).report()
    assert report["copied_pages"] == 0
    assert path.read_bytes() == copy.read_bytes()
