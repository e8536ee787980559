"""The pages that were sent last: who gets a place, and who keeps it."""

import numpy as np
import pytest
from numpy.typing import NDArray

from migrated.compression.delta_cache import DeltaCache, cache_size
from migrated.memory.shared import SharedMemory

PAGE = 4096
SETS = 4


@pytest.fixture
def cache() -> DeltaCache:
    """Four sets of eight places."""
    return DeltaCache(SharedMemory(cache_size(SETS * 8 * (PAGE + 12), PAGE)), PAGE)


def numbers(*pages: int) -> NDArray[np.int64]:
    return np.array(pages, dtype=np.int64)


def keep(cache: DeltaCache, pages: NDArray[np.int64], round_: int) -> list[bool]:
    places, free = cache.claim(pages, round_)
    cache.stamp(places[free], round_)
    cache.pages[places[free]] = pages[free].astype(np.uint64)[:, None]
    return list(free)


def known(cache: DeltaCache, *pages: int) -> list[bool]:
    return list(cache.find(numbers(*pages))[1])


@pytest.mark.parametrize(
    ("limit", "places"), [(64 << 20, 16336), (8 * (PAGE + 12), 8), (8 * (PAGE + 12) - 1, 0), (0, 0)]
)
def test_a_cache_takes_no_more_than_its_limit(limit: int, places: int) -> None:
    assert cache_size(limit, PAGE) == places * (PAGE + 12)


def test_an_empty_cache_knows_nothing(cache: DeltaCache) -> None:
    assert known(cache, 0, 1, 4, 1 << 40) == [False] * 4


def test_what_was_kept_is_found_again(cache: DeltaCache) -> None:
    pages = np.arange(100, 132)  # as many as there are places
    assert all(keep(cache, pages, 2))
    places, found = cache.find(pages)
    assert found.all()
    assert (cache.pages[places] == pages.astype(np.uint64)[:, None]).all()
    assert known(cache, 0, 99, 132) == [False] * 3


def test_all_who_share_the_memory_share_the_cache() -> None:
    memory = SharedMemory(cache_size(64 << 10, PAGE))
    keep(DeltaCache(memory, PAGE), numbers(7), 2)
    assert known(DeltaCache(memory, PAGE), 7) == [True]


def test_workers_who_look_at_the_same_time_take_different_places(cache: DeltaCache) -> None:
    first, _ = cache.claim(np.arange(0, 12), 2)
    second, _ = cache.claim(np.arange(12, 20), 2)  # before the first has said what it took
    third, _ = cache.claim(np.arange(20, 32), 2)
    assert len({*first, *second, *third}) == 32


def fill(cache: DeltaCache, round_: int) -> None:
    """The first set: pages 0, 4, 8, ..., 28."""
    assert all(keep(cache, np.arange(0, 8 * SETS, SETS), round_))


def test_more_pages_at_a_time_than_places_leave_some_out(cache: DeltaCache) -> None:
    pages = np.arange(0, 12 * SETS, SETS)
    assert keep(cache, pages, 2) == [True] * 8 + [False] * 4
    assert known(cache, *pages) == [True] * 8 + [False] * 4


def test_what_was_of_use_lately_keeps_its_place(cache: DeltaCache) -> None:
    fill(cache, 2)
    assert keep(cache, numbers(32), 2) == [False]
    assert keep(cache, numbers(32), 3) == [False]
    assert known(cache, 0, 28, 32) == [True, True, False]


def test_the_page_that_was_of_use_longest_ago_goes(cache: DeltaCache) -> None:
    fill(cache, 2)
    places, _ = cache.find(numbers(0, 4, 12, 16, 20, 24, 28))
    cache.stamp(places, 3)
    assert keep(cache, numbers(32), 4) == [True]
    assert known(cache, 0, 4, 8, 12, 32) == [True, True, False, True, True]
    assert keep(cache, numbers(36), 4) == [False]


def test_a_page_of_no_use_goes_first(cache: DeltaCache) -> None:
    fill(cache, 2)
    places, _ = cache.find(numbers(12))
    cache.stamp(places, 0)
    assert keep(cache, numbers(32), 2) == [True]
    assert known(cache, 8, 12, 16, 32) == [True, False, True, True]
