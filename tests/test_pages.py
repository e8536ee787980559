"""Pages against plain Python sets, which are slow and obviously right."""

from itertools import cycle, islice
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrated.pages import PageRange, PageSet, cut_runs, pages_of_runs, runs_of_mask, runs_of_pages

masks = st.lists(st.booleans(), max_size=200).map(lambda bits: np.array(bits, dtype=np.bool_))
pairs = st.integers(0, 80).flatmap(
    lambda size: st.tuples(*[st.lists(st.booleans(), min_size=size, max_size=size)] * 2).map(
        lambda both: tuple(PageSet(size, np.array(bits, dtype=np.bool_)) for bits in both)
    )
)


def members(pages: PageSet) -> set[int]:
    return {page for page in range(pages.size) if page in pages}


@given(masks)
def test_runs_of_a_mask_are_sorted_apart_and_complete(mask):
    runs = runs_of_mask(mask)
    assert runs.dtype == np.int64
    assert runs.shape == (len(runs), 2)
    assert (runs[:, 1] > 0).all()
    assert (runs[1:, 0] > runs[:-1].sum(axis=1)).all()
    assert pages_of_runs(runs).tolist() == np.flatnonzero(mask).tolist()


@given(masks)
def test_runs_of_page_numbers_are_those_of_the_mask(mask):
    runs = runs_of_pages(np.flatnonzero(mask))
    assert runs.dtype == np.int64
    assert runs.tolist() == runs_of_mask(mask).tolist()


@given(st.lists(st.tuples(st.integers(0, 1000), st.integers(1, 50))))
def test_pages_of_runs_keep_the_order_of_the_runs(pairs):
    runs = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    expected = [page for start, count in pairs for page in range(start, start + count)]
    assert pages_of_runs(runs).tolist() == expected


@given(masks, st.integers(1, 40))
def test_cutting_keeps_every_page_once_in_full_pieces(mask, limit):
    runs = runs_of_mask(mask)
    before = runs.copy()
    pieces = list(cut_runs(runs, limit))
    sizes = [int(piece[:, 1].sum()) for piece in pieces]
    assert [page for piece in pieces for page in pages_of_runs(piece)] == np.flatnonzero(mask).tolist()
    assert all(size == limit for size in sizes[:-1])
    assert all(0 < size <= limit for size in sizes)
    assert all((piece[:, 1] > 0).all() for piece in pieces)
    assert (runs == before).all()


def test_a_run_far_longer_than_the_limit_is_split():
    pieces = list(cut_runs(np.array([[10, 7]]), 3))
    assert [piece.tolist() for piece in pieces] == [[[10, 3]], [[13, 3]], [[16, 1]]]


@given(masks, st.lists(st.integers(1, 40), min_size=1))
def test_cutting_to_sizes_of_their_own_keeps_every_page_once(mask, sizes):
    runs = runs_of_mask(mask)
    pieces = list(cut_runs(runs, cycle(sizes)))
    assert [page for piece in pieces for page in pages_of_runs(piece)] == np.flatnonzero(mask).tolist()
    found = [int(piece[:, 1].sum()) for piece in pieces]
    assert found[:-1] == list(islice(cycle(sizes), len(found)))[:-1]


def test_a_set_is_cut_to_sizes_that_go_on_behind_a_window():
    pages = PageSet.full(3)
    assert [piece.tolist() for piece in pages.batches(iter([2, 5]))] == [[[0, 2]], [[2, 1]]]


def test_cutting_to_nothing_is_refused():
    with pytest.raises(ValueError, match="one page"):
        list(cut_runs(np.empty((0, 2), dtype=np.int64), 0))


@given(pairs)
def test_operators_are_those_of_sets(both):
    one, other = both
    here, there = members(one), members(other)
    assert members(one | other) == here | there
    assert members(one & other) == here & there
    assert members(one - other) == here - there
    assert (members(one), members(other)) == (here, there)
    assert len(one) == len(here)
    assert bool(one) == bool(here)
    assert (one == other) == (here == there)


@given(pairs)
def test_operators_with_equals_change_the_set_itself(both):
    one, other = both
    expected = {
        "__ior__": members(one) | members(other),
        "__iand__": members(one) & members(other),
        "__isub__": members(one) - members(other),
    }
    for operator, result in expected.items():
        changed = one.copy()
        same = getattr(changed, operator)(other)
        assert same is changed
        assert members(changed) == result


@pytest.mark.parametrize(
    "operator", ["__or__", "__ior__", "__and__", "__iand__", "__sub__", "__isub__"], ids=str
)
@pytest.mark.parametrize(("size", "other"), [(5, 1), (1, 5), (5, 4)])
def test_sets_of_regions_of_other_sizes_do_not_mix(operator, size, other):
    with pytest.raises(ValueError, match="does not belong"):
        getattr(PageSet(size), operator)(PageSet.full(other))


@given(st.integers(0, 60), st.data())
def test_ranges_come_back_as_they_went_in(size, data):
    ranges = []
    start = data.draw(st.integers(0, 5))
    while start < size:
        count = data.draw(st.integers(1, size - start))
        ranges.append(PageRange(start, count))
        start += count + data.draw(st.integers(1, 5))
    pages = PageSet.of(size, ranges)
    assert pages.ranges() == ranges
    assert [each.stop for each in pages.ranges()] == [each.start + each.count for each in ranges]


@pytest.mark.parametrize(("start", "stop"), [(-1, 2), (3, 2), (0, 11), (11, 11)])
def test_pages_outside_the_region_are_not_added(start, stop):
    pages = PageSet(10)
    with pytest.raises(ValueError, match="not within"):
        pages.add(start, stop)
    assert not pages


@given(pairs, st.integers(1, 40))
def test_runs_that_are_added_are_as_those_of_another_set(both, window):
    one, other = both
    union = one | other
    with mock.patch("migrated.pages._WINDOW", window):
        one.add_runs(other.runs())
    assert one == union


@pytest.mark.parametrize("runs", [[[-1, 2]], [[2, 3], [8, 3]]])
def test_runs_outside_the_region_are_not_added(runs):
    pages = PageSet(10)
    with pytest.raises(ValueError, match="not within"):
        pages.add_runs(np.array(runs))
    assert not pages


def test_pages_outside_the_region_are_in_no_set():
    pages = PageSet.full(3)
    assert 2 in pages
    assert -1 not in pages
    assert 3 not in pages


def test_copy_and_clear():
    pages = PageSet.full(4)
    copy = pages.copy()
    pages.clear()
    assert (len(pages), len(copy)) == (0, 4)
    assert PageSet(4) == pages != copy
    assert pages != "pages"


@pytest.mark.parametrize("mask", [np.zeros(3, np.bool_), np.zeros((4, 1), np.bool_), np.zeros(4, np.uint8)])
def test_a_map_of_another_shape_or_type_is_refused(mask):
    with pytest.raises(ValueError, match="map"):
        PageSet(4, mask)


def test_a_map_is_kept_not_copied():
    mask = np.zeros(4, np.bool_)
    pages = PageSet(4, mask)
    pages.add(1, 2)
    assert mask.tolist() == [False, True, False, False]


def test_a_set_is_not_hashable():
    with pytest.raises(TypeError):
        hash(PageSet(1))


@pytest.mark.parametrize(("start", "count"), [(-1, 1), (0, 0), (0, -1)])
def test_an_empty_range_or_one_before_the_region_is_refused(start, count):
    with pytest.raises(ValueError, match="page range"):
        PageRange(start, count)
