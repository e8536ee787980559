"""The commands together, with real guests: moving, cancelling, and what is left behind."""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cli.conftest import Migrated

pytestmark = [pytest.mark.slow, pytest.mark.needs("ptrace")]

Process = subprocess.Popen[str]
Start = Callable[..., Process]

SLOW = ("--bandwidth", "8Mbit/s")
"""With this a guest of 32 MiB is on its way for half a minute."""


@pytest.fixture
def memory(surroundings: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="migrated-test-", dir="/dev/shm") as folder:
        yield Path(folder)
        for log in Path(folder).glob("*"):
            _end_who_maps(log)


def _end_who_maps(file: Path) -> None:
    """End guests that a destination started: they outlive it."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if str(file) in (process / "cmdline").read_text():
                os.kill(int(process.name), signal.SIGKILL)
        except (OSError, ValueError):
            continue


@pytest.fixture
def start(memory: Path) -> Iterator[Start]:
    started: list[Process] = []

    def run(*arguments: object, **environment: str) -> Process:
        process = subprocess.Popen(
            [sys.executable, "-m", "migrated", *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | environment,
        )
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate(timeout=20)


@pytest.fixture
def guest(start: Start, memory: Path) -> Process:
    process = start("demo", "--file", memory / "a.mem", "--size", "32MiB", "--dirty-rate", "1MB/s", "--json")
    _line(process, '"running"')
    return process


@pytest.fixture
def destination(start: Start, memory: Path, tmp_path: Path) -> str:
    arguments = ("--listen", "127.0.0.1:0", "--control", "127.0.0.1:0", "--guest", f"a=demo:{memory}/b.mem")
    process = start("serve", *arguments, MIGRATED_HOST__STATE_DIR=str(tmp_path / "there"))
    match = re.match(r"listening on (\S+),", _line(process, "listening"))
    assert match
    return match[1]


def _line(process: Process, wanted: str) -> str:
    """The next line of its output that has ``wanted`` in it."""
    assert process.stdout is not None
    for line in process.stdout:
        if wanted in line:
            return line
    pytest.fail(f"it ended without {wanted}: {process.stderr.read() if process.stderr else ''}")


def _state(process: Process) -> str:
    return Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0]


def _goes_on(process: Process) -> bool:
    _line(process, '"status"')  # whatever it had said before
    return process.poll() is None and _state(process) in "RSD"


def _until(condition: Callable[[], bool]) -> None:
    ending = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < ending
        time.sleep(0.02)


def test_a_guest_moves(guest: Process, destination: str, migrated: Migrated, memory: Path) -> None:
    done = migrated("send", f"demo:{memory}/a.mem", destination)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "Migration status: completed" in done.stdout
    facts = dict(line.split(":", 1) for line in done.stdout.splitlines() if ":" in line)
    assert facts["total ram"].strip() == "32768 kbytes (32 MiB)"
    assert guest.wait(20) != 0  # its memory is elsewhere, so it was ended
    shown = json.loads(migrated("status", "--json").stdout)["migrations"]
    assert {(row["role"], row["state"]) for row in shown} == {
        ("source", "completed"),
        ("destination", "completed"),
    }


def test_json_lines_of_a_whole_migration(
    guest: Process, destination: str, migrated: Migrated, memory: Path
) -> None:
    done = migrated(
        "send", f"demo:{memory}/a.mem", destination, "--json", "--codec", "lz4", "--verify", "full"
    )
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["state"] for line in lines if line["event"] == "state-changed"][-1] == "completed"
    assert lines[-1]["event"] == "report"
    assert lines[-1]["codec"] == "lz4"
    assert lines[-1]["downtime_seconds"] == pytest.approx(sum(lines[-1]["downtime_parts"].values()), abs=1e-6)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, "cancel"])
def test_cancelled_in_the_middle_it_goes_on_here(
    guest: Process,
    destination: str,
    start: Start,
    migrated: Migrated,
    memory: Path,
    surroundings: Path,
    how: signal.Signals | str,
) -> None:
    sending = start("send", f"demo:{memory}/a.mem", destination, *SLOW)
    migration_id = re.sub(r".*migration (\w+)\n", r"\1", _line(sending, "migration "))
    _line(sending, "state: pre-copy")
    if how == "cancel":
        assert migrated("set", migration_id[:6], "bandwidth", "9Mbit/s").returncode == 0
        assert migrated("cancel", migration_id[:6]).returncode == 0
    else:
        sending.send_signal(how)
    assert sending.wait(30) == 130
    assert sending.stderr is not None
    said = sending.stderr.read()
    assert "Traceback" not in said
    assert said.splitlines()[-2].startswith("migrated: error: cancelled by ")
    assert said.splitlines()[-1] == "  → the guest goes on here"
    assert _goes_on(guest)
    _until(lambda: not (memory / "b.mem").exists())
    assert [path.name.split("-")[0] for path in surroundings.iterdir()] == ["serve"]
    shown = json.loads(migrated("status", migration_id, "--json").stdout)["migrations"]
    assert {row["state"] for row in shown} == {"cancelled"}


def test_killed_in_the_middle_it_goes_on_here(
    guest: Process, destination: str, start: Start, migrated: Migrated, memory: Path, surroundings: Path
) -> None:
    sending = start("send", f"demo:{memory}/a.mem", destination, *SLOW)
    _line(sending, "state: pre-copy")
    sending.kill()
    sending.wait(20)
    assert _goes_on(guest)
    _until(lambda: not (memory / "b.mem").exists())
    assert len(list(surroundings.iterdir())) == 2
    assert migrated("status").returncode == 0
    assert [path.name.split("-")[0] for path in surroundings.iterdir()] == ["serve"]


@pytest.mark.parametrize(
    ("name", "code", "what"),
    [("b", 10, "has no guest 'b'"), ("a", 10, "guest 'a' is being received already")],
)
def test_refused(
    guest: Process,
    destination: str,
    start: Start,
    migrated: Migrated,
    memory: Path,
    name: str,
    code: int,
    what: str,
) -> None:
    if name == "a":
        other = memory / "c.mem"
        _line(start("demo", "--file", other, "--size", "32MiB"), "running")
        _line(start("send", f"demo:{other}", destination, "--name", "a", *SLOW), "state: pre-copy")
    done = migrated("send", f"demo:{memory}/a.mem", destination, "--name", name)
    assert done.returncode == code
    assert what in done.stderr
    assert done.stderr.splitlines()[1].startswith("  → ")
    assert _goes_on(guest)
