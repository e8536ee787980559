"""Sender and receiver together: real sockets, real workers, memory files for guests."""

import asyncio
import contextlib
import filecmp
import mmap
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from migrated.engine.events import Event, Finished, RoundFinished, Stalled, State, StateChanged
from migrated.engine.options import OnStall, Verify
from migrated.engine.records import Outcome, Records
from migrated.errors import (
    ConnectionLostError,
    GuestError,
    IntegrityError,
    OutcomeUnknownError,
    PeerFailedError,
    ResourceError,
    StalledError,
    WorkerDiedError,
)
from migrated.memory.region import FileRegion, Region
from migrated.memory.trackers.base import Tracker
from migrated.pages import PAGE_SIZE, PageSet
from migrated.protocol import Aborted, Failed, Running
from tests.engine.conftest import write_mapped

ID = "5" * 32


@contextlib.contextmanager
def writer(guest: Any) -> Iterator[None]:
    """Write random pages of the guest's file for as long as the guest is not paused."""
    stop = threading.Event()
    rng = np.random.default_rng(9)

    def write() -> None:
        fd = os.open(guest.path, os.O_RDWR)
        while not stop.is_set():
            if not guest.going.acquire(timeout=0.02):
                continue
            for _ in range(8):
                page = int(rng.integers(0, 2048))
                content = bytes(PAGE_SIZE) if rng.integers(4) == 0 else rng.bytes(64) * 64
                os.pwrite(fd, content, page * PAGE_SIZE)
            guest.going.release()
            stop.wait(0.001)
        os.close(fd)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def when(
    events: list[Event], wanted: Callable[[Event], bool], then: Callable[[], None]
) -> Callable[[Event], None]:
    """An observer that keeps the events, and does ``then`` once at the first that is ``wanted``."""
    done = []

    def observe(event: Event) -> None:
        events.append(event)
        if not done and wanted(event):
            done.append(True)
            then()

    return observe


def outcome(sides: Any, role: str) -> Outcome | None:
    record = Records(sides.folder / role).read(ID)
    return record.outcome if record else None


def equal(sides: Any) -> bool:
    return filecmp.cmp(sides.source.path, sides.target.path, shallow=False)


async def test_an_idle_guest_arrives_whole(sides: Any) -> None:
    report = await sides.move(sides.sender())
    assert equal(sides)
    assert sides.source.calls[-3:] == ["pause", "freeze", "release True"]
    assert sides.target.calls == ["make_ready", "start True"]
    assert (outcome(sides, "outgoing"), outcome(sides, "incoming")) == (Outcome.COMPLETED, Outcome.RUNNING)
    assert sum(report.downtime_parts.values()) == pytest.approx(report.downtime_seconds)
    assert report.sent_pages == 1025  # 3 MiB of text, 1 MiB of noise, the last page
    assert report.zero_pages == 256
    assert report.wire_bytes < report.raw_bytes
    assert [type(event) for event in sides.events].count(Finished) == 1


async def test_the_total_time_ends_when_the_destination_runs_the_guest(
    sides: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is left here is given up after that, which may take long: the memory of a large guest."""
    late = 0.0

    def release(moved: bool) -> None:
        nonlocal late
        late = 1000.0

    monkeypatch.setattr(sides.source, "release", release)
    report = await sides.move(sides.sender(clock=lambda: time.monotonic() + late))
    assert late
    assert report.downtime_seconds < report.total_seconds < 100.0


@pytest.mark.parametrize(
    "changes",
    [
        {"level": 0},
        {"verify": Verify.FULL},
        {"batch_pages": 7, "downtime": 10.0},
        {"level": 9},
        {"delta_cache": 1 << 20, "batch_pages": 64},
    ],
)
async def test_a_guest_that_writes_arrives_as_it_was_when_paused(sides: Any, changes: dict[str, Any]) -> None:
    with writer(sides.source):
        await sides.move(sides.sender(**changes))
        assert equal(sides)


@pytest.mark.parametrize(
    "moment",
    [
        lambda event: isinstance(event, RoundFinished),
        lambda event: event == StateChanged(State.STOP_AND_COPY),  # after the last look of pre-copy
    ],
    ids=["pre-copy", "stop-and-copy"],
)
@pytest.mark.parametrize("then", ["nothing", "read"])
async def test_holes_that_appear_without_a_write_arrive_as_zeros(
    sides: Any, moment: Callable[[object], bool], then: str
) -> None:
    """An exact tracker sees no write in a punched hole, nor when it is read, and so is a page of zeros once more."""
    sides.source.tracker = Blind(sides.source.regions)

    def punch() -> None:
        with contextlib.closing(FileRegion(sides.source.path, writable=True)) as region:
            region.punch(np.array([[2, 300]]))
            if then == "read":
                with mmap.mmap(region.fileno(), region.size) as memory:
                    assert not any(memory[page * PAGE_SIZE] for page in range(2, 302))

    sides.observe = when(sides.events, moment, punch)
    await sides.move(sides.sender())
    assert equal(sides)


async def test_holes_in_memory_that_does_not_tell_of_them_arrive_as_zeros(
    sides: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A memfd for one: it is looked through."""
    sides.source.tracker = Blind(sides.source.regions)
    monkeypatch.setattr(FileRegion, "changed_by_call", Region.changed_by_call)

    def punch() -> None:
        with contextlib.closing(FileRegion(sides.source.path, writable=True)) as region:
            region.punch(np.array([[2, 300]]))

    sides.observe = when(sides.events, lambda event: event == StateChanged(State.STOP_AND_COPY), punch)
    await sides.move(sides.sender())
    assert equal(sides)


class Blind(Tracker):
    """An exact tracker that never sees a write."""

    name = "blind"
    exact = True

    def __init__(self, regions: Any) -> None:
        self._regions = regions

    def arm(self) -> None:
        pass

    def collect(self) -> list[PageSet]:
        return [PageSet(region.pages) for region in self._regions]

    def close(self) -> None:
        pass


async def test_full_verification_finds_what_the_tracker_missed(sides: Any) -> None:
    sides.source.tracker = Blind(sides.source.regions)

    def change() -> None:
        write_mapped(sides.source.path, b"?" * PAGE_SIZE)

    sides.observe = when(sides.events, lambda event: isinstance(event, RoundFinished), change)
    with pytest.raises(PeerFailedError, match="differs from the source's"):
        await sides.move(sides.sender(verify=Verify.FULL))
    assert sides.source.calls[-1] == "resume"
    assert sides.target.calls == ["discard"]
    assert not sides.target.path.exists()
    assert outcome(sides, "incoming") is Outcome.ABORTED


@pytest.fixture
def hopeless(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounds never help: ten seconds of downtime are expected after each."""
    monkeypatch.setattr("migrated.engine.convergence._downtime", lambda _measured, _slower: 10.0)


async def test_a_limit_below_the_fixed_costs_is_named_as_such(sides: Any) -> None:
    with pytest.raises(StalledError, match="whatever the guest writes"):
        await sides.move(sides.sender(downtime=1e-9, on_stall=OnStall.THROTTLE))
    assert "throttle 0.2" not in sides.source.calls


@pytest.mark.usefixtures("hopeless")
async def test_a_stall_fails_if_told_so(sides: Any) -> None:
    with pytest.raises(StalledError, match="--on-stall"):
        await sides.move(sides.sender(downtime=1.0))
    assert "pause" not in sides.source.calls
    assert outcome(sides, "incoming") is Outcome.ABORTED
    assert sides.far_events[-1] == StateChanged(State.FAILED)


@pytest.mark.usefixtures("hopeless")
async def test_a_stall_switches_if_told_so(sides: Any) -> None:
    await sides.move(sides.sender(downtime=1.0, on_stall=OnStall.SWITCH))
    assert equal(sides)
    assert any(isinstance(event, Stalled) for event in sides.events)


@pytest.mark.usefixtures("hopeless")
async def test_a_stall_throttles_step_by_step_and_lets_go(sides: Any) -> None:
    with pytest.raises(StalledError, match="99 %"):
        await sides.move(sides.sender(downtime=1.0, on_stall=OnStall.THROTTLE, max_rounds=1))
    throttles = [call for call in sides.source.calls if call.startswith("throttle")]
    assert throttles[:3] == ["throttle 0.2", "throttle 0.3", "throttle 0.4"]
    assert throttles[-1] == "throttle 0.0"


@pytest.mark.parametrize("state", [State.PRE_COPY, State.STOP_AND_COPY])
async def test_a_cut_before_commit_gives_the_guest_back(sides: Any, state: State) -> None:
    def cut() -> None:
        sides.ends[1]._sock.shutdown(2)

    sides.observe = when(sides.events, lambda event: event == StateChanged(state), cut)
    with pytest.raises(ConnectionLostError):
        await sides.move(sides.sender())
    assert sides.source.calls[-1] == "resume"
    assert not sides.source.paused
    assert outcome(sides, "incoming") is Outcome.ABORTED
    assert not sides.target.path.exists()
    assert outcome(sides, "outgoing") in (None, Outcome.ABORTED)


async def test_who_is_killed_while_it_freezes_the_guest_has_left_a_record(
    sides: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    freeze = sides.source.freeze

    def look() -> None:
        seen.append(outcome(sides, "outgoing"))
        freeze()

    monkeypatch.setattr(sides.source, "freeze", look)
    await sides.move(sides.sender())
    assert seen == [Outcome.FREEZING]
    assert outcome(sides, "outgoing") is Outcome.COMPLETED


async def test_a_guest_that_cannot_be_frozen_goes_on_and_that_is_recorded(
    sides: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise GuestError("it does not want to")

    monkeypatch.setattr(sides.source, "freeze", fail)
    with pytest.raises(GuestError, match="does not want"):
        await sides.move(sides.sender())
    assert sides.source.calls[-1] == "resume"
    assert outcome(sides, "outgoing") is Outcome.ABORTED


@pytest.mark.parametrize("answer", [Running(), Aborted("it never got that far")])
async def test_a_cut_after_commit_is_asked_about(sides: Any, answer: Any) -> None:
    sides.answer = answer
    sender = sides.sender()

    def cut() -> None:
        sides.ends[0]._sock.shutdown(2)

    sides.observe = when(sides.events, lambda event: event == StateChanged(State.COMMIT), cut)
    if isinstance(answer, Running):
        await sides.move(sender)
        assert sides.source.calls[-1] == "release True"
        assert outcome(sides, "outgoing") is Outcome.COMPLETED
    else:
        with pytest.raises(PeerFailedError, match="it never got that far"):
            await sides.move(sender)
        assert sides.source.calls[-1] == "resume"
        assert outcome(sides, "outgoing") is Outcome.ABORTED
    assert sides.asked == [ID]


async def test_a_guest_that_cannot_start_there_is_never_resumed_here(sides: Any) -> None:
    sides.target.start_fails = GuestError("its program is gone", "install it")
    sides.answer = Failed("start-failed", "its program is gone")
    with pytest.raises(OutcomeUnknownError, match="its program is gone") as caught:
        await sides.move(sides.sender())
    assert caught.value.migration_id == ID
    assert sides.source.calls[-1] == "freeze"
    assert outcome(sides, "outgoing") is Outcome.COMMITTING
    assert outcome(sides, "incoming") is Outcome.RUN
    assert "discard" not in sides.target.calls


async def test_the_far_side_answers_a_commit_on_another_connection(sides: Any) -> None:
    """As after a cut: the session that waits for COMMIT is told by somebody else, and ends."""
    sender = sides.sender()
    sides.answer = Failed("unused", "unused")

    async def ask(migration_id: str) -> Any:
        return await sides.receiver.commit()

    sender._ask = ask

    def mute() -> None:
        sender._options = sender._options.__class__(
            **{name: getattr(sender._options, name) for name in sender._options.__slots__}
            | {"commit_timeout": 0.0}
        )

    sides.observe = when(sides.events, lambda event: event == StateChanged(State.STOP_AND_COPY), mute)
    await sides.move(sender)
    assert equal(sides)
    assert sides.target.calls.count("start True") == 1
    assert outcome(sides, "incoming") is Outcome.RUNNING


async def test_a_record_that_cannot_be_written_gives_the_guest_back(sides: Any) -> None:
    (sides.folder / "outgoing").write_text("a file where the folder should be")
    with pytest.raises(ResourceError, match="cannot record"):
        await sides.move(sides.sender())
    assert sides.source.calls[-1] == "resume"
    assert outcome(sides, "incoming") is Outcome.ABORTED


@pytest.mark.parametrize("side", ["source", "destination"])
async def test_a_killed_worker_fails_this_migration_only(sides: Any, side: str) -> None:
    sender = sides.sender()

    def kill() -> None:
        stage = sender._stage if side == "source" else sides.receiver._stage
        os.kill(min(stage.worker_pids), signal.SIGKILL)

    started = lambda event: event == StateChanged(State.PRE_COPY)  # noqa: E731
    if side == "source":
        sides.observe = when(sides.events, started, kill)
    else:
        sides.observe_far = when(sides.far_events, started, kill)
    with pytest.raises(WorkerDiedError if side == "source" else PeerFailedError, match="worker was killed"):
        await sides.move(sender)
    assert sides.source.calls[-1] == "resume"
    assert not sides.target.path.exists()


async def test_cancelling_gives_the_guest_back_and_says_so(sides: Any) -> None:
    sender = sides.sender()
    moving = asyncio.ensure_future(sides.move(sender))
    sides.observe = when(
        sides.events,
        lambda event: event == StateChanged(State.STOP_AND_COPY),
        lambda: moving.cancel() and None,
    )
    with pytest.raises(asyncio.CancelledError):
        await moving
    assert not sides.source.paused
    assert outcome(sides, "incoming") is Outcome.ABORTED


async def test_a_peer_that_damages_a_batch_is_found(sides: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    send_batch = sides.ends[0].send_batch

    async def damaged(header: Any, payload: memoryview) -> Any:
        payload[len(payload) // 2] ^= 1
        return await send_batch(header, payload)

    monkeypatch.setattr(sides.ends[0], "send_batch", damaged)
    with pytest.raises(PeerFailedError, match="checksum") as caught:
        await sides.move(sides.sender())
    assert caught.value.code == IntegrityError.reason
    assert not sides.target.path.exists()
