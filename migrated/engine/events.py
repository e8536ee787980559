"""What happens in a migration, as facts for whoever watches: progress bars, logs, Prometheus.

The engine tells an :data:`Observer` every step and knows none of those who listen.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum

__all__ = [
    "BatchMoved",
    "Connected",
    "Estimated",
    "Event",
    "Failed",
    "Finished",
    "Observer",
    "Report",
    "Role",
    "RoundFinished",
    "RoundStarted",
    "Stalled",
    "Started",
    "State",
    "StateChanged",
    "fan_out",
]


class Role(StrEnum):
    """Which end of the migration this process is."""

    SOURCE = "source"
    DESTINATION = "destination"


class State(StrEnum):
    """Where a migration stands. The last four are final."""

    SETUP = "setup"
    PRE_COPY = "pre-copy"
    STOP_AND_COPY = "stop-and-copy"
    COMMIT = "commit"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    UNKNOWN = "unknown"

    @property
    def final(self) -> bool:
        """Nothing follows."""
        return self in (State.COMPLETED, State.FAILED, State.CANCELLED, State.UNKNOWN)


@dataclass(frozen=True, slots=True)
class Started:
    """Both sides agreed. ``total_bytes`` is the size of all regions, ``codec`` the one in use at the start."""

    migration_id: str
    role: Role
    guest: str
    kind: str
    total_bytes: int
    page_size: int
    codec: str
    level: int
    workers: int
    tracker: str = ""


@dataclass(frozen=True, slots=True)
class Connected:
    """One more connection carries pages: so many do by now."""

    connections: int


@dataclass(frozen=True, slots=True)
class StateChanged:
    """The migration entered ``state``."""

    state: State


@dataclass(frozen=True, slots=True)
class RoundStarted:
    """A round of ``pages`` candidate pages begins; ``last`` is the one with the guest paused."""

    round: int
    pages: int
    last: bool


@dataclass(frozen=True, slots=True)
class BatchMoved:
    """A batch was given to the network (source) or put in place (destination).

    ``why`` is what the choice of codec and level followed from, as in :class:`migrated.compression.policy.Why`;
    the destination does not know it. ``delta_pages`` of the data pages travelled as what had changed in them, which
    made ``saved_bytes`` less to compress and send. ``copied_pages`` were not sent: the destination was told of which
    pages they are copies.
    """

    codec: str
    data_pages: int
    zero_pages: int
    unchanged_pages: int
    raw_bytes: int
    wire_bytes: int
    cpu_seconds: float
    level: int = 0
    why: str = ""
    delta_pages: int = 0
    saved_bytes: int = 0
    copied_pages: int = 0


@dataclass(frozen=True, slots=True)
class RoundFinished:
    """The barrier of a round: every page of it is in place at the destination."""

    round: int
    seconds: float
    sent_pages: int
    wire_bytes: int


@dataclass(frozen=True, slots=True)
class Estimated:
    """What is known between two rounds: pages, bytes on the wire, bytes per second, seconds."""

    remaining_pages: int
    remaining_wire_bytes: float
    dirty_bytes_per_second: float
    wire_bytes_per_second: float
    expected_downtime: float


@dataclass(frozen=True, slots=True)
class Stalled:
    """Rounds stopped helping; ``action`` is what --on-stall asked for."""

    action: str
    why: str


@dataclass(frozen=True, slots=True)
class Report:
    """A finished migration in figures: seconds and bytes. ``total_seconds`` ends when the destination runs the guest,
    as the downtime does; ``downtime_parts`` adds up to ``downtime_seconds``. ``expected_downtime`` is what it was
    expected to be when the guest was paused for it; None at the destination, which only hears of it."""

    migration_id: str
    guest: str
    total_seconds: float
    downtime_seconds: float
    downtime_parts: dict[str, float]
    setup_seconds: float
    rounds: int
    total_bytes: int
    sent_pages: int
    zero_pages: int
    unchanged_pages: int
    raw_bytes: int
    wire_bytes: int
    codec: str
    level: int
    page_size: int
    tracker: str
    digest: str
    moved: bool = True
    raw_bytes_by_codec: dict[str, int] = field(default_factory=dict)
    delta_pages: int = 0
    copied_pages: int = 0
    connections: int = 1
    expected_downtime: float | None = None
    notes: tuple[str, ...] = field(default=())

    @property
    def throughput(self) -> float:
        """Bytes on the wire per second of total time, as in QEMU's `throughput`."""
        return self.wire_bytes / self.total_seconds if self.total_seconds else 0.0


@dataclass(frozen=True, slots=True)
class Finished:
    """The guest runs at the destination."""

    report: Report


@dataclass(frozen=True, slots=True)
class Failed:
    """The migration ended otherwise; ``reason`` is an error's stable word."""

    reason: str
    what: str
    hint: str


Event = (
    Started
    | Connected
    | StateChanged
    | RoundStarted
    | BatchMoved
    | RoundFinished
    | Estimated
    | Stalled
    | Finished
    | Failed
)

Observer = Callable[[Event], None]


def fan_out(*observers: Observer) -> Observer:
    """One observer that tells each of ``observers``, in order."""

    def tell(event: Event) -> None:
        for observer in observers:
            observer(event)

    return tell
