"""What a guest's pages cost and how it writes: real workers, memory files, and trackers that write by themselves."""

import asyncio
import multiprocessing
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrated.compression.policy import NONE, Rung
from migrated.engine.rehearsal import Rehearsal, spread
from migrated.engine.survey import Survey, survey
from migrated.errors import GuestDiedError
from migrated.memory.region import FileRegion
from migrated.memory.trackers.base import Tracker
from migrated.memory.trackers.hashes import HashTracker
from migrated.pages import PAGE_SIZE, PageSet, pages_of_runs
from tests.engine.conftest import FileSource, Sides

LZ4, ZSTD = Rung("lz4", 1), Rung("zstd", 1)
PAGES = 2048
ZERO_AT, DATA_PAGES, USED_PAGES = 1024, 1025, 1281
"""Of :func:`memory`: 3 MiB of text, 1 MiB of noise, 1 MiB of zeros, and one page."""


class Writer:
    """Writes to the file at every scan: as an exact tracker what it says, or as one that says nothing."""

    def __init__(self, path: Path, pages: int, *, words: int = 512) -> None:
        self.fd = os.open(path, os.O_RDWR)
        self.pages, self.words = pages, words
        self.random = np.random.default_rng(3)
        self.scans = 0

    def write(self) -> PageSet:
        self.scans += 1
        found = PageSet(PAGES)
        for page in range(self.pages):
            os.pwrite(self.fd, self.random.bytes(8 * self.words), page * PAGE_SIZE)
            found.mask[page] = True
        return found


class ExactTracker(Tracker):
    name = "exact"
    exact = True

    def __init__(self, writer: Writer) -> None:
        self.writer = writer
        self.armed = False

    def arm(self) -> None:
        self.armed = True

    def collect(self) -> list[PageSet]:
        assert self.armed
        return [self.writer.write()]

    def close(self) -> None:
        self.armed = False


class WrittenHashTracker(HashTracker):
    def __init__(self, writer: Writer, guest: FileSource) -> None:
        super().__init__(guest.regions)
        self.writer = writer

    def collect(self) -> list[PageSet]:
        self.writer.write()
        return super().collect()


@pytest.fixture
def guest(memory: Path) -> Iterator[FileSource]:
    made = FileSource(memory)
    yield made
    made.close()


def rehearsal(guest: FileSource, *rungs: Rung, delta_cache: int = 0) -> Rehearsal:
    return Rehearsal(guest.regions, rungs, workers=2, far_workers=1, batch_pages=256, delta_cache=delta_cache)


async def surveyed(guest: FileSource, *rungs: Rung, seconds: float = 0.5, delta_cache: int = 0) -> Survey:
    async with rehearsal(guest, *rungs, delta_cache=delta_cache) as tried:
        return await survey(guest, tried, seconds=seconds)


async def test_a_guest_that_does_nothing_is_left_as_it_is(guest: FileSource, memory: Path) -> None:
    before = memory.read_bytes(), memory.stat().st_mtime_ns
    found = await surveyed(guest, LZ4, ZSTD)
    assert (memory.read_bytes(), memory.stat().st_mtime_ns) == before
    assert set(guest.calls) == {"check"}
    assert found.total_bytes == PAGES * PAGE_SIZE
    assert found.pages == USED_PAGES
    assert found.memory.data_share == pytest.approx(DATA_PAGES / USED_PAGES)
    assert found.writing.pages(60.0) == 0
    assert not found.exact
    assert found.written.costs.keys() == {NONE, LZ4, ZSTD}
    assert 0 < found.speed <= 1
    assert found.setup_seconds > 0
    assert found.looking > 0


async def test_what_pages_cost_is_known_for_each_rung(guest: FileSource) -> None:
    costs = (await surveyed(guest, LZ4, ZSTD)).memory.costs
    none, lz4, zstd = costs[NONE], costs[LZ4], costs[ZSTD]
    assert none.wire * USED_PAGES == pytest.approx(DATA_PAGES * PAGE_SIZE, rel=0.01)
    assert zstd.wire < lz4.wire < none.wire / 1.5
    assert all(cost.packing > 0 and cost.unpacking > 0 for cost in costs.values())


async def test_pages_with_data_take_memory_there_that_is_in_no_cache(
    guest: FileSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("migrated.engine.rehearsal._FRESH_SECONDS", 10.0)
    costs = (await surveyed(guest, LZ4)).memory.costs
    for cost in costs.values():
        assert cost.unpacking == pytest.approx(10.0 * DATA_PAGES / USED_PAGES, rel=1e-3)
        assert cost.packing < 1.0


@pytest.mark.parametrize("level", [0, 1])
async def test_a_migration_then_sends_as_much(sides: Sides, level: int) -> None:
    found = await surveyed(sides.source, LZ4)
    report = await sides.move(sides.sender(level=level))
    cost = found.memory.costs[LZ4 if level else NONE]
    assert report.wire_bytes == pytest.approx(found.pages * cost.wire, rel=0.03)


async def test_pages_that_are_written_cost_what_they_cost(guest: FileSource, memory: Path) -> None:
    """Noise over text: nothing of it compresses."""
    guest.tracker = ExactTracker(Writer(memory, 64))
    found = await surveyed(guest, LZ4, seconds=0.6)
    assert found.exact
    assert found.written.costs[LZ4].wire == pytest.approx(PAGE_SIZE, rel=0.05)
    assert found.written.data_share == 1
    assert found.writing.pages(0.01) < 64
    assert found.writing.pages(10.0) == 64
    assert found.scan_seconds > 0


async def test_a_rung_whose_turn_did_not_come_does_as_the_others(guest: FileSource, memory: Path) -> None:
    guest.tracker = ExactTracker(Writer(memory, 64))
    found = await surveyed(guest, LZ4, ZSTD, seconds=0.01)
    scale = found.written.costs[NONE].wire / found.memory.costs[NONE].wire
    for rung in (LZ4, ZSTD):
        assert found.written.costs[rung].wire == pytest.approx(found.memory.costs[rung].wire * scale)


async def test_a_few_words_of_a_page_travel_as_few(guest: FileSource, memory: Path) -> None:
    guest.tracker = ExactTracker(Writer(memory, 64, words=4))
    whole = (await surveyed(guest, seconds=1.0)).written.costs[NONE].wire
    guest.tracker = ExactTracker(Writer(memory, 64, words=4))
    deltas = (await surveyed(guest, seconds=1.0, delta_cache=4 << 20)).written.costs[NONE].wire
    assert whole > PAGE_SIZE
    assert deltas < whole / 2


async def test_what_hashes_find_is_scaled_from_the_sample(
    monkeypatch: pytest.MonkeyPatch, guest: FileSource, memory: Path
) -> None:
    """One page in eight is written, wherever one looks."""
    monkeypatch.setattr("migrated.engine.survey._SAMPLE_PAGES", 640)
    writer = Writer(memory, 160)
    guest.tracker = WrittenHashTracker(writer, guest)
    found = await surveyed(guest, LZ4)
    assert writer.scans > 1
    assert found.writing.pages(10.0) == pytest.approx(160, rel=0.3)
    assert found.written.costs[LZ4].wire == pytest.approx(PAGE_SIZE, rel=0.05)


async def test_pages_that_are_there_twice_are_counted_where_they_may_be_copies(
    guest: FileSource, memory: Path
) -> None:
    content = np.random.default_rng(7).bytes(200 * PAGE_SIZE)
    with memory.open("r+b") as file:
        file.write(content)
        file.seek(800 * PAGE_SIZE)  # behind what two workers look at in the same moment
        file.write(content[: 150 * PAGE_SIZE])
    whole = memory.read_bytes()
    different = {whole[at : at + PAGE_SIZE] for at in range(0, len(whole), PAGE_SIZE)} - {bytes(PAGE_SIZE)}
    assert (await surveyed(guest, LZ4, seconds=0.1)).memory.twins == 0
    async with rehearsal(guest, LZ4) as tried:
        found = await survey(guest, tried, seconds=0.1, copies=True)
    data = round(found.memory.data_share * found.pages)
    # But for content that has lost its place in the table to another: one in five or six.
    assert found.memory.twins == pytest.approx(1 - len(different) / data, abs=0.05)
    assert found.memory.twins > 0.1


async def test_a_guest_that_ends_is_told_and_nothing_is_left(
    monkeypatch: pytest.MonkeyPatch, guest: FileSource
) -> None:
    def ended() -> None:
        raise GuestDiedError("it ended")

    monkeypatch.setattr(guest, "check", ended)
    with pytest.raises(GuestDiedError):
        await surveyed(guest)
    assert not multiprocessing.active_children()


async def test_it_can_be_cancelled(guest: FileSource) -> None:
    running = asyncio.ensure_future(surveyed(guest, seconds=60.0))
    while not guest.calls:
        await asyncio.sleep(0.01)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert not multiprocessing.active_children()


# -- the sample ---------------------------------------------------------------------------------------


def numbers(sets: list[PageSet], pages: int) -> list[list[int]]:
    found: list[list[int]] = [[] for _ in sets]
    for region, runs in spread(sets, pages):
        found[region] += pages_of_runs(runs).tolist()
    return found


def test_a_sample_is_groups_from_all_over() -> None:
    everything = PageSet.full(10_000)
    ((chosen,)) = numbers([everything], 640)
    assert len(chosen) == 640
    assert chosen[:64] == list(range(64))
    assert chosen[64:128] == list(range(1000, 1064))
    assert chosen[-1] == 9063


def test_regions_get_their_share() -> None:
    large, small = numbers([PageSet.full(9000), PageSet.full(1000)], 1000)
    assert len(large) == 14 * 64
    assert len(small) == 64


@given(
    st.lists(st.lists(st.booleans(), min_size=1, max_size=400), min_size=1, max_size=4), st.integers(1, 300)
)
def test_a_sample_is_of_pages_that_there_are(masks: list[list[bool]], pages: int) -> None:
    sets = [PageSet(len(mask), np.array(mask)) for mask in masks]
    found = numbers(sets, pages)
    for each, chosen in zip(sets, found, strict=True):
        assert chosen == sorted(set(chosen))
        assert all(page in each for page in chosen)
        assert bool(chosen) == bool(each)
    if pages >= sum(map(len, sets)):
        assert sum(map(len, found)) == sum(map(len, sets))


def test_scratch_memory_is_as_large_as_the_guests_and_empty() -> None:
    from migrated.engine.rehearsal import _scratch

    fd = os.memfd_create("guest")
    try:
        os.truncate(fd, 1 << 30)
        with_size = FileRegion(fd, name="ram")
        made = _scratch(with_size)
        assert (made.size, made.name, len(made.populated())) == (1 << 30, "ram", 0)
        made.close()
        with_size.close()
    finally:
        os.close(fd)
