"""Pages that are there twice, from end to end of the stage: two workers of a source that share a table, and a
destination."""

import dataclasses
import itertools
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from worker_sides import CODECS, PAGE, PAGES, Side, pack, page, run, to_unpack

from migrated.compression import duplicates
from migrated.compression.delta import bases_hash
from migrated.compression.duplicates import Worth
from migrated.compression.jobs import Packed, ToCompare, ToCopy
from migrated.compression.layout import pack_copies
from migrated.engine.twins import Twins
from migrated.errors import IntegrityError
from migrated.memory.shared import SharedMemory
from migrated.pages import PageSet, Runs


@pytest.fixture
def source(tmp_path: Path, arena: SharedMemory) -> Iterator[Side]:
    side = Side(tmp_path, "source", arena, duplicates=True)
    yield side
    side.close()


@pytest.fixture(autouse=True)
def always_worth_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplicates, "LEAST_SHARE", 0.0)
    monkeypatch.setattr(duplicates, "_ENOUGH", 0)
    monkeypatch.setattr(Worth, "looks", lambda _worth, contents: np.ones(len(contents), np.bool_))


class Moving:
    """A first round of batches that the workers take in turns, and a second one."""

    def __init__(self, source: Side, target: Side, codec: str = "lz4") -> None:
        self.source, self.target, self.codec = source, target, codec
        self.twins = Twins()
        self.copied = 0

    def first(self, *, batch: int = 30) -> list[Packed]:
        sent = []
        turns = itertools.cycle([0, 1])
        for runs in PageSet.full(PAGES).batches(batch):
            packed = self._move(runs, by=next(turns), duplicates=True)
            self.twins.add(1, packed.duplicates)
            sent.append(packed)
        return sent

    def second(self, written: Sequence[int]) -> None:
        dirty = [PageSet(3), PageSet(PAGES)]
        dirty[1].mask[list(written)] = True
        terms = np.frombuffer(self.source.table.view, dtype=np.uint64)
        for region, pairs in self.twins.take(dirty, (terms[:3], terms[3:]), 50):
            compared = self.source.worker.compare(ToCompare(region, pairs.tobytes()))
            equal = np.frombuffer(compared.equal, dtype=np.bool_)
            dirty[1].mask[pairs[~equal, 0]] = True
            copied = pairs[equal]
            if len(copied):
                runs = pack_copies(copied[:, 0], copied[:, 1])
                self.target.worker.copy(ToCopy(region, runs, len(copied), compared.bases))
            self.copied += len(copied)
        for runs in dirty[1].batches(100):
            self._move(runs, skip=True)

    def _move(self, runs: Runs, **how: Any) -> Packed:
        packed = pack(self.source, runs, self.codec, **how)
        if packed.data_pages or packed.zero_pages:
            self.target.worker.unpack(to_unpack(packed))
        return packed

    def check(self) -> None:
        assert self.source.path.read_bytes() == self.target.path.read_bytes()
        assert self.source.terms == self.target.terms


@pytest.mark.parametrize("codec", CODECS)
def test_what_is_there_twice_travels_once(source: Side, target: Side, codec: str) -> None:
    rng = random.Random(1)  # two contents may have one place in the table: these do not
    some = [rng.randbytes(PAGE) for _ in range(20)]
    for number in range(60):
        source.write(number, some[number % 20])
    moving = Moving(source, target, codec)
    sent = moving.first()
    assert sum(packed.data_pages for packed in sent) == 20
    assert len(moving.twins) == 40
    assert source.terms != target.terms  # one that is forgotten shows in the digest
    moving.second([])
    assert moving.copied == 40
    moving.check()


def test_nothing_is_left_out_unless_asked_for(source: Side) -> None:
    source.write(0, page("noise") * 2)
    assert pack(source, run((0, 2))).data_pages == 2
    assert pack(source, run((0, 2)), duplicates=True).data_pages == 1


@pytest.mark.parametrize(
    ("changed", "dirty"),
    [((0,), (0,)), ((1,), (1,)), ((0, 1), (0, 1)), ((0,), ()), ((1,), ()), ((0, 1), ())],
    ids=["base", "copy", "both", "base, not yet known", "copy, not yet known", "both, not yet known"],
)
def test_what_was_written_since_travels_as_it_is(
    source: Side, target: Side, changed: tuple[int, ...], dirty: tuple[int, ...]
) -> None:
    """Also what no scan has told of yet: the next round sends it again, but nothing wrong may be said before."""
    source.write(0, page("noise") * 2)
    moving = Moving(source, target)
    moving.first()
    new = page("noise")
    for number in changed:
        source.write(number, new)
    moving.second(dirty)
    assert moving.copied == 0
    moving.second(changed)
    for runs in PageSet.full(PAGES).batches(100):
        moving._move(runs, skip=True)
    moving.check()


def test_a_base_that_looks_the_same_but_was_sent_otherwise_is_none(source: Side, target: Side) -> None:
    """Both have changed to the same content since: the destination has not seen that of the base."""
    source.write(0, page("noise") * 2)
    moving = Moving(source, target)
    moving.first()
    source.write(0, page("late") * 2)
    moving.second([])
    assert moving.copied == 0


def test_a_hash_that_two_contents_share_does_no_harm(
    source: Side, target: Side, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(10):
        source.write(number, page("noise"))

    def same(data: memoryview, size: int, _seed: int) -> Any:
        return np.full(len(data) // size, 12345, dtype=np.uint64)

    monkeypatch.setattr("migrated.compression.digest.content_hashes", same)
    monkeypatch.setattr("migrated.compression.worker.content_hashes", same)
    moving = Moving(source, target)
    moving.first()
    assert len(moving.twins) == 9
    moving.second([])
    assert moving.copied == 0
    assert source.path.read_bytes() == target.path.read_bytes()


CONTENTS = st.lists(st.integers(0, 5), min_size=PAGES, max_size=PAGES)
WRITES = st.dictionaries(st.integers(0, PAGES - 1), st.integers(0, 8), max_size=40)


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    max_examples=20,
    deadline=None,
)
@given(CONTENTS, WRITES, st.integers(7, 200), st.sampled_from(CODECS))
def test_both_sides_are_equal_whatever_is_written(
    source: Side, target: Side, contents: list[int], writes: dict[int, int], batch: int, codec: str
) -> None:
    for side in (source, target):
        side.empty()
    some = [bytes(PAGE), *(bytes([kind]) * PAGE for kind in range(1, 9))]
    source.write(0, b"".join(some[kind] for kind in contents))
    moving = Moving(source, target, codec)
    moving.first(batch=batch)
    for number, kind in writes.items():
        source.write(number, some[kind])
    moving.second(list(writes))
    moving.check()


@pytest.fixture
def job(source: Side, target: Side) -> ToCopy:
    """Pages 20 to 29 and 40 are copies of 0 to 9 and 5, which are there."""
    some = b"".join(page("noise") for _ in range(10))
    source.write(0, some)
    source.write(20, some)
    source.write(40, some[5 * PAGE : 6 * PAGE])
    moving = Moving(source, target)
    moving._move(run((0, 10)))
    pairs = np.array([*((20 + at, at) for at in range(10)), (40, 5)], dtype=np.int64)
    compared = source.worker.compare(ToCompare(1, pairs.tobytes()))
    assert all(compared.equal)
    return ToCopy(1, pack_copies(pairs[:, 0], pairs[:, 1]), len(pairs), compared.bases)


def numbers(*each: int) -> bytes:
    return np.array(each, dtype="<u4").tobytes()


@pytest.mark.parametrize(
    "lie",
    [
        {"pages": 10},
        {"pages": 12},
        {"bases": 5},
        {"runs": b""},
        {"runs": bytes(11)},
        {"runs": numbers(20, 0, 11)},
        {"runs": numbers(20, 1, 10, 40, 5, 1)},
        {"runs": numbers(PAGES - 5, 0, 11)},
        {"runs": numbers(20, PAGES - 5, 11)},
        {"runs": numbers(20, 2**32 - 1, 11)},
        {"runs": numbers(20, 0, 10, 25, 5, 1)},
        {"runs": numbers(40, 5, 1, 20, 0, 10)},
        {"runs": numbers(20, 0, 0, 20, 0, 11)},
        {"runs": numbers(20, 0, 2**32 - 1)},
    ],
    ids=str,
)
def test_a_source_that_lies_writes_nothing(target: Side, job: ToCopy, lie: dict[str, Any]) -> None:
    before, terms = target.path.read_bytes(), target.terms
    with pytest.raises(IntegrityError):
        target.worker.copy(dataclasses.replace(job, **lie))
    assert (target.path.read_bytes(), target.terms) == (before, terms)


def test_a_page_that_never_came_is_no_base(target: Side) -> None:
    nothing = bases_hash(np.zeros(1, dtype=np.uint64))
    with pytest.raises(IntegrityError):
        target.worker.copy(ToCopy(1, numbers(20, 0, 1), 1, nothing))
    assert not any(target.terms)


def test_an_honest_one_is_believed(source: Side, target: Side, job: ToCopy) -> None:
    target.worker.copy(job)
    assert source.path.read_bytes() == target.path.read_bytes()
    assert source.terms == target.terms
