"""Processes of a test: started, listened to, found again by their environment, and looked at through /proc."""

import json
import math
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

MARK = "E2E_ROOT"
"""The environment variable by which whatever a test started, and whatever that started, is found again."""

PATIENCE = 30.0
"""Seconds for what takes one on an idle host: others may use its cores."""


def wait_until(true: Callable[[], Any], what: str, timeout: float = PATIENCE) -> Any:
    """Poll what has no event to wait for: another process's state, a file that it writes."""
    ending = time.monotonic() + timeout
    while not (value := true()):
        assert time.monotonic() < ending, f"{what}: not within {timeout:g} s"
        time.sleep(0.01)
    return value


class Lines:
    """The lines of a pipe as they come, read by a thread of its own."""

    def __init__(self, pipe: IO[str]) -> None:
        self._lines: list[str] = []
        self._closed = False
        self._change = threading.Condition()
        self._thread = threading.Thread(target=self._read, args=(pipe,), daemon=True)
        self._thread.start()

    def _read(self, pipe: IO[str]) -> None:
        with pipe:
            for line in pipe:
                with self._change:
                    self._lines.append(line.rstrip("\n"))
                    self._change.notify_all()
        with self._change:
            self._closed = True
            self._change.notify_all()

    @property
    def text(self) -> str:
        """All that came so far."""
        with self._change:
            return "\n".join(self._lines)

    def wait(self, wanted: Callable[[str], bool] | str, timeout: float = PATIENCE, *, after: int = 0) -> str:
        """The first line that is ``wanted``, or has that text in it."""
        matches = wanted if callable(wanted) else (lambda line: wanted in line)
        ending = time.monotonic() + timeout
        place = after
        with self._change:
            while True:
                while place < len(self._lines):
                    if matches(self._lines[place]):
                        return self._lines[place]
                    place += 1
                left = ending - time.monotonic()
                assert not self._closed, f"{wanted} never came; all that did: {self._lines}"
                assert left > 0, f"{wanted} did not come in time; all that did: {self._lines}"
                self._change.wait(left)

    def end(self, timeout: float = PATIENCE) -> None:
        """Wait for the end of the pipe: whoever could write to it is gone."""
        self._thread.join(timeout)


class Running:
    """A command of the test, both of its outputs kept."""

    def __init__(self, command: Sequence[str | Path], environment: Mapping[str, str], **more: Any) -> None:
        self.command = [str(part) for part in command]
        self.process = subprocess.Popen(
            self.command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=dict(environment),
            start_new_session=True,
            **more,
        )
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self.pid = self.process.pid
        self.out = Lines(self.process.stdout)
        self.err = Lines(self.process.stderr)

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL, and gone."""
        self.process.kill()
        self.process.wait(PATIENCE)

    def end(self, timeout: float = 60.0) -> int:
        """Wait for its end; returns the exit code, as a shell would (128 and more for signals)."""
        try:
            code = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it did not end: {self.shown()}") from None
        self.out.end()
        self.err.end()
        return code if code >= 0 else 128 - code

    def shown(self) -> str:
        out = "\n".join(line[:300] for line in self.out.text.splitlines() if '"progress"' not in line)
        return f"{' '.join(self.command)}\n--- out:\n{out}\n--- err:\n{self.err.text}"


class Send(Running):
    """A ``migrated send --json``."""

    def event(self, name: str, timeout: float = PATIENCE, **facts: object) -> dict[str, Any]:
        """The first event of that name that has these values."""

        def wanted(line: str) -> bool:
            told = json.loads(line)
            return told["event"] == name and all(told.get(key) == value for key, value in facts.items())

        found: dict[str, Any] = json.loads(self.out.wait(wanted, timeout))
        return found

    def state(self, state: str) -> None:
        """Wait until it is in ``state``."""
        self.event("state-changed", state=state)

    @property
    def migration_id(self) -> str:
        return str(self.event("started")["migration_id"])

    def report(self) -> dict[str, Any]:
        """It worked: its report."""
        code = self.end()
        assert code == 0, self.shown()
        last: dict[str, Any] = json.loads(self.out.text.splitlines()[-1])
        assert last["event"] == "report"
        assert math.isclose(last["downtime_seconds"], sum(last["downtime_parts"].values()), abs_tol=1e-6)
        assert "Traceback" not in self.err.text
        return last

    def failure(self, code: int, reason: str = "", *told: str) -> str:
        """It failed as documented: the exit code, one line that says what, at most one that says what to do.

        ``told`` is what these lines have to name. Returns them.
        """
        assert self.end() == code, self.shown()
        said = [line for line in self.err.text.splitlines() if line]
        errors = [place for place, line in enumerate(said) if line.startswith("migrated: error: ")]
        assert len(errors) == 1, self.shown()
        after = said[errors[0] + 1 :]
        assert len(after) <= 1, self.shown()
        assert all(line.startswith("  → ") for line in after), self.shown()
        # What comes before are notes for the person, and nothing else.
        assert all(line.startswith("migrated: ") for line in said[: errors[0]]), self.shown()
        text = "\n".join(said[errors[0] :])
        for each in told:
            assert each in text, self.shown()
        if reason:
            last = json.loads(self.out.text.splitlines()[-1])
            assert (last["event"], last["reason"], last["exit_code"]) == ("failed", reason, code), (
                self.shown()
            )
        return text


@dataclass(frozen=True)
class Seen:
    """A process that lives. ``state`` is the letter of /proc/PID/stat."""

    pid: int
    parent: int
    state: str
    command: str

    @property
    def stopped(self) -> bool:
        return self.state in "Tt"


def look(pid: int) -> Seen | None:
    """The process, or None if it is gone or waits to be reaped."""
    folder = Path(f"/proc/{pid}")
    try:
        stat = (folder / "stat").read_text()
        command = (folder / "cmdline").read_bytes()
    except (OSError, ValueError):
        return None
    fields = stat[stat.rindex(")") + 2 :].split()
    if fields[0] in "ZX":
        return None
    return Seen(pid, int(fields[1]), fields[0], command.replace(b"\0", b" ").decode(errors="replace").strip())


def marked(root: Path) -> list[Seen]:
    """Every process that has ``root`` as its mark."""
    mark = f"{MARK}={root}".encode()
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and int(folder.name) != os.getpid():
            try:
                ours = mark in (folder / "environ").read_bytes().split(b"\0")
            except OSError:
                continue
            if ours and (seen := look(int(folder.name))) is not None:
                found.append(seen)
    return found


def zombies(parent: int) -> list[int]:
    """Children of ``parent`` that nobody reaped."""
    found = []
    for task in Path(f"/proc/{parent}/task").glob("*/children"):
        try:
            children = task.read_text().split()
        except OSError:
            continue
        for child in children:
            try:
                stat = Path(f"/proc/{child}/stat").read_text()
            except OSError:
                continue
            if stat[stat.rindex(")") + 2] == "Z":
                found.append(int(child))
    return found


def kill(pid: int) -> None:
    """SIGKILL, and gone (or a zombie)."""
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: look(pid) is None, f"end of process {pid}")
