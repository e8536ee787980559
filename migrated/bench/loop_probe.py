"""Run `migrated` and write down what the callbacks of its event loop cost.

    python -m migrated.bench.loop_probe FILE COMMAND ...

CPU seconds of this thread for each callback, on asyncio's own loop: uvloop's callbacks are the same code, but can't
be measured one by one. FILE gets a JSON object: the number, the sum, and the dearest ones with their names.
"""

import asyncio
import heapq
import json
import runpy
import sys
import time
from pathlib import Path
from typing import Any

__all__ = ["main"]

_DEAREST = 5
_LONGEST = 200


def _where(handle: Any) -> str:
    """What a handle will run: for a task, the chain of its coroutines with the lines where they stand."""
    task = getattr(handle._callback, "__self__", None)
    if not isinstance(task, asyncio.Task):
        return repr(handle._callback)[:_LONGEST]
    places: list[str] = []
    awaited: Any = task.get_coro()
    while getattr(awaited, "cr_frame", None) is not None:
        places.append(f"{awaited.__name__}:{awaited.cr_frame.f_lineno}")
        awaited = awaited.cr_await
    return ".".join(places) or "end"


def main() -> None:
    """Patch the loop, run the command, write the file."""
    target = Path(sys.argv.pop(1))
    count, total = 0, 0.0
    dearest: list[tuple[float, str]] = []
    handles: Any = asyncio.events.Handle
    run = handles._run

    def measured(handle: Any) -> None:
        nonlocal count, total
        before = _where(handle)
        began = time.thread_time()
        run(handle)
        cost = time.thread_time() - began
        count, total = count + 1, total + cost
        if len(dearest) < _DEAREST or cost > dearest[0][0]:
            entry = (cost, f"{before} -> {_where(handle)}")
            heapq.heappush(dearest, entry) if len(dearest) < _DEAREST else heapq.heapreplace(dearest, entry)

    handles._run = measured
    import uvloop

    uvloop.new_event_loop = asyncio.new_event_loop  # type: ignore[assignment]
    try:
        runpy.run_module("migrated", run_name="__main__", alter_sys=True)
    finally:
        found = {"callbacks": count, "cpu_seconds": total, "dearest": sorted(dearest, reverse=True)}
        target.write_text(json.dumps(found))


if __name__ == "__main__":
    main()
