"""Something goes wrong at each moment of a migration: the machine runs in exactly one place, and all else is as
before."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from moments import Before, Moment, arrange, nothing_left, processes_of
from qemu_sides import Home, Sides, until
from qemu_vm import Vm, entry, wait_until

from migrated.client import Outgoing, resolve
from migrated.engine.records import Outcome
from migrated.errors import (
    CancelledByPersonError,
    GuestDiedError,
    MigratedError,
    OutcomeUnknownError,
    PeerFailedError,
)

pytestmark = [pytest.mark.slow, pytest.mark.needs("qemu-system-x86_64", "gcc", "apt-get")]

BEFORE_THE_DECISION = [each for each in Moment if each is not Moment.START]
SOMEBODYS = {"xbzrle": True, "events": True}
"""Settings that somebody has made for QEMU's own migration."""


class Trial:
    """One move of the machine at home."""

    def __init__(self, home: Home, here: Vm, sides: Sides, monkeypatch: pytest.MonkeyPatch) -> None:
        self.home, self.here, self.sides = home, here, sides
        with self.here.monitor() as monitor:
            monitor.set_capabilities(SOMEBODYS)
        self.there = Vm(
            home.folder, f"there-{sides.folder.name}", home.shape, self.here.image, self.here.disk
        )
        self.before = Before.of(self.here)
        self.moving: Outgoing | None = None
        self._monkeypatch = monkeypatch

    async def move(self, moment: Moment, what: str) -> Any:
        await self.sides.serve(a=entry(self.there, command=True))
        observe = arrange(self.sides, moment, lambda: self.happens(what), self._monkeypatch)
        self.moving = await self.sides.outgoing(self.here, "a", observe)
        return await self.moving.run()

    def happens(self, what: str) -> None:
        moving = self.moving
        assert moving is not None
        assert moving._sender is not None
        match what:
            case "cancel":
                moving.cancel("enough")
            case "cut":
                self.cutting = asyncio.ensure_future(moving._sender._channel.close())
            case "there":
                self.there.find().kill()
                wait_until(lambda: not self.there.alive, "its end")
            case "here":
                self.here.kill()
                wait_until(lambda: not self.here.alive, "its end")

    async def stayed(self) -> None:
        await nothing_left(self.there)
        await self.before.is_again()

    async def moved(self, after: int) -> None:
        """It goes on there with the very next beat, and nobody runs here."""
        self.there.find()
        await asyncio.to_thread(self.there.goes_on, after)
        assert after < self.there.beats()[0][0] <= after + 25
        await asyncio.to_thread(self.there.checks_all)
        self.home.moved_to(self.there)
        await until(lambda: not processes_of(self.here), "the end of the QEMU here")
        await until(lambda: not self.there.settings, "its settings as by default")
        self.here.memory().unlink()


@pytest.fixture
async def trial(home: Home, sides: Sides, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Trial]:
    made = Trial(home, home.vm(), sides, monkeypatch)
    yield made
    if made.home.vm() is not made.there:
        made.there.kill()


@pytest.mark.parametrize("moment", BEFORE_THE_DECISION)
async def test_a_person_cancels(trial: Trial, moment: Moment) -> None:
    with pytest.raises(CancelledByPersonError):
        await trial.move(moment, "cancel")
    await trial.stayed()


@pytest.mark.parametrize("moment", BEFORE_THE_DECISION)
async def test_the_link_is_cut(trial: Trial, moment: Moment) -> None:
    with pytest.raises(MigratedError) as caught:
        await trial.move(moment, "cut")
    assert not isinstance(caught.value, OutcomeUnknownError | CancelledByPersonError)
    await trial.stayed()


@pytest.mark.parametrize("moment", BEFORE_THE_DECISION)
async def test_the_qemu_there_is_killed(trial: Trial, moment: Moment) -> None:
    """And the source hears of it at once, and why."""
    with pytest.raises(
        PeerFailedError, match=r"QEMU that takes guest a in has ended|could not load the devices"
    ):
        await asyncio.wait_for(trial.move(moment, "there"), 20.0)
    await trial.stayed()


@pytest.mark.parametrize("what", ["cancel", "cut"])
async def test_it_is_decided(trial: Trial, what: str) -> None:
    """Too late for a person; and a cut link is made up for by asking again."""
    report = await trial.move(Moment.START, what)
    assert report.moved
    await trial.moved(trial.here.last_beat())


@pytest.mark.parametrize("moment", [Moment.COMMIT, Moment.START])
async def test_the_qemu_here_is_killed_when_all_of_it_is_there(trial: Trial, moment: Moment) -> None:
    report = await trial.move(moment, "here")
    assert report.moved
    await trial.moved(trial.here.last_beat())


@pytest.mark.parametrize("moment", [Moment.SETUP, Moment.PRE_COPY, Moment.STOP_AND_COPY])
async def test_the_qemu_here_is_killed(trial: Trial, moment: Moment) -> None:
    with pytest.raises(GuestDiedError):
        await trial.move(moment, "here")
    await nothing_left(trial.there)
    assert not processes_of(trial.here)


async def test_the_qemu_there_is_killed_when_it_was_to_start(trial: Trial) -> None:
    """It is decided, and nobody can know: a person fences the destination and says so."""
    with pytest.raises(OutcomeUnknownError):
        await trial.move(Moment.START, "there")
    assert trial.here.status == "postmigrate"
    assert trial.moving is not None
    record = await resolve(trial.sides._settings, trial.moving.migration_id, resume_here=True)
    assert record.outcome is Outcome.ABORTED
    await trial.before.is_again()


@pytest.mark.parametrize("moment", [Moment.STOP_AND_COPY, Moment.COMMIT])
async def test_a_paused_one_is_paused_again(
    home: Home, sides: Sides, monkeypatch: pytest.MonkeyPatch, moment: Moment
) -> None:
    """Not one instruction of it ran: its memory is the same, byte for byte."""
    here = home.vm()
    with here.monitor() as monitor:
        monitor.qmp.execute("stop")
        trial = Trial(home, here, sides, monkeypatch)
        with pytest.raises(CancelledByPersonError):
            await trial.move(moment, "cancel")
        await trial.stayed()
        monitor.qmp.execute("cont")
    await asyncio.to_thread(here.goes_on)
