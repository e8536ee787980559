"""When to stop the guest: a pure function of measurements and limits."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrated.engine.convergence import (
    NEAR_ROUNDS,
    STALL_ROUNDS,
    UNSURE,
    Changed,
    Decision,
    Measured,
    Trend,
    WireRate,
    another_pays,
    decide,
    expected_downtime,
    longest_downtime,
    next_throttle,
)

LIMIT = 0.3


def measured(pages: int = 1000, per_page: float = 2000.0, rate: float = 1e7, fixed: float = 0.03) -> Measured:
    return Measured(pages, per_page, rate, fixed)


def judged(each: Measured, trend: Trend = Trend(), max_rounds: int = 100) -> Decision:  # noqa: B008
    after = trend.after(expected_downtime(each))
    return decide(each, after, downtime_limit=LIMIT, max_rounds=max_rounds)


def test_the_formula_uses_what_was_measured_after_compression() -> None:
    assert expected_downtime(measured()) == pytest.approx(1000 * 2000 / 1e7 + 0.03)
    assert measured().remaining_wire_bytes == 2_000_000


def test_nothing_left_costs_the_fixed_part_even_at_no_known_rate() -> None:
    assert expected_downtime(measured(pages=0, rate=0.0)) == 0.03


def test_without_a_rate_nobody_knows_when_it_ends() -> None:
    assert expected_downtime(measured(rate=0.0)) == math.inf
    assert judged(measured(rate=0.0)) is Decision.COPY


def test_within_the_limit_it_switches_whatever_the_trend() -> None:
    stalled = Trend(0.01, rounds=100, rounds_since_best=50)
    assert judged(measured(), stalled) is Decision.SWITCH


def test_while_rounds_help_the_limit_has_to_be_sure_and_then_expected() -> None:
    each = measured(pages=1200)
    assert expected_downtime(each) == pytest.approx(0.27)
    assert longest_downtime(each) == pytest.approx(UNSURE * 0.24 + 0.03)
    assert longest_downtime(each) > LIMIT
    trend, decisions = Trend(), []
    for _ in range(3):
        trend = trend.after(expected_downtime(each))
        decisions.append(decide(each, trend, downtime_limit=LIMIT, max_rounds=100))
    assert decisions == [Decision.COPY, Decision.COPY, Decision.SWITCH]
    assert judged(each, max_rounds=1) is Decision.SWITCH, "there is no other"


def test_the_fixed_part_counts_against_the_limit() -> None:
    assert judged(measured(pages=0, fixed=LIMIT)) is Decision.SWITCH
    assert judged(measured(pages=0, fixed=LIMIT + 0.01)) is Decision.COPY


@pytest.mark.parametrize(("look", "beside"), [(0.0, 0.25), (0.2, 0.25), (0.4, 0.4)])
def test_memory_is_looked_over_beside_the_last_scan_and_the_last_round(look: float, beside: float) -> None:
    each = Measured(1000, 2000.0, 1e7, 0.03, scan_seconds=0.05, look_seconds=look)
    assert expected_downtime(each) == pytest.approx(beside + 0.03)
    assert each.unavoidable_seconds == pytest.approx(max(0.05, look) + 0.03)


def test_what_the_guest_writes_until_it_stands_still_counts_too() -> None:
    each = Measured(1000, 2000.0, 1e7, 0.03, scan_seconds=0.1, dirty_pages_per_second=5000.0)
    assert each.late_wire_bytes == 5000 * 0.1 * 2000
    assert each.unavoidable_seconds == pytest.approx(0.13)
    assert expected_downtime(each) == pytest.approx((1000 + 500) * 2000 / 1e7 + 0.13)
    assert judged(each) is Decision.COPY
    assert judged(Measured(900, 2000.0, 1e7, 0.03, scan_seconds=0.03)) is Decision.SWITCH


def test_rounds_are_counted_and_the_last_one_stalls() -> None:
    trend = Trend()
    decisions = []
    for remaining in (64000, 32000, 16000, 8000):
        each = measured(pages=remaining)
        trend = trend.after(expected_downtime(each))
        decisions.append(decide(each, trend, downtime_limit=LIMIT, max_rounds=4))
    assert decisions == [Decision.COPY] * 3 + [Decision.STALL]


def test_a_sawtooth_that_gets_better_does_not_stall() -> None:
    """The last round says little: the best so far is what counts."""
    trend = Trend()
    for best in (64000, 32000, 16000):
        for pages in (best, best * 3, best * 2):
            trend = trend.after(expected_downtime(measured(pages=pages)))
            each = measured(pages=pages)
            assert decide(each, trend, downtime_limit=LIMIT, max_rounds=100) is Decision.COPY


@pytest.mark.parametrize("gain", [0.0, 0.04])
def test_rounds_without_a_real_gain_stall(gain: float) -> None:
    trend = Trend().after(10.0)
    for number in range(1, STALL_ROUNDS + 1):
        trend = trend.after(10.0 * (1 - gain))
        assert (trend.rounds_since_best >= STALL_ROUNDS) is (number == STALL_ROUNDS)
    assert judged(measured(pages=100_000), trend) is Decision.STALL


def test_one_like_the_best_is_waited_for_where_that_is_within_the_limit() -> None:
    """The best came while rounds helped, when even the longest had to be within the limit."""
    best, worse = measured(pages=1200), measured(pages=1600)
    assert expected_downtime(best) <= LIMIT < longest_downtime(best)
    trend = Trend().after(expected_downtime(best))
    assert decide(best, trend, downtime_limit=LIMIT, max_rounds=100) is Decision.COPY
    for _ in range(NEAR_ROUNDS - 1):
        trend = trend.after(expected_downtime(worse))
        assert decide(worse, trend, downtime_limit=LIMIT, max_rounds=100) is Decision.COPY
    again = trend.after(expected_downtime(best))
    assert decide(best, again, downtime_limit=LIMIT, max_rounds=100) is Decision.SWITCH
    trend = trend.after(expected_downtime(worse))
    assert decide(worse, trend, downtime_limit=LIMIT, max_rounds=100) is Decision.STALL


def writing(pages: int, dirty: float, rate: float = 1e8) -> Measured:
    """Pages of 2000 bytes remain, and the guest writes so many more a second."""
    return Measured(pages, 2000.0, rate, 0.03, 0.003, dirty, round_seconds=0.005)


def test_a_pause_within_the_limit_is_made_shorter_while_that_costs_little() -> None:
    assert expected_downtime(writing(2000, 5000)) < LIMIT
    assert judged(writing(2000, 5000)) is Decision.COPY, "5 ms of writes instead of 40"
    assert judged(writing(400, 5000)) is Decision.COPY, "7 ms of the pause for 9 of the migration"
    assert judged(writing(240, 5000)) is Decision.SWITCH, "there is little to save"
    assert judged(writing(2000, 36_000)) is Decision.SWITCH, "it writes nearly all of it again"
    assert judged(writing(2000, 5000), max_rounds=1) is Decision.SWITCH, "there is no other"
    assert judged(measured(pages=500)) is Decision.SWITCH, "each round compares all memory"


def test_no_round_is_made_for_a_shorter_pause_when_the_one_before_did_not_help() -> None:
    """The guest writes the same few pages again and again: they are few a second, and as many after each round."""
    each = writing(2000, 5000)
    trend, decisions = Trend(), []
    for _ in range(3):
        trend = trend.after(expected_downtime(each))
        decisions.append(decide(each, trend, downtime_limit=LIMIT, max_rounds=100))
    assert decisions == [Decision.COPY, Decision.SWITCH, Decision.SWITCH]


@given(st.integers(0, 1 << 24), st.floats(0, 1e7), st.floats(1e3, 1e11))
def test_what_another_round_saves_is_a_quarter_of_what_it_takes(pages: int, dirty: float, rate: float) -> None:
    each = writing(pages, dirty, rate)
    if another_pays(each):
        sending = each.remaining_wire_bytes / rate
        took = sending + each.scan_seconds + each.round_seconds
        after = replace(each, remaining_pages=math.ceil(dirty * took))
        saved = expected_downtime(each) - expected_downtime(after)
        longer = took + expected_downtime(after) - expected_downtime(each)
        rounded = 2000.0 / rate  # the last page counts whole
        assert saved >= 0.004 - rounded
        assert 4 * saved >= longer - 5 * rounded


POSITIVE = st.floats(1e-3, 1e12)


@given(st.integers(0, 1 << 34), POSITIVE, st.floats(0, 1e12), st.floats(0, 100), st.floats(1e-3, 2000))
def test_it_switches_exactly_when_the_limit_is_kept(
    pages: int, per_page: float, rate: float, fixed: float, limit: float
) -> None:
    each = Measured(pages, per_page, rate, fixed)
    trend = Trend().after(expected_downtime(each))
    decision = decide(each, trend, downtime_limit=limit, max_rounds=10)
    assert (decision is Decision.SWITCH) is (longest_downtime(each) <= limit)
    assert expected_downtime(each) <= longest_downtime(each)


@given(st.lists(st.floats(0.31, 1e9) | st.just(math.inf), min_size=1, max_size=300), st.integers(1, 50))
def test_it_never_copies_for_ever(expectations: list[float], max_rounds: int) -> None:
    trend = Trend()
    for number, expected in enumerate(expectations, start=1):
        trend = trend.after(expected)
        each = Measured(1, expected, 1.0, 0.0)
        decision = decide(each, trend, downtime_limit=LIMIT, max_rounds=max_rounds)
        assert trend.rounds == number
        if number >= max_rounds:
            assert decision is Decision.STALL


@given(st.lists(st.floats(0, 1e9), min_size=1, max_size=100))
def test_the_best_is_within_noise_of_the_least(expectations: list[float]) -> None:
    trend = Trend()
    for expected in expectations:
        trend = trend.after(expected)
    assert trend.best * 0.95 <= min(expectations) <= trend.best


def test_until_a_round_has_looked_all_pages_are_expected_to_have_changed() -> None:
    assert Changed().of(100, 40) == 100


def test_of_pages_sent_twice_in_a_row_as_many_as_it_was_have_changed() -> None:
    changed = Changed()
    changed.after(100, 100, 60)
    assert changed.of(100, 100) == pytest.approx(60)
    assert changed.of(100, 30) == pytest.approx(70 + 18)
    changed.after(50, 0, 50)
    assert changed.of(100, 30) == pytest.approx(70 + 18), "of them that round said nothing"


def test_where_the_guest_writes_what_was_there_fresh_pages_have_not_changed_either() -> None:
    changed = Changed()
    changed.after(100, 20, 40)
    assert changed.of(80, 0) == pytest.approx(40)
    assert changed.of(20, 20) == 0


@given(st.lists(st.tuples(*[st.integers(0, 1000)] * 3)), st.integers(0, 1000), st.integers(0, 1000))
def test_no_more_change_than_there_are(rounds: list[tuple[int, int, int]], pages: int, again: int) -> None:
    changed = Changed()
    for each in rounds:
        looked, twice, found = sorted(each, reverse=True)
        changed.after(looked, min(twice, looked), found)
    expected = changed.of(pages, min(pages, again))
    assert 0 <= expected <= pages * (1 + 1e-9)


def test_the_slower_of_two_rounds_is_what_the_last_one_is_expected_to_reach() -> None:
    rate = WireRate()
    assert rate.of(1000) == 0
    rate.after(10 << 20, 1.0)
    assert rate.of(10 << 20) == 10 << 20
    rate.after(2 << 20, 0.5)
    assert rate.of(10 << 20) == 4 << 20
    rate.after(20 << 20, 1.0)
    rate.after(30 << 20, 1.0)
    assert rate.of(10 << 20) == 20 << 20


def test_a_small_round_says_nothing_of_the_link_unless_there_is_no_other() -> None:
    rate = WireRate()
    rate.after(1000, 1.0)
    assert rate.of(1000) == 1000
    rate.after(8 << 20, 1.0)
    assert rate.of(10 << 20) == 8 << 20
    rate.after(1000, 1.0)
    assert rate.of(10 << 20) == 8 << 20


def test_a_link_that_stood_still_once_is_not_held_against_a_round_as_small_as_the_last() -> None:
    rate = WireRate()
    rate.after(8 << 20, 80.0)
    rate.after(500_000, 0.05)
    assert rate.of(400_000) == 10e6
    assert rate.of(600_000) == pytest.approx((8 << 20) / 80)
    rate.after(2 << 20, 10.0)
    assert rate.of(400_000) == pytest.approx((8 << 20) / 80)


def test_a_guest_is_held_for_more_and_more_of_the_time() -> None:
    steps = [0.0]
    while steps[-1] < 0.99:
        steps.append(next_throttle(steps[-1]))
    assert steps[1] == 0.2
    assert steps == sorted(set(steps))
    assert next_throttle(0.99) == 0.99
