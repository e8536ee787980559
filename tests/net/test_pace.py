"""The rate limit."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrated.net.pace import SLOWEST_RATE, Pacer

BURST_SECONDS = 0.05


def test_without_a_limit_nothing_waits() -> None:
    pacer = Pacer()
    assert pacer.piece == 0
    assert all(pacer.delay(1 << 30, now) == 0.0 for now in (0.0, 0.0, 1.0))


def test_a_burst_is_free_and_the_next_waits_for_it() -> None:
    pacer = Pacer(1000.0)
    assert pacer.delay(50, now=10.0) == 0.0
    assert pacer.delay(50, now=10.0) == pytest.approx(0.0)
    assert pacer.delay(100, now=10.0) == pytest.approx(0.05)
    assert pacer.delay(100, now=10.0) == pytest.approx(0.15)


def test_a_pause_saves_no_more_than_a_burst() -> None:
    pacer = Pacer(1000.0)
    pacer.delay(50, now=0.0)
    assert pacer.delay(50, now=100.0) == 0.0
    assert pacer.delay(1, now=100.0) == pytest.approx(0.0)
    assert pacer.delay(1, now=100.0) == pytest.approx(0.001)


def test_a_new_limit_holds_for_the_next_piece() -> None:
    pacer = Pacer(1000.0)
    pacer.delay(1000, now=0.0)
    pacer.set_rate(1e6)
    assert pacer.piece == 50_000
    waited = pacer.delay(1000, now=0.0)
    assert pacer.delay(1000, now=0.0) - waited == pytest.approx(0.001)
    pacer.set_rate(math.inf)
    assert pacer.delay(1 << 30, now=0.0) == 0.0


@given(st.floats(64 << 10, 1e12))
def test_a_piece_is_a_burst_but_never_tiny(rate: float) -> None:
    assert Pacer(rate).piece == max(16 << 10, int(rate * BURST_SECONDS))


@given(st.floats(SLOWEST_RATE, 1e12))
def test_no_piece_takes_so_long_that_the_peer_takes_us_for_lost(rate: float) -> None:
    """Idle timeouts go down to a second."""
    piece = Pacer(rate).piece
    assert piece >= 1
    assert piece / rate <= 0.25


@given(
    st.floats(1e3, 1e10),
    st.lists(st.tuples(st.integers(1, 1 << 22), st.floats(0.0, 0.2)), min_size=1, max_size=60),
)
def test_what_leaves_never_exceeds_the_rate_and_one_burst(
    rate: float, sends: list[tuple[int, float]]
) -> None:
    """A caller that waits as it is told; ``sends`` are sizes, and how long it did nothing before each."""
    pacer = Pacer(rate)
    now, sent = 0.0, 0
    for size, idle in sends:
        now += idle
        now += pacer.delay(size, now)
        assert sent <= rate * (now + BURST_SECONDS) * (1 + 1e-9) + 1  # what left before this
        sent += size


@given(st.floats(1e3, 1e10), st.lists(st.integers(1, 1 << 22), min_size=1, max_size=60))
def test_a_caller_who_is_never_idle_gets_the_whole_rate(rate: float, sizes: list[int]) -> None:
    pacer = Pacer(rate)
    now = 100.0
    for size in sizes:
        now += pacer.delay(size, now)
    assert now - 100.0 <= sum(sizes) / rate


def test_those_who_share_a_limit_take_smaller_pieces() -> None:
    """Each is heard of only when it is its turn."""
    pacer = Pacer(40e3)
    alone = pacer.piece
    pacer.sharers = 4
    assert pacer.piece == alone // 4
    pacer.set_rate(1e9)
    assert pacer.piece == Pacer(1e9).piece
