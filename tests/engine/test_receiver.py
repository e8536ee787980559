"""What the destination decides when things cross or fail."""

import asyncio
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from migrated.engine.events import Event, State, StateChanged
from migrated.engine.precopy import PreCopy
from migrated.engine.records import Outcome, Record, Records
from migrated.errors import GuestError, PeerFailedError, ResourceError
from migrated.protocol import Aborted, Accept, Digest, Running

ID = "5" * 32


def records_fail(monkeypatch: pytest.MonkeyPatch, *outcomes: Outcome) -> None:
    """No record of these outcomes can be written at the destination."""
    write = Records.write

    def failing(self: Records, record: Record) -> None:
        if record.outcome in outcomes and self.folder.name == "incoming":
            raise ResourceError("the disk is full")
        write(self, record)

    monkeypatch.setattr(Records, "write", failing)


def outcome(sides: Any) -> Outcome | None:
    record = Records(sides.folder / "incoming").read(ID)
    return record.outcome if record else None


def at(sides: Any, state: State, then: Callable[[], None]) -> None:
    """Do ``then`` when the source enters ``state``."""

    def observe(event: Event) -> None:
        sides.events.append(event)
        if event == StateChanged(state):
            then()

    sides.observe = observe


async def test_it_is_known_by_its_id_before_the_source_hears_of_it(
    sides: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else whoever cancels it there, in the moment in which its workers start, is told that there is none."""
    send = sides.ends[1].send
    shown = []

    async def noting(message: Any) -> None:
        if isinstance(message, Accept):
            shown.append(replace(sides.receiver.progress()))
        await send(message)

    monkeypatch.setattr(sides.ends[1], "send", noting)
    await sides.move(sides.sender())
    (known,) = shown
    assert (known.migration_id, known.guest, known.state) == (ID, "file", State.SETUP)


async def test_what_was_discarded_never_runs_even_if_that_could_not_be_recorded(
    sides: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The session ends after READY, ABORTED can't be written, and COMMIT comes on another connection."""
    records_fail(monkeypatch, Outcome.ABORTED)

    async def ask(migration_id: str) -> Any:
        while not sides.target.calls or sides.target.calls[-1] != "discard":
            await asyncio.sleep(0)
        sides.answer = await sides.receiver.commit()
        return sides.answer

    sender = sides.sender()
    sender._ask = ask
    at(sides, State.COMMIT, lambda: sides.ends[0]._sock.shutdown(2))
    with pytest.raises(PeerFailedError, match="aborted"):
        await sides.move(sender)
    assert isinstance(sides.answer, Aborted)
    assert sides.target.calls == ["make_ready", "discard"]
    assert outcome(sides) is None
    assert sides.source.calls[-1] == "resume"


async def test_a_guest_that_runs_is_said_to_run_even_if_that_could_not_be_recorded(
    sides: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    records_fail(monkeypatch, Outcome.RUNNING)
    await sides.move(sides.sender())
    assert sides.target.calls == ["make_ready", "start True"]
    assert outcome(sides) is Outcome.RUN
    assert sides.source.calls[-1] == "release True"


async def test_a_decision_that_cannot_be_recorded_is_none(
    sides: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    records_fail(monkeypatch, Outcome.RUN)
    sides.answer = Aborted("asked")
    with pytest.raises(PeerFailedError, match="asked"):
        await sides.move(sides.sender())
    assert sides.target.calls == ["make_ready", "discard"]
    assert outcome(sides) is Outcome.ABORTED
    assert sides.source.calls[-1] == "resume"


async def test_a_cancellation_while_run_is_being_recorded_comes_too_late(
    sides: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cancelled in the middle of the fsync: RUN is on disk then, and nothing may be written over it."""
    loop = asyncio.get_running_loop()
    write = Records.write

    def cancelled(self: Records, record: Record) -> None:
        if record.outcome is Outcome.RUN:
            loop.call_soon_threadsafe(sides.receiver._reader.cancel)
        write(self, record)

    monkeypatch.setattr(Records, "write", cancelled)
    sides.answer = Running()  # what a daemon that has RUN on record says once it started the guest
    await sides.move(sides.sender())
    assert sides.receiver.decided.is_set()
    assert "discard" not in sides.target.calls
    assert outcome(sides) in (Outcome.RUN, Outcome.RUNNING)


async def test_a_start_under_way_is_seen_through_recorded_and_told(sides: Any) -> None:
    """The destination is stopped for good while the guest's resume command runs."""
    loop = asyncio.get_running_loop()
    cancelled = threading.Event()

    def cancel() -> None:
        sides.receiver._reader.cancel()
        loop.call_soon(cancelled.set)

    def start(was_running: bool) -> None:
        loop.call_soon_threadsafe(cancel)
        assert cancelled.wait(10)
        sides.target.calls.append(f"start {was_running}")

    sides.target.start = start
    await sides.move(sides.sender())
    assert sides.asked == []
    assert sides.target.calls == ["make_ready", "start True"]
    assert outcome(sides) is Outcome.RUNNING
    assert sides.far_events[-1] == StateChanged(State.COMPLETED)


async def test_a_digest_before_the_end_of_the_round_is_refused(
    sides: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pages may still be on their way into memory then."""
    sender = sides.sender()

    async def push_and_digest(rounds: Any, pending: Any) -> None:
        await rounds._pusher.push(1, pending, first=True)
        await sides.ends[0].send(Digest((0,), was_running=True))
        await asyncio.Event().wait()

    monkeypatch.setattr(PreCopy, "push_round", push_and_digest)
    with pytest.raises(PeerFailedError, match="middle of a round"):
        await sides.move(sender)
    assert outcome(sides) is Outcome.ABORTED


async def test_whatever_a_worker_raises_ends_the_migration_and_says_why(sides: Any) -> None:
    """A lost batch must not be waited for, nor go unnoticed."""

    def broken() -> None:
        async def run(*_job: Any) -> None:
            raise KeyError("which codec?")

        sides.receiver._stage.run = run

    at(sides, State.PRE_COPY, broken)
    with pytest.raises(PeerFailedError, match=r"a worker failed: KeyError\('which codec\?'\)"):
        await sides.move(sides.sender())
    assert sides.target.calls == ["discard"]
    assert outcome(sides) is Outcome.ABORTED


async def test_what_cannot_be_removed_does_not_hide_why_it_ended(sides: Any) -> None:
    def busy() -> None:
        raise OSError(16, "Device or resource busy")

    sides.target.discard = busy
    sides.target.make_ready = lambda: (_ for _ in ()).throw(GuestError("its program is gone"))
    with pytest.raises(PeerFailedError, match=r"its program is gone.*could not be removed.*busy"):
        await sides.move(sides.sender())
    assert outcome(sides) is Outcome.ABORTED
