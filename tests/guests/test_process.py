"""Consistent copies of a process's memory."""

import json
from pathlib import Path
from typing import Any

import pytest

from migrated.errors import GuestError, GuestNotFoundError
from migrated.guests.base import After, GuestOptions, Selection
from migrated.guests.process import MAX_FILES, group_mappings, select_mappings
from migrated.guests.target import make_target
from migrated.guests.uri import open_source, revive
from migrated.memory.linux import process
from migrated.memory.maps import Mapping, parse_maps

COUNTER = """
import ctypes, mmap, sys, time
first, second = mmap.mmap(-1, 65536, mmap.MAP_PRIVATE), mmap.mmap(-1, 65536, mmap.MAP_PRIVATE)
first[:6] = second[:6] = b"marker"
addresses = [ctypes.addressof(ctypes.c_char.from_buffer(each)) for each in (first, second)]
open(sys.argv[1], "w").write(" ".join(map(str, addresses)))
print("ready", flush=True)
count = 0
while True:
    count += 1
    first[8192:8200] = count.to_bytes(8, "little")
    second[8192:8200] = count.to_bytes(8, "little")
"""


def _at(folder: Path, address: int, length: int) -> bytes:
    """Bytes of the copy, by the address that they had."""
    for each in json.loads((folder / "manifest.json").read_text())["mappings"]:
        start = int(each["address"], 16)
        if start <= address < start + each["size"]:
            with (folder / each["file"]).open("rb") as file:
                file.seek(each["offset"] + address - start)
                return file.read(length)
    raise AssertionError(f"{address:#x} is not in the copy")


@pytest.mark.parametrize("tracker", ["auto", "hash"])
def test_a_copy_is_of_one_moment(
    tracker: str, spawn: Any, entry: Any, copy_over: Any, tmp_path: Path, wait_until: Any
) -> None:
    guest = spawn(COUNTER, tmp_path / "where")
    first, second = map(int, (tmp_path / "where").read_text().split())
    source = open_source(f"pid:{guest.pid}", GuestOptions(tracker=tracker))
    target = make_target("copy", entry("pid", tmp_path / "copy"))
    assert (source.kind, target.starts_guest) == ("pid", False)
    copy_over(source, target)
    target.start(source.was_running)
    source.release(False)
    source.close()
    target.close()
    wait_until(lambda: process.state(guest.pid) == "R")
    assert _at(tmp_path / "copy", first, 6) == b"marker"
    counts = [int.from_bytes(_at(tmp_path / "copy", each + 8192, 8), "little") for each in (first, second)]
    assert counts[0] > 0
    assert counts[0] - counts[1] in (0, 1)
    assert not list((tmp_path / "copy").glob("*.receiving"))


@pytest.mark.parametrize("after", list(After))
def test_what_becomes_of_it_afterwards(after: After, spawn: Any, tmp_path: Path, wait_until: Any) -> None:
    guest = spawn(COUNTER, tmp_path / "where")
    source = open_source(f"pid:{guest.pid}", GuestOptions(after=after))
    source.pause()
    source.freeze()
    source.release(False)
    source.close()
    match after:
        case After.RESUME:
            wait_until(lambda: process.state(guest.pid) == "R")
        case After.STOP:
            wait_until(lambda: process.is_stopped(guest.pid))
        case After.KILL:
            assert guest.wait(10) == -9


def test_a_copy_never_leaves_it_paused_by_itself(spawn: Any, tmp_path: Path, wait_until: Any) -> None:
    guest = spawn(COUNTER, tmp_path / "where")
    source = open_source(f"pid:{guest.pid}")
    source.pause()
    source.freeze()
    details = source.describe()
    source.close()
    wait_until(lambda: process.state(guest.pid) == "R")
    frozen = revive(details)
    frozen.release(True)
    frozen.close()
    assert guest.poll() is None


def test_new_memory_during_the_copy_is_told(spawn: Any, tmp_path: Path, wait_until: Any) -> None:
    code = (
        COUNTER.partition("count = 0")[0]
        + "sys.stdin.readline(); more = mmap.mmap(-1, 1 << 22, mmap.MAP_PRIVATE)\n"
    )
    guest = spawn(code + "time.sleep(60)", tmp_path / "where")
    source = open_source(f"pid:{guest.pid}")
    maps = Path(f"/proc/{guest.pid}/maps")
    before = maps.read_text()
    guest.stdin.write("\n")
    guest.stdin.flush()
    wait_until(lambda: maps.read_text() != before)
    with pytest.raises(GuestError, match="changed its mappings"):
        source.pause()
    wait_until(lambda: process.state(guest.pid) in "RS")
    source.close()


def test_an_older_copy_is_replaced_and_other_files_are_left(entry: Any, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    for regions in (4, 2):
        target = make_target("copy", entry("pid", folder))
        target.prepare([("manifest", 4096), *((f"r{number}", 8192) for number in range(regions - 1))])
        target.start(True)
        target.close()
    assert sorted(each.name for each in folder.iterdir()) == ["manifest.json", "notes.txt", "region-001.mem"]


def test_a_discarded_copy_leaves_nothing(entry: Any, tmp_path: Path) -> None:
    target = make_target("copy", entry("pid", tmp_path / "copy"))
    target.prepare([("manifest", 4096), ("a", 8192)])
    target.close()
    make_target("copy", entry("pid", tmp_path / "copy")).discard()
    assert list((tmp_path / "copy").iterdir()) == []


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b'{"mappings": [{"file": "../../etc/passwd", "offset": 0, "size": 4096}]}',
        b'{"mappings": [{"file": "region-001.mem", "offset": 4096, "size": 8192}]}',
        b'{"mappings": [{"file": "region-001.mem", "offset": -4096, "size": 4096}]}',
    ],
)
def test_a_manifest_that_points_elsewhere_is_refused_before_commit(
    text: bytes, entry: Any, tmp_path: Path
) -> None:
    target = make_target("copy", entry("pid", tmp_path / "copy"))
    target.prepare([("manifest", 4096), ("a", 8192)])
    (tmp_path / "copy" / "manifest.json").write_bytes(text.ljust(4096, b"\n"))
    with pytest.raises(GuestError, match="cannot be right"):
        target.make_ready()
    target.discard()
    assert not (tmp_path / "copy").exists()


def test_other_guests_are_no_copies(entry: Any, tmp_path: Path) -> None:
    target = make_target("copy", entry("pid", tmp_path / "copy"))
    with pytest.raises(GuestError, match="no copy of a process"):
        target.prepare([("memory", 1 << 20)])


def test_ourselves_and_kernel_threads_are_no_guests() -> None:
    with pytest.raises(GuestNotFoundError):
        open_source(f"pid:{__import__('os').getpid()}")


MAPS = """\
00400000-00401000 r-xp 00000000 08:01 100 /bin/a
00600000-00601000 rw-p 00001000 08:01 100 /bin/a
00601000-00611000 rw-p 00000000 00:00 0 [heap]
00700000-00701000 ---p 00000000 00:00 0
00701000-00703000 rw-p 00000000 00:00 0
00800000-00801000 rw-s 00000000 00:05 200 /dev/shm/x
00900000-00901000 rw-p 00000000 00:06 300 /dev/dri/card0
00a00000-00a01000 -w-p 00000000 00:00 0
7ffd0000-7ffd2000 rw-p 00000000 00:00 0 [stack]
7fff0000-7fff1000 r--p 00000000 00:00 0 [vvar]
"""


def test_what_is_chosen() -> None:
    mappings = parse_maps(MAPS)
    starts = [f"{each.start:x}" for each in select_mappings(mappings, Selection.ANONYMOUS)]
    assert starts == ["601000", "701000", "7ffd0000"]
    starts = [f"{each.start:x}" for each in select_mappings(mappings, Selection.WRITABLE)]
    assert starts == ["600000", "601000", "701000", "7ffd0000"]


@pytest.mark.parametrize("count", [0, 1, 255, 256, 600, 65530])
def test_groups_have_every_mapping_once_and_are_few(count: int) -> None:
    mappings = [Mapping(at << 16, (at << 16) + 4096, "rw-p", 0, 0, 0, "") for at in range(1, count + 1)]
    groups = group_mappings(mappings)
    assert [each for group in groups for each in group] == mappings
    assert len(groups) <= MAX_FILES


def test_mappings_that_touch_share_a_file() -> None:
    mappings = select_mappings(parse_maps(MAPS), Selection.WRITABLE)
    assert [len(group) for group in group_mappings(mappings)] == [2, 1, 1]
