"""Prometheus: counters that the engine's events move, and gauges of the migrations that run.

Counters are bound to their labels once, so a batch costs a few increments and no lookup. Gauges of running
migrations are not stored at all: a scrape reads them from the observers that are alive, so none outlives
its migration.
"""

import asyncio
import platform
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.metrics_core import Metric

from migrated import __version__
from migrated.engine.events import (
    BatchMoved,
    Event,
    Failed,
    Finished,
    Role,
    RoundFinished,
    Started,
    State,
    StateChanged,
)
from migrated.engine.progress import Progress, Tally
from migrated.errors import EXIT_CODES, MigratedError
from migrated.protocol import VERSION
from migrated.telemetry.catalogue import DROP_REASONS, METRICS, PAGE_KINDS, Description

__all__ = ["Metrics", "MigrationObserver", "watch_loop"]

_DESCRIPTIONS = {each.name.removeprefix("migrated_"): each for each in METRICS}
_RUNNING_STATES = tuple(state for state in State if not state.final)
_OUTCOMES = tuple(state for state in State if state.final)
_OUTCOME_OF = {"cancelled": State.CANCELLED, "outcome-unknown": State.UNKNOWN}
"""What became of a migration that failed for this reason; every other one is a plain failure."""


class Metrics:
    """All collectors, on ``registry`` (a new one if none is given), and the observers that feed them.

    ``build`` replaces the labels of the build info, ``clock`` (monotonic seconds) is what throughput is
    measured by. Two of them cannot share a registry.
    """

    def __init__(
        self,
        registry: CollectorRegistry | None = None,
        *,
        build: Mapping[str, str] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        # A process-wide switch of the library: without it, every counter has a twin with its birthday.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry() if registry is None else registry
        self._clock = clock
        self._running = _Running()
        self.registry.register(self._running)
        self.finished = self._counter("finished_migrations_total")
        self.failures = self._counter("failures_total")
        self.rounds = self._counter("rounds_total")
        self.pages = self._counter("pages_total")
        self.raw_bytes = self._counter("raw_bytes_total")
        self.wire_bytes = self._counter("wire_bytes_total")
        self.delta_pages = self._counter("delta_pages_total")
        self.delta_saved_bytes = self._counter("delta_saved_bytes_total")
        self.codec_choices = self._counter("codec_choices_total")
        self.worker_cpu = self._counter("worker_cpu_seconds_total")
        self.dropped_connections = self._counter("dropped_connections_total")
        self.downtime = self._histogram("downtime_seconds")
        self.duration = self._histogram("duration_seconds")
        self.loop_lag = self._histogram("event_loop_lag_seconds")
        self._gauge("build_info").labels(**(build or _build())).set(1)
        self._begin_at_zero()

    def _counter(self, name: str) -> Counter:
        described = _DESCRIPTIONS[name]
        return Counter(described.name, described.help, described.labels, registry=self.registry)

    def _gauge(self, name: str) -> Gauge:
        described = _DESCRIPTIONS[name]
        return Gauge(described.name, described.help, described.labels, registry=self.registry)

    def _histogram(self, name: str) -> Histogram:
        described = _DESCRIPTIONS[name]
        return Histogram(
            described.name,
            described.help,
            described.labels,
            registry=self.registry,
            buckets=described.buckets,
        )

    def _begin_at_zero(self) -> None:
        """A series that first appears at 1 hides its first event from rate()."""
        for reason in DROP_REASONS:
            self.dropped_connections.labels(reason)
        by_role: tuple[tuple[MetricWrapperBase, Iterable[str]], ...] = (
            (self.finished, _OUTCOMES),
            (self.failures, EXIT_CODES),
            (self.pages, PAGE_KINDS),
        )
        for role in Role:
            for metric, words in by_role:
                for word in words:
                    metric.labels(role, word)
            for metric in (
                self.rounds,
                self.delta_pages,
                self.delta_saved_bytes,
                self.worker_cpu,
                self.downtime,
                self.duration,
            ):
                metric.labels(role)

    def observer(self, role: Role) -> "MigrationObserver":
        """An observer for one migration, in which this host is ``role``."""
        return MigrationObserver(self, self._running, role, self._clock)

    def dropped(self, reason: str) -> None:
        """A connection was hung up on, for one of the ``DROP_REASONS``."""
        self.dropped_connections.labels(reason).inc()

    def expose(self, accept: str = "") -> tuple[bytes, str]:
        """The answer to a scrape with this Accept header, and its content type. Callable from any thread."""
        try:
            encode, content_type = choose_encoder(accept)
        except (ValueError, TypeError):  # a version that the library cannot read
            encode, content_type = choose_encoder("")
        return encode(self.registry), content_type


class MigrationObserver:
    """Counts one migration. It is running from its first state until it finished, failed or was closed.

    A destination that could not start its guest and then does has ended twice, and counts twice.
    """

    def __init__(self, metrics: Metrics, running: "_Running", role: Role, clock: Callable[[], float]) -> None:
        self._metrics = metrics
        self._running = running
        self._tally = Tally(clock)
        self.role = role
        self.measured = False
        self._ended = False
        self._data, self._zero, self._unchanged, self._copied = (
            metrics.pages.labels(role, kind).inc for kind in PAGE_KINDS
        )
        self._cpu = metrics.worker_cpu.labels(role).inc
        self._bytes: dict[str, tuple[Callable[[float], None], Callable[[float], None]]] = {}

    @property
    def progress(self) -> Progress:
        """What the gauges show."""
        return self._tally.progress

    def __call__(self, event: Event) -> None:
        """Take one event in."""
        self._tally(event)
        metrics, role = self._metrics, self.role
        match event:
            case BatchMoved():
                self._batch(event)
            case StateChanged() if event.state.final:
                self._end(event.state)
            case StateChanged():
                self._ended = False
                self._running.add(self)
            case Started():
                self.measured = role is Role.SOURCE
            case RoundFinished():
                metrics.rounds.labels(role).inc()
            case Finished():
                metrics.downtime.labels(role).observe(event.report.downtime_seconds)
                metrics.duration.labels(role).observe(event.report.total_seconds)
                self._end(State.COMPLETED)
            case Failed():
                reason = event.reason if event.reason in EXIT_CODES else MigratedError.reason
                metrics.failures.labels(role, reason).inc()
                self._end(_OUTCOME_OF.get(reason, State.FAILED))

    def close(self) -> None:
        """Nothing more will come. A migration that never said how it ended failed, with reason internal."""
        if self in self._running:
            self._metrics.failures.labels(self.role, MigratedError.reason).inc()
            self._end(State.FAILED)

    def _end(self, outcome: State) -> None:
        """Count the outcome, once: the end is told as an event of its own and as a state, in either order."""
        if not self._ended:
            self._metrics.finished.labels(self.role, outcome).inc()
        self._ended = True
        self._running.discard(self)

    def _batch(self, event: BatchMoved) -> None:
        count = self._bytes.get(event.codec)
        if count is None:
            metrics = self._metrics
            count = self._bytes[event.codec] = (
                metrics.raw_bytes.labels(self.role, event.codec).inc,
                metrics.wire_bytes.labels(self.role, event.codec).inc,
            )
        raw, wire = count
        if event.data_pages:
            self._data(event.data_pages)
            self._metrics.codec_choices.labels(self.role, event.codec, event.level, event.why).inc()
        if event.delta_pages:
            self._metrics.delta_pages.labels(self.role).inc(event.delta_pages)
            self._metrics.delta_saved_bytes.labels(self.role).inc(event.saved_bytes)
        if event.zero_pages:
            self._zero(event.zero_pages)
        if event.unchanged_pages:
            self._unchanged(event.unchanged_pages)
        if event.copied_pages:
            self._copied(event.copied_pages)
        if event.wire_bytes:
            raw(event.raw_bytes)
            wire(event.wire_bytes)
        self._cpu(event.cpu_seconds)


class _Running:
    """The migrations in progress, as a collector. A guest moves once at a time; the newest one is shown."""

    def __init__(self) -> None:
        self._observers: dict[MigrationObserver, None] = {}

    def __contains__(self, observer: MigrationObserver) -> bool:
        return observer in self._observers

    def add(self, observer: MigrationObserver) -> None:
        self._observers[observer] = None

    def discard(self, observer: MigrationObserver) -> None:
        self._observers.pop(observer, None)

    def collect(self) -> Iterable[Metric]:
        states = _family("running_migrations")
        observers = list(self._observers)  # in one step: a scrape may come from another thread
        at = [(observer.role, observer.progress.state) for observer in observers]
        for role in Role:
            for state in _RUNNING_STATES:
                states.add_metric([role, state], at.count((role, state)))
        yield states
        shown = {(each.role, each.progress.guest): each for each in observers if each.progress.guest}
        remaining, dirty = _family("remaining_bytes"), _family("dirty_bytes_per_second")
        throughput, downtime = _family("throughput_bytes_per_second"), _family("expected_downtime_seconds")
        connections = _family("connections")
        for labels, observer in shown.items():
            progress = observer.progress
            throughput.add_metric(labels, progress.wire_bytes_per_second)
            connections.add_metric(labels, progress.connections)
            if observer.measured:
                remaining.add_metric(labels, progress.remaining_bytes)
            if progress.expected_downtime is not None:
                dirty.add_metric(labels, progress.dirty_bytes_per_second)
                downtime.add_metric(labels, progress.expected_downtime)
        yield from (remaining, dirty, throughput, downtime, connections)


def _family(name: str) -> GaugeMetricFamily:
    described: Description = _DESCRIPTIONS[name]
    return GaugeMetricFamily(described.name, described.help, labels=described.labels)


def _build() -> dict[str, str]:
    return {"version": __version__, "python": platform.python_version(), "protocol": str(VERSION)}


async def watch_loop(
    metrics: Metrics,
    interval: float = 0.1,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], Awaitable[Any]] = asyncio.sleep,
) -> None:
    """Measure the lag of the running event loop every ``interval`` seconds, until cancelled.

    A sample is what an event at that moment would have waited; what blocks the loop for less than an
    interval is met with the probability of its share. ``clock`` gives wall-clock seconds, monotonic: the
    loop's own time stands still during a callback.
    """
    while True:
        due = clock() + interval
        await sleep(interval)
        metrics.loop_lag.observe(max(0.0, clock() - due))
