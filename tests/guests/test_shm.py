"""Shared memory of other people's processes."""

import contextlib
import mmap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from migrated.errors import GuestError, UnsafeGuestError, UsageError
from migrated.guests.base import GuestOptions
from migrated.guests.target import make_target
from migrated.guests.uri import open_source, revive
from migrated.memory.linux import process

SIZE = 1 << 20

WRITER = """
import mmap, sys, time
file = open(sys.argv[1], "rb+")
memory = mmap.mmap(file.fileno(), 0)
memory[5000:5005] = b"hello"
print("ready", flush=True)
count = 0
while True:
    count += 1
    memory[8192:8200] = memory[16384:16392] = count.to_bytes(8, "little")
    time.sleep(0.001)
"""

OPENER = """
import sys
file = open(sys.argv[1], "rb+")
print("ready", flush=True)
sys.stdin.read()
"""


MAPS_AGAIN = """
import mmap, sys
file = open(sys.argv[1], "rb+")
first = mmap.mmap(file.fileno(), 0)
print("ready", flush=True)
sys.stdin.readline()
second = mmap.mmap(file.fileno(), 0)
second[0] = 1
print("mapped", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def memory(tmp_path: Path) -> Path:
    path = tmp_path / "db.mem"
    path.write_bytes(bytes(SIZE))
    return path


def _same(here: Path, there: Path) -> None:
    assert here.read_bytes() == there.read_bytes()
    with here.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as seen:
        assert seen[8192:8200] == seen[16384:16392]


@pytest.mark.parametrize("tracker", ["auto", "hash"])
def test_a_copy_is_consistent_and_the_writer_goes_on(
    tracker: str, memory: Path, spawn: Any, entry: Any, copy_over: Any, wait_until: Any, tmp_path: Path
) -> None:
    writer = spawn(WRITER, memory)
    source = open_source(f"shm:{memory}", GuestOptions(pids=(writer.pid,), tracker=tracker))
    target = make_target("db", entry("shm", tmp_path / "there"))
    assert (source.name, target.starts_guest) == ("db", False)
    copy_over(source, target)
    _same(memory, tmp_path / "there")
    assert source.was_running
    target.start(True)
    source.release(False)
    wait_until(lambda: not process.is_stopped(writer.pid))
    source.close()
    target.close()
    assert writer.poll() is None


def test_after_a_move_the_writers_here_stay_stopped(
    memory: Path, spawn: Any, entry: Any, copy_over: Any, tmp_path: Path
) -> None:
    writers = [spawn(WRITER, memory), spawn(WRITER, memory)]
    source = open_source(f"shm:{memory}", GuestOptions(pids=tuple(each.pid for each in writers)))
    command = ("sh", "-c", "echo $MIGRATED_GUEST $MIGRATED_PATH > $MIGRATED_PATH.resumed")
    target = make_target("db", entry("shm", tmp_path / "there", command))
    assert target.starts_guest
    copy_over(source, target)
    target.start(True)
    source.release(True)
    source.close()
    target.close()
    assert all(process.is_stopped(each.pid) for each in writers)
    assert (tmp_path / "there.resumed").read_text() == f"db {tmp_path / 'there'}\n"


def test_a_guest_paused_before_is_not_resumed_there(memory: Path, entry: Any, tmp_path: Path) -> None:
    target = make_target("db", entry("shm", tmp_path / "there", ("sh", "-c", "touch $MIGRATED_PATH.resumed")))
    target.prepare([("memory", SIZE)])
    target.start(False)
    target.close()
    assert not (tmp_path / "there.resumed").exists()
    assert (tmp_path / "there").stat().st_size == SIZE


def test_an_unlisted_writer_is_refused_with_the_way_out(memory: Path, spawn: Any) -> None:
    listed, other = spawn(WRITER, memory), spawn(WRITER, memory)
    for options in (
        GuestOptions(),
        GuestOptions(tracker="hash"),
        GuestOptions(pids=(listed.pid,)),
        GuestOptions(pids=(listed.pid,), tracker="hash"),
    ):
        with pytest.raises(
            UnsafeGuestError, match=rf"nothing would pause .*process {other.pid} \("
        ) as caught:
            open_source(f"shm:{memory}", options)
        assert f"--pid {other.pid}" in caught.value.hint
    assert not process.is_stopped(listed.pid)


def test_a_writer_that_comes_later_stops_the_switchover(memory: Path, spawn: Any, wait_until: Any) -> None:
    writer = spawn(WRITER, memory)
    source = open_source(f"shm:{memory}", GuestOptions(pids=(writer.pid,)))
    spawn(WRITER, memory)
    with pytest.raises(UnsafeGuestError):
        source.pause()
    wait_until(lambda: process.state(writer.pid) in "RS")
    source.close()


def test_a_pid_that_does_not_map_the_file_needs_hashes(memory: Path, spawn: Any) -> None:
    opener = spawn(OPENER, memory)
    with pytest.raises(UnsafeGuestError, match="does not map") as caught:
        open_source(f"shm:{memory}", GuestOptions(pids=(opener.pid,)))
    assert "--tracker hash" in caught.value.hint
    source = open_source(f"shm:{memory}", GuestOptions(pids=(opener.pid,), tracker="hash"))
    source.pause()
    assert process.state(opener.pid) == "t"
    source.close()


def test_memory_that_nobody_writes_needs_nobody(
    memory: Path, entry: Any, copy_over: Any, tmp_path: Path
) -> None:
    memory.write_bytes(b"calm" * (SIZE // 4))
    source = open_source(f"shm:{memory}")
    assert source.tracker.name == "hash"
    target = make_target("db", entry("shm", tmp_path / "there"))
    copy_over(source, target)
    assert (tmp_path / "there").read_bytes() == memory.read_bytes()
    source.release(False)
    with pytest.raises(GuestError, match="slowed"):
        source.throttle(0.5)
    source.close()
    target.close()


def _commands(folder: Path) -> dict[str, Any]:
    return {
        "pause": ("sh", "-c", f"touch {folder}/paused"),
        "resume": ("sh", "-c", f"rm {folder}/paused"),
    }


def test_commands_pause_and_resume_whoever_writes(memory: Path, spawn: Any, tmp_path: Path) -> None:
    spawn(WRITER, memory)
    source = open_source(f"shm:{memory}", GuestOptions(**_commands(tmp_path)))
    assert source.tracker.name == "hash"
    source.pause()
    assert (tmp_path / "paused").exists()
    source.resume()
    assert not (tmp_path / "paused").exists()
    source.pause()
    source.close()
    assert not (tmp_path / "paused").exists(), "closed before it was decided: the guest goes on"


def test_frozen_by_commands_it_waits_for_resolve(memory: Path, tmp_path: Path) -> None:
    source = open_source(f"shm:{memory}", GuestOptions(**_commands(tmp_path)))
    source.pause()
    source.freeze()
    details = source.describe()
    source.close()
    assert (tmp_path / "paused").exists()
    frozen = revive(details)
    frozen.release(True)
    assert (tmp_path / "paused").exists()
    frozen.resume()
    assert not (tmp_path / "paused").exists()
    frozen.close()


def test_one_command_without_the_other_is_refused(memory: Path) -> None:
    with pytest.raises(UsageError, match="give both"):
        open_source(f"shm:{memory}", GuestOptions(pause=("true",)))


def test_tracked_pids_with_commands_need_every_writer(memory: Path, spawn: Any, tmp_path: Path) -> None:
    listed, other = spawn(WRITER, memory), spawn(WRITER, memory)
    with pytest.raises(UnsafeGuestError, match="no tracker but hash") as caught:
        open_source(f"shm:{memory}", GuestOptions(pids=(listed.pid,), **_commands(tmp_path)))
    assert f"--pid {other.pid}" in caught.value.hint


def test_a_resume_command_that_cannot_be_run_is_refused_first(entry: Any, tmp_path: Path) -> None:
    target = make_target("db", entry("shm", tmp_path / "there", ("/nowhere/start",)))
    with pytest.raises(GuestError, match="/nowhere/start"):
        target.prepare([("memory", SIZE)])
    assert not (tmp_path / "there").exists()


def test_a_failed_start_can_be_repeated(entry: Any, tmp_path: Path) -> None:
    target = make_target("db", entry("shm", tmp_path / "there", ("test", "-e", str(tmp_path / "up"))))
    target.prepare([("memory", SIZE)])
    with pytest.raises(GuestError, match="resume command failed"):
        target.start(True)
    (tmp_path / "up").touch()
    anew = make_target("db", entry("shm", tmp_path / "there", ("test", "-e", str(tmp_path / "up"))))
    anew.start(True)
    anew.discard()
    target.close()
    assert (tmp_path / "there").exists()


def test_parts_of_pages_are_refused(memory: Path) -> None:
    with memory.open("ab") as file:
        file.write(b"x")
    with pytest.raises(GuestError, match="whole number"):
        open_source(f"shm:{memory}")


def test_a_second_migration_is_locked_out(entry: Any, tmp_path: Path, spawn: Callable[..., Any]) -> None:
    first, second = (make_target("db", entry("shm", tmp_path / "there")) for _ in range(2))
    first.prepare([("memory", SIZE)])
    with pytest.raises(GuestError, match="in use"):
        second.prepare([("memory", SIZE)])
    second.discard()
    assert (tmp_path / "there").exists()
    first.discard()
    first.close()
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "there").write_bytes(b"old" * 5000)
    user = spawn(OPENER, tmp_path / "there")
    with pytest.raises(GuestError, match=f"process {user.pid} "):
        first.prepare([("memory", SIZE)])
    assert (tmp_path / "there").read_bytes() == b"old" * 5000


def test_memory_that_is_mapped_once_more_meanwhile_is_not_moved(memory: Path, spawn: Any) -> None:
    """No tracker saw what was written there."""
    writer = spawn(MAPS_AGAIN, memory)
    with contextlib.closing(
        open_source(f"shm:{memory}", GuestOptions(pids=(writer.pid,), tracker="pagemap-scan"))
    ) as source:
        source.tracker.arm()
        writer.stdin.write("\n")
        writer.stdin.flush()
        assert writer.stdout.readline() == "mapped\n"
        with pytest.raises(GuestError, match=r"mapped .* once more"):
            source.pause()
        assert not process.is_stopped(writer.pid)


def _grow(memory: Path) -> None:
    with memory.open("ab") as file:
        file.truncate(2 * SIZE)


def _replace(memory: Path) -> None:
    memory.rename(memory.with_suffix(".old"))
    memory.write_bytes(bytes(SIZE))


@pytest.mark.parametrize(
    ("change", "why"),
    [(_grow, f"had {SIZE} bytes, and has {2 * SIZE} by now"), (_replace, "was replaced")],
)
def test_a_memory_file_that_is_another_one_by_then_is_not_moved(
    memory: Path, spawn: Any, change: Callable[[Path], None], why: str
) -> None:
    writer = spawn(WRITER, memory)
    options = GuestOptions(pids=(writer.pid,), tracker="hash")
    with contextlib.closing(open_source(f"shm:{memory}", options)) as source:
        change(memory)
        with pytest.raises(GuestError, match=why):
            source.pause()
        assert not process.is_stopped(writer.pid)


def test_what_a_crash_left_unmarked_is_emptied_and_not_removed(
    memory: Path, entry: Any, tmp_path: Path
) -> None:
    target = make_target("db", entry("shm", memory))
    target.prepare([("memory", SIZE)])
    target.close()
    (mark,) = (each for each in tmp_path.iterdir() if each != memory)
    mark.write_bytes(b"")
    make_target("db", entry("shm", memory)).discard()
    assert memory.read_bytes() == bytes(SIZE)
    assert not mark.exists()
