"""When looking for deltas pays, and which bases are used."""

import numpy as np
import pytest
from numpy.typing import NDArray

from migrated.compression.delta_cache import DeltaCache, cache_size
from migrated.compression.delta_source import DeltaSource, Found, Worth
from migrated.compression.digest import page_terms
from migrated.memory.shared import SharedMemory

PAGE, WORDS = 4096, 512
PAGES = 256
FIRST = 1000
"""The region's first page, of all."""


def seen(worth: Worth, round_: int, *, compared: int = 0, kept: int = 0, saved: float = 0.0) -> bool:
    worth.saw(round_, compared=compared, kept=kept, saved=saved)
    return worth.sampling


def test_the_first_round_that_keeps_pages_is_not_judged() -> None:
    worth = Worth()
    assert not seen(worth, 2, kept=100_000)
    assert seen(worth, 3, kept=100)


@pytest.mark.parametrize(
    ("compared", "kept", "saved", "sampling"),
    [
        (100, 0, 90.0, False),
        (100, 0, 31.0, False),
        (100, 0, 29.0, True),
        (100, 100, 0.0, True),
        (5, 1000, 5.0, True),
        (300, 700, 200.0, False),
        (31, 0, 0.0, False),  # too few to say
    ],
)
def test_what_is_saved_has_to_be_more_than_what_looking_takes(
    compared: int, kept: int, saved: float, sampling: bool
) -> None:
    assert seen(Worth(), 3, compared=compared, kept=kept, saved=saved) is sampling


def test_a_sample_that_pays_brings_everything_back() -> None:
    worth = Worth()
    assert seen(worth, 3, compared=1000, kept=1000)
    assert seen(worth, 4, compared=8, kept=8)
    assert not seen(worth, 5, compared=32, kept=0, saved=30.0)
    assert not seen(worth, 5, kept=10_000)  # for the next rounds
    assert not seen(worth, 6, compared=500, kept=10_000, saved=300.0)
    assert not seen(worth, 7, compared=10_000, saved=9_000.0)
    assert seen(worth, 8, compared=20_000, saved=90.0)


def test_what_was_long_ago_counts_little() -> None:
    worth = Worth()
    for _ in range(100):
        assert not seen(worth, 3, compared=1000, saved=900.0)
    batches = 0
    while not seen(worth, 4, compared=1000):
        batches += 1
    assert batches <= 4


class Guest:
    """Memory of which every page is in one batch, and the terms with which it was sent last."""

    def __init__(self, places: int = 512) -> None:
        self.cache = DeltaCache(SharedMemory(cache_size(places * (PAGE + 12), PAGE)), PAGE)
        self.source = self.new_worker()
        self.random = np.random.default_rng(3)
        self.pages: NDArray[np.uint64] = self.random.integers(1, 2**63, (PAGES, WORDS), np.uint64)
        self.numbers = np.arange(PAGES)
        self.terms = np.zeros(PAGES, dtype=np.uint64)
        self.sent = self.pages.copy()

    def new_worker(self) -> DeltaSource:
        return DeltaSource(self.cache, [0, FIRST], self.hash)

    def hash(self, data: memoryview, numbers: NDArray[np.int64], region: int) -> NDArray[np.uint64]:
        return page_terms(data, PAGE, numbers, region, 5)

    def write(self, pages: NDArray[np.int64], words: int) -> None:
        for each in pages:
            places = self.random.choice(WORDS, words, replace=False)
            self.pages[each, places] += np.uint64(1)

    def round(self, round_: int, travels: NDArray[np.int64] | None = None) -> Found | None:
        """Send these pages, all if not given."""
        mask = np.ones(PAGES, dtype=np.bool_)
        if travels is not None:
            mask[:] = False
            mask[travels] = True
        found = self.source.find(self.pages, mask, self.numbers, self.terms, region=1, round_=round_)
        rows = np.flatnonzero(mask)
        self.terms[rows] = self.hash(self.pages[rows].data.cast("B"), self.numbers[rows], 1)
        if found is not None:
            self.check(found)
        self.sent[rows] = self.pages[rows]
        return found

    def check(self, found: Found) -> None:
        bases = self.sent[found.mask]
        found.deltas.apply(bases)
        assert np.array_equal(bases, self.pages[found.mask])


@pytest.fixture
def guest() -> Guest:
    """In its second round, with the first one sent whole."""
    made = Guest()
    made.terms[:] = made.hash(made.pages.data.cast("B"), made.numbers, 1)
    made.write(made.numbers, 1)
    assert made.round(2) is None
    return made


def deltas_of(found: Found | None) -> int:
    return 0 if found is None else int(np.count_nonzero(found.mask))


def test_what_the_second_round_keeps_the_third_finds_and_every_later_one(guest: Guest) -> None:
    for round_ in range(3, 7):
        guest.write(guest.numbers, 2)
        found = guest.round(round_)
        assert found is not None
        assert found.mask.all()
        assert len(found.deltas.words) == 2 * PAGES


def test_a_page_travels_whole_if_too_much_of_it_has_changed(guest: Guest) -> None:
    few, many = guest.numbers[:200], guest.numbers[200:]
    guest.write(few, WORDS // 4)
    guest.write(many, WORDS // 4 + 1)
    found = guest.round(3)
    assert found is not None
    assert np.array_equal(np.flatnonzero(found.mask), few)
    guest.write(guest.numbers, 1)
    assert deltas_of(guest.round(4)) == PAGES  # those that travelled whole were kept as well


def test_only_pages_that_travel_are_looked_at(guest: Guest) -> None:
    guest.write(guest.numbers, 1)
    found = guest.round(3, travels=guest.numbers[10:20])
    assert found is not None
    assert np.array_equal(np.flatnonzero(found.mask), np.arange(10, 20))


def test_a_page_that_was_sent_as_zero_is_no_base(guest: Guest) -> None:
    guest.terms[:100] = 0
    guest.write(guest.numbers, 1)
    found = guest.round(3)
    assert found is not None
    assert np.array_equal(np.flatnonzero(found.mask), np.arange(100, PAGES))
    guest.write(guest.numbers, 1)
    assert deltas_of(guest.round(4)) == PAGES


def test_a_torn_base_is_not_used(guest: Guest) -> None:
    """As if two workers had written to the same place, each its half."""
    places, _ = guest.cache.find(guest.numbers[:50] + FIRST)
    others, _ = guest.cache.find(guest.numbers[50:100] + FIRST)
    guest.cache.pages[places, 256:] = guest.cache.pages[others, 256:]
    guest.cache.pages[guest.cache.find(guest.numbers[50:51] + FIRST)[0], 511] ^= np.uint64(1)
    guest.write(guest.numbers, 1)
    found = guest.round(3)
    assert found is not None
    assert np.array_equal(np.flatnonzero(found.mask), np.arange(51, PAGES))


def test_a_stale_base_is_not_used(guest: Guest) -> None:
    """A page that was sent without the cache knowing: its old content differs in one word."""
    kept = guest.cache.pages.copy()
    guest.write(guest.numbers, 1)
    guest.round(3)
    guest.cache.pages[:] = kept
    guest.write(guest.numbers, 1)
    assert deltas_of(guest.round(4)) == 0
    guest.write(guest.numbers, 1)
    assert deltas_of(guest.round(5)) == PAGES


def test_another_page_in_the_place_is_not_used(guest: Guest) -> None:
    guest.cache.pages[:] = np.roll(guest.cache.pages, 1, axis=0)
    guest.write(guest.numbers, 1)
    assert deltas_of(guest.round(3)) == 0


def test_workers_share_what_they_keep(guest: Guest) -> None:
    guest.source = guest.new_worker()
    guest.write(guest.numbers, 1)
    assert deltas_of(guest.round(3)) == PAGES


def test_pages_that_find_no_place_travel_whole_and_the_others_stay() -> None:
    guest = Guest(places=64)
    for round_ in range(2, 6):
        guest.write(guest.numbers, 1)
        found = guest.round(round_)
    assert deltas_of(found) == 64


def test_a_guest_that_rewrites_whole_pages_is_only_sampled_until_it_no_longer_does() -> None:
    guest = Guest(places=1024)
    looked: list[int] = []
    find = guest.cache.find

    def spy(numbers: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        looked.append(len(numbers))
        return find(numbers)

    guest.cache.find = spy  # type: ignore[method-assign]
    for round_ in range(2, 7):
        guest.pages[:] = guest.random.integers(1, 2**63, (PAGES, WORDS), np.uint64)
        assert guest.round(round_) is None
    assert looked[:2] == [PAGES, PAGES]
    assert all(0 < sample < PAGES / 16 for sample in looked[2:])
    rounds = 7
    while deltas_of(guest.round(rounds)) < PAGES:
        guest.write(guest.numbers, 1)
        rounds += 1
        assert rounds < 60
