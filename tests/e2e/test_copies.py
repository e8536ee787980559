"""Memory of processes that know nothing of us: shared files and whole processes, byte by byte equal."""

import json
import os
from pathlib import Path

import pytest
from e2e_host import Host
from e2e_processes import Running, look, wait_until

pytestmark = pytest.mark.slow

SIZE = 16 << 20

WRITER = """
import ctypes, mmap, os, random, sys, time
path, size, holes = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "holes"
libc = ctypes.CDLL(None, use_errno=True)
fallocate = libc.fallocate
fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
fd = os.open(path, os.O_RDWR)
memory = mmap.mmap(fd, size)
draw = random.Random(1)
for at in range(0, size, 8192):
    memory[at:at + 4096] = draw.randbytes(4096)
print("ready", flush=True)
ticks = 0
while True:
    for _ in range(8):
        page = draw.randrange(1, size // 4096) * 4096
        what = draw.randrange(6) if holes else 0
        if what == 1:
            memory[page:page + 4096] = bytes(4096)
        elif what == 2:
            assert fallocate(fd, 3, page, 4096 * draw.randrange(1, 4)) == 0
        elif what == 3:
            memory.madvise(mmap.MADV_REMOVE, page, 4096)
            assert not memory[page]  # no hole any more, and never written
        elif what == 4:
            os.pwrite(fd, draw.randbytes(4096), page)
        else:
            memory[page:page + 4096] = draw.randbytes(4096)
    ticks += 1
    memory[:8] = ticks.to_bytes(8, "little")
    time.sleep(0.002)
"""

HOARDER = """
import sys, time
hoard = bytearray(b"a treasure of this very process ") * (4 << 15)
at = 0
print("ready", flush=True)
while True:
    at = (at + 40961) % len(hoard)
    hoard[at] = (hoard[at] + 1) % 256
    time.sleep(0.001)
"""


def writer(host: Host, path: Path, holes: str = "holes") -> Running:
    path.write_bytes(b"")
    os.truncate(path, SIZE)
    host.kept.add(path)
    running = host.other("python3", "-c", WRITER, path, str(SIZE), holes)
    running.out.wait("ready")
    return running


def ticks(path: Path) -> int:
    with path.open("rb") as file:
        return int.from_bytes(file.read(8), "little")


@pytest.mark.parametrize("tracker", ["auto", "hash"])
def test_a_copy_is_equal_though_pages_come_and_go(host: Host, tracker: str) -> None:
    path, copy = host.here / "db.mem", host.there / "db.mem"
    source = writer(host, path)
    daemon = host.serve({"db": host.entry("db", "shm")})
    flags = ("--pid", str(source.pid), "--after", "stop", "--tracker", tracker)
    send = host.send(f"shm:{path}", daemon, *flags, "--bandwidth", "20MB/s")
    report = send.report()
    host.kept.add(copy)
    assert not report["moved"]
    assert report["rounds"] >= 2
    seen = look(source.pid)
    assert seen is not None
    assert seen.stopped
    assert path.read_bytes() == copy.read_bytes()
    assert copy.stat().st_blocks <= path.stat().st_blocks


def test_the_source_of_a_copy_goes_on(host: Host) -> None:
    path = host.here / "db.mem"
    source = writer(host, path, "none")
    daemon = host.serve({"db": host.entry("db", "shm")})
    host.send(f"shm:{path}", daemon, "--pid", str(source.pid)).report()
    host.kept.add(host.there / "db.mem")
    copied = ticks(host.there / "db.mem")
    assert copied > 0
    wait_until(lambda: ticks(path) > copied, "the source goes on")


def test_shared_memory_moves_with_a_resume_command(host: Host) -> None:
    path, copy, trace = host.here / "db.mem", host.there / "db.mem", host.there / "resumed"
    source = writer(host, path)
    resume = ["/bin/sh", "-c", 'echo "$MIGRATED_GUEST $MIGRATED_PATH" >> ' + str(trace)]
    daemon = host.serve({"db": host.entry("db", "shm", resume=resume)})
    report = host.send(f"shm:{path}", daemon, "--pid", str(source.pid)).report()
    host.kept |= {copy, trace}
    assert report["moved"]
    assert trace.read_text() == f"db {copy}\n"
    seen = look(source.pid)
    assert seen is not None
    assert seen.stopped
    assert path.read_bytes() == copy.read_bytes()


def test_a_writer_that_was_not_named_is_refused(host: Host) -> None:
    path = host.here / "db.mem"
    source = writer(host, path)
    send = host.send(f"shm:{path}", "127.0.0.1:9")
    send.failure(3, "guest-unsafe", f"--pid {source.pid}")


def test_commands_pause_and_resume(host: Host) -> None:
    """A resume command that fails at the destination: the outcome stays open until it can be run."""
    path = host.here / "db.mem"
    source = writer(host, path, "none")
    stop, go_on = f"kill -STOP {source.pid}", f"kill -CONT {source.pid}"
    daemon = host.serve(
        {"db": host.entry("db", "shm", resume=["/bin/sh", "-c", f"test -e {host.there}/may"])}
    )
    flags = ("--pause", stop, "--resume", go_on, "--tracker", "hash")
    send = host.send(f"shm:{path}", daemon, *flags)
    send.failure(20, "outcome-unknown", "migrated resolve")
    seen = look(source.pid)
    assert seen is not None
    assert seen.stopped
    assert "cannot start it" in host.command("resolve", send.migration_id, "--tries", "1", code=20)
    (host.there / "may").touch()
    host.kept |= {host.there / "may", host.there / "db.mem"}
    assert "completed" in host.command("resolve", send.migration_id)
    assert path.read_bytes() == (host.there / "db.mem").read_bytes()


def test_a_process_is_copied_as_it_was_when_held(host: Host) -> None:
    source = host.other("python3", "-c", HOARDER)
    source.out.wait("ready")
    folder = host.there / "dump"
    daemon = host.serve({"dump": host.entry("dump", "pid")})
    flags = ("--name", "dump", "--after", "stop")
    report = host.send(f"pid:{source.pid}", daemon, *flags).report()
    assert not report["moved"]
    host.kept |= set(folder.iterdir())
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["pid"] == source.pid
    found = 0
    with Path(f"/proc/{source.pid}/mem").open("rb", buffering=0) as memory:
        for each in manifest["mappings"]:
            memory.seek(int(each["address"], 16))
            theirs = memory.read(each["size"])
            with (folder / each["file"]).open("rb") as file:
                file.seek(each["offset"])
                ours = file.read(each["size"])
            assert ours == theirs, each
            found += ours.count(b"a treasure of this very process ")
    assert found > 100_000


def test_a_copied_process_goes_on(host: Host) -> None:
    source = host.other("python3", "-c", HOARDER)
    source.out.wait("ready")
    daemon = host.serve({"dump": host.entry("dump", "pid")})
    host.send(f"pid:{source.pid}", daemon, "--name", "dump").report()
    host.kept |= set((host.there / "dump").iterdir())
    seen = look(source.pid)
    assert seen is not None
    assert not seen.stopped
