"""Deltas from end to end of the stage: two workers of a source that share a cache, and a destination without one."""

import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from worker_sides import BATCH, CODECS, PAGE, PAGES, SLOT, Side, pack, page, run, to_unpack

from migrated.compression import worker
from migrated.compression.digest import region_sum
from migrated.compression.jobs import Packed, ToUnpack
from migrated.compression.layout import RAW
from migrated.errors import IntegrityError
from migrated.memory.shared import SharedMemory
from migrated.pages import PageSet


@pytest.fixture
def source(tmp_path: Path, arena: SharedMemory) -> Iterator[Side]:
    side = Side(tmp_path, "source", arena, places=64)
    yield side
    side.close()


class Moving:
    """Rounds of batches that the workers take in turns."""

    def __init__(self, source: Side, target: Side, codec: str = "lz4") -> None:
        self.source, self.target, self.codec = source, target, codec
        self.turns = itertools.cycle([0, 1])
        self.round = 0

    def send(self, pages: list[int], *, batch: int = 50) -> list[Packed]:
        """One round of these pages."""
        self.round += 1
        dirty = PageSet(PAGES)
        dirty.mask[pages] = True
        sent = []
        for runs in dirty.batches(batch):
            first = self.round == 1
            packed = pack(
                self.source,
                runs,
                self.codec,
                skip=not first,
                round_=0 if first else self.round,
                by=next(self.turns),
            )
            if packed.data_pages or packed.zero_pages:
                self.target.worker.unpack(to_unpack(packed))
            sent.append(packed)
        return sent

    def check(self) -> None:
        assert self.source.path.read_bytes() == self.target.path.read_bytes()
        assert self.source.terms == self.target.terms
        digest = region_sum(np.array(self.source.terms, dtype=np.uint64))
        for side in (self.source, self.target):
            pairs = ((0, 100), (100, PAGES - 100))
            read = [side.worker.rehash(1, run(pair).tobytes()) for pair in pairs]
            assert sum(read) & (2**64 - 1) == digest


def deltas(sent: list[Packed]) -> int:
    return sum(packed.delta_pages for packed in sent)


def poke(side: Side, number: int, value: int, at: int = 1234) -> None:
    """Change one byte of a page."""
    with side.path.open("r+b") as file:
        file.seek(number * PAGE + at)
        file.write(bytes([value]))


def in_round_three(source: Side, target: Side, codec: str, count: int = 40) -> Moving:
    """Pages of noise that were written in two rounds, and since."""
    for number in range(count):
        source.write(number, page("noise"))
        poke(source, number, 0)
    moving = Moving(source, target, codec)
    moving.send(list(range(count)))
    for value in (1, 2):
        for number in range(count):
            poke(source, number, value)
        if value == 1:
            assert deltas(moving.send(list(range(count)))) == 0
    return moving


@pytest.mark.parametrize("codec", CODECS)
def test_what_has_changed_is_all_that_travels(source: Side, target: Side, codec: str) -> None:
    moving = in_round_three(source, target, codec)
    (packed,) = moving.send(list(range(40)))
    assert (packed.data_pages, packed.delta_pages, packed.delta_words) == (40, 40, 40)
    assert packed.payload_bytes < 40 * 20
    moving.check()


def test_without_a_cache_pages_travel_whole(tmp_path: Path, arena: SharedMemory, target: Side) -> None:
    source = Side(tmp_path, "plain", arena)
    moving = Moving(source, target)
    moving.turns = itertools.repeat(0)  # type: ignore[assignment]
    for value in range(4):
        poke(source, 3, value + 1)
        assert deltas(moving.send([3])) == 0
    moving.check()
    source.close()


WRITE = st.one_of(
    st.tuples(st.just("poke"), st.integers(0, PAGE - 1), st.integers(0, 255)),
    st.tuples(st.sampled_from(["zero", "text", "late", "noise"]), st.just(0), st.just(0)),
)
ROUND = st.tuples(
    st.dictionaries(st.integers(0, 99), WRITE, max_size=60), st.sampled_from(CODECS), st.booleans()
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None)
@given(st.lists(ROUND, min_size=3, max_size=8), st.integers(5, BATCH))
def test_after_any_rounds_both_sides_are_equal(
    source: Side, target: Side, rounds: list[tuple[dict[int, tuple[str, int, int]], str, bool]], batch: int
) -> None:
    """Pages are written here and there, as a whole, to zero and back, more of them than there are places."""
    for side in (source, target):
        side.empty()
    assert source.cache is not None
    source.cache.view[:] = bytes(source.cache.size)
    moving = Moving(source, target)
    for written, codec, every_page in rounds:
        for number, (kind, at, value) in written.items():
            if kind == "poke":
                poke(source, number, value, at)
            else:
                source.write(number, page(kind))
        moving.codec = codec
        moving.send(list(range(100)) if every_page else sorted(written), batch=batch)
        moving.check()


def test_a_page_that_was_zero_in_between_travels_whole_and_then_as_a_delta_again(
    source: Side, target: Side
) -> None:
    moving = in_round_three(source, target, "lz4")
    everything = list(range(40))
    before = source.path.read_bytes()[5 * PAGE : 6 * PAGE]
    assert deltas(moving.send(everything)) == 40
    source.write(5, bytes(PAGE))
    assert moving.send(everything)[0].zero_pages == 1
    moving.check()
    source.write(5, before)  # as it was when it was kept: the cache still has it
    assert [(each.data_pages, each.delta_pages) for each in moving.send(everything)] == [(1, 0)]
    moving.check()
    poke(source, 5, 77)
    assert [(each.data_pages, each.delta_pages) for each in moving.send(everything)] == [(1, 1)]
    moving.check()


def test_what_tears_the_cache_costs_deltas_and_nothing_else(source: Side, target: Side) -> None:
    """Workers write there without a lock; whatever stands there in the end, what arrives is right."""
    moving = in_round_three(source, target, "zstd")
    assert source.cache is not None
    random = np.random.default_rng(4)
    for value in range(3, 8):
        words = np.frombuffer(source.cache.view, dtype=np.uint64)
        words[random.choice(len(words), 60, replace=False)] ^= np.uint64(1)
        sent = moving.send(list(range(40)))
        assert sum(packed.data_pages for packed in sent) == 40
        assert deltas(sent) < 40
        moving.check()
        for number in range(40):
            poke(source, number, value)


@pytest.fixture
def job(source: Side, target: Side) -> ToUnpack:
    """A batch of 40 data pages, 20 of them deltas, and 10 that became zero."""
    for number in range(40, 50):
        source.write(number, page("text"))
    moving = in_round_three(source, target, "lz4", 50)
    for number in range(20):
        source.write(number, page("text"))
    for number in range(40, 50):
        source.write(number, bytes(PAGE))
    moving.round += 1
    packed = pack(source, run((0, 50)), "lz4", skip=True, round_=moving.round)
    assert (packed.data_pages, packed.delta_pages, packed.zero_pages) == (40, 20, 10)
    return to_unpack(packed)


def refused(target: Side, job: ToUnpack, why: str | None = None) -> None:
    """The batch is an IntegrityError and changes nothing."""
    before, terms = target.path.read_bytes(), target.terms
    payload = target.worker._slot(1)[: job.payload_bytes]
    with pytest.raises(IntegrityError, match=why):
        target.worker.unpack(dataclasses.replace(job, checksum=worker.checksum(payload)))
    assert target.path.read_bytes() == before
    assert target.terms == terms


def test_another_base_at_the_destination_is_refused(target: Side, job: ToUnpack) -> None:
    table = np.frombuffer(target.table.view, dtype=np.uint64)
    assert table[3 + 25] != 0
    table[3 + 25] ^= np.uint64(1)
    refused(target, job, "not on the pages that are here")
    table[3 + 25] ^= np.uint64(1)
    target.worker.unpack(job)


def test_a_base_that_is_zero_there_is_refused(target: Side, job: ToUnpack) -> None:
    np.frombuffer(target.table.view, dtype=np.uint64)[3 + 25] = 0
    refused(target, job, "not on the pages that are here")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("delta_pages", 0),
        ("delta_pages", 19),
        ("delta_pages", 21),
        ("delta_pages", 128),
        ("delta_words", 0),
        ("delta_words", 19),
        ("delta_words", 21),
        ("delta_words", 2**32 - 1),
        ("data_pages", 39),
        ("data_pages", 41),
        ("blocks", 2),
        ("codec", RAW),
        ("payload_bytes", 30),
    ],
)
def test_a_source_that_lies_writes_nothing(target: Side, job: ToUnpack, name: str, value: int | str) -> None:
    refused(target, dataclasses.replace(job, **{name: value}))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(data=st.data())
@pytest.mark.parametrize("codec", CODECS)
def test_damage_with_a_right_checksum_is_an_integrity_error_or_other_pages_and_nothing_else(
    source: Side, target: Side, arena: SharedMemory, codec: str, data: st.DataObject
) -> None:
    for side in (source, target):
        side.empty()
    in_round_three(source, target, codec)
    packed = pack(source, run((0, 40)), codec, skip=True, round_=3)
    assert packed.delta_pages == 40
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.floats(0, 1)) * (packed.payload_bytes - 1)
        arena.view[SLOT + int(at)] = data.draw(st.integers(0, 255))
    payload = arena.view[SLOT : SLOT + packed.payload_bytes]
    try:
        target.worker.unpack(dataclasses.replace(to_unpack(packed), checksum=worker.checksum(payload)))
    except IntegrityError:
        return
    assert target.path.stat().st_size == PAGES * PAGE
