"""What signals do, decided on a migration that is none; and that they arrive."""

import asyncio
import os
import signal

import pytest

from migrated.cli import interrupts as module
from migrated.cli.interrupts import Interrupts, handled


class Migration:
    """Notes what it is told."""

    migration_id = "abc"

    def __init__(self, *, running: bool = True) -> None:
        self.committed = self.settled = False
        self.told: list[str] = []
        self._running = running

    def cancel(self, why: str) -> bool:
        if self.committed or not self._running:
            return False
        self.told.append(why)
        return True

    def leave(self) -> None:
        self.told.append("leave")


class Surroundings:
    """The process around it."""

    def __init__(self) -> None:
        self.stopped = 0
        self.said: list[str] = []
        self.ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    def stop(self) -> None:
        self.stopped += 1

    def made(self) -> Interrupts:
        return Interrupts(self.stop, self.said.append, end=self.ended.set_result)


async def test_before_there_is_a_migration_the_work_is_stopped() -> None:
    around = Surroundings()
    interrupts = around.made()
    interrupts(signal.SIGINT)
    assert around.stopped == 1
    assert interrupts.why == "cancelled by Ctrl-C"


async def test_the_first_cancels_and_says_that_the_guest_goes_on() -> None:
    around, migration = Surroundings(), Migration()
    interrupts = around.made()
    interrupts.take_over(migration)
    interrupts(signal.SIGTERM)
    assert migration.told == ["cancelled by SIGTERM"]
    assert around.stopped == 0
    assert "the guest goes on here" in around.said[0]


async def test_a_migration_that_does_not_run_yet_is_stopped_with_the_rest() -> None:
    around = Surroundings()
    interrupts = around.made()
    interrupts.take_over(Migration(running=False))
    interrupts(signal.SIGINT)
    assert around.stopped == 1


async def test_the_second_cancels_again_and_then_just_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_AT_ONCE_SECONDS", 0.01)
    around, migration = Surroundings(), Migration()
    interrupts = around.made()
    interrupts.take_over(migration)
    interrupts(signal.SIGINT)
    assert not around.ended.done()
    interrupts(signal.SIGINT)
    assert migration.told == ["cancelled by Ctrl-C"] * 2
    async with asyncio.timeout(10):
        assert await around.ended == 130


async def test_after_commit_the_first_only_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_AT_ONCE_SECONDS", 0)
    around, migration = Surroundings(), Migration()
    interrupts = around.made()
    interrupts.take_over(migration)
    migration.committed = True
    interrupts(signal.SIGINT)
    assert migration.told == []
    assert around.stopped == 0
    assert "migrated resolve abc" in around.said[0]
    interrupts(signal.SIGINT)
    assert migration.told == ["leave"]
    await asyncio.sleep(0)
    assert not around.ended.done()


async def test_a_cancel_before_does_not_count_after_commit() -> None:
    """The first signal came too late to cancel; the next one must still only tell."""
    around, migration = Surroundings(), Migration()
    interrupts = around.made()
    interrupts.take_over(migration)
    interrupts(signal.SIGINT)
    migration.committed = True
    interrupts(signal.SIGINT)
    assert "leave" not in migration.told


async def test_a_known_outcome_is_not_left() -> None:
    around, migration = Surroundings(), Migration()
    interrupts = around.made()
    interrupts.take_over(migration)
    migration.committed = migration.settled = True
    for _ in range(3):
        interrupts(signal.SIGINT)
    assert migration.told == []
    assert around.stopped == 0
    assert "outcome is known" in around.said[0]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_signals_arrive(number: signal.Signals) -> None:
    came: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    with handled(came.set_result):
        os.kill(os.getpid(), number)
        async with asyncio.timeout(10):
            assert await came == number


async def test_nohup_stays_nohup() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with handled(lambda number: pytest.fail(f"{number} was not ignored")):
            os.kill(os.getpid(), signal.SIGHUP)
            await asyncio.sleep(0)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
