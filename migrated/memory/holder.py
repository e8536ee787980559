"""The holder process: holds one guest for its parent, and lets it go when either of them ends.

    python -m migrated.memory.holder SOCKET PID START-TIME PARENT-PID

SOCKET is an inherited SOCK_SEQPACKET descriptor. One request packet gets one reply packet:

    request   "<Bd"   operation, argument (seconds of patience; for THROTTLE the fraction of time held)
    reply     "<B"    outcome, then the text of a failure; INJECT's descriptor travels along

What HOLD held may have been stopped by a signal before: then its outcome says that.

After a failure the process ends by itself: the kernel then lets every thread of the guest go, also one that
never stopped. Imports little: it starts in about 30 ms.
"""

import contextlib
import os
import select
import signal
import socket
import struct
import sys
import time
import traceback

from migrated.memory.linux import process
from migrated.memory.linux.injection import inject_userfaultfd
from migrated.memory.linux.tracee import DiedError, Tracee, TraceeError, TraceeForbiddenError

__all__ = ["REPLY", "REQUEST", "THROTTLE_PERIOD_S", "Operation", "Outcome", "main"]

REQUEST = struct.Struct("<Bd")
REPLY = struct.Struct("<B")

THROTTLE_PERIOD_S = 0.1
"""Held for a fraction of this, then let go for the rest: short enough for a guest's own timeouts."""

_THROTTLE_PATIENCE_S = 1.0

_REAP_MS = 100.0
"""A process that is killed while it is held has not ended, for anybody, before we took note of each thread."""


class Operation:
    """The first byte of a request."""

    HOLD = 1
    RELEASE = 2
    TO_SIGSTOP = 3
    THROTTLE = 4
    INJECT = 5


class Outcome:
    """The first byte of a reply."""

    DONE = 1
    DIED = 2
    FAILED = 3
    FORBIDDEN = 4
    BROKEN = 5
    DONE_WAS_STOPPED = 6


class _Server:
    def __init__(self, connection: socket.socket, pid: int, parent: int) -> None:
        self._connection = connection
        self._tracee = Tracee(pid, os.pidfd_open(pid))
        self._poll = select.poll()
        self._poll.register(connection, select.POLLIN)
        self._poll.register(os.pidfd_open(parent), select.POLLIN)  # a forked copy may keep the socket open
        self._poll.register(self._tracee.pidfd, select.POLLIN)
        self._connection_fd = connection.fileno()
        self._fraction = 0.0
        self._switch_at = 0.0

    def serve(self) -> None:
        while True:
            ready = {fd for fd, _ in self._poll.poll(self._timeout_ms())}
            if not ready:
                self._switch()
                continue
            # Also when the guest ends: until then its own parent could not even reap it.
            request = self._connection.recv(REQUEST.size) if self._connection_fd in ready else b""
            if len(request) != REQUEST.size:
                return
            operation, argument = REQUEST.unpack(request)
            self._tracee.reap()
            passed = self._perform(operation, argument)
            stopped = operation == Operation.HOLD and self._tracee.was_stopped
            packet = REPLY.pack(Outcome.DONE_WAS_STOPPED if stopped else Outcome.DONE)
            if passed is None:
                self._connection.send(packet)
            else:
                socket.send_fds(self._connection, [packet], [passed])
                os.close(passed)

    def _perform(self, operation: int, argument: float) -> int | None:
        deadline = time.monotonic() + argument
        if operation == Operation.HOLD:
            self._fraction = 0.0
            self._tracee.stop(deadline)
        elif operation == Operation.RELEASE:
            self._fraction = 0.0
            self._tracee.release()
        elif operation == Operation.TO_SIGSTOP:
            self._tracee.to_sigstop(deadline)
        elif operation == Operation.THROTTLE:
            self._throttle(argument)
        elif operation == Operation.INJECT:
            return self._inject(deadline)
        else:
            raise TraceeError(f"operation {operation} is unknown")
        return None

    def _inject(self, deadline: float) -> int:
        # Every thread is held, so that no other one can fork with the descriptor or close it.
        held = self._tracee.held
        self._tracee.stop(deadline)
        descriptor = inject_userfaultfd(self._tracee, deadline)
        if not held:
            self._tracee.release()
        return descriptor

    def _throttle(self, fraction: float) -> None:
        if self._fraction == 0.0 and self._tracee.held:
            return  # held for good: nothing to slow down
        self._fraction = fraction
        self._switch_at = time.monotonic()
        if fraction == 0.0:
            self._tracee.release()

    def _timeout_ms(self) -> float | None:
        if self._fraction == 0.0:
            return _REAP_MS if self._tracee.held else None
        return max(0.0, self._switch_at - time.monotonic()) * 1000

    def _switch(self) -> None:
        now = time.monotonic()
        self._tracee.reap()
        if self._fraction == 0.0 or now < self._switch_at:
            return
        if self._tracee.held:
            self._tracee.release()
            self._switch_at = now + THROTTLE_PERIOD_S * (1 - self._fraction)
        else:
            self._tracee.stop(now + _THROTTLE_PATIENCE_S)
            self._switch_at = now + THROTTLE_PERIOD_S * self._fraction


def main(arguments: list[str]) -> None:
    """Serve until the socket or the parent ends, or something fails."""
    descriptor, pid, start_time, parent = (int(argument) for argument in arguments)
    # A signal in the middle of an injection would lead the guest astray; our end comes through the socket.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    connection = socket.socket(fileno=descriptor)
    failure = Outcome.BROKEN
    try:
        if os.getppid() != parent:
            return
        server = _Server(connection, pid, parent)
        if process.start_time(pid) != start_time:
            raise DiedError(f"process {pid} ended, and another one has its number")
        server.serve()
        return
    except (DiedError, ProcessLookupError, FileNotFoundError):
        failure, text = Outcome.DIED, f"process {pid} ended"
    except TraceeForbiddenError as error:
        failure, text = Outcome.FORBIDDEN, str(error)
    except (TraceeError, OSError) as error:
        failure, text = Outcome.FAILED, str(error)
    except Exception:
        text = traceback.format_exc()
    with contextlib.suppress(OSError):
        connection.send(REPLY.pack(failure) + text.encode(errors="replace")[:8000])


if __name__ == "__main__":
    main(sys.argv[1:])
