"""The daemon's decisions across connections: one guest at a time, and what is decided stays so."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

import migrated.daemon
import migrated.outcomes
from migrated.compression import fork_server
from migrated.config import Settings
from migrated.config.model import GuestEntry, HostSettings, ServeSettings
from migrated.daemon import Daemon
from migrated.engine.records import Outcome, Record, Records
from migrated.errors import GuestError, ResourceError, UsageError
from migrated.guests.base import TargetGuest
from migrated.memory.region import FileRegion
from migrated.net.address import Address
from migrated.net.endpoints import dial
from migrated.protocol import (
    Aborted,
    Accept,
    Commit,
    Failed,
    Message,
    Offer,
    Ping,
    Pong,
    Refuse,
    RegionInfo,
    Running,
)

ONE, TWO = "1" * 32, "2" * 32
SIZE = 1 << 16


class Target(TargetGuest):
    """Memory at the destination, with a say in when it is prepared and whether it starts."""

    kind = "demo"
    starts_guest = True

    def __init__(self, path: Path) -> None:
        self.name = "web"
        self.path = path
        self.regions: tuple[FileRegion, ...] = ()
        self.calls: list[str] = []
        self.go_on = threading.Event()
        self.go_on.set()
        self.entered = threading.Event()
        self.broken = False

    def _call(self, name: str) -> None:
        self.calls.append(name)
        self.entered.set()
        self.go_on.wait()

    def expect(self, facts: dict[str, str]) -> None:
        self.facts = facts

    def prepare(self, sizes: Any) -> None:
        self._call("prepare")
        with self.path.open("wb") as file:
            file.truncate(sizes[0][1])
        self.regions = (FileRegion(self.path, writable=True),)

    def make_ready(self) -> None:
        self.calls.append("make_ready")

    def start(self, was_running: bool) -> None:
        self._call("start")
        if self.broken:
            raise GuestError("its program is gone")

    def discard(self) -> None:
        self.calls.append("discard")
        self.path.unlink()

    def close(self) -> None:
        self.calls.append("close")
        for region in self.regions:
            region.close()
        self.regions = ()


class Host:
    """A daemon that listens, its records, and the one target that it has."""

    def __init__(self, folder: Path) -> None:
        entry = GuestEntry(kind="demo", path=folder / "memory")
        self.settings = Settings(
            host=HostSettings(state_dir=str(folder)),
            serve=ServeSettings(listen=Address(path=str(folder / "socket"))),
            guests={"web": entry},
        )
        self.records = Records(folder / "incoming")
        self.target = Target(folder / "memory")
        self.daemon = Daemon(self.settings, lambda _offer: lambda _event: None)

    def outcome(self, migration_id: str) -> Outcome | None:
        record = self.records.read(migration_id)
        return record.outcome if record else None

    async def say(self, message: Message) -> Message:
        """What it answers on a connection of its own, which ends then."""
        channel = await dial(self.daemon.address, connect_timeout=5.0, idle_timeout=60.0)
        try:
            await channel.send(message)
            while isinstance(answer := await channel.receive(), Ping):
                pass
            assert isinstance(answer, Message)
            return answer
        finally:
            await channel.close()


@pytest.fixture
async def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Host]:
    """Listening, without a fork server: these migrations never get as far as a batch."""
    made = Host(tmp_path)
    monkeypatch.setattr(fork_server, "start", lambda: None)
    for module in (migrated.daemon, migrated.outcomes):
        monkeypatch.setattr(module, "make_target", lambda _name, _entry: made.target)
    yield made
    made.target.go_on.set()
    with contextlib.suppress(AssertionError):
        await made.daemon.drain(0.0)


def offer(migration_id: str) -> Offer:
    return Offer(
        min_version=1,
        max_version=1,
        migration_id=migration_id,
        guest="web",
        kind="demo",
        page_size=4096,
        regions=(RegionInfo("memory", SIZE),),
        codecs={},
        batch_pages=16,
        digest_seed=1,
        decompress_workers=1,
    )


async def until(condition: Callable[[], object]) -> None:
    while not condition():
        await asyncio.sleep(0)


async def test_of_two_offers_at_once_one_gets_the_guest(host: Host) -> None:
    await host.daemon.start()
    host.target.go_on.clear()
    answers = [asyncio.ensure_future(host.say(offer(each))) for each in (ONE, TWO)]
    await asyncio.wait(answers, return_when=asyncio.FIRST_COMPLETED)
    host.target.go_on.set()
    accepted, refused = sorted(await asyncio.gather(*answers), key=lambda each: isinstance(each, Refuse))
    assert isinstance(accepted, Accept)
    assert isinstance(refused, Refuse)
    assert refused.code == "guest-busy"
    assert host.target.calls.count("prepare") == 1


async def test_a_guest_that_is_to_run_here_is_not_received_again(host: Host) -> None:
    """Its memory is here and nowhere else: another migration would empty it."""
    host.target.broken = True
    host.records.write(Record(ONE, Outcome.RUN, "web"))
    await host.daemon.start()
    answer = await host.say(offer(TWO))
    assert isinstance(answer, Refuse)
    assert answer.code == "guest-undecided"
    assert ONE in answer.hint
    assert "prepare" not in host.target.calls
    assert host.outcome(TWO) is None

    host.target.broken = False
    assert await host.say(Commit(ONE)) == Running()
    assert isinstance(await host.say(offer(TWO)), Accept)


async def test_what_an_earlier_migration_left_does_not_take_the_memory_of_a_decided_one(host: Host) -> None:
    host.target.broken = True
    host.records.write(Record(ONE, Outcome.RECEIVING, "web"))
    host.records.write(Record(TWO, Outcome.RUN, "web"))
    await host.daemon.start()
    assert host.target.calls == ["start", "close"]
    assert host.outcome(TWO) is Outcome.RUN


async def test_two_who_ask_at_once_start_a_guest_once(host: Host) -> None:
    """A start takes its time, and who asks gives up after a while and asks again."""
    host.target.broken = True
    host.records.write(Record(ONE, Outcome.RUN, "web"))
    await host.daemon.start()
    host.target.broken = False
    host.target.calls.clear()
    host.target.entered.clear()
    host.target.go_on.clear()
    answers = [asyncio.ensure_future(host.say(Commit(ONE))) for _ in range(2)]
    await until(host.target.entered.is_set)
    host.target.go_on.set()
    assert await asyncio.gather(*answers) == [Running(), Running()]
    assert host.target.calls.count("start") == 1
    assert host.outcome(ONE) is Outcome.RUNNING


async def test_a_guest_that_cannot_be_started_is_tried_again_when_asked(host: Host) -> None:
    host.target.broken = True
    host.records.write(Record(ONE, Outcome.RUN, "web"))
    await host.daemon.start()
    answer = await host.say(Commit(ONE))
    assert isinstance(answer, Failed)
    assert answer.code == "start-failed"
    assert "its program is gone" in answer.what
    assert host.outcome(ONE) is Outcome.RUN


async def test_a_guest_cancelled_while_it_is_prepared_leaves_nothing(host: Host) -> None:
    await host.daemon.start()
    host.target.go_on.clear()
    asked = asyncio.ensure_future(host.say(offer(ONE)))
    await until(host.target.entered.is_set)
    assert host.daemon._listener is not None
    (serving,) = host.daemon._listener._visits
    serving.cancel()
    host.target.go_on.set()
    await asyncio.gather(asked, serving, return_exceptions=True)
    assert host.target.calls == ["prepare", "discard", "close"]
    assert not host.target.path.exists()
    assert host.outcome(ONE) is Outcome.ABORTED
    assert isinstance(await host.say(offer(TWO)), Accept)


async def test_a_ping_before_it_all_is_answered_and_no_beginning(host: Host) -> None:
    await host.daemon.start()
    channel = await dial(host.daemon.address, connect_timeout=5.0, idle_timeout=60.0)
    try:
        await channel.send(Ping(b"padding"))
        while isinstance(answer := await channel.receive(), Ping):
            pass
        assert answer == Pong()
        await channel.send(Commit(ONE))
        while isinstance(answer := await channel.receive(), Ping):
            pass
        assert isinstance(answer, Aborted)
    finally:
        await channel.close()


async def test_a_visit_without_a_word_is_not_worth_a_warning(
    host: Host, caplog: pytest.LogCaptureFixture
) -> None:
    """A load balancer looks whether somebody listens, every few seconds."""
    await host.daemon.start()
    channel = await dial(host.daemon.address, connect_timeout=5.0, idle_timeout=60.0)
    await channel.close()
    assert isinstance(await host.say(Commit(ONE)), Aborted)
    assert not [record for record in caplog.records if record.name == "migrated.daemon"]


async def test_an_unknown_migration_is_aborted_for_good(host: Host) -> None:
    await host.daemon.start()
    assert isinstance(await host.say(Commit(ONE)), Aborted)
    answer = await host.say(offer(ONE))
    assert isinstance(answer, Refuse)
    assert answer.code == "duplicate"


async def test_who_connects_and_says_nothing_is_hung_up_on_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fork_server, "start", lambda: None)
    settings = Settings(
        host=HostSettings(state_dir=str(tmp_path)),
        serve=ServeSettings(listen=Address(path=str(tmp_path / "socket")), handshake_timeout=0.05),
    )
    dropped: list[str] = []
    daemon = Daemon(settings, lambda _offer: lambda _event: None, dropped=dropped.append)
    await daemon.start()
    channel = await dial(daemon.address, connect_timeout=5.0, idle_timeout=60.0)
    try:
        while isinstance(answer := await channel.receive(), Ping):
            pass
        assert isinstance(answer, Failed)
        assert "said nothing" in answer.what
    finally:
        await channel.close()
        await daemon.drain(0.0)
    assert dropped == ["silent"]


async def test_a_late_start_under_way_is_seen_through(host: Host) -> None:
    """Stopped in between, the next daemon would run the guest's resume command once more."""
    host.target.broken = True
    host.records.write(Record(ONE, Outcome.RUN, "web"))
    await host.daemon.start()
    host.target.broken = False
    host.target.entered.clear()
    host.target.go_on.clear()
    asked = asyncio.ensure_future(host.say(Commit(ONE)))
    await until(host.target.entered.is_set)
    assert host.daemon._listener is not None
    (serving,) = host.daemon._listener._visits
    serving.cancel()
    await asyncio.sleep(0)
    host.target.go_on.set()
    await asyncio.gather(asked, serving, return_exceptions=True)
    assert host.outcome(ONE) is Outcome.RUNNING


async def test_a_second_daemon_with_the_same_records_touches_nothing(host: Host) -> None:
    """It would discard what the first one is receiving."""
    await host.daemon.start()
    host.records.write(Record(ONE, Outcome.RECEIVING, "web"))
    second = Daemon(host.settings, lambda _offer: lambda _event: None)
    with pytest.raises(ResourceError, match="another `migrated serve`"):
        await second.start()
    assert host.outcome(ONE) is Outcome.RECEIVING
    assert host.target.calls == []


async def test_a_guest_that_is_forgotten_may_come_again(host: Host) -> None:
    host.target.broken = True
    host.records.write(Record(ONE, Outcome.RUN, "web"))
    await host.daemon.start()
    refused = await host.say(offer(TWO))
    assert isinstance(refused, Refuse)
    assert f"migrated resolve {ONE} --forget" in refused.hint
    with contextlib.suppress(FileNotFoundError):
        host.target.path.touch()
    await host.daemon.forget(ONE)
    assert host.outcome(ONE) is Outcome.ABORTED
    assert isinstance(await host.say(Commit(ONE)), Aborted)
    assert isinstance(await host.say(offer(TWO)), Accept)


async def test_what_is_under_way_is_not_forgotten(host: Host) -> None:
    await host.daemon.start()
    channel = await dial(host.daemon.address, connect_timeout=5.0, idle_timeout=60.0)
    try:
        await channel.send(offer(ONE))
        while isinstance(await channel.receive(), Ping):
            pass
        with pytest.raises(UsageError, match="under way"):
            await host.daemon.forget(ONE)
    finally:
        await channel.close()
