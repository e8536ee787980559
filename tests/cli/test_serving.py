"""`migrated serve` as a process: the line when it listens, its control plane, and its end."""

import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from migrated.cli.serving import guest_entries
from migrated.errors import UsageError
from tests.cli.conftest import Migrated

Serve = subprocess.Popen[str]


@pytest.fixture
def serve(surroundings: Path, tmp_path: Path) -> Iterator[Serve]:
    command = [
        sys.executable,
        "-m",
        "migrated",
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--control",
        "127.0.0.1:0",
    ]
    command += ["--guest", f"a=demo:{tmp_path}/a.mem"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    yield process
    process.kill()
    process.communicate(timeout=20)


def listening(process: Serve) -> tuple[str, str]:
    """The address for migrations and the URL of the control plane, from its first line."""
    assert process.stdout is not None
    line = process.stdout.readline()
    match = re.fullmatch(
        r"listening on (127\.0\.0\.1:\d+), control on (http://\S+), guests: a \(demo\)\n", line
    )
    assert match, line
    return match[1], match[2]


def test_it_says_where_it_is_and_answers_there(serve: Serve, migrated: Migrated, surroundings: Path) -> None:
    address, url = listening(serve)
    with urllib.request.urlopen(f"{url}/metrics", timeout=10) as response:
        assert b"migrated_build_info{" in response.read()
    done = migrated("capabilities", address)
    assert "a (demo)" in done.stdout
    assert done.returncode == 0
    assert [path.name for path in surroundings.iterdir()] == [f"serve-{serve.pid}.sock"]
    assert migrated("status").stdout == "no migrations here, now or lately\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_it_and_nothing_is_left(
    serve: Serve, surroundings: Path, number: signal.Signals
) -> None:
    listening(serve)
    serve.send_signal(number)
    assert serve.wait(20) == 0
    assert serve.stderr is not None
    assert serve.stderr.read() == f"migrated: {number.name}: stopping, nothing new is taken\n"
    assert list(surroundings.iterdir()) == []


def test_guest_entries() -> None:
    assert guest_entries(["a=demo:/x", "b=shm:y:z"]) == {
        "a": {"kind": "demo", "path": "/x"},
        "b": {"kind": "shm", "path": str(Path.cwd() / "y:z")},
    }


@pytest.mark.parametrize("text", ["", "a", "a=", "a=demo", "a=demo:", "=demo:/x", "a=:/x"])
def test_guest_entries_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match="NAME=KIND:PATH"):
        guest_entries([text])


def test_a_guest_named_twice() -> None:
    with pytest.raises(UsageError, match="twice"):
        guest_entries(["a=demo:/x", "a=demo:/y"])
