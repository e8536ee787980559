"""The demo guest at the destination: its memory file filled while its next process stands by, loaded."""

import contextlib
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from migrated.errors import GuestError, MigratedError
from migrated.guests.base import TargetEntry, TargetGuest
from migrated.guests.demo.layout import MAGIC, Layout, read_runner
from migrated.guests.held import kill
from migrated.guests.memory_file import MemoryFile, check_room
from migrated.memory.linux import process

__all__ = ["DemoTarget"]

_READY_SECONDS = 30.0
"""Loading takes 0.6 s; on a host that is busy decompressing, several times that."""
_RUNNING_SECONDS = 10.0
"""From `start` to `running` it takes a few ms, and 10 ms a GiB to find out which pages it may rewrite."""
_SILENT_LOG_BYTES = 4096
_SHOWN_LINES = 3
_LOCK_SECONDS = 5.0
"""After a crash of ours the guest that stood by notices, and leaves, within this."""


class DemoTarget(TargetGuest):
    """Takes a demo guest in. The guest's output goes to ``log``, or beside its memory, to ``FILE.log``."""

    kind: ClassVar[str] = "demo"

    def __init__(self, name: str, entry: TargetEntry) -> None:
        self.name = name
        self._file = MemoryFile(entry.path)
        self._log = entry.log or entry.path.with_name(f"{entry.path.name}.log")
        self._standby: _Standby | None = None
        self._started = False

    @property
    def starts_guest(self) -> bool:
        """See :meth:`TargetGuest.starts_guest`."""
        return True

    def prepare(self, sizes: Sequence[tuple[str, int]]) -> None:
        """See :meth:`TargetGuest.prepare`. A file that holds anything but a demo guest is never
        overwritten."""
        if len(sizes) != 1:
            raise GuestError(f"a demo guest has one region of memory, and {len(sizes)} were offered")
        name, size = sizes[0]
        Layout.of(size)
        check_room(self._file.path.parent, size - self._file.allocated)
        self.regions = (self._file.prepare(name, size, self._refuse_other_files),)
        try:
            self._standby = _Standby(self._file, self._log)
        except BaseException:
            self.discard()
            raise

    def make_ready(self) -> None:
        """See :meth:`TargetGuest.make_ready`."""
        if self._standby is None:
            raise GuestError(f"guest {self.name} was not prepared")
        self._standby.wait_for("ready", _READY_SECONDS)
        self._standby.check()

    def start(self, was_running: bool) -> None:
        """See :meth:`TargetGuest.start`. If the process that stood by is gone, another one is started."""
        if self._started:
            return
        if self._standby is not None:
            try:
                self._standby.start(was_running)
            except MigratedError:
                self._standby.kill()
                self._standby = None
        if self._standby is None:
            self._start_anew(was_running)
        self._started = True
        self._file.settle()

    def discard(self) -> None:
        """See :meth:`TargetGuest.discard`."""
        if self._started:
            return
        if self._standby is not None:
            self._standby.kill()
            self._standby.forget_log()
            self._standby = None
        else:
            _forget_silent_log(self._log)
        self.regions = ()
        self._file.discard(_LOCK_SECONDS)

    def close(self) -> None:
        """See :meth:`TargetGuest.close`."""
        if self._standby is not None and not self._started:
            self._standby.kill()
        self._standby = None
        self.regions = ()
        self._file.close()

    def _start_anew(self, was_running: bool) -> None:
        if self._file.descriptor < 0 and not self._file.reopen(0.0):
            if self._runs_already():
                return
            if not self._file.reopen(_LOCK_SECONDS):
                raise GuestError(f"the memory file {self._file.path} is in use, and not by guest {self.name}")
        standby = _Standby(self._file, self._log)
        try:
            standby.wait_for("ready", _READY_SECONDS)
            standby.start(was_running)
        except BaseException:
            standby.kill()
            raise
        self._standby = standby

    def _runs_already(self) -> bool:
        with contextlib.suppress(OSError):
            descriptor = os.open(self._file.path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                pid, start = read_runner(descriptor)
            finally:
                os.close(descriptor)
            return process.start_time(pid) == start
        return False

    def _refuse_other_files(self, descriptor: int) -> None:
        first = os.pread(descriptor, len(MAGIC), 0)
        if first not in (b"", bytes(len(MAGIC)), MAGIC):
            raise GuestError(
                f"{self._file.path} is there and is not the memory of a demo guest; it is left alone",
                "remove it, or give the guest another path in the destination's configuration",
            )


def _forget_silent_log(log: Path) -> None:
    """After a crash: remove the log if no guest ever said anything in it, only those that stood by."""
    with contextlib.suppress(OSError):
        if log.stat().st_size < _SILENT_LOG_BYTES and not log.read_text().replace("standing by\n", ""):
            log.unlink()


class _Standby:
    """A guest's process that waits for its start. It survives us once started, and leaves if we go before."""

    def __init__(self, file: MemoryFile, log: Path) -> None:
        self._log = log
        self._log_is_new = not log.exists()
        reading, writing = os.pipe()
        root = str(Path(__file__).parents[3])
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
        }
        command = [
            *(sys.executable, "-m", "migrated.guests.demo", "--file", str(file.path), "--standby"),
            *("--fd", str(file.descriptor), "--notify-fd", str(writing)),
        ]
        try:
            with log.open("ab") as output:
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=output,
                    stderr=output,
                    env=environment,
                    cwd="/",
                    pass_fds=(file.descriptor, writing),
                    start_new_session=True,
                )
        except OSError as error:
            os.close(reading)
            raise GuestError(f"the demo guest's process cannot be started: {error}") from error
        finally:
            os.close(writing)
        self._notes = os.fdopen(reading, "rb", buffering=0)
        self._said = b""
        self._pidfd = os.pidfd_open(self._process.pid)
        # Somebody has to take note when it ends, or it stays as a zombie while we live.
        threading.Thread(target=self._process.wait, name="demo-guest", daemon=True).start()

    def wait_for(self, word: str, timeout: float) -> None:
        """Wait until it has said ``word``. GuestError if it ends or takes longer than ``timeout`` seconds."""
        ending = time.monotonic() + timeout
        while word.encode() not in self._said.split():
            said = select.poll()
            said.register(self._notes, select.POLLIN)
            if not said.poll(max(0.0, ending - time.monotonic()) * 1000):
                raise GuestError(
                    f"the demo guest's process did not say {word!r} within {timeout:g} s", self._see_log()
                )
            note = self._notes.read(64)
            if not note:
                raise GuestError(f"the demo guest's process ended before it was {word}", self._see_log())
            self._said += note

    def check(self) -> None:
        """Raise GuestError if it has ended."""
        ended = select.poll()
        ended.register(self._pidfd, select.POLLIN)
        if ended.poll(0):
            raise GuestError("the demo guest's process that stood by has ended", self._see_log())

    def start(self, was_running: bool) -> None:
        """Let it go on from its memory, or have it wait, stopped, as it was at the source."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(b"start\n" if was_running else b"start-stopped\n")
            self._process.stdin.close()
        except OSError as error:
            raise GuestError(
                "the demo guest's process ended before it was started", self._see_log()
            ) from error
        self.wait_for("running", _RUNNING_SECONDS)
        ending = time.monotonic() + _RUNNING_SECONDS
        while not was_running and not process.is_stopped(self._process.pid):
            if time.monotonic() > ending:
                raise GuestError("the demo guest's process did not stop itself", self._see_log())
            os.sched_yield()
        self._let_go()

    def kill(self) -> None:
        """End it, started or not."""
        if self._pidfd >= 0:
            kill(self._pidfd, self._process.pid)
        with contextlib.suppress(OSError):
            if self._process.stdin is not None:
                self._process.stdin.close()
        self._let_go()

    def forget_log(self) -> None:
        """Remove the log if there was none before."""
        if self._log_is_new:
            self._log.unlink(missing_ok=True)

    def _let_go(self) -> None:
        self._notes.close()
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1

    def _see_log(self) -> str:
        """What it said last: the log itself goes with the attempt."""
        lines = []
        with contextlib.suppress(OSError):
            lines = self._log.read_text(errors="replace").splitlines()[-_SHOWN_LINES:]
        return f"the last it said was: {' | '.join(lines)}" if lines else f"it said nothing in {self._log}"
