"""Commands of the configuration that pause and resume a guest, and the guardian that runs them for us.

The guardian is a process of its own: when our end of its pipe closes before the outcome is decided - because
we were killed - it runs the resume command, so a paused guest never waits for somebody who is gone.
"""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from migrated.errors import GuestError

__all__ = ["Guardian", "Hook"]

_TAIL_BYTES = 400
_SLACK_SECONDS = 5.0
"""The guardian's answer may come this much later than the command's own time limit."""


@dataclass(frozen=True, slots=True)
class Hook:
    """A command. ``what`` is the word for it in errors; it sees MIGRATED_GUEST and MIGRATED_PATH."""

    what: str
    command: tuple[str, ...]
    timeout: float
    guest: str
    path: str

    def run(self) -> None:
        """Run it to its end. GuestError, with the end of its output, if it fails or takes too long.

        What it leaves running in the background goes on, in a session of its own: it may well be the guest.
        """
        environment = os.environ | {"MIGRATED_GUEST": self.guest, "MIGRATED_PATH": self.path}
        shown = " ".join(self.command)
        # A file and not a pipe: a guest that it starts in the background would keep the pipe open for ever.
        with tempfile.TemporaryFile() as output:
            try:
                running = subprocess.Popen(
                    self.command,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    env=environment,
                    cwd="/",
                    start_new_session=True,
                )
            except OSError as error:
                raise GuestError(
                    f"the {self.what} command cannot be run: {shown}: {error.strerror}"
                ) from error
            try:
                code = running.wait(self.timeout)
            except subprocess.TimeoutExpired as error:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(running.pid, signal.SIGKILL)
                running.wait()
                raise GuestError(
                    f"the {self.what} command did not end within {self.timeout:g} s: {shown}",
                    "it must end when its work is done; what is to run on belongs in the background",
                ) from error
            if code:
                size = output.seek(0, os.SEEK_END)
                output.seek(max(0, size - _TAIL_BYTES))
                said = output.read().decode(errors="replace").strip() or "it said nothing"
                raise GuestError(f"the {self.what} command failed with exit code {code}: {shown}: {said}")

    def describe(self) -> dict[str, object]:
        """Fit for JSON; :meth:`of` makes the hook of it again."""
        return {
            "what": self.what,
            "command": list(self.command),
            "timeout": self.timeout,
            "guest": self.guest,
            "path": self.path,
        }

    @classmethod
    def of(cls, details: Mapping[str, Any]) -> Self:
        """See :meth:`describe`."""
        command = tuple(map(str, details["command"]))
        return cls(
            str(details["what"]),
            command,
            float(details["timeout"]),
            str(details["guest"]),
            str(details["path"]),
        )


class Guardian:
    """Our end: asks the guardian to run the hooks. Start it early, it takes some 50 ms."""

    def __init__(self, pause: Hook, resume: Hook) -> None:
        self._pause, self._resume = pause, resume
        self._paused = False
        root = str(Path(__file__).parents[2])
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
        }
        hooks = json.dumps([pause.describe(), resume.describe()])
        self._process: subprocess.Popen[bytes] | None = subprocess.Popen(
            [sys.executable, "-m", "migrated.guests.guardian", hooks],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            cwd="/",
            start_new_session=True,
        )

    def pause(self) -> None:
        """Run the pause hook. GuestError if it fails; call :meth:`resume` then, it may have done half."""
        self._paused = True
        self._ask("pause", self._pause.timeout)

    def resume(self) -> None:
        """Run the resume hook if the guest is paused. GuestError if it fails."""
        if not self._paused:
            return
        try:
            self._ask("resume", self._resume.timeout)
        except BrokenPipeError:
            self._resume.run()
        self._paused = False

    def settle(self) -> None:
        """From now on the guest stays paused when we are gone."""
        if self._paused:
            self._ask("settle", 0.0)

    def close(self) -> None:
        """End the guardian, which resumes a guest that is paused and not settled. May be called twice."""
        ours, self._process = self._process, None
        if ours is not None:
            assert ours.stdin is not None
            assert ours.stdout is not None
            with contextlib.suppress(OSError):
                ours.stdin.close()
            try:
                ours.wait(self._resume.timeout + _SLACK_SECONDS)
            except subprocess.TimeoutExpired:
                ours.kill()
                ours.wait()
            ours.stdout.close()

    def _ask(self, word: str, timeout: float) -> None:
        ours = self._process
        if ours is None or ours.stdin is None or ours.stdout is None:
            raise BrokenPipeError
        try:
            ours.stdin.write(f"{word}\n".encode())
            ours.stdin.flush()
            answers = select.poll()
            answers.register(ours.stdout, select.POLLIN)
            if not answers.poll((timeout + _SLACK_SECONDS) * 1000):
                raise GuestError(f"the guardian of the guest did not {word} it in time")
            answer = ours.stdout.readline()
        except OSError as error:
            if word == "resume":
                raise BrokenPipeError from error
            answer = b""
        if not answer:
            if word == "resume":
                raise BrokenPipeError
            raise GuestError("the guardian of the guest was killed", "try again")
        said = json.loads(answer)
        if said:
            raise GuestError(str(said["what"]), str(said["hint"]))
