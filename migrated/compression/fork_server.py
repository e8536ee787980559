"""The process that workers are forked from. A module of its own, quick to load: the sooner that process runs, the more
of what it imports is there when the first worker is wanted."""

import multiprocessing
import os
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext

__all__ = ["context", "start"]


def context() -> ForkServerContext:
    """Workers come from a fork server that has imported what they need: 10 ms each instead of 300."""
    made = multiprocessing.get_context("forkserver")
    made.set_forkserver_preload(["migrated.compression.preload"])
    return made


def start() -> None:
    """Start it now, so that the first migration need not wait for it. Blocks for some ms; may be called twice."""
    # numpy's BLAS starts a thread a core in every process, and nothing here multiplies matrices.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    context()
    forkserver.ensure_running()
