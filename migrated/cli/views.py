"""How `migrated send` shows what happens: live on a terminal, lines in a pipe, JSON lines for programs."""

import asyncio
import contextlib
import os
import re
import sys
from dataclasses import asdict
from types import TracebackType
from typing import Self, TextIO

from migrated.cli.errors import one_line
from migrated.cli.packing import packing
from migrated.cli.summary import summary
from migrated.engine.events import (
    BatchMoved,
    Estimated,
    Event,
    Failed,
    Finished,
    Report,
    RoundFinished,
    Stalled,
    Started,
    StateChanged,
)
from migrated.engine.progress import Tally
from migrated.engine.rounds import Tuning
from migrated.errors import MigratedError
from migrated.telemetry.plain import as_json
from migrated.units import format_duration, format_rate, format_size

__all__ = ["JsonView", "LineView", "View", "make_view"]

_PROGRESS_SECONDS = 1.0
"""How often a program is told how far it is."""


def make_view(guest: str, destination: str, *, as_json: bool, quiet: bool) -> "View":
    """The view that fits where standard output goes."""
    if as_json:
        return JsonView(sys.stdout)
    if quiet:
        return View()
    if sys.stdout.isatty():
        from migrated.cli.live import LiveView

        return LiveView(guest, destination)
    return LineView(sys.stdout, f"{guest} -> {destination}")


class View:
    """An observer of one migration, and the base of all: it says nothing but what the person must know.

    Shows between enter and exit; :meth:`report` or :meth:`failed` comes last.
    """

    def __init__(self) -> None:
        self.tally = Tally()
        self.tuning: Tuning | None = None
        """Limits as they are now, once there is a migration."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Show no more."""

    def __call__(self, event: Event) -> None:
        """Take one event in."""
        self.tally(event)

    async def keep_showing(self) -> None:
        """Show what moves between events, until cancelled."""

    def say(self, text: str) -> None:
        """Something that the person must know now."""
        _put(sys.stderr, f"migrated: {one_line(text)}")

    def report(self, report: Report) -> None:
        """It worked."""

    def failed(self, error: MigratedError) -> None:
        """It did not; the error itself is printed by whoever ends the command."""


class LineView(View):
    """A line a round and a state, for pipes and logs; the summary last."""

    def __init__(self, out: TextIO, title: str) -> None:
        super().__init__()
        self._out = out
        self._title = title

    def _line(self, text: str) -> None:
        _put(self._out, one_line(text))

    def __call__(self, event: Event) -> None:
        """Take one event in."""
        super().__call__(event)
        match event:
            case Started():
                self._line(
                    f"{self._title}: {event.guest} ({event.kind}), {format_size(event.total_bytes)}, "
                    f"compression {packing(event.codec, event.level, {})}, {event.workers} workers, "
                    f"tracker {event.tracker}, "
                    f"migration {event.migration_id}"
                )
            case StateChanged():
                self._line(f"state: {event.state}")
            case RoundFinished():
                progress = self.tally.progress
                self._line(_round(event, progress.round_pages, last=progress.last_round))
            case Estimated():
                self._line(
                    f"estimate: remaining {format_size(self.tally.progress.remaining_bytes)} "
                    f"({format_size(event.remaining_wire_bytes)} on the wire), "
                    f"dirty rate {format_size(event.dirty_bytes_per_second)}/s, "
                    f"expected downtime {format_duration(event.expected_downtime)}"
                )
            case Stalled():
                self._line(f"rounds stopped helping: {event.why}; {event.action}")

    def report(self, report: Report) -> None:
        """The summary."""
        _put(self._out, "\n".join(summary(report)))


def _round(event: RoundFinished, candidates: int, *, last: bool) -> str:
    rate = event.wire_bytes / event.seconds if event.seconds else 0.0
    return (
        f"round {event.round}{' (the last, guest paused)' if last else ''}: "
        f"{event.sent_pages} of {candidates} pages sent, "
        f"{format_size(event.wire_bytes)} in {format_duration(event.seconds)} ({format_rate(rate)})"
    )


class JsonView(View):
    """Every event but single batches as a JSON object a line; the report or the failure last."""

    def __init__(self, out: TextIO) -> None:
        super().__init__()
        self._out = out

    def _line(self, event: str, facts: dict[str, object]) -> None:
        elapsed = round(self.tally.snapshot().elapsed_seconds, 3)
        _put(self._out, as_json({"event": event, "elapsed_seconds": elapsed, **facts}))

    def __call__(self, event: Event) -> None:
        """Take one event in."""
        super().__call__(event)
        # How it ended comes once, as the last line.
        if not isinstance(event, BatchMoved | Finished | Failed):
            self._line(_kebab(type(event).__name__), asdict(event))

    async def keep_showing(self) -> None:
        """A line a second."""
        while True:
            await asyncio.sleep(_PROGRESS_SECONDS)
            self._line("progress", self.tally.snapshot().as_dict())

    def say(self, text: str) -> None:
        """As an event."""
        self._line("note", {"text": text})

    def report(self, report: Report) -> None:
        """The last line."""
        self._line("report", asdict(report) | {"throughput": report.throughput})

    def failed(self, error: MigratedError) -> None:
        """The last line."""
        facts = {"reason": error.reason, "what": error.what, "hint": error.hint, "exit_code": error.exit_code}
        self._line("failed", facts)


def _put(out: TextIO, text: str) -> None:
    """Print a line. Who reads may have gone: a guest that is on its way does not stop for that."""
    try:
        print(text, file=out, flush=True)
    except BrokenPipeError:
        with contextlib.suppress(OSError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, out.fileno())
            os.close(nowhere)


def _kebab(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "-", name).lower()
