"""What the source does that a whole migration does not show by its result."""

import asyncio
import contextlib
import mmap
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from migrated.compression.stage import Stage
from migrated.engine.events import RoundFinished, State, StateChanged
from migrated.engine.unseen import Unseen
from migrated.errors import GuestError, PeerFailedError, RefusedError, ResourceError, WorkerDiedError
from migrated.memory.linux import files
from migrated.memory.region import FileRegion, ProcessRegion
from migrated.memory.trackers.base import Tracker
from migrated.memory.trackers.hashes import HashTracker
from migrated.pages import PAGE_SIZE, PageSet
from migrated.protocol import Offer, Refuse
from tests.engine.conftest import write_mapped

_PAGES = 64
_FORGETFUL = f"""
import ctypes, mmap, sys
memory = mmap.mmap(-1, {_PAGES * PAGE_SIZE}, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
memory[:] = b"x" * len(memory)
print(ctypes.addressof(ctypes.c_char.from_buffer(memory)), flush=True)
sys.stdin.readline()
memory.madvise(mmap.MADV_DONTNEED, {8 * PAGE_SIZE}, {8 * PAGE_SIZE})
print("forgotten", flush=True)
sys.stdin.readline()
"""


@contextlib.contextmanager
def forgetful() -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A process that gives eight of its pages back when told, and the address of its memory."""
    command = [sys.executable, "-c", _FORGETFUL]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process, int(process.stdout.readline())
        finally:
            process.kill()


async def test_private_memory_that_was_given_back_arrives_as_zeros(sides: Any) -> None:
    """The hash tracker leaves out what is not in memory, and so must not leave what was sent from there."""
    with forgetful() as (process, address):
        region = ProcessRegion(process.pid, [(address, address + _PAGES * PAGE_SIZE)])
        sides.source.regions[0].close()
        sides.source.regions = (region,)
        sides.source.tracker = HashTracker((region,))

        def observe(event: Any) -> None:
            if isinstance(event, RoundFinished) and event.round == 1:
                process.stdin.write("\n")
                process.stdin.flush()
                assert process.stdout.readline() == "forgotten\n"

        sides.observe = observe
        await sides.move(sides.sender())
        expected = bytearray(b"x" * _PAGES * PAGE_SIZE)
        expected[8 * PAGE_SIZE : 16 * PAGE_SIZE] = bytes(8 * PAGE_SIZE)
        assert sides.target.path.read_bytes() == expected


async def test_workers_start_while_the_destination_gets_ready(
    sides: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = asyncio.Event()
    start = Stage.start

    async def spy(stage: Stage) -> Stage:
        started.set()
        return await start(stage)

    monkeypatch.setattr(Stage, "start", spy)
    moving = asyncio.ensure_future(sides.sender().run())
    await started.wait()  # nobody has answered the offer yet
    await asyncio.gather(sides.receive(), moving)
    await sides.channel.close()


async def test_a_refusal_leaves_no_worker(sides: Any) -> None:
    sender = sides.sender()
    moving = asyncio.ensure_future(sender.run())
    assert isinstance(await sides.ends[1].receive(), Offer)
    await sides.ends[1].send(Refuse("busy", "somebody else's turn"))
    with pytest.raises(RefusedError, match="somebody else's turn"):
        await moving
    with pytest.raises(WorkerDiedError):
        await sender._stage.run(time.sleep, 0.0)
    assert sides.source.calls == [], "it was never touched"
    await sides.channel.close()


async def test_workers_that_do_not_start_are_told_of_at_the_destination(
    sides: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = Stage._start

    def fail_here(stage: Stage) -> list[int]:
        if stage.workers == 2:  # the source's
            raise ResourceError("no memory for workers")
        return start(stage)

    monkeypatch.setattr(Stage, "_start", fail_here)
    sender = sides.sender()
    with pytest.raises(ResourceError, match="no memory for workers"):
        await sides.move(sender)
    assert isinstance(sides.far_error, PeerFailedError)
    assert "no memory for workers" in str(sides.far_error)


async def test_looking_for_the_first_pages_does_not_block_the_loop(
    sides: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """64 GiB of a process take seconds to look through."""
    region = sides.source.regions[0]
    populated = region.populated
    threads = []

    def spy() -> PageSet:
        threads.append(threading.current_thread())
        return populated()

    monkeypatch.setattr(region, "populated", spy)
    await sides.move(sides.sender())
    assert threads
    assert threading.current_thread() not in threads


async def test_holes_are_looked_for_beside_the_last_scan(sides: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each takes milliseconds of the pause; a scan that waits for the look shows that the look does not wait."""
    looking = threading.Event()
    last, look = sides.source.tracker.last, Unseen.collect

    def looks(unseen: Unseen) -> list[PageSet]:
        if sides.source.paused:
            looking.set()
        return look(unseen)

    def scans() -> list[PageSet]:
        assert looking.wait(20)
        return last()

    monkeypatch.setattr(Unseen, "collect", looks)
    monkeypatch.setattr(sides.source.tracker, "last", scans)
    await sides.move(sides.sender())
    assert looking.is_set()


async def test_cancelling_twice_gives_the_guest_back_before_anything_else(sides: Any) -> None:
    """The second cancellation comes while the pause is seen through."""
    entered, leave = threading.Event(), threading.Event()
    pause = sides.source.pause

    def slow() -> None:
        entered.set()
        leave.wait()
        pause()

    sides.source.pause = slow
    moving = asyncio.ensure_future(sides.sender().run())
    far = asyncio.ensure_future(sides.receive())
    await asyncio.to_thread(entered.wait)
    for _ in range(2):
        moving.cancel()
        for _ in range(5):
            await asyncio.sleep(0)
    assert not moving.done()
    leave.set()
    with pytest.raises(asyncio.CancelledError):
        await moving
    assert sides.source.calls[-2:] == ["pause", "resume"]
    assert not sides.source.paused
    await asyncio.gather(far, return_exceptions=True)


async def test_a_guest_that_cannot_be_sped_up_again_is_resumed_all_the_same(sides: Any) -> None:
    sender = sides.sender()
    sender._throttle = 0.2

    def throttle(share: float) -> None:
        raise GuestError("its helper is gone")

    sides.source.throttle = throttle
    await sender._undo(None)
    assert sides.source.calls == ["resume"]


class Burst(Tracker):
    """An exact tracker; the guest writes ``count`` pages of noise during the first round, then none."""

    name = "burst"
    exact = True

    def __init__(self, path: Path, pages: int, count: int) -> None:
        self._path, self._pages, self._count = path, pages, count

    def arm(self) -> None:
        pass

    def collect(self) -> list[PageSet]:
        found = PageSet(self._pages)
        if self._count:
            write_mapped(self._path, np.random.default_rng(1).bytes(self._count * PAGE_SIZE))
            found.add(0, self._count)
            self._count = 0
        return [found]

    def close(self) -> None:
        pass


async def test_zeros_that_were_fast_to_send_do_not_make_noise_look_fast(sides: Any) -> None:
    """4 MiB of noise at 10 MB/s take longer than the limit, however fast 8 MiB of zeros went."""
    size = sides.source.path.stat().st_size
    with sides.source.path.open("r+b") as file:
        file.write(bytes(size))
    sides.source.tracker = Burst(sides.source.path, size // PAGE_SIZE, 1000)
    sender = sides.sender()
    sender.tuning.bandwidth = 10e6
    report = await sides.move(sender)
    assert report.rounds == 3
    paused = sides.events.index(StateChanged(State.STOP_AND_COPY))
    rounds = [event for event in sides.events[:paused] if isinstance(event, RoundFinished)]
    assert [event.sent_pages for event in rounds] == [0, 1000]
    assert sides.target.path.stat().st_size == size


async def test_the_outcome_is_known_before_the_source_is_given_up(sides: Any) -> None:
    """From then on nobody may leave: what is tidied up would be told as an outcome that is unknown."""
    sender = sides.sender()
    known: list[tuple[str, bool]] = []
    sides.source.freeze = lambda: known.append(("freeze", sender.settled))
    sides.source.release = lambda _moved: known.append(("release", sender.settled))
    await sides.move(sender)
    assert known == [("freeze", False), ("release", True)]


class Blind(Tracker):
    """An exact tracker of a guest that stores nothing."""

    name = "blind"
    exact = True

    def __init__(self, pages: int) -> None:
        self._pages = pages

    def arm(self) -> None:
        pass

    def collect(self) -> list[PageSet]:
        return [PageSet(self._pages)]

    def close(self) -> None:
        pass


async def test_a_huge_page_that_was_punched_arrives_as_zeros(sides: Any) -> None:
    """A balloon that gives a huge page back stores nothing."""
    huge, count = 2 << 20, 4
    fd = os.memfd_create("huge", os.MFD_CLOEXEC | os.MFD_HUGETLB)
    try:
        os.ftruncate(fd, count * huge)
        with mmap.mmap(fd, count * huge) as memory:
            memory[:] = b"x" * count * huge
    except OSError as error:
        os.close(fd)
        pytest.skip(f"kernel: no huge pages are set aside on this host: {error}")
    region = FileRegion(fd)
    sides.source.regions[0].close()
    sides.source.regions = (region,)
    sides.source.tracker = Blind(region.pages)

    def observe(event: Any) -> None:
        if isinstance(event, RoundFinished) and event.round == 1:
            files.punch_hole(fd, huge, huge)

    sides.observe = observe
    await sides.move(sides.sender())
    os.close(fd)
    expected = b"x" * huge + bytes(huge) + b"x" * 2 * huge
    assert sides.target.path.read_bytes() == expected
