"""Real guests to hold, copy and start."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from migrated.guests.base import SourceGuest, TargetGuest
from migrated.memory.linux import process
from migrated.pages import PageSet


@dataclass
class Entry:
    """What a destination's configuration says of a guest."""

    kind: str
    path: Path
    resume: Sequence[str] = ()
    log: Path | None = None


Spawn = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def spawn() -> Iterator[Spawn]:
    """Start ``python -c CODE ARGUMENTS`` and wait for its first line of output; killed at the end."""
    started: list[subprocess.Popen[str]] = []

    def _spawn(code: str, *arguments: object) -> "subprocess.Popen[str]":
        command = [sys.executable, "-c", code, *map(str, arguments)]
        child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        started.append(child)
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        return child

    yield _spawn
    for child in started:
        child.kill()
        child.communicate(timeout=20)


@pytest.fixture
def demo_guest() -> Iterator[Callable[..., "subprocess.Popen[str]"]]:
    """Start a demo guest on a file and wait until it runs."""
    started: list[subprocess.Popen[str]] = []

    def _start(path: Path, *more: str) -> "subprocess.Popen[str]":
        command = [
            sys.executable,
            "-m",
            "migrated.guests.demo",
            "--file",
            str(path),
            "--json",
            "--size",
            "8MiB",
        ]
        guest = subprocess.Popen([*command, *more], stdout=subprocess.PIPE, text=True)
        started.append(guest)
        assert guest.stdout is not None
        while json.loads(guest.stdout.readline())["event"] != "running":
            pass
        return guest

    yield _start
    for guest in started:
        guest.kill()
        guest.communicate(timeout=20)


def wait_until(true: Callable[[], Any], timeout: float = 10.0) -> None:
    """Poll what has no event to wait for: the state of another process, or a file it writes."""
    ending = time.monotonic() + timeout
    while not true():
        assert time.monotonic() < ending, "it did not come to pass"
        time.sleep(0.005)


@pytest.fixture(name="wait_until")
def _wait_until() -> Callable[..., None]:
    return wait_until


def copy_pages(source: SourceGuest, target: TargetGuest, pages: Sequence[PageSet]) -> None:
    """What the engine does, without compression and network."""
    for region, to, chosen in zip(source.regions, target.regions, pages, strict=True):
        runs = chosen.runs()
        if len(runs):
            buffer = memoryview(bytearray(len(chosen) * 4096))
            region.read(runs, buffer)
            to.write(runs, buffer)


@pytest.fixture
def copy_over() -> Callable[[SourceGuest, TargetGuest], None]:
    """Prepare the target, copy in two rounds and a last one; the source is paused and frozen then."""

    def _copy(source: SourceGuest, target: TargetGuest) -> None:
        target.prepare([(region.name, region.size) for region in source.regions])
        source.tracker.arm()
        copy_pages(source, target, [region.populated() for region in source.regions])
        copy_pages(source, target, source.tracker.collect())
        source.pause()
        copy_pages(source, target, source.tracker.last())
        target.make_ready()
        source.freeze()

    return _copy


@pytest.fixture
def entry() -> type[Entry]:
    return Entry


@pytest.fixture
def stopped() -> Callable[[int], bool]:
    """Whether a signal stopped the process."""
    return process.is_stopped
