"""Every metric that is exported: its name, type, labels and what it means.

Collectors and the table in the README are both made from :data:`METRICS`, so they cannot differ. Units are
Prometheus' base units, bytes and seconds. No label takes a value that a peer chooses: codecs and guests are
those that this host knows, reasons are the words of :mod:`migrated.errors`.
"""

from dataclasses import dataclass
from typing import Literal

__all__ = [
    "DOWNTIME_BUCKETS",
    "DROP_REASONS",
    "LAG_BUCKETS",
    "METRICS",
    "PAGE_KINDS",
    "TOTAL_BUCKETS",
    "Description",
    "describe",
]

DOWNTIME_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
"""Seconds: from less than one scan of the dirty pages to clients that gave up; 0.3 is the default limit."""

TOTAL_BUCKETS = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0)
"""Seconds: from a small guest without a link limit to 400 GB over 1 Gb/s."""

LAG_BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)
"""Seconds: a timer's own resolution is 1 ms, 0.02 is what one callback may take."""

PAGE_KINDS = ("data", "zero", "unchanged", "copied")
DROP_REASONS = ("silent", "full")


@dataclass(frozen=True, slots=True)
class Description:
    """A metric as it is exposed: a counter's ``name`` has its ``_total``."""

    name: str
    type: Literal["counter", "gauge", "histogram"]
    labels: tuple[str, ...]
    help: str
    buckets: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not self.name.startswith("migrated_") or self.name.endswith("_total") != (self.type == "counter"):
            raise ValueError(f"{self.name} is no name for a {self.type}")
        if bool(self.buckets) != (self.type == "histogram"):
            raise ValueError(f"{self.name}: buckets belong to histograms")


def _counter(name: str, text: str, *labels: str) -> Description:
    return Description(f"migrated_{name}_total", "counter", labels, text)


def _gauge(name: str, text: str, *labels: str) -> Description:
    return Description(f"migrated_{name}", "gauge", labels, text)


def _histogram(name: str, buckets: tuple[float, ...], text: str, *labels: str) -> Description:
    return Description(f"migrated_{name}", "histogram", labels, text, buckets)


METRICS = (
    _gauge("running_migrations", "Migrations in progress, by role of this host and state.", "role", "state"),
    _gauge(
        "remaining_bytes",
        "Guest memory that a running migration has yet to send, before compression.",
        "role",
        "guest",
    ),
    _gauge(
        "dirty_bytes_per_second",
        "Rate at which the guest of a running migration wrote memory during the last round, in whole pages.",
        "role",
        "guest",
    ),
    _gauge(
        "throughput_bytes_per_second",
        "Rate on the wire of a running migration, after compression, as last measured.",
        "role",
        "guest",
    ),
    _gauge(
        "expected_downtime_seconds",
        "How long the guest of a running migration would be paused if it were switched over now.",
        "role",
        "guest",
    ),
    _gauge("connections", "Connections that carry pages of a running migration.", "role", "guest"),
    _counter(
        "finished_migrations",
        "Migrations that ended, by outcome: completed, failed, cancelled, or unknown until migrated resolve.",
        "role",
        "outcome",
    ),
    _counter(
        "failures",
        "Migrations that did not complete, by reason; a cancelled one counts too.",
        "role",
        "reason",
    ),
    _counter("rounds", "Rounds of copying that are in place at the destination.", "role"),
    _counter(
        "pages",
        "Guest pages handled: sent with data, sent as zero, found unchanged and not sent, or copied there from others "
        "with the same content.",
        "role",
        "kind",
    ),
    _counter(
        "raw_bytes", "Content of the pages sent with data, before compression, by codec.", "role", "codec"
    ),
    _counter(
        "wire_bytes",
        "What those pages took on the wire, by codec; the source counts headers, too.",
        "role",
        "codec",
    ),
    _counter("delta_pages", "Pages sent with data of which only what had changed was sent.", "role"),
    _counter(
        "delta_saved_bytes",
        "What need not be compressed and sent because of that, before compression.",
        "role",
    ),
    _counter(
        "codec_choices",
        "Batches with data, by codec and level and by what the source saw when it chose them (fixed: it was told "
        "to; start: nothing yet; link, workers or destination: which of them was the limit; balance: none); the "
        "destination does not know that.",
        "role",
        "codec",
        "level",
        "why",
    ),
    _counter("worker_cpu_seconds", "CPU time of the compression and decompression workers.", "role"),
    _counter(
        "dropped_connections",
        "Connections that this destination hung up on: silent ones that did not say in time what they want, "
        "and those for which it was too full.",
        "reason",
    ),
    _histogram(
        "downtime_seconds",
        DOWNTIME_BUCKETS,
        "How long guests were paused by completed migrations; the destination sees its end only.",
        "role",
    ),
    _histogram("duration_seconds", TOTAL_BUCKETS, "Total time of completed migrations.", "role"),
    _histogram(
        "event_loop_lag_seconds",
        LAG_BUCKETS,
        "How much later than planned a timer of the event loop fired, in wall-clock time.",
    ),
    _gauge("build_info", "Always 1; what runs here is in the labels.", "version", "python", "protocol"),
)


def describe() -> list[tuple[str, str, tuple[str, ...], str]]:
    """Name, type, labels and help of every metric, in the order in which they are exposed."""
    return [(each.name, each.type, each.labels, each.help) for each in METRICS]
