"""A process held by ptrace: every thread stopped, let go again, or handed over to SIGSTOP.

Runs in the holder process only: ptrace requests must come from the thread that attached, and when that
process ends, for whatever reason, the kernel lets every thread go.
"""

import contextlib
import os
import signal
import time
from collections.abc import Callable

from migrated.memory.linux import process, ptrace

__all__ = ["DiedError", "StuckError", "Tracee", "TraceeError", "TraceeForbiddenError"]

_WALL = 0x40000000  # waitpid: threads, too
_POLL_SECONDS = 0.0002
_LOOK_AGAIN_SECONDS = 0.02
"""Threads that vanish without a report (another one called exec) are noticed this much later at most."""


class TraceeError(Exception):
    """The process can't be held, or what was asked for failed; it goes on as before."""


class DiedError(TraceeError):
    """The process ended."""


class TraceeForbiddenError(TraceeError):
    """The kernel does not let us trace it."""


class StuckError(TraceeError):
    """A thread did not stop in time. Only the end of the holder process lets go of all others now."""


class Tracee:
    """The process ``pid``. ``SIGCHLD`` must be blocked and not ignored in the calling thread."""

    def __init__(self, pid: int, pidfd: int) -> None:
        self.pid = pid
        self.pidfd = pidfd
        self._stopped: dict[int, bool] = {}  # thread -> is it in a trap of ours
        self._at_syscall: set[int] = set()
        self.was_stopped = False
        """Whether a signal (SIGSTOP, Ctrl-Z) had stopped the process when :meth:`stop` trapped it.

        The kernel says so with each trap. /proc can't be asked: for an instant after a trap's end, a stopped
        process is seen running, on its way back into its stop.
        """
        self._injecting = 0
        self.held_back: list[int] = []
        """Stop signals that arrived at the thread while it ran our system call; sent again afterwards."""

    @property
    def held(self) -> bool:
        """Whether every thread is stopped by us."""
        return bool(self._stopped)

    @property
    def threads(self) -> list[int]:
        """The threads held, the process's first one at the front if it is there."""
        return sorted(self._stopped, key=lambda tid: tid != self.pid)

    def stop(self, deadline: float) -> None:
        """Stop every thread, also those that are created meanwhile; does nothing when held already.

        Raises ``StuckError`` past ``deadline`` (of ``time.monotonic``), ``DiedError`` or
        ``TraceeForbiddenError``; some threads may be stopped then, so the holder process has to end.
        """
        if self.held:
            return
        self.was_stopped = False
        while True:
            # A thread can only be created by one that still runs, so once all of a list are stopped and a
            # new list has nobody new, nobody is left.
            listed = process.thread_ids(self.pid)
            if not [tid for tid in listed if tid not in self._stopped and self._seize(tid)]:
                break
            if time.monotonic() > deadline:
                raise StuckError(f"process {self.pid} creates threads faster than they can be stopped")
            if not self._wait(lambda: all(self._stopped.values()), deadline):
                raise StuckError(self._describe_stuck())
        if not self._stopped:
            raise DiedError(f"process {self.pid} ended")

    def release(self) -> None:
        """Let every thread go; a process that was stopped by a signal before stays so."""
        for tid in self.threads:
            self._detach(tid)

    def to_sigstop(self, deadline: float) -> None:
        """Turn the hold into a SIGSTOP without letting a single instruction of user code run.

        The signal is queued while every thread is trapped. The first thread that is let go takes it before
        it returns to user mode, and with that stops all others, whose trap ends only then.
        """
        if not self.held:
            raise TraceeError("not held")
        self.send_signal(signal.SIGSTOP)
        for first in self.threads:
            self._detach(first)
            if self._wait(lambda: process.state(self.pid, first) in "TZX", deadline, poll=True):  # noqa: B023
                if process.state(self.pid, first) == "T":
                    break
            else:
                raise StuckError(f"thread {first} of process {self.pid} did not take SIGSTOP")
        rest = self.threads
        self.release()
        if not self._wait(
            lambda: all(process.state(self.pid, tid) in "TZX" for tid in rest), deadline, poll=True
        ):
            raise StuckError(f"process {self.pid} did not stop wholly by SIGSTOP")
        if process.state(self.pid) in "ZX" and not any(
            process.state(self.pid, tid) == "T" for tid in process.thread_ids(self.pid)
        ):
            raise DiedError(f"process {self.pid} ended")

    def send_signal(self, number: int) -> None:
        """Send a signal to the process, never to another one that got its pid."""
        try:
            signal.pidfd_send_signal(self.pidfd, number)
        except ProcessLookupError as error:
            raise DiedError(f"process {self.pid} ended") from error

    def step_to_syscall_stop(self, tid: int, deadline: float) -> None:
        """Let the held thread ``tid`` run to the next entry or exit of a system call, without any signal.

        The caller has blocked its signals; a SIGSTOP, which can't be blocked, goes to ``held_back``.
        """
        self._injecting = tid
        self._at_syscall.discard(tid)
        try:
            self._stopped[tid] = False
            ptrace.run_to_syscall_stop(tid)
            if not self._wait(lambda: tid in self._at_syscall or tid not in self._stopped, deadline):
                raise StuckError(f"thread {tid} did not finish a system call")
        finally:
            self._injecting = 0
        if tid not in self._stopped:
            raise DiedError(f"thread {tid} of process {self.pid} ended")

    def back_to_trap(self, tid: int, deadline: float) -> None:
        """From a system call's exit into a trap, where a restart of the interrupted call is still decided.

        Continued from the exit stop, user code would get the -ERESTART code of the interrupted call.
        """
        self._at_syscall.discard(tid)
        self._stopped[tid] = False
        ptrace.interrupt(tid)
        ptrace.cont(tid)
        if not self._wait(lambda: self._stopped.get(tid, True), deadline):
            raise StuckError(f"thread {tid} did not stop again")
        if tid not in self._stopped:
            raise DiedError(f"thread {tid} of process {self.pid} ended")

    def reap(self) -> None:
        """Take note of threads that ended or stopped meanwhile."""
        while True:
            try:
                tid, status = os.waitpid(-1, os.WNOHANG | _WALL)
            except ChildProcessError:
                return
            if tid == 0:
                return
            self._saw(tid, status)

    def _seize(self, tid: int) -> bool:
        try:
            ptrace.seize(tid)
            self._stopped[tid] = False
            ptrace.interrupt(tid)
        except ProcessLookupError:
            self._stopped.pop(tid, None)
            return False
        except PermissionError as error:
            if process.state(self.pid, tid) in "ZX":
                return False
            tracer = process.tracer_of(self.pid, tid)
            if tracer:
                name = process.comm(tracer) or "?"
                raise TraceeForbiddenError(
                    f"process {self.pid} is traced by process {tracer} ({name}) already"
                ) from error
            raise TraceeForbiddenError(f"not allowed to trace process {self.pid}") from error
        return True

    def _detach(self, tid: int) -> None:
        self._stopped.pop(tid, None)
        with contextlib.suppress(ProcessLookupError):  # it was killed meanwhile
            ptrace.detach(tid)

    def _saw(self, tid: int, status: int) -> None:
        if tid not in self._stopped:
            return
        if not os.WIFSTOPPED(status):
            del self._stopped[tid]
            return
        number = os.WSTOPSIG(status)
        if status >> 16 == ptrace.EVENT_STOP:
            if tid == self._injecting:  # a group stop began or ended: no matter here
                ptrace.run_to_syscall_stop(tid)
            else:
                self._stopped[tid] = True
                self.was_stopped |= number != signal.SIGTRAP
        elif number == ptrace.SYSCALL_STOP_SIGNAL:
            self._stopped[tid] = True
            self._at_syscall.add(tid)
        elif tid == self._injecting:
            self.held_back.append(number)
            ptrace.run_to_syscall_stop(tid)
        else:
            # A signal is about to be delivered: let it; our trap comes before the first user instruction.
            try:
                ptrace.cont(tid, number)
            except ProcessLookupError:
                del self._stopped[tid]

    def _wait(self, done: Callable[[], bool], deadline: float, *, poll: bool = False) -> bool:
        while True:
            self.reap()
            if done():
                return True
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            if poll:
                time.sleep(_POLL_SECONDS)
            elif signal.sigtimedwait({signal.SIGCHLD}, min(left, _LOOK_AGAIN_SECONDS)) is None:
                alive = set(process.thread_ids(self.pid))
                for tid in [tid for tid in self._stopped if tid not in alive]:
                    del self._stopped[tid]

    def _describe_stuck(self) -> str:
        tid = next(tid for tid, stopped in self._stopped.items() if not stopped)
        state = process.state(self.pid, tid)
        why = " (it is in an uninterruptible wait inside the kernel)" if state == "D" else ""
        return f"thread {tid} of process {self.pid} did not stop in time; its state is {state}{why}"
