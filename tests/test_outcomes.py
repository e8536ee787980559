"""What the destination decided, across processes: one at a time decides, and what is forgotten never runs."""

import asyncio
from pathlib import Path

import pytest

from migrated.config import Settings
from migrated.config.model import GuestEntry, HostSettings
from migrated.engine.records import Outcome, Record
from migrated.errors import AccessError, GuestError, ResourceError, UsageError
from migrated.outcomes import Outcomes
from migrated.protocol import Aborted, Failed, Running

ONE, TWO = "1" * 32, "2" * 32


class Target:
    """A guest that is to run here, and notes what is asked of it - and what is on record then."""

    def __init__(self, outcomes: Outcomes) -> None:
        self.calls: list[tuple[str, Outcome]] = []
        self.fails: set[str] = set()
        self._outcomes = outcomes

    def _call(self, name: str) -> None:
        record = self._outcomes.records.read(ONE)
        assert record is not None
        self.calls.append((name, record.outcome))
        if name in self.fails:
            raise GuestError(f"{name} failed")

    def start(self, was_running: bool) -> None:
        assert was_running
        self._call("start")

    def discard(self) -> None:
        self._call("discard")

    def close(self) -> None:
        pass


@pytest.fixture
def outcomes(tmp_path: Path) -> Outcomes:
    guests = {"web": GuestEntry(kind="demo", path=tmp_path / "memory")}
    return Outcomes(Settings(host=HostSettings(state_dir=str(tmp_path)), guests=guests))


@pytest.fixture
def target(outcomes: Outcomes, monkeypatch: pytest.MonkeyPatch) -> Target:
    made = Target(outcomes)
    monkeypatch.setattr("migrated.outcomes.make_target", lambda _name, _entry: made)
    return made


def on_record(outcomes: Outcomes, outcome: Outcome, guest: str = "web") -> None:
    outcomes.records.write(Record(ONE, outcome, guest))


def recorded(outcomes: Outcomes) -> Outcome:
    record = outcomes.records.read(ONE)
    assert record is not None
    return record.outcome


async def test_what_is_forgotten_is_recorded_before_it_is_removed_and_never_runs(
    outcomes: Outcomes, target: Target
) -> None:
    """A crash in between leaves memory that nobody needs; the other way round it would start a guest without any."""
    on_record(outcomes, Outcome.RUN)
    assert await outcomes.undecided("web") == ONE
    assert (await outcomes.forget(ONE)).outcome is Outcome.ABORTED
    assert target.calls == [("discard", Outcome.ABORTED)]
    assert isinstance(await outcomes.answer(ONE), Aborted)
    assert await outcomes.undecided("web") is None
    await outcomes.recover()
    assert ("start", Outcome.RUN) not in target.calls


async def test_forgetting_twice_is_forgetting_once(outcomes: Outcomes, target: Target) -> None:
    on_record(outcomes, Outcome.RUN)
    first, second = await asyncio.gather(outcomes.forget(ONE), outcomes.forget(ONE))
    assert first.outcome is second.outcome is Outcome.ABORTED
    assert len(target.calls) == 1


@pytest.mark.parametrize("outcome", [Outcome.RUNNING, Outcome.RECEIVING])
async def test_only_what_is_to_run_and_does_not_is_forgotten(
    outcomes: Outcomes, target: Target, outcome: Outcome
) -> None:
    on_record(outcomes, outcome)
    with pytest.raises(UsageError, match="web"):
        await outcomes.forget(ONE)
    assert recorded(outcomes) is outcome
    assert target.calls == []


async def test_what_never_came_is_not_forgotten(outcomes: Outcomes) -> None:
    with pytest.raises(UsageError, match="no migration"):
        await outcomes.forget(ONE)


async def test_what_cannot_be_removed_is_forgotten_all_the_same(outcomes: Outcomes, target: Target) -> None:
    on_record(outcomes, Outcome.RUN)
    target.fails = {"discard"}
    assert (await outcomes.forget(ONE)).outcome is Outcome.ABORTED


async def test_a_guest_that_is_no_longer_configured_is_forgotten_too(outcomes: Outcomes) -> None:
    on_record(outcomes, Outcome.RUN, guest="gone")
    assert isinstance(await outcomes.answer(ONE), Failed)
    assert (await outcomes.forget(ONE)).outcome is Outcome.ABORTED


async def test_a_start_and_forgetting_do_not_cross(outcomes: Outcomes, target: Target) -> None:
    """Whoever comes first decides."""
    on_record(outcomes, Outcome.RUN)
    asking = asyncio.ensure_future(outcomes.answer(ONE))
    while not target.calls:
        await asyncio.sleep(0)
    with pytest.raises(UsageError, match="was started here"):
        await outcomes.forget(ONE)
    assert await asking == Running()


def test_one_process_at_a_time_decides(outcomes: Outcomes, tmp_path: Path) -> None:
    """A second one would discard what the first receives, and start what the first is starting."""
    outcomes.claim()
    other = Outcomes(Settings(host=HostSettings(state_dir=str(tmp_path))))
    with pytest.raises(ResourceError, match="another `migrated serve`") as caught:
        other.claim()
    assert "host.state_dir" in caught.value.hint
    outcomes.release()
    outcomes.release()
    other.claim()
    other.release()


def test_records_that_cannot_be_kept_are_an_error_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises((AccessError, ResourceError), match="file"):
        Outcomes(Settings(host=HostSettings(state_dir=str(tmp_path / "file")))).claim()


async def test_old_answers_to_strangers_are_forgotten(
    outcomes: Outcomes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Anybody can ask, and only so many are kept."""
    assert isinstance(await outcomes.answer(TWO), Aborted)
    assert await outcomes.seen(TWO)
    monkeypatch.setattr("migrated.outcomes.time.time", lambda: 4e9)
    await outcomes.recover()
    assert not await outcomes.seen(TWO)
