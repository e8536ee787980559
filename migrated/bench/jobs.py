"""What a worker's job costs besides its work: handed to the workers as a stage does it, and through the executor."""

import asyncio
import concurrent.futures
import statistics
import time
from collections.abc import Awaitable, Callable

import uvloop

from migrated.compression import fork_server
from migrated.compression.pool import Pool
from migrated.compression.stage import slot_count, usable_cores
from migrated.memory.linux.process import cpu_seconds

__all__ = ["job_costs"]

_JOBS = 4000
_ALONE = 500

_Run = Callable[..., Awaitable[object]]


def job_costs() -> dict[str, float]:
    """Microseconds a job that does nothing: CPU time of the event loop's process and of the workers' where as many are
    under way as a stage has slots, and the median time until one by itself is answered."""
    return uvloop.run(_both())


async def _both() -> dict[str, float]:
    found: dict[str, float] = {}
    workers = usable_cores()
    pool = Pool(workers, int)  # int() is nothing to begin with
    await asyncio.to_thread(pool.start)
    pool.open()
    try:
        found |= await _costs("through the shared socket", pool.run, pool.pids)
    finally:
        await pool.close()
    loop = asyncio.get_running_loop()
    with concurrent.futures.ProcessPoolExecutor(workers, fork_server.context()) as executor:
        # Each keeps its worker long enough that the next one starts.
        await asyncio.gather(*(loop.run_in_executor(executor, time.sleep, 0.5) for _ in range(workers)))
        found |= await _costs(
            "through the executor",
            lambda function, *args: loop.run_in_executor(executor, function, *args),
            frozenset(executor._processes),
        )
    return found


async def _costs(name: str, run: _Run, pids: frozenset[int]) -> dict[str, float]:
    free = asyncio.Semaphore(slot_count(len(pids)))
    job = bytes(1024)

    async def one() -> None:
        try:
            await run(len, job)
        finally:
            free.release()

    here, there = time.process_time(), sum(map(cpu_seconds, pids))
    async with asyncio.TaskGroup() as group:
        for _ in range(_JOBS):
            await free.acquire()
            group.create_task(one())
    here, there = time.process_time() - here, sum(map(cpu_seconds, pids)) - there
    alone = []
    for _ in range(_ALONE):
        began = time.perf_counter()
        await run(len, job)
        alone.append(time.perf_counter() - began)
    return {
        f"{name}: CPU of the loop's process, us": 1e6 * here / _JOBS,
        f"{name}: CPU of the workers, us": 1e6 * there / _JOBS,
        f"{name}: until it is answered, us": 1e6 * statistics.median(alone),
    }
