"""Jobs on their way to worker processes and back."""

import asyncio
import gc
import operator
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from migrated.compression.pool import Pool
from migrated.errors import IntegrityError, MigratedError, ResourceError, WorkerDiedError

WORKERS = 2
MANY = 400
LARGE = bytes(16 << 10)
SCATTERED = bytes(256 << 10)
"""The runs of 64 MiB of which every other page is wanted."""


@pytest.fixture
async def pool() -> AsyncIterator[Pool]:
    made = Pool(WORKERS, int)
    await asyncio.to_thread(made.start)
    made.open()
    yield made
    await made.close()


async def test_an_answer_is_that_of_its_job(pool: Pool) -> None:
    jobs = [pool.run(operator.mul, number, 2) for number in range(MANY)]
    assert await asyncio.gather(*jobs) == [2 * number for number in range(MANY)]


async def test_jobs_run_in_the_workers_and_all_of_them_work(pool: Pool) -> None:
    found: set[int] = set()
    while len(found) < WORKERS:
        hindered = asyncio.ensure_future(pool.run(time.sleep, 0.01))
        found.add(await pool.run(os.getpid))
        await hindered
    assert found == pool.pids


async def test_what_does_not_fit_in_the_socket_waits(pool: Pool, tmp_path: Path) -> None:
    gates = [tmp_path / f"gate-{number}" for number in range(WORKERS)]
    for gate in gates:
        os.mkfifo(gate)
    busy = [pool.run(Path.read_bytes, gate) for gate in gates]
    jobs = [pool.run(len, LARGE) for _ in range(MANY)]
    waiting = asyncio.gather(*busy, *jobs)
    await asyncio.sleep(0)
    assert pool._unsent
    for gate in gates:
        await asyncio.to_thread(gate.write_bytes, b"")
    assert (await waiting)[WORKERS:] == [len(LARGE)] * MANY


@pytest.mark.parametrize("function", [len, bytes])
async def test_the_largest_batch_fits_both_ways(pool: Pool, function: type) -> None:
    assert await pool.run(function, SCATTERED) in (len(SCATTERED), SCATTERED)


async def test_a_job_that_fits_in_no_message_says_what_to_do(pool: Pool) -> None:
    with pytest.raises(ResourceError, match="--batch-size"):
        await pool.run(len, bytes(2 << 20))


async def test_what_a_job_raises_comes_as_itself_and_says_where(pool: Pool) -> None:
    with pytest.raises(ZeroDivisionError) as raised:
        await pool.run(operator.truediv, 1, 0)
    assert "in a worker" in raised.value.__notes__[0]
    with pytest.raises(IntegrityError, match="damaged"):
        await pool.run(exec, "from migrated.errors import IntegrityError\nraise IntegrityError('damaged')")
    assert await pool.run(abs, -3) == 3


LOCAL_ERROR = """
class Local(Exception):
    pass
raise Local('of nowhere')
"""


async def test_what_cannot_be_taken_home_is_told_of(pool: Pool) -> None:
    with pytest.raises(RuntimeError, match="of nowhere"):
        await pool.run(exec, LOCAL_ERROR)
    with pytest.raises(TypeError, match="lock"):
        await pool.run(threading.Lock)
    assert await pool.run(abs, -3) == 3


UNREADABLE = "type('Unreadable', (), {'__reduce__': lambda self: (divmod, (1, 0))})()"


async def test_an_answer_that_cannot_be_read_ends_all(pool: Pool) -> None:
    waiting = asyncio.ensure_future(pool.run(time.sleep, 60.0))
    with pytest.raises(MigratedError, match=r"answer can't be read.*ZeroDivision"):
        await pool.run(eval, UNREADABLE)
    with pytest.raises(MigratedError, match="answer can't be read"):
        await waiting


async def test_what_a_future_does_not_take_comes_all_the_same(pool: Pool) -> None:
    with pytest.raises(RuntimeError, match="StopIteration"):
        await pool.run(next, iter(()))


async def test_an_answer_that_fits_in_no_message_says_what_to_do(pool: Pool) -> None:
    with pytest.raises(ResourceError, match=r"an answer .*--batch-size"):
        await pool.run(bytes, 2 << 20)
    assert await pool.run(abs, -3) == 3


async def test_a_worker_that_stops_says_why(pool: Pool) -> None:
    with pytest.raises(MigratedError, match=r"stopped: SystemExit\(3\)") as raised:
        await pool.run(exec, "raise SystemExit(3)")
    assert isinstance(raised.value.__cause__, SystemExit)


async def test_one_whose_answer_nobody_wants_any_more_harms_no_other(pool: Pool) -> None:
    cancelled = asyncio.ensure_future(pool.run(time.sleep, 0.02))
    await asyncio.sleep(0)
    cancelled.cancel()
    assert await asyncio.gather(*(pool.run(abs, -each) for each in range(10))) == list(range(10))


@pytest.mark.parametrize("ending", [signal.SIGKILL, None])
async def test_a_worker_that_ends_fails_all_that_wait_and_all_that_come(
    pool: Pool, ending: signal.Signals | None
) -> None:
    waiting = [asyncio.ensure_future(pool.run(time.sleep, 60.0)) for _ in range(3 * WORKERS)]
    await asyncio.sleep(0)
    if ending is None:
        await pool.close()
    else:
        os.kill(min(pool.pids), ending)
    failed = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(isinstance(each, WorkerDiedError) for each in failed)
    assert len(set(map(id, failed))) == len(failed)  # who waits may say more of its own
    with pytest.raises(WorkerDiedError, match="killed" if ending else "closed"):
        await pool.run(abs, 1)


async def test_what_is_shared_goes_with_the_close_and_not_with_a_collection() -> None:
    pool = Pool(WORKERS, int)
    await asyncio.to_thread(pool.start)
    pool.open()
    gone = weakref.ref(pool)
    gc.disable()
    try:
        await pool.close()
        await pool.close()
        del pool
        async with asyncio.timeout(10):
            while gone() is not None:  # threads of the executor end by and by
                await asyncio.sleep(0.01)
    finally:
        gc.enable()


FORGETFUL = """
import asyncio
from migrated.compression.pool import Pool

async def main():
    global pool
    pool = Pool(1, int)
    await asyncio.to_thread(pool.start)
    pool.open()
    print(await pool.run(abs, -3), *pool.pids)

asyncio.run(main())
"""


def test_a_process_that_never_closes_it_ends_all_the_same() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", FORGETFUL], capture_output=True, text=True, timeout=60, check=True
    )
    answer, pid = map(int, ended.stdout.split())
    assert answer == 3
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_workers_that_cannot_begin(capfd: pytest.CaptureFixture[str]) -> None:
    pool = Pool(WORKERS, operator.truediv, 1, 0)
    with pytest.raises(WorkerDiedError, match="did not start"):
        await asyncio.to_thread(pool.start)
    await pool.close()
    capfd.readouterr()  # each worker says why, by and by
