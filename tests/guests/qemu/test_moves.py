"""Machines that move: their memory, their devices, their disk - and go on where they stopped."""

import asyncio
import contextlib

import pytest
from qemu_sides import Pulse, Sides, until
from qemu_vm import Shape, Vm, as_nobody, entry

from migrated.engine.events import Stalled

pytestmark = [pytest.mark.slow, pytest.mark.needs("qemu-system-x86_64", "gcc", "apt-get")]

OFF: set[str] = set()


async def arrived(there: Vm, after: int) -> None:
    """It runs there, from its very next beat on, with every page right and its settings as by default."""
    there.find()
    await asyncio.to_thread(there.goes_on, after)
    first = there.beats()[0][0]
    assert after < first <= after + 25, f"it stopped at beat {after} and went on with {first}"
    await asyncio.to_thread(there.checks_all)
    assert there.status == "running"
    await until(lambda: there.settings == OFF, "its settings as by default")


@pytest.mark.parametrize(
    "shape",
    [
        pytest.param(Shape(rate="0"), id="idle"),
        pytest.param(Shape(rate="8M"), id="writer"),
        pytest.param(Shape(rate="16M", processors=2), id="two-processors-writer"),
        pytest.param(Shape(backends=2, memory=160), id="two-backends"),
        pytest.param(Shape(disk=True), id="disk"),
    ],
)
async def test_a_machine_moves(sides: Sides, shape: Shape) -> None:
    here = sides.vm("a", shape)
    there = sides.other(here)
    await sides.serve(a=entry(there, command=True))
    report = await sides.move(here, "a")
    assert report.moved
    assert report.tracker == "pagemap-scan"
    assert set(report.downtime_parts) == {"pause", "last scan", "last round", "device state", "start"}
    assert not here.alive, "its QEMU here was not told to quit"
    await arrived(there, here.last_beat())


@pytest.mark.root
async def test_one_that_runs_as_nobody_in_its_sandbox_moves(sides: Sides) -> None:
    await test_a_machine_moves(sides, Shape(more=("-sandbox", "on", *as_nobody())))


async def test_a_machine_moves_to_one_that_waits(sides: Sides) -> None:
    here = sides.vm()
    there = sides.other(here).start("-incoming", "defer")
    await sides.serve(a=entry(there))
    await sides.move(here, "a", verify="full")
    await arrived(there, here.last_beat())


async def test_one_that_is_kept_stays_paused(sides: Sides) -> None:
    here = sides.vm()
    there = sides.other(here)
    await sides.serve(a=entry(there, command=True))
    await sides.move(here, "a", keep=True, tracker="hash")
    await arrived(there, here.last_beat())
    assert here.status == "postmigrate"


async def test_a_paused_machine_stays_paused(sides: Sides) -> None:
    here = sides.vm()
    there = sides.other(here)
    with here.monitor() as monitor:
        monitor.qmp.execute("stop")
    stopped_at = here.last_beat()
    await sides.serve(a=entry(there, command=True))
    await sides.move(here, "a")
    assert there.find().status == "paused"
    assert there.last_beat() == 0
    with there.monitor() as monitor:
        monitor.qmp.execute("cont")
    await arrived(there, stopped_at)


async def test_a_balloon_that_takes_memory_away_meanwhile(sides: Sides) -> None:
    """The pages that it gives back are holes: no write that any tracker sees."""
    here = sides.vm("a", Shape(memory=160))
    there = sides.other(here)
    await sides.serve(a=entry(there, command=True))
    moving = await sides.outgoing(here, "a", bandwidth=20e6, verify="full", codec="none")
    task = asyncio.ensure_future(moving.run())
    await until(lambda: moving.progress().raw_bytes > 4 << 20, "some pages on their way")
    with here.monitor() as monitor:
        monitor.qmp.execute("balloon", {"value": 96 << 20})
    await task
    await arrived(there, here.last_beat())


async def test_one_that_writes_too_fast_is_slowed_down(sides: Sides) -> None:
    here = sides.vm("a", Shape(rate="24M"))
    there = sides.other(here)
    await sides.serve(a=entry(there, command=True))
    events: list[object] = []
    moving = await sides.outgoing(
        here,
        "a",
        events.append,
        codec="none",
        bandwidth=24e6,
        downtime=0.4,
        on_stall="throttle",
        max_rounds=2,
    )
    await moving.run()
    assert any(isinstance(event, Stalled) for event in events)
    await arrived(there, here.last_beat())


@pytest.mark.timeout(600)
async def test_back_and_forth(sides: Sides, request: pytest.FixtureRequest) -> None:
    """20 moves of one machine, its heart watched from outside."""
    vm = sides.vm("a", Shape(rate="4M", processors=2))
    places = [Vm(sides.folder, f"hop{number}", vm.shape, vm.image, vm.disk) for number in range(20)]
    sides.vms += places
    await sides.serve(**{each.name: entry(each, command=True) for each in places})
    pulse = Pulse([vm, *places])
    pulse.start()
    downtimes = []
    try:
        for place in places:
            report = await sides.move(vm, place.name)
            downtimes.append(report.downtime_seconds)
            before = vm.last_beat()
            place.find()
            await asyncio.to_thread(place.goes_on, before)
            assert before < place.beats()[0][0] <= before + 25
            for number in range(vm.shape.backends):
                vm.memory(number).unlink()
            vm = place
        await asyncio.to_thread(vm.checks_all)
    finally:
        longest = pulse.stop()
    request.node.user_properties.append(("longest_gap_ms", round(1000 * longest)))
    print(f"20 moves: longest gap {1000 * longest:.0f} ms, longest downtime {1000 * max(downtimes):.0f} ms")
    # A processor of a machine is a thread like our own: on a busy host it waits, too, paused or not.
    assert longest < max(downtimes) + 1.0 + 5 * pulse.late


async def test_what_does_not_fit_is_refused_and_named(sides: Sides) -> None:
    here = sides.vm()
    there = sides.other(here, processors=2)
    await sides.serve(a=entry(there, command=True))
    with pytest.raises(Exception, match="number of processors 1 at the source, 2 here"):
        await sides.move(here, "a")
    await asyncio.to_thread(here.goes_on)
    with contextlib.suppress(AssertionError):
        there.find()
    assert not there.alive
    assert here.settings == OFF


async def test_one_that_does_not_wait_is_refused(sides: Sides) -> None:
    here, there = sides.vm("a"), sides.vm("b")
    await sides.serve(a=entry(there))
    with pytest.raises(Exception, match="does not wait for a migration: it is 'running'"):
        await sides.move(here, "a")
    await asyncio.to_thread(here.goes_on)
    await asyncio.to_thread(there.goes_on)
