"""Pages that wait for the second round."""

import numpy as np
from numpy.typing import NDArray

from migrated.engine.twins import Twins
from migrated.pages import PageSet


def pairs(*each: tuple[int, int]) -> bytes:
    return np.array(each, dtype=np.int64).tobytes()


def dirty(*pages: int) -> PageSet:
    made = PageSet(50)
    made.mask[list(pages)] = True
    return made


def terms(regions: int) -> list[NDArray[np.uint64]]:
    return [np.full(50, 7, dtype=np.uint64) for _ in range(regions)]


def test_none_are_none() -> None:
    twins = Twins()
    twins.add(0, b"")
    assert not twins
    assert twins.take([dirty(1)], terms(1), 10) == []


def test_they_come_by_their_page_and_only_once() -> None:
    twins = Twins()
    twins.add(1, pairs((9, 1), (12, 2)))
    twins.add(1, pairs((3, 2)))
    assert len(twins) == 3
    sets = [dirty(), dirty()]
    taken = twins.take(sets, terms(2), 10)
    assert [(region, found.tolist()) for region, found in taken] == [(1, [[3, 2], [9, 1], [12, 2]])]
    assert not twins
    assert not any(sets)


def test_no_more_at_a_time_than_fit_a_batch() -> None:
    twins = Twins()
    twins.add(0, pairs(*((page, 0) for page in range(1, 8))))
    assert [len(found) for _, found in twins.take([dirty()], terms(1), 3)] == [3, 3, 1]


def test_what_was_written_to_travels_as_it_is() -> None:
    twins = Twins()
    twins.add(0, pairs((5, 1), (6, 2), (7, 3)))
    sets = [dirty(5, 2, 40)]
    ((_, found),) = twins.take(sets, terms(1), 10)
    assert found.tolist() == [[7, 3]]
    assert sets[0] == dirty(5, 6, 2, 40)  # 6 because its base was written to


def test_what_is_a_copy_itself_is_no_base() -> None:
    """It is not there in that round."""
    twins = Twins()
    twins.add(0, pairs((5, 6), (9, 5), (7, 8)))
    sets = [dirty()]
    ((_, found),) = twins.take(sets, terms(1), 10)
    assert found.tolist() == [[5, 6], [7, 8]]
    assert sets[0] == dirty(9)


def test_their_terms_are_those_of_pages_never_sent() -> None:
    """Or the next round would find them unchanged."""
    twins, kept = Twins(), terms(1)
    twins.add(0, pairs((5, 1), (6, 2)))
    twins.take([dirty(5)], kept, 10)
    assert np.flatnonzero(kept[0] == 0).tolist() == [5, 6]
