"""A migration as the engine tells it, piece by piece."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from migrated.engine.events import (
    BatchMoved,
    Estimated,
    Event,
    Failed,
    Finished,
    Report,
    Role,
    RoundFinished,
    RoundStarted,
    Started,
    State,
    StateChanged,
)

MIB = 1 << 20

STARTED = Started("0" * 32, Role.SOURCE, "db", "shm", 64 * MIB, 4096, "zstd", 1, 2, "pagemap-scan")
BATCH = BatchMoved("zstd", 384, 100, 28, 384 * 4096, 500_000, 0.005, 1, "link")
REPORT = Report(
    migration_id="0" * 32,
    guest="db",
    total_seconds=1.25,
    downtime_seconds=0.045,
    downtime_parts={"pause": 0.001, "last round": 0.044},
    setup_seconds=0.1,
    rounds=2,
    total_bytes=64 * MIB,
    sent_pages=400,
    zero_pages=100,
    unchanged_pages=28,
    raw_bytes=400 * 4096,
    wire_bytes=600_000,
    codec="zstd",
    level=1,
    page_size=4096,
    tracker="pagemap-scan",
    digest="00000000deadbeef",
)


@pytest.fixture
def report() -> Report:
    return REPORT


@pytest.fixture
def begin() -> Callable[..., list[Event]]:
    """The events up to the estimate after the first round; keywords change `Started`."""

    def make(**changes: Any) -> list[Event]:
        return [
            StateChanged(State.SETUP),
            replace(STARTED, **changes),
            StateChanged(State.PRE_COPY),
            RoundStarted(1, 16384, last=False),
            BATCH,
            replace(BATCH, codec="raw", zero_pages=0, unchanged_pages=0, wire_bytes=384 * 4096 + 100),
            RoundFinished(1, 0.5, 768, 2_072_964),
            Estimated(1280, 1e6, 20e6, 117.5e6, 0.25),
        ]

    return make


@pytest.fixture
def complete() -> list[Event]:
    """The events from there to the end."""
    return [
        StateChanged(State.STOP_AND_COPY),
        RoundStarted(2, 16, last=True),
        BatchMoved("zstd", 16, 0, 0, 65536, 2_000, 0.001, delta_pages=12, saved_bytes=48_000),
        RoundFinished(2, 0.01, 16, 20_000),
        StateChanged(State.COMMIT),
        Finished(REPORT),
        StateChanged(State.COMPLETED),
    ]


@pytest.fixture
def fail() -> Callable[[str], list[Event]]:
    """The end of a migration that fails for this reason word."""

    def make(reason: str) -> list[Event]:
        state = {"cancelled": State.CANCELLED, "outcome-unknown": State.UNKNOWN}.get(reason, State.FAILED)
        return [Failed(reason, f"it failed: {reason}", "try again"), StateChanged(state)]

    return make
