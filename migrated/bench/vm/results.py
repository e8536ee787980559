"""Results as a file that grows: a line of JSON for what holds for all, then one for each measurement."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from migrated.bench.vm.drive import Status
from migrated.bench.vm.plan import Step
from migrated.errors import AccessError, UsageError

__all__ = ["Measurement", "Results", "key_of"]

_FORMAT = 1


@dataclass(frozen=True)
class Measurement:
    """One migration: what it said of itself, and what was seen from outside. Seconds and bytes.

    ``arrived_seconds``: from the command until the guest's first beat there, the client's own start included.
    ``gap_seconds``: the longest time without a beat. ``switch_seconds``: from the last beat here to the first there.
    ``link_bytes``: by the interface's counter. ``written_rate``: bytes a second that the guest rewrote, by itself.
    ``expected_seconds``: what the downtime was expected to be when the guest was paused; ours only.
    ``busy_seconds``: processor seconds of the whole host meanwhile; ``stolen_seconds``: those that it wanted and
    another guest of the same machine got. ``probe_seconds``: a fixed piece of work, before.
    ``elapsed_seconds``: of the whole measurement, machines started and memory checked.
    """

    link: str
    guest: str
    mode: str
    run: int
    status: Status
    why: str = ""
    total_seconds: float = 0.0
    downtime_seconds: float = 0.0
    parts: Mapping[str, float] = field(default_factory=dict)
    rounds: int = 0
    sent_bytes: int = 0
    link_bytes: int = 0
    arrived_seconds: float = 0.0
    gap_seconds: float = 0.0
    switch_seconds: float = 0.0
    intact: bool = False
    written_rate: float = 0.0
    expected_seconds: float = 0.0
    busy_seconds: float = 0.0
    stolen_seconds: float = 0.0
    probe_seconds: float = 0.0
    elapsed_seconds: float = 0.0

    @property
    def key(self) -> tuple[str, str, str, int]:
        """Which one it is."""
        return (self.link, self.guest, self.mode, self.run)


def key_of(step: Step) -> tuple[str, str, str, int]:
    """The key that the measurement of ``step`` will have."""
    return (str(step.cell.link), str(step.cell.guest), str(step.mode), step.run)


class Results:
    """What was measured under ``settings`` (what must be equal for figures to be compared) on ``host``."""

    def __init__(
        self, settings: Mapping[str, Any], host: Mapping[str, Any], path: Path | None = None
    ) -> None:
        self.settings, self.host, self.path = dict(settings), dict(host), path
        self.measurements: list[Measurement] = []

    @classmethod
    def create(cls, path: Path, settings: Mapping[str, Any], host: Mapping[str, Any]) -> "Results":
        """A new file. UsageError if there is one already, AccessError."""
        made = cls(settings, host, path)
        head = {"bench": "vm", "format": _FORMAT, "settings": made.settings, "host": made.host}
        try:
            with path.open("x") as file:
                file.write(json.dumps(head) + "\n")
        except FileExistsError as error:
            raise UsageError(
                f"{path} is there already", "go on with it by --resume, or name another"
            ) from error
        except OSError as error:
            raise AccessError(f"cannot write {path}: {error.strerror}") from error
        return made

    @classmethod
    def read(cls, path: Path) -> "Results":
        """The file at ``path``; of two measurements of the same the later counts. UsageError, AccessError.

        A last line that was cut off is as if it were not there.
        """
        try:
            lines = path.read_text().splitlines()
        except OSError as error:
            raise AccessError(f"cannot read {path}: {error.strerror}") from error
        try:
            head = json.loads(lines[0])
            if (head["bench"], head["format"]) != ("vm", _FORMAT):
                raise ValueError(f"format {head['format']}")
            made = cls(head["settings"], head["host"], path)
            for number, line in enumerate(lines[1:], 2):
                made._add(line, last=number == len(lines))
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise UsageError(
                f"{path} holds no results of `migrated bench vm`: {error}", "name another file"
            ) from error
        return made

    def _add(self, line: str, *, last: bool) -> None:
        try:
            facts = json.loads(line)
        except ValueError:
            if not last:
                raise
            return
        facts["status"] = Status(facts["status"])
        measurement = Measurement(**facts)
        self.measurements = [each for each in self.measurements if each.key != measurement.key]
        self.measurements.append(measurement)

    @classmethod
    def resume(cls, path: Path, settings: Mapping[str, Any], host: Mapping[str, Any]) -> "Results":
        """Go on with the file at ``path``, or begin it; what failed is tried again. UsageError: it is not as it was."""
        if not path.exists():
            return cls.create(path, settings, host)
        made = cls.read(path)
        found = {**made.settings, **made.host}
        changed = [
            f"{name} was {found.get(name)!r} and is {value!r}"
            for name, value in json.loads(json.dumps({**settings, **host})).items()
            if found.get(name) != value
        ]
        if changed:
            raise UsageError(
                f"{path} was measured otherwise: {'; '.join(changed)}", "use the same settings, or a new file"
            )
        made._drop_torn_line()
        made.measurements = [each for each in made.measurements if each.status is not Status.FAILED]
        return made

    def _drop_torn_line(self) -> None:
        assert self.path is not None
        text = self.path.read_bytes()
        if not text.endswith(b"\n"):
            os.truncate(self.path, text.rfind(b"\n") + 1)

    def add(self, measurement: Measurement) -> None:
        """Take one in; it is in the file when this returns."""
        self.measurements.append(measurement)
        if self.path is not None:
            with self.path.open("a") as file:
                file.write(json.dumps(asdict(measurement)) + "\n")

    def done(self, step: Step) -> bool:
        """Whether that was measured before - or the like of it never got done, or could not be."""
        key = key_of(step)
        same = [each for each in self.measurements if each.key[:3] == key[:3]]
        hopeless = sum(each.status is not Status.COMPLETED for each in same) >= _HOPELESS
        return hopeless or any(each.key == key or each.status is Status.MISSING for each in same)


_HOPELESS = 2
"""After so many migrations that did not complete, a mode is not tried again in that cell: each takes all patience."""
