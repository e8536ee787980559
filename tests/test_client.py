"""What a person may change while a migration runs, and what is said of its outcome when they leave."""

import asyncio
import math
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import migrated.client
from migrated.client import Outgoing
from migrated.compression.policy import NONE
from migrated.config import HostSettings, SendSettings, Settings
from migrated.engine.records import Outcome, Record
from migrated.errors import (
    CancelledByPersonError,
    GuestDiedError,
    IntegrityError,
    OutcomeUnknownError,
    UsageError,
)
from migrated.net.address import Address
from migrated.protocol import Aborted, Message, Refuse, Running


def outgoing(**send: Any) -> Outgoing:
    settings = Settings(send=SendSettings(**send))
    return Outgoing(None, Address("there"), settings, name="web", observer=lambda _event: None)  # type: ignore[arg-type]


class Shares:
    """A sender that has agreed on codecs."""

    def __init__(self, *codecs: str) -> None:
        self.codecs = codecs

    def retuned(self) -> None:
        pass


def test_settings_are_changed_as_they_are_typed() -> None:
    migration = outgoing(codec="zstd")
    migration.change("bandwidth", "10MB/s")
    migration.change("downtime", "2s")
    migration.change("level", "9")
    tuning = migration.tuning
    assert (tuning.bandwidth, tuning.downtime, tuning.level) == (10e6, 2.0, 9)
    migration.change("bandwidth", "unlimited")
    assert tuning.bandwidth == math.inf


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("level", ""),
        ("level", "10"),
        ("level", "-1"),
        ("level", "x"),
        ("bandwidth", "fast"),
        ("bandwidth", "999B/s"),
        ("downtime", "0s"),
        ("downtime", "1h"),
        ("guest", "x"),
    ],
)
def test_what_cannot_be_is_refused_and_changes_nothing(key: str, value: str) -> None:
    migration = outgoing()
    before = repr(migration.tuning)
    with pytest.raises(UsageError):
        migration.change(key, value)
    assert repr(migration.tuning) == before


@pytest.mark.parametrize(("codec", "why"), [("none", "no codec is chosen"), ("zstd", "do not share")])
def test_a_level_needs_a_codec_that_both_sides_share(codec: str, why: str) -> None:
    """It began without compression, so whether the destination takes the codec was never asked."""
    migration = outgoing(codec=codec, level=0)
    migration._sender = Shares("lz4")  # type: ignore[assignment]
    with pytest.raises(UsageError, match=why):
        migration.change("level", "1")
    assert migration.tuning.shown == ("raw", 0)
    migration.change("codec", "lz4")
    assert migration.tuning.shown == ("lz4", 1)
    migration.change("codec", "none")
    assert migration.tuning.shown == ("raw", 0)
    migration.change("level", "2")
    assert migration.tuning.shown == ("lz4", 2)
    migration.change("level", "0")
    assert migration.tuning.shown == ("raw", 0)


def test_auto_takes_its_own_levels() -> None:
    migration = outgoing(codec="auto")
    with pytest.raises(UsageError, match="auto chooses the level"):
        migration.change("level", "3")
    migration.change("level", "0")
    assert migration.tuning.fixed == NONE
    migration.change("codec", "auto")
    assert migration.tuning.fixed is None


class Guest:
    """Closing it takes until it may."""

    def __init__(self) -> None:
        self.closing, self.go_on = threading.Event(), threading.Event()
        self.go_on.set()

    def close(self) -> None:
        self.closing.set()
        self.go_on.wait()


class Moving:
    """A sender whose answers are the test's: ``end`` is what :meth:`run` returns or raises."""

    codecs = ()

    def __init__(self, *_arguments: Any, **_more: Any) -> None:
        self.committed = self.settled = False
        self.cancelled = 0
        self.end: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    async def run(self) -> Any:
        try:
            return await self.end
        except asyncio.CancelledError:
            self.cancelled += 1
            raise


class Nowhere:
    round_trip = 0.0

    async def close(self) -> None:
        pass


class Migration:
    """An :class:`Outgoing` under way, with its guest and its sender."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        async def dial(*_address: Any, **_timeouts: Any) -> Nowhere:
            return Nowhere()

        def sender(*arguments: Any, **more: Any) -> Moving:
            self.sender = Moving(*arguments, **more)
            return self.sender

        monkeypatch.setattr(migrated.client, "dial", dial)
        monkeypatch.setattr(migrated.client, "Sender", sender)
        self.guest = Guest()
        self.outgoing = outgoing()
        self.outgoing._guest = self.guest  # type: ignore[assignment]

    async def begun(self) -> "asyncio.Future[Any]":
        running = asyncio.ensure_future(self.outgoing.run())
        await until(lambda: hasattr(self, "sender"))
        return running


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0)


@pytest.fixture
def migration(monkeypatch: pytest.MonkeyPatch) -> Migration:
    return Migration(monkeypatch)


async def test_who_leaves_after_commit_does_not_know_the_outcome(migration: Migration) -> None:
    running = await migration.begun()
    migration.sender.committed = True
    assert not migration.outgoing.cancel("by hand")
    migration.outgoing.leave()
    with pytest.raises(OutcomeUnknownError, match="left before"):
        await running


async def test_a_known_outcome_is_told_although_somebody_leaves_meanwhile(migration: Migration) -> None:
    """The source's copy is being given up: that takes its time, and is seen through."""
    running = await migration.begun()
    migration.sender.committed = migration.sender.settled = True
    assert migration.outgoing.settled
    migration.outgoing.leave()
    await asyncio.sleep(0)
    migration.sender.end.set_result("the report")
    assert await running == "the report"
    assert not migration.sender.cancelled


@pytest.mark.parametrize("known", [True, False])
async def test_leaving_while_the_guest_is_closed_changes_nothing(migration: Migration, known: bool) -> None:
    running = await migration.begun()
    migration.guest.go_on.clear()
    migration.sender.committed = True
    if known:
        migration.sender.settled = True
        migration.sender.end.set_result("the report")
    else:
        migration.outgoing.leave()
    await until(migration.guest.closing.is_set)
    migration.outgoing.leave()
    await asyncio.sleep(0)
    migration.guest.go_on.set()
    if known:
        assert await running == "the report"
    else:
        with pytest.raises(OutcomeUnknownError):
            await running


async def test_a_failure_is_told_although_somebody_cancels_meanwhile(migration: Migration) -> None:
    running = await migration.begun()
    migration.guest.go_on.clear()
    migration.sender.end.set_exception(IntegrityError("the digests differ"))
    await until(migration.guest.closing.is_set)
    assert migration.outgoing.cancel("by hand")
    await asyncio.sleep(0)
    migration.guest.go_on.set()
    with pytest.raises(IntegrityError):
        await running


async def test_a_cancelled_one_says_by_whom(migration: Migration) -> None:
    running = await migration.begun()
    assert migration.outgoing.cancel("cancelled by Ctrl-C")
    assert migration.outgoing.cancel("cancelled by SIGTERM")
    with pytest.raises(CancelledByPersonError, match="by Ctrl-C"):
        await running


async def test_who_awaits_it_can_cancel_it_too(migration: Migration) -> None:
    running = await migration.begun()
    running.cancel()
    with pytest.raises(CancelledByPersonError):
        await running
    assert migration.sender.cancelled


ID = "ab" * 16


class Frozen:
    """A guest that waits for the outcome, and has ended meanwhile."""

    def resume(self) -> None:
        raise GuestDiedError("process 1 has ended meanwhile")

    def release(self, moved: bool) -> None:
        assert not moved
        raise GuestDiedError("process 1 has ended meanwhile")

    def close(self) -> None:
        pass


@pytest.fixture
def waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A host on which one migration waits for its outcome, of a guest that is gone."""
    settings = Settings(host=HostSettings(state_dir=str(tmp_path)))
    details = {"destination": f"unix:{tmp_path}/nobody", "moved": False}
    migrated.client.outgoing_records(settings).write(Record(ID, Outcome.COMMITTING, "web", details))
    monkeypatch.setattr(migrated.client, "revive", lambda _details: Frozen())
    return settings


def outcome(settings: Settings) -> Outcome:
    record = migrated.client.outgoing_records(settings).read(ID)
    assert record is not None
    return record.outcome


async def test_a_destination_that_does_not_answer_leaves_the_outcome_unknown(waiting: Settings) -> None:
    """Whatever it was that failed: one exit code says that it is not settled."""
    with pytest.raises(OutcomeUnknownError, match=r"in 2 tries.*cannot connect") as caught:
        await migrated.client.resolve(waiting, ID, tries=2)
    assert caught.value.migration_id == ID
    assert f"migrated resolve {ID}" in caught.value.hint
    assert outcome(waiting) is Outcome.COMMITTING


async def test_what_is_decided_is_settled_although_the_guest_here_is_gone(
    waiting: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer: Message = Aborted("it had aborted")

    async def ask(*_arguments: Any, **_more: Any) -> Message:
        return answer

    monkeypatch.setattr(migrated.client, "ask_outcome", ask)
    with pytest.raises(GuestDiedError):
        await migrated.client.resolve(waiting, ID)
    assert outcome(waiting) is Outcome.ABORTED
    assert (await migrated.client.resolve(waiting, ID)).outcome is Outcome.ABORTED


async def test_an_answer_that_is_none_leaves_the_outcome_unknown(
    waiting: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def ask(*_arguments: Any, **_more: Any) -> Message:
        return Refuse("draining", "it is stopping")

    monkeypatch.setattr(migrated.client, "ask_outcome", ask)
    with pytest.raises(OutcomeUnknownError, match="Refuse"):
        await migrated.client.resolve(waiting, ID)
    assert outcome(waiting) is Outcome.COMMITTING


async def test_a_copy_whose_process_has_ended_is_complete(
    waiting: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def ask(*_arguments: Any, **_more: Any) -> Message:
        return Running()

    monkeypatch.setattr(migrated.client, "ask_outcome", ask)
    assert (await migrated.client.resolve(waiting, ID)).outcome is Outcome.COMPLETED


async def test_one_that_never_sent_commit_goes_on_here_and_nobody_is_asked(
    waiting: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    resumed = []

    class Waits(Frozen):
        def resume(self) -> None:
            resumed.append(True)

    details = {"destination": "192.0.2.1:1", "moved": True}
    migrated.client.outgoing_records(waiting).write(Record(ID, Outcome.FREEZING, "web", details))
    monkeypatch.setattr(migrated.client, "revive", lambda _details: Waits())
    monkeypatch.setattr(migrated.client, "ask_outcome", None)
    assert (await migrated.client.resolve(waiting, ID)).outcome is Outcome.ABORTED
    assert resumed
