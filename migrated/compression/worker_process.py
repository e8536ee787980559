"""A worker process around its jobs: it takes one from a socket that all workers read, does it, sends the answer.

:mod:`migrated.compression.pool` is the other end. A module of its own, since no worker needs what an event loop does.
"""

import contextlib
import multiprocessing
import multiprocessing.connection
import os
import pickle
import signal
import socket
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any

from migrated.errors import MigratedError, ResourceError
from migrated.memory.linux.heap import kept_buffer

__all__ = ["MESSAGE_BYTES", "begin", "ready", "serve", "too_large"]

MESSAGE_BYTES = 1 << 20
"""More than a job or an answer takes: the runs of the largest batch, each of one page, are 256 KiB. As much as half of
this is asked of the kernel, which doubles it; by default it gives 416 KiB (net.core.wmem_max)."""

_READY_SECONDS = 0.002

_jobs: socket.socket | None = None


def begin(jobs: socket.socket, initializer: Callable[..., object], initargs: tuple[Any, ...]) -> None:
    """The executor's initializer: jobs will come from ``jobs``. This process ends with its parent, whatever happens."""
    global _jobs  # noqa: PLW0603  a worker process has one pool, and what an initializer makes can't be returned
    # Ctrl-C reaches the whole terminal group; the client decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _end_with_parent()
    _jobs = jobs
    initializer(*initargs)


def _end_with_parent() -> None:
    """Pool workers survive a SIGKILL of their parent: a thread waits for that, and ends this process."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def wait() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=wait, name="parent-watch", daemon=True).start()


def ready() -> int:
    """This process's id; it is busy long enough that another one answers for itself."""
    time.sleep(_READY_SECONDS)
    return os.getpid()


def serve() -> None:
    """Do jobs until the pool is closed."""
    assert _jobs is not None
    room = kept_buffer(MESSAGE_BYTES)
    with contextlib.suppress(ConnectionError):
        while length := _jobs.recv_into(room):
            number, function, args = pickle.loads(room[:length])  # noqa: S301  of the process that started this one
            answer = _answer(number, function, args)
            try:
                _jobs.sendall(answer)
            except ConnectionError:
                raise  # the pool was closed
            except OSError as error:
                _jobs.sendall(pickle.dumps((number, None, too_large("an answer", len(answer), error))))


def too_large(what: str, size: int, error: OSError) -> ResourceError:
    """What is told of a message that the kernel does not take."""
    return ResourceError(
        f"{what} of {size} bytes cannot be handed over: {error.strerror}",
        "use a smaller --batch-size, or allow more in net.core.wmem_max",
    )


def _answer(number: int, function: Callable[..., Any], args: tuple[Any, ...]) -> bytes:
    try:
        return pickle.dumps((number, function(*args), None), pickle.HIGHEST_PROTOCOL)
    except Exception as error:
        if error.__cause__ is not None or not isinstance(error, MigratedError):
            error.add_note("in a worker:\n" + traceback.format_exc())
        return pickle.dumps((number, None, _portable(error)), pickle.HIGHEST_PROTOCOL)


def _portable(error: Exception) -> Exception:
    """``error``, or one that says the same if it can't be taken to another process, or be a future's."""
    if isinstance(error, StopIteration):
        return RuntimeError(repr(error))
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301  its own
    except Exception:
        return RuntimeError(repr(error))
    return error
