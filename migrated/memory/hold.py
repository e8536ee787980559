"""Holding a process so that it goes on by itself if we die: the parent's side of the holder process.

SIGSTOP outlives whoever sent it; a ptrace stop ends with its tracer. ptrace belongs to one OS thread, so a
small helper (:mod:`migrated.memory.holder`) does it, and ends when this object, or our whole process, does.
"""

import contextlib
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

from migrated.errors import (
    AccessError,
    GuestDiedError,
    GuestError,
    GuestNotFoundError,
    MigratedError,
    UsageError,
)
from migrated.memory.holder import REPLY, REQUEST, Operation, Outcome
from migrated.memory.linux import process

__all__ = ["DEFAULT_PATIENCE_S", "MAX_THROTTLE", "Holder"]

DEFAULT_PATIENCE_S = 1.0
"""How long all threads may take to stop. Measured: 0.2 ms for a few threads; disk waits take milliseconds."""

MAX_THROTTLE = 0.99
"""As QEMU's auto-converge: a guest that gets no time at all would be a pause."""

_ANSWER_SLACK_S = 10.0
"""Beyond the patience of the request: a helper that is silent for longer is broken and gets killed."""

_PACKET_BYTES = 8192
_DESCRIPTOR = struct.Struct("@i")

_BOOT = """
import sys
sys.path.insert(0, sys.argv[1])
from migrated.memory.holder import main
main(sys.argv[2:])
"""
"""What `python -m` would do, without the site packages: they would double the time to start."""


class Holder:
    """Holds, throttles and stops process ``pid``. Blocking; calls from several threads take turns.

    ``start_time`` (clock ticks after boot, of /proc/PID/stat) makes sure that it is the process meant, e.g.
    from a record. After any failure the process runs as it did before, nothing is held, and the next call
    starts a new helper.
    """

    def __init__(self, pid: int, start_time: int | None = None) -> None:
        self.pid = pid
        self.was_stopped = False
        """Whether a signal had stopped the process before the last hold; then it stays stopped."""
        self._lock = threading.Lock()
        self._helper: subprocess.Popen[bytes] | None = None
        self._connection: socket.socket | None = None
        self._held = False
        self._frozen = False
        self._fraction = 0.0
        try:
            self.pidfd = os.pidfd_open(pid)
        except OSError as error:
            raise GuestNotFoundError(f"there is no process {pid}") from error
        try:
            self.start_time = process.start_time(pid)
        except OSError as error:
            os.close(self.pidfd)
            raise GuestNotFoundError(f"there is no process {pid}") from error
        if start_time is not None and start_time != self.start_time:
            os.close(self.pidfd)
            raise GuestDiedError(f"process {pid} ended, and another one has its number")

    @property
    def held(self) -> bool:
        """Whether every thread is held now; false after the helper was killed, since then it runs."""
        return self._held and self._helper is not None and self._helper.poll() is None

    @property
    def frozen(self) -> bool:
        """Whether :meth:`to_sigstop` stopped it for good and :meth:`release` did not undo that."""
        return self._frozen

    @property
    def throttled(self) -> float:
        """The fraction of its time that :meth:`throttle` takes away now."""
        return self._fraction

    def check(self) -> None:
        """Raise ``GuestDiedError`` if it ended, ``GuestError`` if it should be held and is not any more."""
        ended = select.poll()
        ended.register(self.pidfd, select.POLLIN)
        if ended.poll(0):
            raise GuestDiedError(f"process {self.pid} ended")
        if self._held and not self.held:
            raise GuestError(f"the helper that held process {self.pid} was killed; the process goes on")

    def hold(self, timeout: float = DEFAULT_PATIENCE_S) -> None:
        """Stop every thread within ``timeout`` seconds; a throttle ends. Nothing to do if held already."""
        with self._lock:
            if self._held:
                self.check()
                return
            outcome, _ = self._request(Operation.HOLD, timeout)
            self.was_stopped = outcome == Outcome.DONE_WAS_STOPPED
            self._fraction = 0.0
            self._held = True

    def release(self) -> None:
        """Let it go on: end a hold or a throttle, undo a :meth:`to_sigstop`. No error if it ended."""
        with self._lock:
            self._held, self._fraction = False, 0.0
            if self._connection is not None:
                try:
                    self._request(Operation.RELEASE, 0.0)
                except MigratedError:
                    self._end_helper()  # and the kernel lets it go
            self._continue()

    def to_sigstop(self, timeout: float = DEFAULT_PATIENCE_S) -> None:
        """Turn the hold into a SIGSTOP; not one instruction of the process runs in between.

        Afterwards it stays stopped whatever becomes of us, until :meth:`release` or anybody's SIGCONT.
        """
        with self._lock:
            if not self._held:
                raise GuestError(f"process {self.pid} is not held")
            self.check()
            self._frozen = not self.was_stopped  # before: a failure in the middle has to be undone, too
            try:
                self._request(Operation.TO_SIGSTOP, timeout)
            except MigratedError:
                self._continue()
                raise
            self._held = False

    def throttle(self, fraction: float) -> None:
        """Take ``fraction`` (0 to ``MAX_THROTTLE``) of its time away, in slices; 0 ends it.

        Does nothing while it is held.
        """
        if not 0.0 <= fraction <= MAX_THROTTLE:
            raise UsageError(f"a throttle of {fraction} is not within 0 and {MAX_THROTTLE}")
        with self._lock:
            if self._held or (fraction == 0.0 and self._fraction == 0.0):
                return
            self._request(Operation.THROTTLE, fraction)
            self._fraction = fraction

    def inject_userfaultfd(self, timeout: float = DEFAULT_PATIENCE_S) -> int:
        """A userfaultfd of its address space, as a descriptor that belongs to the caller.

        Holds it for that unless it is held (0.2 to 2 ms). The process keeps no copy and notices nothing.
        Look at its seccomp filter before: :func:`migrated.memory.trackers.pagemap_scan.check_injectable`.
        """
        with self._lock:
            _, descriptor = self._request(Operation.INJECT, timeout)
        if descriptor is None:
            raise GuestError(f"process {self.pid}: the helper sent no descriptor")
        return descriptor

    def close(self) -> None:
        """Let it go and end the helper; a frozen process stays frozen. May be called twice."""
        with self._lock:
            self._held, self._fraction = False, 0.0
            self._end_helper()
            if self.pidfd >= 0:
                os.close(self.pidfd)
                self.pidfd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _request(self, operation: int, argument: float) -> tuple[int, int | None]:
        """The outcome, one of those that mean done, and the descriptor that came along. Raises for the others."""
        connection = self._connection or self._start_helper()
        patience = argument if operation != Operation.THROTTLE else 0.0
        connection.settimeout(patience + _ANSWER_SLACK_S)
        ancillary: list[tuple[int, int, bytes]] = []
        try:
            connection.send(REQUEST.pack(operation, argument))
            # not socket.recv_fds: it drops the flags (Python 3.11), and the descriptor must not be inherited
            packet, ancillary, _, _ = connection.recvmsg(
                _PACKET_BYTES, socket.CMSG_SPACE(_DESCRIPTOR.size), socket.MSG_CMSG_CLOEXEC
            )
        except TimeoutError as error:
            self._lost_helper()
            raise GuestError(f"the helper that holds process {self.pid} fell silent") from error
        except ConnectionError:
            packet = b""
        if len(packet) == REPLY.size and packet[0] in (Outcome.DONE, Outcome.DONE_WAS_STOPPED):
            return packet[0], _DESCRIPTOR.unpack(ancillary[0][2])[0] if ancillary else None
        self._lost_helper()
        raise self._failure(packet)

    def _failure(self, packet: bytes) -> MigratedError:
        if not packet:
            with contextlib.suppress(GuestError):
                self.check()
                return GuestError(f"the helper that held process {self.pid} was killed; the process goes on")
            return GuestDiedError(f"process {self.pid} ended")
        text = packet[REPLY.size :].decode(errors="replace")
        outcome = packet[0]
        if outcome == Outcome.DIED:
            return GuestDiedError(text)
        if outcome == Outcome.FORBIDDEN:
            return AccessError(
                text,
                "run as its user (with kernel.yama.ptrace_scope=0) or give CAP_SYS_PTRACE; "
                "if a debugger traces it, end that",
            )
        if outcome == Outcome.FAILED:
            return GuestError(text)
        return MigratedError(f"the helper that holds process {self.pid} failed: {text}")

    def _start_helper(self) -> socket.socket:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            root = Path(__file__).parents[2]
            self._helper = subprocess.Popen(
                [
                    *(sys.executable, "-I", "-S", "-c", _BOOT, str(root), str(theirs.fileno())),
                    *(str(self.pid), str(self.start_time), str(os.getpid())),
                ],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                start_new_session=True,
            )
        self._connection = ours
        return ours

    def _lost_helper(self) -> None:
        """The helper failed or is silent. Nothing is held once it has ended, so wait for that."""
        self._held, self._fraction = False, 0.0
        self._end_helper()

    def _end_helper(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self._helper is not None:
            try:
                self._helper.wait(_ANSWER_SLACK_S)
            except subprocess.TimeoutExpired:
                self._helper.kill()
                self._helper.wait()
            self._helper = None

    def _continue(self) -> None:
        if self._frozen and self.pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.pidfd, signal.SIGCONT)
        self._frozen = False
