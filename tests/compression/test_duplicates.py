"""The table of contents that were met before."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from migrated.compression.duplicates import Duplicates, Worth, table_size
from migrated.memory.shared import SharedMemory


def table(pages: int = 1000) -> Duplicates:
    return Duplicates(SharedMemory(table_size(pages)))


def find(duplicates: Duplicates, contents: list[int], numbers: list[int]) -> list[int]:
    """Contents whose hashes are their numbers, in the first eight bits too."""
    hashes = np.array([content % 256 << 56 | content for content in contents], dtype=np.uint64)
    found = duplicates.find(hashes, np.array(numbers, dtype=np.int64))
    return [int(each) for each in found]


def test_what_was_met_before_is_known() -> None:
    duplicates = table()
    assert find(duplicates, [10, 11, 12], [0, 1, 2]) == [-1, -1, -1]
    assert find(duplicates, [11, 13, 10], [3, 4, 5]) == [1, -1, 0]
    assert find(duplicates, [13], [6]) == [4]


def test_of_equal_ones_at_a_time_one_travels() -> None:
    found = find(table(), [10, 20, 10, 10], [0, 1, 2, 3])
    assert found == [3, -1, 3, -1]


def test_a_page_is_no_copy_of_itself() -> None:
    duplicates = table()
    assert find(duplicates, [10], [0]) == find(duplicates, [10], [0]) == [-1]


def test_a_page_without_a_number_of_its_own_is_none() -> None:
    """An empty place looks like content 0 of page -1."""
    assert find(table(), [0, 0], [5, 6]) == [6, -1]


@given(st.lists(st.lists(st.integers(0, 40), max_size=20), max_size=10))
def test_a_base_has_that_content_and_came_before_or_with_it(batches: list[list[int]]) -> None:
    duplicates = table(1)  # 256 places: contents do not share any
    seen: dict[int, int] = {}
    number = 0
    for contents in batches:
        numbers = list(range(number, number + len(contents)))
        number += len(contents)
        seen.update(zip(numbers, contents, strict=True))
        bases = find(duplicates, contents, numbers)
        for page, content, base in zip(numbers, contents, bases, strict=True):
            assert base != page
            assert base == -1 or seen[base] == content
        travels = {page for page, base in zip(numbers, bases, strict=True) if base == -1}
        assert {base for base in bases if base in numbers} <= travels


def test_a_table_is_bounded() -> None:
    assert table_size(1) == 256 * 8
    assert table_size(100_000) == 262_144 * 8
    assert table_size(1 << 40) == 8 << 20


def test_who_comes_last_has_the_place() -> None:
    duplicates = table(1)
    assert find(duplicates, [1, 257], [0, 1]) == [-1, -1]
    assert find(duplicates, [1], [2]) == [-1]
    assert find(duplicates, [257], [3]) == [-1]
    assert find(duplicates, [1], [4]) == [-1]
    assert find(duplicates, [1], [5]) == [4]


def test_what_is_looked_at_before_it_pays_takes_an_eighth_of_the_table() -> None:
    memory = SharedMemory(table_size(100_000))
    contents = np.random.default_rng(1).integers(0, 1 << 64, 50_000, dtype=np.uint64)
    looked = contents[Worth().looks(contents)]
    Duplicates(memory).find(looked, np.arange(len(looked)))
    words = np.frombuffer(memory.view, dtype=np.uint64)
    assert 5000 < np.count_nonzero(words) <= len(looked)
    assert not words[len(words) // 8 :].any()


def test_too_few_do_not_pay() -> None:
    worth = Worth()
    worth.saw(1000, 1000)
    assert not worth.pays  # not enough was seen
    worth.saw(24, 0)
    assert worth.pays
    for _ in range(100):
        worth.saw(128, 3)
    assert not worth.pays
    for _ in range(100):
        worth.saw(128, 7)
    assert worth.pays


def test_until_it_pays_one_content_in_eight_is_looked_at_wherever_it_is() -> None:
    worth = Worth()
    contents = np.random.default_rng(1).integers(0, 1 << 64, 8000, dtype=np.uint64)
    looked = worth.looks(contents)
    assert 900 < np.count_nonzero(looked) < 1100
    assert np.array_equal(worth.looks(contents[::-1]), looked[::-1])
    worth.saw(1024, 1024)
    assert worth.looks(contents).all()
