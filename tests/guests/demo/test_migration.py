"""A demo guest leaves, arrives and goes on; and all that can come between."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from migrated.errors import GuestDiedError, GuestError, GuestNotFoundError, ResourceError, UnsafeGuestError
from migrated.guests.demo.layout import read_runner
from migrated.guests.demo.program import main
from migrated.guests.target import make_target
from migrated.guests.uri import open_source, revive
from migrated.memory.linux import process

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def files(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """The memory file here and the one there; who runs on the second is killed at the end."""
    here, there = tmp_path / "here.mem", tmp_path / "there.mem"
    yield here, there
    if there.exists():
        pid, start = _runner(there)
        with contextlib.suppress(OSError):
            if pid and process.start_time(pid) == start:
                os.kill(pid, signal.SIGKILL)


@pytest.fixture
def arrived(
    demo_guest: Start, files: tuple[Path, Path], entry: Any, copy_over: Any
) -> tuple["subprocess.Popen[str]", Any, Any]:
    """A guest all of which is there, frozen here: its process, the source, and the target that is ready."""
    here, there = files
    original = demo_guest(here)
    source, target = open_source(f"demo:{here}"), make_target("g", entry("demo", there))
    copy_over(source, target)
    return original, source, target


def _runner(path: Path) -> tuple[int, int]:
    with path.open("rb") as file:
        return read_runner(file.fileno())


def _alive(pid: int) -> bool:
    return process.state(pid) not in "ZX"


def test_a_guest_moves_and_goes_on(
    demo_guest: Start, files: tuple[Path, Path], entry: Any, copy_over: Any, wait_until: Any
) -> None:
    here, there = files
    original = demo_guest(here)
    source = open_source(f"demo:{here}")
    target = make_target("here", entry("demo", there))
    assert source.name == "here"
    assert target.starts_guest
    copy_over(source, target)
    assert source.was_running
    assert process.is_stopped(original.pid)
    before = _counters(here)
    target.start(source.was_running)
    target.start(source.was_running)
    source.release(True)
    source.close()
    target.close()
    target.discard()
    assert original.wait(10) == -signal.SIGKILL
    pid, _ = _runner(there)
    assert _alive(pid)
    assert pid != original.pid
    log = Path(f"{there}.log")
    wait_until(lambda: "all right" in log.read_text())
    assert main(["--check", str(there)]) == 3, "it runs and keeps its file locked"
    os.kill(pid, signal.SIGTERM)
    wait_until(lambda: not _alive(pid))
    assert _counters(there) > before
    assert here.exists()
    assert not Path(f"{there}.receiving").exists()


def _counters(path: Path) -> int:
    """Operations done, of a guest that does not run; the whole file is proved first."""
    copied = path.with_suffix(".copy")
    copied.write_bytes(path.read_bytes())
    command = [sys.executable, "-m", "migrated.guests.demo", "--check", str(copied)]
    checked = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(next(line.split()[1] for line in checked.stdout.splitlines() if "operations" in line))


def test_a_paused_guest_arrives_paused(
    demo_guest: Start, files: tuple[Path, Path], entry: Any, copy_over: Any, wait_until: Any
) -> None:
    here, there = files
    original = demo_guest(here)
    original.send_signal(signal.SIGSTOP)
    wait_until(lambda: process.is_stopped(original.pid))
    source, target = open_source(f"demo:{here}"), make_target("g", entry("demo", there))
    copy_over(source, target)
    assert not source.was_running
    target.start(source.was_running)
    source.release(True)
    source.close()
    target.close()
    pid, _ = _runner(there)
    assert process.is_stopped(pid)
    operations = _counters(there)
    os.kill(pid, signal.SIGCONT)
    wait_until(lambda: f"{operations} operations done" in Path(f"{there}.log").read_text())


def test_an_undone_migration_leaves_the_guest_running_and_nothing_there(
    arrived: Any, files: tuple[Path, Path]
) -> None:
    original, source, target = arrived
    source.resume()
    target.discard()
    target.discard()
    source.resume()
    source.close()
    target.close()
    assert not process.is_stopped(original.pid)
    assert original.poll() is None
    assert [each.name for each in files[0].parent.iterdir()] == ["here.mem"]


def test_a_paused_guest_that_is_undone_stays_paused(
    demo_guest: Start, files: tuple[Path, Path], wait_until: Any
) -> None:
    original = demo_guest(files[0])
    original.send_signal(signal.SIGSTOP)
    wait_until(lambda: process.is_stopped(original.pid))
    source = open_source(f"demo:{files[0]}")
    source.pause()
    source.freeze()
    source.resume()
    source.close()
    assert process.is_stopped(original.pid)


def test_a_frozen_guest_is_found_again_and_resumed_or_given_up(
    demo_guest: Start, files: tuple[Path, Path], wait_until: Any
) -> None:
    original = demo_guest(files[0])
    for last in (False, True):
        source = open_source(f"demo:{files[0]}")
        source.pause()
        source.freeze()
        details = source.describe()
        source.close()
        assert process.is_stopped(original.pid), "closing does not let a frozen guest go"
        frozen = revive(details)
        if last:
            frozen.release(True)
            assert original.wait(10) == -signal.SIGKILL
        else:
            frozen.resume()
            wait_until(lambda: not process.is_stopped(original.pid))
        frozen.close()
    gone = revive(details)
    gone.release(True)
    with pytest.raises(GuestDiedError, match="has ended meanwhile"):
        gone.resume()
    gone.close()


def test_closing_lets_a_paused_guest_go(demo_guest: Start, files: tuple[Path, Path], wait_until: Any) -> None:
    original = demo_guest(files[0])
    source = open_source(f"demo:{files[0]}")
    source.pause()
    assert process.state(original.pid) == "t"
    source.close()
    source.close()
    wait_until(lambda: process.state(original.pid) in "RS")


def test_the_end_of_the_guest_is_noticed(demo_guest: Start, files: tuple[Path, Path]) -> None:
    original = demo_guest(files[0])
    source = open_source(f"demo:{files[0]}")
    source.check()
    original.kill()
    original.wait(10)
    with pytest.raises(GuestDiedError):
        source.check()
    source.close()


def test_no_guest_no_source(demo_guest: Start, files: tuple[Path, Path]) -> None:
    here = files[0]
    with pytest.raises(GuestNotFoundError, match="no memory file"):
        open_source(f"demo:{here}")
    here.write_bytes(bytes(1 << 20))
    with pytest.raises(GuestError, match="not the memory file of a demo guest"):
        open_source(f"demo:{here}")
    here.unlink()
    guest = demo_guest(here)
    guest.kill()
    guest.wait(10)
    with pytest.raises(GuestNotFoundError, match="has ended") as caught:
        open_source(f"demo:{here}")
    assert "--resume" in caught.value.hint


def test_somebody_else_who_writes_to_the_guests_memory_is_refused(
    demo_guest: Start, files: tuple[Path, Path], spawn: Any
) -> None:
    demo_guest(files[0])
    other = spawn(
        "import sys; file = open(sys.argv[1], 'rb+'); print('ready', flush=True); sys.stdin.read()", files[0]
    )
    with pytest.raises(UnsafeGuestError, match=f"process {other.pid} "):
        open_source(f"demo:{files[0]}")


def test_a_lost_standby_is_replaced(arrived: Any, files: tuple[Path, Path]) -> None:
    _, source, target = arrived
    target._standby._process.kill()
    target.start(True)
    source.release(True)
    assert _alive(_runner(files[1])[0])
    source.close()
    target.close()


def test_after_a_crash_what_had_arrived_is_started_once(
    arrived: Any, files: tuple[Path, Path], entry: Any
) -> None:
    _, source, target = arrived
    there = files[1]
    source.release(True)
    source.close()
    target.close()  # as if we had died before start: the process that stood by is gone, the memory is not
    anew = make_target("g", entry("demo", there))
    anew.start(True)
    anew.close()
    pid, _ = _runner(there)
    assert _alive(pid)
    again = make_target("g", entry("demo", there))
    again.start(True)
    again.discard()
    again.close()
    assert _runner(there)[0] == pid
    assert _alive(pid)


def test_after_a_crash_what_was_being_received_is_discarded(files: tuple[Path, Path], entry: Any) -> None:
    there = files[1]
    target = make_target("g", entry("demo", there))
    target.prepare([("memory", 8 << 20)])
    target.make_ready()
    target.close()
    assert there.exists()
    anew = make_target("g", entry("demo", there))
    anew.discard()
    anew.close()
    assert not there.exists()


def test_memory_in_use_is_never_received_into(
    demo_guest: Start, files: tuple[Path, Path], entry: Any
) -> None:
    here = files[0]
    guest = demo_guest(here)
    target = make_target("g", entry("demo", here))
    with pytest.raises(GuestError, match="is in use"):
        target.prepare([("memory", 8 << 20)])
    target.discard()
    target.close()
    assert guest.poll() is None
    assert here.stat().st_size == 8 << 20
    source = open_source(f"demo:{here}")
    source.close()


def test_other_files_are_left_alone_and_old_memory_is_emptied(files: tuple[Path, Path], entry: Any) -> None:
    there = files[1]
    there.write_text("precious")
    target = make_target("g", entry("demo", there))
    with pytest.raises(GuestError, match="left alone"):
        target.prepare([("memory", 8 << 20)])
    assert there.read_text() == "precious"
    there.unlink()
    assert main(["--file", str(there), "--size", "4MiB", "--duration", "0.1s", "--quiet"]) == 0
    target.prepare([("memory", 8 << 20)])
    assert there.stat().st_size == 8 << 20
    assert not any(region.populated() for region in target.regions)
    target.discard()
    target.close()
    assert there.exists(), "it was there before"


def test_a_guest_without_room_is_refused_before_anything_is_made(
    files: tuple[Path, Path], entry: Any
) -> None:
    target = make_target("g", entry("demo", files[1]))
    with pytest.raises(ResourceError, match="free"):
        target.prepare([("memory", 1 << 43)])
    assert not files[1].exists()


def test_two_regions_are_no_demo_guest(files: tuple[Path, Path], entry: Any) -> None:
    with pytest.raises(GuestError, match="one region"):
        make_target("g", entry("demo", files[1])).prepare([("a", 1 << 20), ("b", 1 << 20)])
