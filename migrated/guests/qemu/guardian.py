"""``python -m migrated.guests.qemu.guardian SOCKET SETTINGS``: watches over a VM that its client has paused.

Takes lines on stdin: ``paused``, ``running``, ``settled`` (it stays paused, whatever becomes of the client) and
``done`` (there is nothing left to do). At end of file without ``done`` the client was killed: the VM goes on if
it is paused and not settled, and its migration settings (JSON) are put back unless it is settled. The client's
connection to the monitor is closed by then, so there is room for ours.
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

    def __init__(self, path: Path, settings: Mapping[str, bool]) -> None:
        root = str(Path(__file__).parents[3])
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
        }
        self._process: subprocess.Popen[bytes] | None = subprocess.Popen(
            [sys.executable, "-m", "migrated.guests.qemu.guardian", str(path), json.dumps(dict(settings))],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environment,
            cwd="/",
            start_new_session=True,
        )

    def tell(self, word: str) -> None:
        """``paused`` before the VM is stopped, ``running`` when it goes on, ``settled``, or ``done``."""
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
    path, settings = Path(sys.argv[1]), json.loads(sys.argv[2])
    state = "running"
    for line in sys.stdin:
        state = line.strip()
    if state in ("running", "paused"):
        _put_back(path, settings, paused=state == "paused")


def _put_back(path: Path, settings: Mapping[str, bool], *, paused: bool) -> None:
    from migrated.guests.qemu.monitor import Monitor  # late: most guardians never need it

    ending = time.monotonic() + _TRY_SECONDS
    while time.monotonic() < ending:
        try:
            monitor = Monitor(path)
            try:
                monitor.end_migration()
                if paused:
                    monitor.go_on()
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
