"""Logs: lines for people or for machines, and an observer that tells a migration's story in them.

Structured fields travel in ``extra``: the JSON format writes every one, the text format only the message.
"""

import dataclasses
import datetime
import logging
import sys
from typing import Any, Literal, TextIO

from migrated.engine.events import (
    BatchMoved,
    Estimated,
    Event,
    Failed,
    Finished,
    Observer,
    Report,
    Role,
    RoundFinished,
    RoundStarted,
    Stalled,
    Started,
    StateChanged,
)
from migrated.errors import CancelledByPersonError
from migrated.telemetry.plain import as_json
from migrated.units import format_duration, format_rate, format_size

__all__ = ["JsonFormatter", "LogFormat", "TextFormatter", "configure", "log_observer"]

LogFormat = Literal["text", "json"]

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
"""Attributes that every record has; the others came as fields."""


class _Handler(logging.StreamHandler[TextIO]):
    """Ours, to be found again by the next :func:`configure`."""


def configure(level: str = "info", format: LogFormat = "text", stream: TextIO | None = None) -> None:  # noqa: A002
    """Send the logs of this process to ``stream`` (standard error), from ``level`` on.

    Libraries are heard from their warnings on. Called again, it replaces what the last call set up, and
    leaves other handlers alone. Raises ValueError for a level that logging does not know.
    """
    handler = _Handler(sys.stderr if stream is None else stream)
    handler.setFormatter(JsonFormatter() if format == "json" else TextFormatter())
    own = logging.getLogger("migrated")
    own.setLevel(level.upper())
    root = logging.getLogger()
    root.setLevel(max(own.level, logging.WARNING))
    for old in [each for each in root.handlers if isinstance(each, _Handler)]:
        root.removeHandler(old)
    root.addHandler(handler)


def _when(record: logging.LogRecord) -> str:
    at = datetime.datetime.fromtimestamp(record.created, datetime.UTC)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


class TextFormatter(logging.Formatter):
    """``2026-05-01T09:30:00.125Z info db: round 2: …``; a traceback follows on lines of its own.

    Control characters are shown escaped: a message may quote a peer, which must not write lines or colours.
    """

    def format(self, record: logging.LogRecord) -> str:
        """The record as text."""
        message = record.getMessage()
        if not message.isprintable():
            message = "".join(each if each.isprintable() else repr(each)[1:-1] for each in message)
        line = f"{_when(record)} {record.levelname.lower()} {message}"
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


class JsonFormatter(logging.Formatter):
    """One object a line: time, level, logger, message, then the fields, then exception if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as JSON."""
        entry: dict[str, Any] = {
            "time": _when(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        entry |= {key: value for key, value in vars(record).items() if key not in _STANDARD}
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return as_json(entry)


def log_observer(logger: logging.Logger, migration_id: str, guest: str) -> Observer:
    """An observer that logs each change of state, each round, stalls, and how it ended; nothing per batch."""
    return _Story(logger, migration_id, guest)


def _facts(event: Stalled | Failed | RoundFinished | Estimated) -> dict[str, Any]:
    """What an event holds, by name."""
    return {each.name: getattr(event, each.name) for each in dataclasses.fields(event)}


class _Story:
    def __init__(self, logger: logging.Logger, migration_id: str, guest: str) -> None:
        self._logger = logger
        self._migration_id = migration_id
        self._guest = guest
        self._last_round = False

    def _say(self, level: int, name: str, text: str, **fields: object) -> None:
        extra = {"migration_id": self._migration_id, "guest": self._guest, "event": name, **fields}
        self._logger.log(level, "%s: %s", self._guest, text, extra=extra)

    def __call__(self, event: Event) -> None:
        """Take one event in."""
        match event:
            case BatchMoved():
                pass
            case Started():
                self._started(event)
            case StateChanged():
                self._say(logging.INFO, "state", event.state, state=event.state)
            case RoundStarted():
                self._last_round = event.last
            case RoundFinished():
                self._round(event)
            case Estimated():
                self._estimated(event)
            case Stalled():
                text = f"rounds stopped helping: {event.why}; {event.action}"
                self._say(logging.WARNING, "stalled", text, **_facts(event))
            case Finished():
                self._finished(event.report)
            case Failed():
                level = logging.WARNING if event.reason == CancelledByPersonError.reason else logging.ERROR
                text = f"{event.what}; {event.hint}" if event.hint else event.what
                self._say(level, "failed", text, **_facts(event))

    def _started(self, event: Started) -> None:
        source = event.role is Role.SOURCE
        text = f"{'sending' if source else 'receiving'} {format_size(event.total_bytes)} ({event.kind})"
        text += f" as migration {self._migration_id}"
        # A destination learns the codec from the batches.
        text += f", {event.codec} level {event.level}, tracker {event.tracker}" if source else ""
        self._say(
            logging.INFO,
            "started",
            f"{text}, {event.workers} {'worker' if event.workers == 1 else 'workers'}",
            role=event.role,
            kind=event.kind,
            total_bytes=event.total_bytes,
            codec=event.codec,
            level_of_codec=event.level,
            workers=event.workers,
            tracker=event.tracker,
        )

    def _round(self, event: RoundFinished) -> None:
        rate = event.wire_bytes / event.seconds if event.seconds else 0.0
        text = f"round {event.round}{' (the last)' if self._last_round else ''}: {event.sent_pages} pages, "
        text += f"{format_size(event.wire_bytes)} in {format_duration(event.seconds)} ({format_rate(rate)})"
        self._say(logging.INFO, "round", text, last=self._last_round, **_facts(event))

    def _estimated(self, event: Estimated) -> None:
        text = f"{event.remaining_pages} pages left, the guest writes "
        text += f"{format_size(event.dirty_bytes_per_second)}/s, "
        text += f"expected downtime {format_duration(event.expected_downtime)}"
        self._say(logging.DEBUG, "estimate", text, **_facts(event))

    def _finished(self, report: Report) -> None:
        parts = ", ".join(f"{name} {format_duration(each)}" for name, each in report.downtime_parts.items())
        self._say(
            logging.INFO,
            "finished",
            f"{'moved' if report.moved else 'copied'} in {format_duration(report.total_seconds)}, "
            f"downtime {format_duration(report.downtime_seconds)}{f' ({parts})' if parts else ''}, "
            f"{report.rounds} {'round' if report.rounds == 1 else 'rounds'}, "
            f"{format_size(report.raw_bytes)} of pages as {format_size(report.wire_bytes)} on the wire "
            f"({format_rate(report.throughput)})",
            total_seconds=report.total_seconds,
            downtime_seconds=report.downtime_seconds,
            downtime_parts=report.downtime_parts,
            rounds=report.rounds,
            total_bytes=report.total_bytes,
            raw_bytes=report.raw_bytes,
            wire_bytes=report.wire_bytes,
            moved=report.moved,
        )
        for note in report.notes:
            self._say(logging.WARNING, "note", note)
