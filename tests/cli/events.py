"""A migration's events, as the engine tells them."""

from migrated.engine.events import (
    BatchMoved,
    Estimated,
    Event,
    Finished,
    Report,
    Role,
    RoundFinished,
    RoundStarted,
    Stalled,
    Started,
    State,
    StateChanged,
)

MIGRATION_ID = "3f2a" + "0" * 28

REPORT = Report(
    migration_id=MIGRATION_ID,
    guest="counter",
    total_seconds=2.5,
    downtime_seconds=0.06,
    downtime_parts={"pause": 0.01, "last round": 0.05},
    setup_seconds=0.2,
    rounds=2,
    total_bytes=64 << 20,
    sent_pages=8192,
    zero_pages=4096,
    unchanged_pages=12,
    raw_bytes=32 << 20,
    wire_bytes=8 << 20,
    codec="zstd",
    level=1,
    page_size=4096,
    tracker="pagemap-scan",
    digest="00ff",
    notes=("a note",),
)

BATCH = BatchMoved("zstd", 512, 10, 2, 2 << 20, 1 << 19, 0.01)

BEGINNING: list[Event] = [
    StateChanged(State.SETUP),
    Started(MIGRATION_ID, Role.SOURCE, "counter", "demo", 64 << 20, 4096, "zstd", 1, 2, "pagemap-scan"),
    StateChanged(State.PRE_COPY),
    RoundStarted(1, 16384, last=False),
    BATCH,
]

STORY: list[Event] = [
    *BEGINNING,
    RoundFinished(1, 1.5, 8000, 7 << 20),
    Estimated(192, 1e5, 2e6, 5e6, float("inf")),
    Stalled("switch", "it does not get better"),
    StateChanged(State.STOP_AND_COPY),
    RoundStarted(2, 192, last=True),
    RoundFinished(2, 0.05, 192, 1 << 20),
    StateChanged(State.COMMIT),
    Finished(REPORT),
    StateChanged(State.COMPLETED),
]
