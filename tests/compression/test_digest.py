"""The digest of a region's memory."""

import numpy as np
import xxhash
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from migrated.compression.digest import (
    checksum,
    nonzero_pages,
    page_terms,
    region_sum,
    terms_at,
)

PAGE = 4096
WORDS = PAGE // 8
WRAP = (1 << 64) - 1


def terms(data: bytes, numbers: list[int], region: int = 0, seed: int = 1) -> list[int]:
    found = page_terms(memoryview(data), PAGE, np.array(numbers, dtype=np.int64), region, seed)
    return [int(each) for each in found]


def noise(pages: int, seed: int = 5) -> bytes:
    return np.random.default_rng(seed).bytes(pages * PAGE)


def mixed(word: int) -> int:
    """SplitMix64's finalizer, as published."""
    word = (word ^ (word >> 30)) * 0xBF58476D1CE4E5B9 & WRAP
    word = (word ^ (word >> 27)) * 0x94D049BB133111EB & WRAP
    return word ^ (word >> 31)


PLACES = st.lists(st.integers(0, 2**32), min_size=1, max_size=4, unique=True)


@given(PLACES, st.integers(0, 255), st.integers(0, WRAP))
def test_a_term_is_made_of_content_and_place(numbers: list[int], region: int, seed: int) -> None:
    data = noise(len(numbers))
    assert terms(data, numbers, region, seed) == [
        mixed(
            xxhash.xxh3_64_intdigest(data[place * PAGE : (place + 1) * PAGE], seed)
            ^ mixed((seed + (region << 48) + number) & WRAP)
        )
        for place, number in enumerate(numbers)
    ]


def test_equal_pages_in_other_places_or_migrations_have_other_terms() -> None:
    page = noise(1)
    found = {
        terms(page, [number], region, seed)[0]
        for number in (0, 1, 2)
        for region in (0, 1)
        for seed in (1, 2**63)
    }
    assert len(found) == 12


def test_the_term_of_a_page_with_data_is_never_that_of_no_data() -> None:
    """SplitMix64's finalizer makes 0 of 0: here content and place are the same."""
    content = np.array([mixed(5 + (1 << 48) + 7)], dtype=np.uint64)
    assert terms_at(content, np.array([7], dtype=np.int64), 1, 5).tolist() == [1]


@given(st.lists(st.integers(0, WRAP), max_size=20))
def test_sums_wrap_around(values: list[int]) -> None:
    assert region_sum(np.array(values, dtype=np.uint64)) == sum(values) & WRAP


@given(st.permutations(range(8)))
def test_the_order_of_arrival_does_not_matter(order: list[int]) -> None:
    data = noise(8)
    shuffled = b"".join(data[number * PAGE : (number + 1) * PAGE] for number in order)
    assert sorted(terms(shuffled, list(order))) == sorted(terms(data, list(range(8))))


def pages_with(*places: tuple[int, int], pages: int = 4) -> NDArray[np.uint64]:
    made = np.zeros((pages, WORDS), dtype=np.uint64)
    for page, word in places:
        made[page, word] = 1
    return made


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, WORDS - 1)), max_size=6))
def test_one_bit_anywhere_makes_a_page_nonzero(places: list[tuple[int, int]]) -> None:
    found = nonzero_pages(pages_with(*places))
    assert found.tolist() == [page in {page for page, _ in places} for page in range(4)]


def test_the_words_that_are_not_probed_count_too() -> None:
    """Some pages show it at once, one only in its last word, one not at all."""
    pages = pages_with((0, 0), (1, WORDS - 1), (3, 64))
    assert nonzero_pages(pages).tolist() == [True, True, False, True]


def test_no_pages_are_no_pages() -> None:
    assert nonzero_pages(np.zeros((0, WORDS), dtype=np.uint64)).tolist() == []
    assert terms(b"", []) == []
    assert region_sum(np.zeros(0, dtype=np.uint64)) == 0


@given(st.binary(max_size=100))
def test_a_checksum_is_what_the_protocol_says_it_is(data: bytes) -> None:
    assert checksum(memoryview(data)) == xxhash.xxh3_64_intdigest(data)
