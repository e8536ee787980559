"""Some threads of a process held for a moment, by the thread of ours that asks for it.

For a whole process see :mod:`migrated.memory.hold`: its helper outlives neither us nor the guest.
"""

import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from migrated.memory.linux import ptrace

__all__ = ["held_threads", "system_call"]

_WALL = 0x40000000  # waitpid: threads, too
_LOOK_AGAIN_SECONDS = 0.0002


@contextlib.contextmanager
def held_threads(threads: Sequence[int], patience: float) -> Iterator[None]:
    """Threads of one process run no instruction within; the system calls in which they sleep go on afterwards.

    Enter and leave in the same thread of ours. ``OSError``: the kernel does not let us, a thread is gone, or one
    did not stop within ``patience`` seconds; nothing is held then.
    """
    seized: list[int] = []
    try:
        for tid in threads:
            ptrace.seize(tid)
            seized.append(tid)
            ptrace.interrupt(tid)
        ending = time.monotonic() + patience
        for tid in seized:
            while os.waitpid(tid, _WALL | os.WNOHANG)[0] != tid:
                if time.monotonic() > ending:
                    raise TimeoutError(f"thread {tid} did not stop")
                time.sleep(_LOOK_AGAIN_SECONDS)
        yield
    finally:
        for tid in seized:
            _let_go(tid)


def _let_go(tid: int) -> None:
    try:
        ptrace.detach(tid)
    except ProcessLookupError:
        # It was killed meanwhile, and nobody can take note of its end before we did. Or it never stopped: then
        # it is let go with our own end.
        with contextlib.suppress(ChildProcessError):
            os.waitpid(tid, _WALL | os.WNOHANG)


def system_call(pid: int, tid: int) -> str:
    """The number of the system call in which a thread sleeps; another text if it does not, or can't be seen."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/task/{tid}/syscall").read_text().partition(" ")[0]
    return ""
