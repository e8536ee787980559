"""The demo guest as a process: stopped anywhere, copied, gone on; wrong bytes; standby."""

import itertools
import json
import os
import random
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from migrated.guests.demo.layout import Layout, read_runner
from migrated.guests.demo.program import main
from migrated.guests.demo.proof import CheckedFile, check_file
from migrated.memory.linux import process

_MOMENTS = 12

Guest = subprocess.Popen[str]
Start = Callable[..., Guest]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start a guest with the given arguments; what still runs at the end is killed."""
    started: list[Guest] = []

    def _start(*arguments: object, **more: Any) -> Guest:
        command = [sys.executable, "-m", "migrated.guests.demo", "--json", *map(str, arguments)]
        pipes: dict[str, Any] = {
            "stdin": subprocess.PIPE,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
        }
        guest = subprocess.Popen(command, text=True, bufsize=1, **pipes, **more)
        started.append(guest)
        return guest

    yield _start
    for guest in started:
        guest.kill()
        guest.wait(20)
        for pipe in (guest.stdin, guest.stdout, guest.stderr):
            assert pipe is not None
            pipe.close()


def _until(guest: Guest, event: str, timeout: float = 40) -> dict[str, Any]:
    """The next line of the guest that tells of ``event``."""
    assert guest.stdout is not None
    ending = time.monotonic() + timeout
    while time.monotonic() < ending:
        line = guest.stdout.readline()
        assert line, f"the guest ended before {event}"
        facts: dict[str, Any] = json.loads(line)
        if facts["event"] == event:
            return facts
    pytest.fail(f"no {event} from the guest")


def _small(path: Path, *more: object) -> list[object]:
    return ["--file", path, "--size", "4MiB", "--dirty-rate", "40MB/s", *more]


def test_a_guest_works_ends_on_a_signal_and_its_file_is_right(start: Start, tmp_path: Path) -> None:
    guest = start(*_small(tmp_path / "a"))
    assert _until(guest, "running")["operations"] == 0
    facts = _until(guest, "status")
    assert facts["pages_written"] > 0
    assert facts["pages_verified"] > 0
    assert facts["tables_verified"] > 0
    guest.send_signal(signal.SIGTERM)
    _until(guest, "stopped")
    assert guest.wait(20) == 0
    assert main(["--check", str(tmp_path / "a"), "--quiet"]) == 0


@pytest.mark.slow
def test_stopped_at_random_moments_a_copy_goes_on_right(start: Start, tmp_path: Path) -> None:
    # Rates that keep the guest inside operations most of the time.
    guest = start("--file", tmp_path / "a", "--size", "8MiB", "--dirty-rate", "400MB/s", "--punch")
    _until(guest, "running")
    redone, chance = 0, random.Random(5)
    for number in itertools.count(1):
        select.select([], [], [], chance.uniform(0.02, 0.12))
        guest.send_signal(signal.SIGSTOP)
        _wait_stopped(guest.pid)
        copied = tmp_path / f"copy-{number}"
        shutil.copyfile(tmp_path / "a", copied)
        guest.send_signal(signal.SIGCONT)
        checked = _checked(copied)
        redone += checked.redone_pages > 0
        if number <= _MOMENTS or checked.redone_pages:
            assert main(["--file", str(copied), "--resume", "--duration", "0.2s", "--quiet"]) == 0
            assert _checked(copied).counters["operations"] > checked.counters["operations"]
        copied.unlink()
        if redone and number >= _MOMENTS:
            break  # on a busy host an operation in flight is rare
        assert number < 20 * _MOMENTS, "not once was an operation in flight: the test lost its point"


def _wait_stopped(pid: int) -> None:
    ending = time.monotonic() + 10
    while not process.is_stopped(pid):
        assert time.monotonic() < ending
        os.sched_yield()


def _checked(path: Path) -> CheckedFile:
    with path.open("rb+") as file:
        return check_file(file.fileno())


def test_one_flipped_byte_ends_the_guest_with_the_place(start: Start, tmp_path: Path) -> None:
    guest = start(*_small(tmp_path / "a", "--dirty-rate", "0", "--verify-rate", "100MB/s"))
    _until(guest, "status")
    layout = Layout.of(4 << 20)
    offset = layout.data_at + 300 * 4096 + 77
    with (tmp_path / "a").open("rb+") as file:
        byte = os.pread(file.fileno(), 1, offset)[0]
        os.pwrite(file.fileno(), bytes([byte ^ 1]), offset)
    facts = _until(guest, "failed")
    assert facts["reason"] == "integrity"
    assert f"page {layout.data_at // 4096 + 300} (data page 300" in facts["what"]
    assert "byte 77 of the page" in facts["what"]
    assert guest.wait(20) == 12
    assert guest.stderr is not None
    assert "byte 77" in guest.stderr.read()


def _read_so_far(pid: int) -> int:
    """Bytes that it asked the kernel for: modules are read, its memory file is mapped."""
    facts = dict(line.split(": ") for line in Path(f"/proc/{pid}/io").read_text().splitlines())
    return int(facts["rchar"])


def test_a_guest_in_standby_has_loaded_all_that_it_needs(start: Start, tmp_path: Path) -> None:
    assert main([*map(str, _small(tmp_path / "a")), "--duration", "0.3s", "--quiet"]) == 0
    reading, writing = os.pipe()
    guest = start("--file", tmp_path / "a", "--standby", "--notify-fd", writing, pass_fds=[writing])
    os.close(writing)
    assert os.read(reading, 100) == b"ready\n"
    assert guest.stdin is not None
    before = _read_so_far(guest.pid)
    guest.stdin.write("start\n")
    assert os.read(reading, 100) == b"running\n"
    assert _read_so_far(guest.pid) - before < 64 << 10, "a module was loaded late"
    assert os.read(reading, 1) == b""
    os.close(reading)
    _until(guest, "running")
    with (tmp_path / "a").open("rb") as file:
        assert read_runner(file.fileno()) == (guest.pid, process.start_time(guest.pid))


def test_a_guest_started_stopped_has_changed_nothing(start: Start, tmp_path: Path) -> None:
    assert main([*map(str, _small(tmp_path / "a")), "--duration", "0.3s", "--quiet"]) == 0
    before = _checked(tmp_path / "a")
    guest = start("--file", tmp_path / "a", "--standby")
    assert guest.stdin is not None
    guest.stdin.write("start-stopped\n")
    _wait_stopped(guest.pid)
    shutil.copyfile(tmp_path / "a", tmp_path / "b")
    assert _checked(tmp_path / "b") == before
    guest.send_signal(signal.SIGCONT)
    assert _until(guest, "running")["operations"] == before.counters["operations"]


def test_standby_leaves_when_who_started_it_is_gone(start: Start, tmp_path: Path) -> None:
    guest = start("--file", tmp_path / "never-made", "--standby")
    _until(guest, "standby")
    assert guest.stdin is not None
    guest.stdin.close()
    assert guest.wait(20) == 0


def test_two_guests_never_share_a_file(start: Start, tmp_path: Path) -> None:
    guest = start(*_small(tmp_path / "a"))
    _until(guest, "running")
    assert main(["--file", str(tmp_path / "a"), "--resume"]) == 3
    assert main(["--check", str(tmp_path / "a")]) == 3


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--size", "1000"], 2, "cannot have 1000 bytes"),
        (["--mix", "text"], 2, "no mix of pages"),
        (["--mix", "prose=1"], 2, "kinds are zero, text, code, random"),
        (["--dirty-rate", "unlimited"], 2, "has no end"),
        (["--working-set", "0"], 2, "working set"),
        (["--resume"], 3, "cannot open the memory file"),
    ],
)
def test_what_cannot_be_is_refused_and_leaves_no_file(
    arguments: list[str], code: int, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--file", str(tmp_path / "a"), *arguments]) == code
    assert says in capsys.readouterr().err
    assert not (tmp_path / "a").exists()


def test_an_existing_file_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("mine")
    assert main(["--file", str(tmp_path / "a")]) == 3
    assert (tmp_path / "a").read_text() == "mine"
