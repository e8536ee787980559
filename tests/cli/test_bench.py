"""Measurements that are ended early: real ones, as long as each has its memory."""

import contextlib
import os
import re
import select
import subprocess
import sys
from pathlib import Path

import pytest

from migrated.bench.hosts import memory_folder

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

_MEMORY = re.compile(rf"{memory_folder() or '/tmp'}/migrated-(?:bench|plan|stages)-\w+")


def alive(pid: int) -> list[int]:
    """The process and all that it has started, as far as they run."""
    try:
        children = [
            int(child)
            for task in Path(f"/proc/{pid}/task").iterdir()
            for child in (task / "children").read_text().split()
        ]
    except OSError:
        return []
    return [pid, *(each for child in children for each in alive(child))]


def gone(pid: int) -> bool:
    """Whether the process ends within some seconds: one that was killed leaves workers that see it by themselves."""
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([process], [], [], 10)[0])
    finally:
        os.close(process)


def folders(pids: list[int]) -> set[str]:
    """The folders of memory files that these processes have open, or were told of."""
    found: set[str] = set()
    for pid in pids:
        process = Path(f"/proc/{pid}")
        with contextlib.suppress(OSError):
            found.update(_MEMORY.findall((process / "cmdline").read_text()))
            for link in (process / "fd").iterdir():
                found.update(_MEMORY.findall(str(link.readlink())))
    return found


@pytest.mark.parametrize(
    "words",
    [
        ("engine", "--only=throughput", "--runs=9"),
        ("stages", "--runs=99"),
        ("plan", "--link=unlimited", "--runs=9"),
        ("deltas", "--runs=99"),
    ],
    ids=lambda words: words[0],
)
def test_a_measurement_that_is_ended_leaves_nothing(words: tuple[str, ...]) -> None:
    command = [sys.executable, "-m", "migrated", "bench", *words]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as running:
        assert running.stderr is not None
        assert "measuring" in (line := running.stderr.readline()) or "run 1" in line
        taken: set[str] = set()
        while not taken:
            with contextlib.suppress(subprocess.TimeoutExpired):
                pytest.fail(f"it ended by itself: {running.wait(timeout=0.05)}")
            started = alive(running.pid)
            taken = folders(started)
        running.terminate()
        said = running.stderr.read()
        assert running.wait(timeout=60) == 130, said
    assert "Traceback" not in said
    assert [folder for folder in taken if Path(folder).exists()] == []
    assert [pid for pid in started if not gone(pid)] == []
