"""What is counted of batches and copies that are put in place, with workers that are none."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from migrated.compression import worker
from migrated.compression.jobs import Unpacked
from migrated.engine.events import BatchMoved, Event
from migrated.engine.placing import Placing
from migrated.errors import IntegrityError, MigratedError
from migrated.protocol import RAW_CODEC, BatchHeader, Copies

PAGE = 4096
HEADER = BatchHeader(
    round=1,
    sequence=1,
    region=0,
    codec=RAW_CODEC + 1,
    level=1,
    data_pages=10,
    zero_pages=2,
    data_runs=1,
    zero_runs=1,
    blocks=1,
    payload_bytes=9000,
    checksum=0,
)


class FakeStage:
    """Answers when it is told to, with what it is told; keeps the jobs, and the slots that it got back."""

    workers = 2

    def __init__(self) -> None:
        self.jobs: list[tuple[Callable[..., Any], Any]] = []
        self.free: list[int] = []
        self.go = asyncio.Event()
        self.error: Exception | None = None

    async def run(self, function: Callable[..., Any], job: Any) -> Unpacked:
        self.jobs.append((function, job))
        await self.go.wait()
        if self.error is not None:
            raise self.error
        return Unpacked(0, 0, cpu_seconds=0.5, seconds=1.0)

    def give_slot(self, slot: int) -> None:
        self.free.append(slot)


class Sides:
    """Placing over a stage that is none, and all that it tells."""

    def __init__(self) -> None:
        self.stage = FakeStage()
        self.events: list[Event] = []
        self.failures: list[MigratedError] = []
        self.told = 0
        self.placing = Placing(
            self.stage,  # type: ignore[arg-type]
            codecs=("lz4", "zstd"),
            page_size=PAGE,
            observer=self.events.append,
            fail=self.failures.append,
            placed=self._placed,
        )

    async def _placed(self) -> None:
        self.told += 1

    async def drained(self) -> None:
        self.stage.go.set()
        await self.placing.drain()


async def test_batches_are_counted_when_they_are_in_place() -> None:
    sides = Sides()
    sides.placing.batch(HEADER, 3)
    await asyncio.sleep(0)
    assert (sides.placing.batches, sides.stage.free, sides.told) == (0, [], 0)
    await sides.drained()
    ((function, job),) = sides.stage.jobs
    assert (function, job.codec, job.slot) == (worker.unpack, "lz4", 3)
    placing = sides.placing
    assert (placing.batches, placing.raw_bytes) == (1, 10 * PAGE)
    assert (placing.round_pages, placing.round_bytes) == (10, 9000)
    assert placing.unpacking == 0.0, "so small a batch says nothing of what pages take"
    assert (sides.stage.free, sides.told) == ([3], 1)
    (event,) = sides.events
    assert isinstance(event, BatchMoved)
    assert (event.codec, event.data_pages, event.zero_pages) == ("lz4", 10, 2)


async def test_what_pages_take_is_told_by_batches_that_are_not_small() -> None:
    sides = Sides()
    sides.placing.batch(replace(HEADER, data_pages=256), 3)
    await sides.drained()
    assert sides.placing.unpacking == pytest.approx(1.0 / (256 * PAGE) / 2), "two workers do it at a time"


async def test_a_round_begins_with_nothing_and_a_migration_goes_on() -> None:
    sides = Sides()
    sides.placing.batch(HEADER, 0)
    await sides.drained()
    sides.placing.next_round()
    assert (sides.placing.round_pages, sides.placing.round_bytes, sides.placing.batches) == (0, 0, 1)


async def test_copies_are_no_pages_of_a_batch() -> None:
    sides = Sides()
    sides.placing.copies(Copies(2, 0, 5, bytes(12), 0), 1)
    await sides.drained()
    assert sides.stage.jobs[0][0] is worker.copy
    assert (sides.placing.batches, sides.placing.round_pages, sides.told) == (0, 0, 0)
    (event,) = sides.events
    assert isinstance(event, BatchMoved)
    assert event.copied_pages == 5
    assert sides.stage.free == [1]


@pytest.mark.parametrize("copies", [False, True])
@pytest.mark.parametrize("error", [IntegrityError("a checksum is wrong"), RuntimeError("a fault of ours")])
async def test_what_goes_wrong_is_told_and_the_slot_is_free(error: Exception, copies: bool) -> None:
    sides = Sides()
    sides.stage.error = error
    if copies:
        sides.placing.copies(Copies(2, 0, 5, bytes(12), 0), 7)
    else:
        sides.placing.batch(HEADER, 7)
    await sides.drained()
    (failure,) = sides.failures
    assert failure is error or "a fault of ours" in failure.what
    assert (sides.stage.free, sides.told, sides.placing.batches, sides.events) == ([7], 0, 0, [])
