"""The worker processes of a stage, the way of a job to one of them, and of its answer back.

The processes are a ProcessPoolExecutor's, which starts them and notices when one dies. But a job that goes through it
passes two threads beside the event loop's, two queues and their locks: 230 us of CPU time and 260 us until the answer
is here, where reading, hashing and checking 1 MiB of pages takes 300. So each worker runs one task for as long as it
lives and takes jobs from a socket that all of them read: 27 and 94 us (``migrated bench engine --only jobs``). One
message is one job, and the kernel gives it to a worker that waits.
"""

import asyncio
import concurrent.futures
import contextlib
import copy
import itertools
import pickle
import socket
import threading
import weakref
from collections import deque
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from migrated.compression import fork_server, worker_process
from migrated.compression.worker_process import MESSAGE_BYTES
from migrated.errors import MigratedError, WorkerDiedError
from migrated.memory.linux.heap import kept_buffer

__all__ = ["Pool"]

_T = TypeVar("_T")

_CLOSE_SECONDS = 2.0

_KILLED = "a compression worker was killed", "look for the kernel's out-of-memory messages, then try again"

_unclosed: "weakref.WeakSet[socket.socket]" = weakref.WeakSet()


def _end_workers() -> None:
    """At the end of the interpreter, before it joins the threads of executors: they wait for workers that serve."""
    for jobs in list(_unclosed):
        with contextlib.suppress(OSError):
            jobs.shutdown(socket.SHUT_RDWR)


threading._register_atexit(_end_workers)  # type: ignore[attr-defined]  # as concurrent.futures does; atexit comes later


class Pool:
    """``workers`` processes that have each called ``initializer``. After :meth:`start` comes :meth:`open`, and after
    whatever has come :meth:`close`."""

    def __init__(self, workers: int, initializer: Callable[..., object], *initargs: Any) -> None:
        self._workers = workers
        self.pids: frozenset[int] = frozenset()
        with contextlib.ExitStack() as undo:
            self._jobs, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            for end in (self._jobs, self._theirs):
                undo.callback(end.close)
                # Doubled by the kernel; a message has to fit in it.
                end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, MESSAGE_BYTES // 2)
            self._jobs.setblocking(False)
            self._executor: concurrent.futures.ProcessPoolExecutor | None = (
                concurrent.futures.ProcessPoolExecutor(
                    workers,
                    fork_server.context(),
                    initializer=worker_process.begin,
                    initargs=(self._theirs, initializer, initargs),
                )
            )
            undo.pop_all()
        _unclosed.add(self._jobs)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._unsent: deque[bytes] = deque()
        self._room = kept_buffer(MESSAGE_BYTES)
        self._over: MigratedError | None = None

    def start(self) -> None:
        """Start every worker; blocks until all are there. WorkerDiedError if ``initializer`` raises in one."""
        assert self._executor is not None
        pids: set[int] = set()
        try:
            # The executor starts workers lazily, one for each task that finds none idle.
            while len(pids) < self._workers:  # one that is there early may answer for a later one
                tasks = [self._executor.submit(worker_process.ready) for _ in range(self._workers)]
                pids.update(task.result() for task in tasks)
        except BrokenProcessPool as error:
            raise WorkerDiedError(
                "a compression worker did not start", "see the lines above for its reason"
            ) from error
        self.pids = frozenset(pids)

    def open(self) -> None:
        """Have the workers take jobs from now on, from this event loop. WorkerDiedError if one is dead by now."""
        assert self._executor is not None
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._jobs.fileno(), self._take_answers)
        try:
            for _ in range(self._workers):
                self._executor.submit(worker_process.serve).add_done_callback(self._ended)
        except BrokenProcessPool as error:
            raise WorkerDiedError(*_KILLED) from error

    async def run(self, function: Callable[..., _T], *args: Any) -> _T:
        """Call a module's function in a worker; what it raises comes as itself. Who is cancelled is not waited for: the
        job is still done.

        WorkerDiedError if a worker has died, and for what had no answer when the pool was closed; ResourceError for a
        job that the kernel does not take: it is the last one.
        """
        if self._over is not None:
            raise _again(self._over)
        assert self._loop is not None
        number = next(self._numbers)
        job = pickle.dumps((number, function, args), pickle.HIGHEST_PROTOCOL)
        answer: asyncio.Future[_T] = self._loop.create_future()
        self._answers[number] = answer
        self._unsent.append(job)
        if len(self._unsent) == 1:
            self._send()
        return await answer

    def _send(self) -> None:
        """Send what is unsent; what there is no room for waits."""
        assert self._loop is not None
        try:
            while self._unsent:
                self._jobs.send(self._unsent[0])
                self._unsent.popleft()
        except BlockingIOError:
            self._loop.add_writer(self._jobs.fileno(), self._send_rest)
        except OSError as error:
            self._fail(worker_process.too_large("a job", len(self._unsent[0]), error))

    def _send_rest(self) -> None:
        assert self._loop is not None
        self._loop.remove_writer(self._jobs.fileno())
        self._send()

    def _take_answers(self) -> None:
        with contextlib.suppress(BlockingIOError, ConnectionError):
            while length := self._jobs.recv_into(self._room):
                try:
                    number, value, error = pickle.loads(self._room[:length])  # noqa: S301  a worker of ours
                except Exception as why:
                    self._fail(_because("a worker's answer can't be read", why))
                    return
                answer = self._answers.pop(number)
                if answer.done():
                    continue  # whoever wanted it was cancelled
                if error is not None:
                    answer.set_exception(error)
                else:
                    answer.set_result(value)

    def _ended(self, serving: "concurrent.futures.Future[None]") -> None:
        """In a thread of the executor: a worker takes no jobs any more."""
        assert self._loop is not None
        why = None if serving.cancelled() else serving.exception()
        error: MigratedError = WorkerDiedError(*_KILLED)
        if why is not None and not isinstance(why, BrokenProcessPool):
            error = _because("a compression worker stopped", why)
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._fail, error)

    def _fail(self, error: MigratedError) -> None:
        """From now on every job ends with ``error``; of those that are queued at most one a worker is still done."""
        if self._over is not None:
            return
        self._over = error
        if self._loop is not None and not self._loop.is_closed():
            self._loop.remove_reader(self._jobs.fileno())
            self._loop.remove_writer(self._jobs.fileno())
        with contextlib.suppress(OSError):
            self._jobs.shutdown(socket.SHUT_RDWR)
        self._unsent.clear()
        waiting, self._answers = self._answers, {}
        for answer in waiting.values():
            if not answer.done():
                answer.set_exception(_again(error))

    async def close(self) -> None:
        """End the workers, whatever they do. May be called twice."""
        self._fail(WorkerDiedError("the compression stage is closed"))
        # What serves refers to this pool, and so to all that its workers share: that is not to wait for a collection.
        executor, self._executor = self._executor, None
        if executor is None:
            return
        self._jobs.close()
        self._theirs.close()
        # The only way to end one that hangs in the kernel or a hook.
        processes = dict(executor._processes or {})
        executor.shutdown(wait=False, cancel_futures=True)
        del executor
        await asyncio.to_thread(_reap, processes)


def _because(what: str, why: BaseException) -> MigratedError:
    error = MigratedError(f"{what}: {why!r}")
    error.__cause__ = why
    return error


def _again(error: MigratedError) -> MigratedError:
    """The same for one more who waits: each adds where it was to its own."""
    made = copy.copy(error)
    made.__cause__ = error.__cause__
    return made


def _reap(processes: dict[int, Any]) -> None:
    for process in processes.values():
        process.join(_CLOSE_SECONDS)
        if process.is_alive():
            process.kill()
            process.join(_CLOSE_SECONDS)
