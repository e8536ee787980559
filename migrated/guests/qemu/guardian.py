"""``python -m migrated.guests.qemu.guardian SOCKET PID SETTINGS``: watches over a VM that its client has paused.

Takes lines on stdin: ``running``; ``paused`` (it ran before); ``still`` (it did not); ``settled`` (it stays
paused, whatever becomes of the client); and ``done`` (there is nothing left to do). At end of file without
``done`` the client was killed: unless it is settled the VM is as it was before, its migration settings (JSON), too.
The client's connection to the monitor is closed by then, so there is room for ours.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from migrated.errors import GuestNotFoundError, MigratedError

__all__ = ["Guardian", "main"]

_TRY_SECONDS = 30.0
_TRY_AGAIN_SECONDS = 0.1


class Guardian:
    """The client's end of it. Telling it something costs a write to a pipe, and never fails."""

    def __init__(self, path: Path, pid: int, settings: Mapping[str, bool]) -> None:
        root = str(Path(__file__).parents[3])
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
        }
        self._process: subprocess.Popen[bytes] | None = subprocess.Popen(
            [sys.executable, "-m", __name__, str(path), str(pid), json.dumps(dict(settings))],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environment,
            cwd="/",
            start_new_session=True,
        )

    def tell(self, word: str) -> None:
        """``paused`` or ``still`` before the VM is stopped, ``running`` when it goes on, ``settled``, or ``done``."""
        if self._process is not None and self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.write(f"{word}\n".encode())
                self._process.stdin.flush()

    def close(self, *, done: bool = True) -> None:
        """End it. Unless ``done`` it does first what it would do if we were killed. May be called twice."""
        if done:
            self.tell("done")
        ours, self._process = self._process, None
        if ours is not None:
            assert ours.stdin is not None
            with contextlib.suppress(OSError):
                ours.stdin.close()
            try:
                ours.wait(_TRY_SECONDS)
            except subprocess.TimeoutExpired:
                ours.kill()
                ours.wait()


def main() -> None:
    """Serve until end of file on stdin."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    path, pid, settings = Path(sys.argv[1]), int(sys.argv[2]), json.loads(sys.argv[3])
    state = "running"
    for line in sys.stdin:
        state = line.strip()
    if state in ("running", "paused", "still"):
        _put_back(path, pid, settings, state)


def _put_back(path: Path, pid: int, settings: Mapping[str, bool], state: str) -> None:
    from migrated.guests.qemu.monitor import Monitor  # late: most guardians never need it
    from migrated.guests.qemu.rollback import put_back

    ending = time.monotonic() + _TRY_SECONDS
    while time.monotonic() < ending:
        try:
            monitor = Monitor(path)
            try:
                if state != "running":
                    put_back(monitor, pid, was_running=state == "paused")
                monitor.take_stream_back()
                monitor.set_capabilities(settings)
                return
            finally:
                monitor.close()
        except GuestNotFoundError:
            return  # it ended
        except MigratedError:
            time.sleep(_TRY_AGAIN_SECONDS)


if __name__ == "__main__":
    main()
