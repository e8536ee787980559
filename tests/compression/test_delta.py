"""What has changed in pages: written, read back and applied; and what lies about it."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from migrated.compression.delta import Deltas, bases_hash, read_deltas, write_deltas
from migrated.errors import IntegrityError

WORDS = 512


@st.composite
def changes(draw: Any) -> Deltas:
    """Deltas of one to five pages."""
    pages = draw(st.lists(st.sets(st.integers(0, WORDS - 1), min_size=1, max_size=8), min_size=1, max_size=5))
    places = [place for page in pages for place in sorted(page)]
    words = draw(st.lists(st.integers(1, 2**64 - 1), min_size=len(places), max_size=len(places)))
    return Deltas(
        np.array(words, np.uint64),
        np.array(places, np.uint16),
        np.array([len(each) for each in pages], np.uint16),
    )


def written(deltas: Deltas) -> memoryview:
    data = memoryview(bytearray(deltas.size))
    write_deltas(deltas, data)
    return data


def read(data: memoryview, deltas: Deltas) -> Deltas:
    return read_deltas(data, len(deltas.counts), len(deltas.words), WORDS)


def deltas_of(words: list[int], places: list[int], counts: list[int]) -> Deltas:
    return Deltas(np.array(words, np.uint64), np.array(places, np.uint16), np.array(counts, np.uint16))


@settings(deadline=None)
@given(changes())
def test_what_is_written_is_read(deltas: Deltas) -> None:
    found = read(written(deltas), deltas)
    assert np.array_equal(found.words, deltas.words)
    assert np.array_equal(found.places, deltas.places)
    assert np.array_equal(found.counts, deltas.counts)


@settings(deadline=None)
@given(changes())
def test_deltas_change_their_words_and_nothing_else_and_back(deltas: Deltas) -> None:
    before: NDArray[np.uint64] = np.random.default_rng(1).integers(
        0, 2**64, (len(deltas.counts), WORDS), np.uint64
    )
    pages = before.copy()
    deltas.apply(pages)
    rows = np.repeat(np.arange(len(pages)), deltas.counts)
    assert np.array_equal(np.argwhere(pages != before), np.stack((rows, deltas.places), axis=1))
    assert np.array_equal((pages ^ before)[rows, deltas.places], deltas.words)
    deltas.apply(pages)
    assert np.array_equal(pages, before)


def test_the_format_is_frozen() -> None:
    deltas = deltas_of([0x0807060504030201, 0x1817161514131211], [0x0103, 0x0002], [1, 1])
    columns = "0111 0212 0313 0414 0515 0616 0717 0818", "0302 0100", "0101 0000"
    assert bytes(written(deltas)) == bytes.fromhex("".join(columns))


@pytest.mark.parametrize(
    ("lie", "why"),
    [
        (deltas_of([1, 2, 3], [4, 5, 6], [2, 2]), "add up"),
        (deltas_of([1, 2, 3], [4, 5, 6], [0, 3]), "add up"),
        (deltas_of([1, 2, 3], [4, 5, 6], [65535, 4]), "add up"),
        (deltas_of([1, 2, 3], [4, 4, 6], [2, 1]), "rise"),
        (deltas_of([1, 2, 3], [5, 4, 6], [2, 1]), "rise"),
        (deltas_of([1, 2, 3], [4, WORDS, 6], [2, 1]), "rise"),
        (deltas_of([1, 2, 3], [4, 5, WORDS], [2, 1]), "rise"),
        (deltas_of([1, 2, 3], [4, 5, 65535], [2, 1]), "rise"),
    ],
)
def test_lies_are_refused(lie: Deltas, why: str) -> None:
    with pytest.raises(IntegrityError, match=why):
        read(written(lie), lie)


def test_a_length_that_does_not_fit_is_refused() -> None:
    deltas = deltas_of([1, 2, 3], [4, 5, 6], [2, 1])
    data = written(deltas)
    for pages, words in ((2, 2), (1, 3), (2, 4), (3, 3)):
        with pytest.raises(IntegrityError, match="do not take"):
            read_deltas(data, pages, words, WORDS)


@settings(deadline=None)
@given(st.integers(1, 4), st.integers(0, 12), st.data())
def test_no_bytes_make_it_fail_otherwise_or_reach_outside(
    pages: int, words: int, data: st.DataObject
) -> None:
    size = 2 * pages + 10 * words
    anything = data.draw(st.binary(min_size=size, max_size=size))
    try:
        found = read_deltas(memoryview(anything), pages, words, WORDS)
    except IntegrityError:
        return
    bases = np.zeros((pages, WORDS), dtype=np.uint64)
    found.apply(bases)
    assert np.count_nonzero(bases) <= words


def test_the_hash_of_the_bases_knows_their_order() -> None:
    assert bases_hash(np.array([1, 2], np.uint64)) != bases_hash(np.array([2, 1], np.uint64))
    assert bases_hash(np.array([1, 2], np.uint64)) == bases_hash(np.array([1, 2], np.uint64))
