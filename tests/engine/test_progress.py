"""One snapshot, made from events."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrated.engine.events import (
    BatchMoved,
    Estimated,
    Failed,
    Finished,
    Report,
    Role,
    RoundFinished,
    RoundStarted,
    Stalled,
    Started,
    State,
    StateChanged,
    fan_out,
)
from migrated.engine.progress import Tally

STARTED = Started("a" * 32, Role.SOURCE, "web", "demo", 40960, 4096, "lz4", 1, 2, "hash")
REPORT = Report(
    migration_id="a" * 32,
    guest="web",
    total_seconds=2.0,
    downtime_seconds=0.1,
    downtime_parts={"pause": 0.1},
    setup_seconds=0.0,
    rounds=2,
    total_bytes=40960,
    sent_pages=8,
    zero_pages=2,
    unchanged_pages=0,
    raw_bytes=32768,
    wire_bytes=1000,
    codec="lz4",
    level=1,
    page_size=4096,
    tracker="hash",
    digest="",
)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def tally(clock: Clock) -> Tally:
    made = Tally(clock)
    made(STARTED)
    return made


def batch(
    data: int = 1, zero: int = 0, unchanged: int = 0, wire: int = 100, codec: str = "lz4"
) -> BatchMoved:
    return BatchMoved(codec, data, zero, unchanged, data * 4096, wire, 0.001)


def test_what_was_agreed_is_shown(tally: Tally) -> None:
    shown = tally.snapshot()
    assert (shown.migration_id, shown.role, shown.guest, shown.kind) == ("a" * 32, "source", "web", "demo")
    assert (shown.codec, shown.level, shown.workers, shown.tracker) == ("lz4", 1, 2, "hash")
    assert (shown.total_bytes, shown.remaining_bytes, shown.page_size) == (40960, 40960, 4096)


def test_batches_add_up_and_count_down(tally: Tally) -> None:
    tally(RoundStarted(1, 10, last=False))
    tally(batch(3, 2, 1))
    tally(batch(1, 0, 0, codec="raw", wire=4200))
    shown = tally.snapshot()
    assert (shown.sent_pages, shown.zero_pages, shown.unchanged_pages) == (4, 2, 1)
    assert (shown.round_pages_done, shown.remaining_bytes) == (7, 3 * 4096)
    assert (shown.raw_bytes, shown.wire_bytes) == (4 * 4096, 4300)
    assert shown.raw_bytes_by_codec == {"lz4": 3 * 4096, "raw": 4096}
    assert shown.wire_bytes_by_codec == {"lz4": 100, "raw": 4200}


def test_a_round_has_the_pages_that_are_found_while_it_goes_on(tally: Tally) -> None:
    tally(RoundStarted(2, 1, last=True))
    tally(batch(1))
    assert tally.snapshot().round_pages == 1
    tally(batch(2))
    shown = tally.snapshot()
    assert (shown.round_pages, shown.round_pages_done, shown.remaining_bytes) == (3, 3, 0)


def test_deltas_add_up(tally: Tally) -> None:
    tally(replace(batch(3), delta_pages=2))
    tally(replace(batch(3), delta_pages=1))
    assert tally.snapshot().delta_pages == 3


def test_a_new_round_starts_anew_and_keeps_the_totals(tally: Tally) -> None:
    tally(RoundStarted(1, 10, last=False))
    tally(batch(5))
    tally(RoundStarted(2, 4, last=True))
    shown = tally.snapshot()
    assert (shown.round, shown.round_pages, shown.round_pages_done, shown.last_round) == (2, 4, 0, True)
    assert shown.remaining_bytes == 4 * 4096
    assert shown.sent_pages == 5


def test_the_destination_does_not_guess_what_remains(tally: Tally) -> None:
    tally(replace(STARTED, role=Role.DESTINATION))
    tally(batch(5))
    assert tally.snapshot().remaining_bytes == 40960


def test_the_rate_is_that_of_the_last_second(tally: Tally, clock: Clock) -> None:
    tally(batch(wire=1000))
    assert tally.snapshot().wire_bytes_per_second == 0.0
    clock.now += 2.0
    tally(batch(wire=3000))
    assert tally.snapshot().wire_bytes_per_second == 2000.0
    clock.now += 1.0
    tally(batch(wire=500))
    assert tally.snapshot().wire_bytes_per_second == 500.0
    tally(RoundFinished(1, 0.5, 3, 4500))
    assert tally.snapshot().wire_bytes_per_second == 9000.0


def test_time_stands_still_once_it_is_over(tally: Tally, clock: Clock) -> None:
    clock.now += 3.0
    assert tally.snapshot().elapsed_seconds == 3.0
    tally(StateChanged(State.COMPLETED))
    clock.now += 50.0
    assert tally.snapshot().elapsed_seconds == 3.0


@pytest.mark.parametrize("state", list(State))
def test_states_are_shown_and_the_last_four_are_final(tally: Tally, state: State) -> None:
    tally(StateChanged(state))
    assert tally.snapshot().state == state
    assert state.final is (list(State).index(state) >= 4)


def test_what_else_is_told(tally: Tally) -> None:
    tally(Estimated(5, 1000.0, 2000.0, 3000.0, 0.4))
    tally(Stalled("throttle", "why"))
    shown = tally.snapshot()
    assert (shown.remaining_bytes, shown.remaining_wire_bytes) == (5 * 4096, 1000.0)
    assert (shown.dirty_bytes_per_second, shown.expected_downtime) == (2000.0, 0.4)
    assert shown.stalled == "throttle"
    tally(Finished(REPORT))
    assert (tally.snapshot().downtime_seconds, tally.snapshot().remaining_bytes) == (0.1, 0)
    tally(Failed("guest", "it is gone", "start it"))
    assert (shown.reason, shown.error, shown.hint) == ("guest", "it is gone", "start it")


def test_a_snapshot_is_fit_for_json(tally: Tally) -> None:
    tally(batch())
    shown = tally.snapshot().as_dict()
    assert json.loads(json.dumps(shown)) == shown


def test_throughput_of_a_report() -> None:
    assert REPORT.throughput == 500.0
    assert replace(REPORT, total_seconds=0.0).throughput == 0.0


def test_everyone_is_told_in_order() -> None:
    told: list[tuple[str, object]] = []
    observe = fan_out(lambda event: told.append(("a", event)), lambda event: told.append(("b", event)))
    observe(STARTED)
    assert told == [("a", STARTED), ("b", STARTED)]


COUNTS = st.integers(0, 1 << 20)


@given(st.lists(st.tuples(COUNTS, COUNTS, COUNTS, COUNTS), max_size=50), COUNTS)
def test_remaining_is_never_negative_and_totals_are_sums(
    batches: list[tuple[int, int, int, int]], pages: int
) -> None:
    tally = Tally(lambda: 0.0)
    tally(STARTED)
    tally(RoundStarted(1, pages, last=False))
    for each in batches:
        tally(batch(*each))
    shown = tally.snapshot()
    assert shown.remaining_bytes >= 0
    assert shown.round_pages_done == sum(sum(each[:3]) for each in batches)
    assert shown.wire_bytes == sum(each[3] for each in batches)
    assert sum(shown.raw_bytes_by_codec.values()) == shown.raw_bytes
