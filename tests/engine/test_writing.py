"""How many different pages a guest writes in some time: measured curves, and what is made of them."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrated.engine.writing import Windows, Writing
from migrated.pages import PageSet

PAGES = 50_000
SCAN = 0.1


def watched(draw: Callable[[np.random.Generator], Any], scans: int = 30, pages: int = PAGES) -> Writing:
    """A guest that writes the pages of one ``draw`` every 100 ms."""
    windows = Windows()
    random = np.random.default_rng(7)
    for _ in range(scans):
        written = PageSet(pages)
        written.mask[draw(random)] = True
        windows.add([written], SCAN)
    return windows.writing(pages)


def evenly(rate: int) -> Callable[[np.random.Generator], Any]:
    return lambda random: random.integers(0, PAGES, int(rate * SCAN))


@pytest.mark.parametrize("rate", [500, 5000, 50_000, 500_000])
@pytest.mark.parametrize("seconds", [0.1, 0.35, 1.6, 3.0, 10.0, 60.0])
def test_writes_all_over_memory_are_known_at_any_time(rate: int, seconds: float) -> None:
    expected = PAGES * -math.expm1(-rate * seconds / PAGES)
    assert watched(evenly(rate)).pages(seconds) == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize("seconds", [0.1, 1.0, 3.0, 20.0])
def test_a_hot_set_counts_once(seconds: float) -> None:
    assert watched(lambda _: np.arange(300)).pages(seconds) == pytest.approx(300)


def test_a_hot_set_and_writes_that_go_on_and_on() -> None:
    """As real guests do: the same pages always, and others one after the other."""
    place = iter(range(300, PAGES, 40))

    def draw(_: np.random.Generator) -> Any:
        first = next(place)
        return np.concatenate([np.arange(300), np.arange(first, first + 40)])

    writing = watched(draw)
    assert writing.pages(0.1) == pytest.approx(340)
    assert writing.pages(10.0) == pytest.approx(300 + 4000, rel=0.15)


def test_a_guest_that_writes_nothing() -> None:
    assert watched(lambda _: []).pages(60.0) == 0
    assert Writing((), 100).pages(1.0) == 0
    assert Windows().writing(100) == Writing((), 100)


def test_one_scan_is_a_rate() -> None:
    assert watched(evenly(500), scans=1).pages(0.05) == pytest.approx(25, abs=1)
    assert watched(evenly(500), scans=1).pages(1.0) == pytest.approx(500, rel=0.05)


def test_pages_that_stand_for_others() -> None:
    windows = Windows()
    windows.add([PageSet.full(10)], 1.0)
    assert windows.writing(1000, scale=50.0).pages(1.0) == 500
    assert windows.writing(400, scale=50.0).pages(1.0) == 400


def test_the_sets_of_a_scan_stay_as_they_are() -> None:
    windows = Windows()
    first, second = PageSet.full(3), PageSet(3)
    windows.add([first], 1.0)
    windows.add([second], 1.0)
    windows.add([second], 1.0)
    assert first == PageSet.full(3)
    assert not second
    assert windows.seen == [first]


def test_a_guest_that_is_held_writes_as_much_later() -> None:
    writing = watched(evenly(5000))
    assert writing.slowed(0.5).pages(2.0) == pytest.approx(writing.pages(1.0))
    assert writing.slowed(0.0).pages(2.0) == pytest.approx(writing.pages(2.0))


def test_no_set_is_kept_for_every_scan() -> None:
    windows = Windows()
    for _ in range(1000):
        windows.add([PageSet(1)], SCAN)
    assert len(windows.writing(1).points) <= 11


SCANS = st.lists(st.lists(st.integers(0, 99), max_size=30), min_size=1, max_size=40)


@given(SCANS, st.lists(st.floats(0, 1000), min_size=2, max_size=2).map(sorted))
def test_more_time_is_never_fewer_pages(scans: list[list[int]], times: list[float]) -> None:
    windows = Windows()
    for each in scans:
        written = PageSet(100)
        written.mask[each] = True
        windows.add([written], SCAN)
    writing = windows.writing(100)
    sooner, later = (writing.pages(seconds) for seconds in times)
    assert 0 <= sooner <= later + 1e-9
    assert later <= 100
    assert sum(map(len, windows.seen)) == len({page for scan in scans for page in scan})
