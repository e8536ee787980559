"""How a round is cut: small batches first and last, and none larger than what was agreed on."""

from itertools import accumulate, islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrated.engine.cutting import SMALLEST, batch_limit, batch_sizes


def cut(pages: int, workers: int, batch_pages: int) -> list[int]:
    """The batches of a round without gaps."""
    sizes, left = [], pages
    for size in batch_sizes(pages, workers, batch_pages):
        if left <= 0:
            return sizes
        sizes.append(min(size, left))
        left -= size
    raise AssertionError("sizes never end")


@given(st.integers(1, 1 << 20), st.integers(1, 16), st.integers(1, 4096))
def test_every_batch_has_pages_and_none_too_many(pages: int, workers: int, batch_pages: int) -> None:
    sizes = cut(pages, workers, batch_pages)
    assert sum(sizes) == pages
    assert min(sizes) >= 1
    assert max(sizes) <= batch_limit(pages, workers, batch_pages) <= batch_pages


@given(st.integers(1, 1 << 20), st.integers(1, 16), st.integers(SMALLEST, 4096))
def test_batches_grow_and_then_shrink(pages: int, workers: int, batch_pages: int) -> None:
    *sizes, _ = cut(pages, workers, batch_pages)  # of the last one there may be less
    top = sizes.index(max(sizes)) if sizes else 0
    assert sizes[:top] == sorted(sizes[:top])
    assert sizes[top:] == sorted(sizes[top:], reverse=True)


@pytest.mark.parametrize("workers", [1, 2, 8])
def test_a_long_round_begins_and_ends_with_the_smallest(workers: int) -> None:
    sizes = cut(1 << 18, workers, 2048)
    alike = max(8, 2 * workers)
    assert sizes[:alike] == [SMALLEST] * alike
    assert max(sizes[-2 * workers :]) == SMALLEST
    assert sizes.count(2048) > 0.7 * (1 << 18) / 2048, "nearly all pages are in large ones"


def test_as_much_is_left_at_the_end_as_all_workers_can_share() -> None:
    pages, workers = 100_000, 4
    sizes = cut(pages, workers, 2048)
    for done, size in zip(accumulate(sizes), sizes[1:], strict=False):
        assert size <= max(SMALLEST, (pages - done) // workers)


@pytest.mark.parametrize(("pages", "limit"), [(1, 64), (500, 64), (1600, 200), (1 << 16, 2048)])
def test_a_short_round_has_smaller_ones(pages: int, limit: int) -> None:
    assert batch_limit(pages, 2, 2048) == limit


def test_sizes_go_on_when_the_pages_should_have_ended() -> None:
    """Pages are cut where a region ends, too."""
    assert list(islice(batch_sizes(10, 2, 2048), 100))[-1] == SMALLEST
