"""Guests that are plain memory files, and two sides joined by a real socket pair."""

import asyncio
import mmap
import os
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from migrated.engine.events import Event, Report
from migrated.engine.options import STARTS_GUEST, OnStall, SendOptions, Verify
from migrated.engine.receiver import Receiver
from migrated.engine.records import Records
from migrated.engine.rounds import Tuning
from migrated.engine.sender import Sender
from migrated.errors import MigratedError
from migrated.guests.base import SourceGuest, TargetGuest
from migrated.memory.region import FileRegion
from migrated.memory.trackers.hashes import HashTracker
from migrated.net.channel import SocketChannel
from migrated.net.streams import Streams
from migrated.pages import PAGE_SIZE
from migrated.protocol import DELTA, Aborted, Failed, Join, Message, Offer, Role, Support, negotiate

CODECS = {"lz4": tuple(range(10)), "zstd": tuple(range(10))}


class FileSource(SourceGuest):
    """A memory file that a thread of the test may write to; pausing is a lock that the writer takes."""

    kind = "demo"

    def __init__(self, path: Path) -> None:
        self.name = "file"
        self.path = path
        self.regions = (FileRegion(path),)
        self.tracker = HashTracker(self.regions)
        self.tracker_note = "hashes: a file of a test"
        self.was_running = True
        self.calls: list[str] = []
        self.going = threading.Lock()
        self.paused = False
        self.frozen = False

    def check(self) -> None:
        self.calls.append("check")

    def throttle(self, share: float) -> None:
        self.calls.append(f"throttle {share:.1f}")

    def pause(self) -> None:
        self.calls.append("pause")
        self.going.acquire()
        self.paused = True

    def resume(self) -> None:
        self.calls.append("resume")
        self.frozen = False
        if self.paused:
            self.paused = False
            self.going.release()

    def freeze(self) -> None:
        self.calls.append("freeze")
        self.frozen = True

    def release(self, moved: bool) -> None:
        self.calls.append(f"release {moved}")

    def describe(self) -> dict[str, Any]:
        return {"kind": "test"}

    def close(self) -> None:
        if not self.frozen:
            self.resume()
        for region in self.regions:
            region.close()


class FileTarget(TargetGuest):
    """Memory at the destination, and what was asked of it."""

    kind = "demo"
    starts_guest = True

    def __init__(self, path: Path) -> None:
        self.name = "file"
        self.path = path
        self.calls: list[str] = []
        self.start_fails: Exception | None = None

    def prepare(self, regions: tuple[tuple[str, int], ...]) -> None:
        ((_, size),) = regions
        with self.path.open("wb") as file:
            file.truncate(size)
        self.regions = (FileRegion(self.path, writable=True),)

    def make_ready(self) -> None:
        self.calls.append("make_ready")

    def start(self, was_running: bool) -> None:
        self.calls.append(f"start {was_running}")
        if self.start_fails:
            raise self.start_fails

    def discard(self) -> None:
        self.calls.append("discard")
        self.path.unlink(missing_ok=True)

    def close(self) -> None:
        for region in self.regions:
            region.close()


@dataclass
class Sides:
    """One migration between two channels in this process."""

    source: FileSource
    target: FileTarget
    folder: Path
    ends: tuple[SocketChannel, SocketChannel]
    asked: list[str] = field(default_factory=list)
    answer: Message = field(default_factory=lambda: Aborted("asked"))
    events: list[Event] = field(default_factory=list)
    far_events: list[Event] = field(default_factory=list)
    receiver: Receiver | None = None
    features: tuple[str, ...] = (STARTS_GUEST, DELTA)
    most_streams: int = 8
    lanes: list[tuple[SocketChannel, SocketChannel]] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    far_error: BaseException | None = None
    joining: list["asyncio.Future[None]"] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.observe: Callable[[Event], None] = self.events.append
        self.observe_far: Callable[[Event], None] = self.far_events.append

    async def dial(self) -> SocketChannel:
        """One more connection to the other side."""
        pair = await connected()
        self.lanes.append(pair)
        self.joining.append(asyncio.ensure_future(self._take_lane(pair[1])))
        return pair[0]

    async def _take_lane(self, channel: SocketChannel) -> None:
        try:
            join = await channel.receive()
            assert isinstance(join, Join)
            assert self.receiver is not None
            await self.receiver.join(channel, join)
        except MigratedError as error:
            await channel.send(Failed(error.reason, error.what))
        await channel.finish()

    def sender(self, **changes: Any) -> Sender:
        level = changes.pop("level", 1)
        downtime = changes.pop("downtime", 0.3)
        clock = changes.pop("clock", time.monotonic)
        options = {
            "guest_name": "file",
            "codecs": CODECS,
            "compress_workers": 2,
            "decompress_workers": 1,
            "batch_pages": 256,
            "max_rounds": 10,
            "on_stall": OnStall.FAIL,
            "verify": Verify.DIGEST,
            "commit_timeout": 5.0,
            "destination": "test",
        } | changes

        async def ask(migration_id: str) -> Message:
            self.asked.append(migration_id)
            return self.answer

        self.channel = Streams(self.ends[0], self.dial, self.said.append)
        return Sender(
            self.channel,
            self.source,
            SendOptions(**options),
            Tuning("lz4", level, float("inf"), downtime),
            Records(self.folder / "outgoing"),
            lambda event: self.observe(event),
            migration_id="5" * 32,
            ask=ask,
            spread=self.channel.spread,
            clock=clock,
        )

    async def receive(self) -> None:
        offer = await self.ends[1].receive()
        assert isinstance(offer, Offer)
        support = Support(
            "test", CODECS, 1 << 40, 512, 1, 2, features=self.features, streams=self.most_streams
        )
        accept = negotiate(offer, support)
        self.target.prepare(tuple((region.name, region.size_bytes) for region in offer.regions))
        self.receiver = Receiver(
            self.ends[1],
            self.target,
            offer,
            accept,
            Records(self.folder / "incoming"),
            lambda event: self.observe_far(event),
        )
        try:
            await self.receiver.run()
        except BaseException as error:
            self.far_error = error
            raise
        finally:
            await self.ends[1].finish()

    async def move(self, sender: Sender) -> Report:
        """Run both sides; whatever the source raises comes out, the destination's errors do not."""
        far = asyncio.ensure_future(self.receive())
        try:
            return await sender.run()
        finally:
            await self.channel.close()
            await asyncio.gather(far, *self.joining, return_exceptions=True)


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Path]:
    """8 MiB of shared memory: text-like, random, zero and never written pages."""
    path = Path("/dev/shm") / f"migrated-test-{os.getpid()}-{tmp_path.name}"
    rng = np.random.default_rng(5)
    with path.open("wb") as file:
        file.truncate(8 << 20)
    fd = os.open(path, os.O_RDWR)
    os.pwrite(fd, b"".join(b"a line of a log file, number %07d\n" % n for n in range(90000))[: 3 << 20], 0)
    os.pwrite(fd, rng.bytes(1 << 20), 3 << 20)
    os.pwrite(fd, bytes(1 << 20), 4 << 20)
    os.pwrite(fd, rng.bytes(PAGE_SIZE), 8 * (1 << 20) - PAGE_SIZE)
    os.close(fd)
    yield path
    path.unlink(missing_ok=True)


def write_mapped(path: Path, content: bytes) -> None:
    """As a guest writes: through a mapping, from the start of its memory."""
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
        memory[: len(content)] = content


async def connected() -> tuple[SocketChannel, SocketChannel]:
    """The source's and the destination's end of a connection, greeted."""
    near, far = socket.socketpair()
    return (
        await SocketChannel(near, Role.SOURCE, idle_timeout=20.0, peer="destination").start(),
        await SocketChannel(far, Role.DESTINATION, idle_timeout=20.0, peer="source").start(),
    )


@pytest.fixture
async def sides(tmp_path: Path, memory: Path) -> AsyncIterator[Sides]:
    ends = await connected()
    source = FileSource(memory)
    target = FileTarget(tmp_path / "arrived")
    both = Sides(source, target, tmp_path, ends)
    yield both
    source.close()
    for end in (*ends, *(end for lane in both.lanes for end in lane)):
        await end.close()
    if hasattr(target, "regions"):
        target.close()
