"""`migrated serve` on one host and `migrated send` on the other, as processes of their own."""

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from migrated.bench.hosts import Host
from migrated.errors import MigratedError, ResourceError

__all__ = ["MIGRATED", "SendFailedError", "Service", "environment", "send"]

MIGRATED = (sys.executable, "-m", "migrated")
"""The command line of ``migrated`` by this very Python."""

_CANCEL_SECONDS = 60.0

_SAID = 2000
"""Characters of a failed command's output that an error quotes, at most."""


class SendFailedError(MigratedError):
    """`migrated send` did not move the guest: what it ended with, its reason word, and its text."""

    def __init__(self, words: str, code: int, why: str, said: str) -> None:
        super().__init__(f"migrated send {words} ended with {code}: {said}")
        self.code, self.why, self.said = code, why, said


def environment(folder: Path) -> dict[str, str]:
    """The environment of everything that is started: state and sockets under ``folder``."""
    return os.environ | {
        "MIGRATED_HOST__STATE_DIR": str(folder / "state"),
        "RUNTIME_DIRECTORY": str(folder / "run"),
    }


@dataclass
class Service:
    """`migrated serve` on a free port, for the guests ``name -> kind:path``. ResourceError if it does not start."""

    folder: Path
    host: Host
    guests: dict[str, str]
    program: tuple[str, ...] = MIGRATED
    address: str = ""
    process: "subprocess.Popen[str]" = field(init=False)

    def __enter__(self) -> "Service":
        listen = [f"--listen={self.host.address}:0", "--control=127.0.0.1:0"]
        guests = [f"--guest={name}={uri}" for name, uri in self.guests.items()]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [*self.host.prefix, *self.program, "serve", *listen, *guests],
                env=environment(self.folder),
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        try:
            self.address = self._listening()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _listening(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        match = re.search(r"listening on (\S+:\d+)", line)
        if match is None:
            raise ResourceError(f"the service did not start: {line}{self.log.read_text()[-_SAID:]}")
        return match[1]

    @property
    def log(self) -> Path:
        """What it logs."""
        return self.folder / "serve.log"

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


def send(
    folder: Path,
    host: Host,
    *words: str,
    program: tuple[str, ...] = MIGRATED,
    patience: float | None = None,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """`migrated send` with ``words``: the report, and all events. SendFailedError with what it said.

    After ``patience`` seconds it is cancelled, as by SIGTERM: a SendFailedError with the reason ``cancelled``.
    """
    process = subprocess.Popen(
        [*host.prefix, *program, "send", "--json", *words],
        env=environment(folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        out, errors = _finish(process, patience)
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()
    events = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
    if process.returncode:
        last = events[-1] if events else {}
        said = str(last.get("what") or out[-_SAID:] + errors[-_SAID:])
        raise SendFailedError(" ".join(words), process.returncode, str(last.get("reason", "")), said)
    return events[-1], events


def _finish(process: "subprocess.Popen[str]", patience: float | None) -> tuple[str, str]:
    try:
        return process.communicate(timeout=patience)
    except subprocess.TimeoutExpired:
        process.terminate()  # Ctrl-C is ignored by what a bench in the background starts
        return process.communicate(timeout=_CANCEL_SECONDS)
