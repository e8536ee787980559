"""The pool of workers and its slots, with real processes."""

import asyncio
import gc
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import numpy as np
import pytest

from migrated.compression import worker
from migrated.compression.jobs import ToPack, ToUnpack
from migrated.compression.stage import Stage, default_workers
from migrated.errors import GuestError, IntegrityError, MigratedError, WorkerDiedError
from migrated.memory.region import FileRegion
from migrated.protocol import max_payload

PAGE = 4096
PAGES = 64


@pytest.fixture
def regions(tmp_path: Path) -> Iterator[tuple[FileRegion, ...]]:
    made = []
    for name, pages in (("a", PAGES), ("b", 5)):
        path = tmp_path / name
        path.write_bytes(os.urandom(pages * PAGE))
        made.append(FileRegion(path, writable=True))
    yield tuple(made)
    for region in made:
        region.close()


def stage_of(regions: tuple[FileRegion, ...], workers: int = 2) -> Stage:
    return Stage(regions, workers=workers, batch_pages=PAGES, page_size=PAGE, seed=7)


@pytest.fixture
async def stage(regions: tuple[FileRegion, ...]) -> AsyncIterator[Stage]:
    made = await stage_of(regions).start()
    yield made
    await made.close()


def everything(region: int = 0, pages: int = PAGES) -> ToPack:
    return ToPack(region, np.array([[0, pages]], dtype=np.int64).tobytes(), 0, "lz4", 1, skip_unchanged=False)


def descriptors() -> set[str]:
    return {str(each.readlink()) for each in Path("/proc/self/fd").iterdir() if each.is_symlink()}


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


@pytest.mark.parametrize(
    ("asked", "cores", "started"), [(8, 2, 2), (1, 8, 1), (0, 4, 1), (3, 8, 3), (5, 0, 1)]
)
def test_there_are_never_more_workers_than_cores(asked: int, cores: int, started: int) -> None:
    assert default_workers(asked, cores) == started


async def test_start_waits_for_every_worker(regions: tuple[FileRegion, ...]) -> None:
    stage = await stage_of(regions, workers=3).start()
    assert len(stage.worker_pids) == 3
    assert all(alive(pid) for pid in stage.worker_pids)
    assert os.getpid() not in stage.worker_pids
    await stage.close()
    assert not any(alive(pid) for pid in stage.worker_pids)


async def test_what_a_worker_packs_is_seen_here(stage: Stage) -> None:
    first = await stage.run(worker.pack, everything())
    second = await stage.run(worker.pack, everything(1, 5))
    assert (first.data_pages, second.data_pages) == (PAGES, 5)
    assert np.count_nonzero(stage.terms[0]) == PAGES
    assert np.count_nonzero(stage.terms[1]) == 5
    runs = np.array([[0, PAGES]], dtype=np.int64).tobytes()
    assert stage.digest()[0] == await stage.run(worker.rehash, 0, runs)
    assert any(stage.view(0, second.payload_bytes))


async def test_an_error_of_a_worker_comes_as_itself_and_the_stage_goes_on(stage: Stage) -> None:
    packed = await stage.run(worker.pack, everything())
    job = ToUnpack(0, 0, packed.payload_bytes, packed.checksum ^ 1, "lz4", 1, PAGES, 0, 1, 0, packed.blocks)
    with pytest.raises(IntegrityError, match="checksum"):
        await stage.run(worker.unpack, job)
    assert (await stage.run(worker.pack, everything())).data_pages == PAGES


async def test_a_guest_file_that_was_cut_is_an_error_of_the_guest(
    stage: Stage, regions: tuple[FileRegion, ...]
) -> None:
    os.ftruncate(regions[0].fileno(), PAGE)
    with pytest.raises(GuestError, match="cut"):
        await stage.run(worker.pack, everything())


async def test_a_killed_worker_fails_whoever_waits_and_whoever_comes(stage: Stage) -> None:
    waiting = [asyncio.ensure_future(stage.run(time.sleep, 60.0)) for _ in range(4)]
    await asyncio.sleep(0)
    os.kill(min(stage.worker_pids), signal.SIGKILL)
    for failed in await asyncio.gather(*waiting, return_exceptions=True):
        assert isinstance(failed, WorkerDiedError)
    with pytest.raises(WorkerDiedError, match="killed"):
        await stage.run(worker.pack, everything())
    await stage.close()
    assert not any(alive(pid) for pid in stage.worker_pids)


async def test_a_worker_that_cannot_open_its_region_is_told_of(
    regions: tuple[FileRegion, ...], capfd: pytest.CaptureFixture[str]
) -> None:
    stage = stage_of(regions)
    os.ftruncate(regions[0].fileno(), PAGE)
    with pytest.raises(WorkerDiedError, match="did not start"):
        await stage.start()
    assert stage._pool is None
    capfd.readouterr()


async def test_a_worker_that_hangs_is_ended_all_the_same(
    regions: tuple[FileRegion, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("migrated.compression.pool._CLOSE_SECONDS", 0.1)
    stage = await stage_of(regions).start()
    hanging = asyncio.ensure_future(stage.run(time.sleep, 600.0))
    await asyncio.sleep(0)
    await stage.close()
    assert not any(alive(pid) for pid in stage.worker_pids)
    (failed,) = await asyncio.gather(hanging, return_exceptions=True)
    assert isinstance(failed, WorkerDiedError | asyncio.CancelledError)


async def test_one_that_is_closed_while_it_starts_leaves_nothing(regions: tuple[FileRegion, ...]) -> None:
    before = descriptors()
    stage = stage_of(regions)
    starting = asyncio.ensure_future(stage.start())
    await asyncio.sleep(0)
    await stage.close()
    await asyncio.gather(starting, return_exceptions=True)
    with pytest.raises(WorkerDiedError):
        await stage.run(abs, 1)
    gc.collect()
    assert not {each for each in descriptors() - before if "memfd" in each}
    assert not any(alive(pid) for pid in stage.worker_pids)


async def test_slots_are_apart_and_each_is_given_to_one(stage: Stage) -> None:
    taken = [await stage.take_slot() for _ in range(stage.slots)]
    assert sorted(taken) == list(range(2 * stage.workers + 2))
    for slot in taken:
        view = stage.view(slot, stage.slot_bytes)
        assert len(view) >= max_payload(PAGES, PAGE)
        view[:] = bytes([slot]) * len(view)
    assert all(set(bytes(stage.view(slot, stage.slot_bytes))) == {slot} for slot in taken)
    waiting = asyncio.ensure_future(stage.take_slot())
    await asyncio.sleep(0)
    assert not waiting.done()
    stage.give_slot(3)
    assert await waiting == 3


async def test_nothing_is_left_after_it_was_closed(regions: tuple[FileRegion, ...]) -> None:
    await (await stage_of(regions).start()).close()  # the fork server stays, and is here now
    gc.collect()
    before = descriptors()
    stage = await stage_of(regions).start()
    await stage.run(worker.pack, everything())
    assert len(descriptors()) > len(before)
    pids = stage.worker_pids
    await stage.close()
    await stage.close()
    del stage
    gc.collect()
    assert descriptors() <= before
    assert not any(alive(pid) for pid in pids)


async def test_a_closed_stage_says_so(regions: tuple[FileRegion, ...]) -> None:
    stage = await stage_of(regions).start()
    await stage.close()
    with pytest.raises(WorkerDiedError, match="closed"):
        await stage.run(worker.pack, everything())


async def test_a_stage_that_was_never_started_is_closed_too(regions: tuple[FileRegion, ...]) -> None:
    before = descriptors()
    stage = stage_of(regions)
    await stage.close()
    del stage
    gc.collect()
    assert descriptors() <= before


async def test_a_cancelled_start_leaves_nothing(regions: tuple[FileRegion, ...]) -> None:
    stage = stage_of(regions)
    starting = asyncio.ensure_future(stage.start())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert stage._pool is None
    with pytest.raises(MigratedError):
        await stage.run(worker.pack, everything())
