"""What a person, a program or a page is shown of a migration: one snapshot, made from the engine's events."""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from migrated.engine.events import (
    BatchMoved,
    Connected,
    Estimated,
    Event,
    Failed,
    Finished,
    Role,
    RoundFinished,
    RoundStarted,
    Stalled,
    Started,
    State,
    StateChanged,
)

__all__ = ["Progress", "Tally"]

_RATE_WINDOW = 1.0
"""Seconds over which the shown throughput is taken: shorter jumps, longer lags."""


@dataclass(slots=True)
class Progress:
    """A migration now. Seconds, bytes, bytes per second, pages."""

    migration_id: str = ""
    role: str = ""
    guest: str = ""
    kind: str = ""
    state: str = State.SETUP
    codec: str = ""
    level: int = 0
    workers: int = 0
    tracker: str = ""
    connections: int = 1
    page_size: int = 0
    total_bytes: int = 0
    elapsed_seconds: float = 0.0
    round: int = 0
    round_pages: int = 0
    round_pages_done: int = 0
    last_round: bool = False
    sent_pages: int = 0
    zero_pages: int = 0
    unchanged_pages: int = 0
    delta_pages: int = 0
    copied_pages: int = 0
    raw_bytes: int = 0
    wire_bytes: int = 0
    wire_bytes_per_second: float = 0.0
    dirty_bytes_per_second: float = 0.0
    remaining_bytes: int = 0
    remaining_wire_bytes: float = 0.0
    expected_downtime: float | None = None
    raw_bytes_by_codec: dict[str, int] = field(default_factory=dict)
    wire_bytes_by_codec: dict[str, int] = field(default_factory=dict)
    stalled: str = ""
    downtime_seconds: float | None = None
    error: str = ""
    hint: str = ""
    reason: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self)


class Tally:
    """An observer that keeps a :class:`Progress` up to date. ``clock`` gives monotonic seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began = clock()
        self._ended: float | None = None
        self._window_start = self._began
        self._window_bytes = 0
        self._raw: Counter[str] = Counter()
        self._wire: Counter[str] = Counter()
        self.progress = Progress()

    def snapshot(self) -> Progress:
        """The progress as it is now; the same object each time, brought up to date."""
        now = self._clock() if self._ended is None else self._ended
        self.progress.elapsed_seconds = now - self._began
        self.progress.raw_bytes_by_codec = dict(self._raw)
        self.progress.wire_bytes_by_codec = dict(self._wire)
        return self.progress

    def __call__(self, event: Event) -> None:
        """Take one event in."""
        shown = self.progress
        match event:
            case BatchMoved():
                self._batch(event)
            case Started():
                shown.migration_id, shown.role, shown.guest, shown.kind = (
                    event.migration_id,
                    event.role,
                    event.guest,
                    event.kind,
                )
                shown.total_bytes, shown.page_size = event.total_bytes, event.page_size
                shown.codec, shown.level = event.codec, event.level
                shown.workers, shown.tracker = event.workers, event.tracker
                shown.remaining_bytes = event.total_bytes
            case Connected():
                shown.connections = event.connections
            case StateChanged():
                shown.state = event.state
                if event.state.final:
                    self._ended = self._clock()
            case RoundStarted():
                if event.round == 1:
                    self._window_start, self._window_bytes = self._clock(), 0
                shown.round, shown.round_pages, shown.last_round = event.round, event.pages, event.last
                shown.round_pages_done = 0
                shown.remaining_bytes = event.pages * shown.page_size
            case RoundFinished():
                shown.wire_bytes_per_second = event.wire_bytes / event.seconds if event.seconds else 0.0
            case Estimated():
                shown.remaining_bytes = event.remaining_pages * shown.page_size
                shown.remaining_wire_bytes = event.remaining_wire_bytes
                shown.dirty_bytes_per_second = event.dirty_bytes_per_second
                shown.expected_downtime = event.expected_downtime
            case Stalled():
                shown.stalled = event.action
            case Finished():
                shown.downtime_seconds = event.report.downtime_seconds
                shown.remaining_bytes = 0
            case Failed():
                shown.error, shown.hint, shown.reason = event.what, event.hint, event.reason

    def _batch(self, event: BatchMoved) -> None:
        shown = self.progress
        pages = event.data_pages + event.zero_pages + event.unchanged_pages + event.copied_pages
        shown.sent_pages += event.data_pages
        shown.zero_pages += event.zero_pages
        shown.unchanged_pages += event.unchanged_pages
        shown.delta_pages += event.delta_pages
        shown.copied_pages += event.copied_pages
        shown.raw_bytes += event.raw_bytes
        shown.wire_bytes += event.wire_bytes
        shown.round_pages_done += pages
        # Some are found while the round goes on: what had changed where no tracker saw it.
        shown.round_pages = max(shown.round_pages, shown.round_pages_done)
        if shown.role == Role.SOURCE:
            shown.remaining_bytes = max(0, shown.remaining_bytes - pages * shown.page_size)
        self._raw[event.codec] += event.raw_bytes
        self._wire[event.codec] += event.wire_bytes
        self._window_bytes += event.wire_bytes
        now = self._clock()
        if now - self._window_start >= _RATE_WINDOW:
            shown.wire_bytes_per_second = self._window_bytes / (now - self._window_start)
            self._window_start, self._window_bytes = now, 0
