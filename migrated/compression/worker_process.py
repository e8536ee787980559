"""A worker process between its jobs: it takes one from a socket that all workers read, does it, sends the answer.

:mod:`migrated.compression.pool` is the other end. A module of its own, since no worker needs what an event loop does.
"""

import contextlib
import os
import pickle
import socket
import time
import traceback
from collections.abc import Callable
from typing import Any

from migrated.errors import MigratedError

__all__ = ["MESSAGE_BYTES", "begin", "ready", "serve"]

MESSAGE_BYTES = 1 << 20
"""More than a job or an answer takes: the runs of the largest batch, each of one page, are 256 KiB."""

_READY_SECONDS = 0.002

_jobs: socket.socket | None = None


def begin(jobs: socket.socket, initializer: Callable[..., object], initargs: tuple[Any, ...]) -> None:
    """The executor's initializer: jobs will come from ``jobs``."""
    global _jobs  # noqa: PLW0603  a worker process has one pool, and what an initializer makes can't be returned
    _jobs = jobs
    initializer(*initargs)


def ready() -> int:
    """This process's id; it is busy long enough that another one answers for itself."""
    time.sleep(_READY_SECONDS)
    return os.getpid()


def serve() -> None:
    """Do jobs until the pool is closed."""
    assert _jobs is not None
    room = memoryview(bytearray(MESSAGE_BYTES))
    with contextlib.suppress(ConnectionError):
        while length := _jobs.recv_into(room):
            number, function, args = pickle.loads(room[:length])  # noqa: S301  of the process that started this one
            _jobs.sendall(_answer(number, function, args))


def _answer(number: int, function: Callable[..., Any], args: tuple[Any, ...]) -> bytes:
    try:
        return pickle.dumps((number, function(*args), None), pickle.HIGHEST_PROTOCOL)
    except Exception as error:
        if not isinstance(error, MigratedError):
            error.add_note("in a worker:\n" + traceback.format_exc())
        return pickle.dumps((number, None, _portable(error)), pickle.HIGHEST_PROTOCOL)


def _portable(error: Exception) -> Exception:
    """``error``, or one that says the same if it can't be taken to another process."""
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301  its own
    except Exception:
        return RuntimeError(repr(error))
    return error
