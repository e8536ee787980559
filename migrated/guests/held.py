"""The processes of a guest, held together."""

import contextlib
import os
import select
import signal
from collections.abc import Sequence

from migrated.errors import GuestError, MigratedError
from migrated.memory.hold import Holder
from migrated.memory.linux import process

__all__ = ["HeldProcesses", "boot", "kill"]

_KILL_SECONDS = 10.0
"""A killed process gives its memory back within this; gigabytes take a second or two."""


class HeldProcesses:
    """One or more processes that are paused, resumed and frozen as one guest.

    Making it holds each of them for an instant, so what forbids it is known before the first page is read,
    and the helpers wait when the pause is to be short. GuestNotFoundError, AccessError.
    """

    def __init__(self, pids: Sequence[tuple[int, int | None]], patience: float) -> None:
        self._patience = patience
        self.holders: list[Holder] = []
        try:
            for pid, start in dict(pids).items():
                self.holders.append(Holder(pid, start))
            for holder in self.holders:
                holder.hold(patience)
                holder.release()
        except BaseException:
            self.close()
            raise

    @property
    def was_running(self) -> bool:
        """Whether at least one of them ran before the last pause."""
        return not self.holders or any(not holder.was_stopped for holder in self.holders)

    def pause(self) -> None:
        """Hold them all, or none."""
        try:
            for holder in self.holders:
                holder.hold(self._patience)
        except BaseException:
            self.resume()
            raise

    def resume(self) -> None:
        """Let them go, each as it was."""
        for holder in self.holders:
            with contextlib.suppress(MigratedError):
                holder.release()

    def freeze(self) -> None:
        """Turn every hold into a SIGSTOP."""
        for holder in self.holders:
            holder.to_sigstop(self._patience)

    def stay(self) -> None:
        """As :meth:`freeze`, whatever is frozen already; who was let go meanwhile is not stopped again."""
        for holder in self.holders:
            if holder.held:
                holder.to_sigstop(self._patience)

    def throttle(self, fraction: float) -> None:
        """Slow all of them down."""
        for holder in self.holders:
            holder.throttle(fraction)

    def check(self) -> None:
        """GuestDiedError if one of them ended."""
        for holder in self.holders:
            holder.check()

    def kill(self) -> None:
        """End them all and wait until they are gone."""
        for holder in self.holders:
            kill(holder.pidfd, holder.pid)

    def describe(self) -> list[dict[str, object]]:
        """Enough to find them again from another process, in the same boot of this host."""
        return [
            {"pid": holder.pid, "start": holder.start_time, "was_stopped": holder.was_stopped}
            for holder in self.holders
        ]

    def close(self) -> None:
        """Let them go unless frozen."""
        for holder in self.holders:
            holder.close()


def kill(pidfd: int, pid: int) -> None:
    """SIGKILL, and wait until the process is gone. GuestError if that takes too long."""
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    ended = select.poll()
    ended.register(pidfd, select.POLLIN)
    if not ended.poll(_KILL_SECONDS * 1000):
        state = process.state(pid)
        raise GuestError(
            f"process {pid} was killed and has not ended; its state is {state}", "look at it with ps"
        )


def boot() -> str:
    """The name of this boot of this host: pids and start times mean something only within it."""
    descriptor = os.open("/proc/sys/kernel/random/boot_id", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, 64).decode().strip()
    finally:
        os.close(descriptor)
