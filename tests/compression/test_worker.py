"""A worker's functions, called in this process: pages into a slot, and out of it."""

import dataclasses
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from worker_sides import BATCH, CODECS, PAGE, PAGES, SLOT, Side, move, pack, page, run, to_unpack

from migrated.compression import registry, worker
from migrated.compression.digest import region_sum
from migrated.compression.jobs import ToSample, ToUnpack
from migrated.compression.layout import RAW
from migrated.compression.policy import Rung
from migrated.errors import IntegrityError
from migrated.memory.shared import SharedMemory
from migrated.pages import PageSet


@pytest.fixture
def source(tmp_path: Path, arena: SharedMemory) -> Iterator[Side]:
    side = Side(tmp_path, "source", arena)
    yield side
    side.close()


@pytest.mark.parametrize("codec", CODECS)
def test_pages_of_every_kind_arrive_whole(source: Side, target: Side, codec: str) -> None:
    for number, kind in enumerate(["text", "zero", "noise", "late"] * 40):
        source.write(number, page(kind))
    first = move(source, target, run((0, 100)), codec, skip=False)
    assert (first.data_pages, first.zero_pages, first.unchanged_pages) == (75, 25, 0)
    move(source, target, run((100, 60), (190, 10)), codec, skip=False)
    assert source.path.read_bytes() == target.path.read_bytes()
    assert source.terms == target.terms
    assert len(target.regions[1].populated()) == 120  # zero pages are never written


KINDS = st.sampled_from(["zero", "text", "late", "more", "same"])
ROUNDS = st.lists(
    st.tuples(st.dictionaries(st.integers(0, 39), KINDS, min_size=1), st.sampled_from(CODECS)),
    min_size=1,
    max_size=5,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None)
@given(ROUNDS, st.booleans())
def test_after_any_rounds_both_sides_are_equal(
    source: Side, target: Side, rounds: list[tuple[dict[int, str], str]], every_page: bool
) -> None:
    """Pages go non-zero, zero and back; each round has those that were written, or all as with hashes."""
    source.empty()
    target.empty()
    for number, (written, codec) in enumerate(rounds):
        for place, kind in written.items():
            if kind != "same":
                source.write(place, page(kind))
        dirty = PageSet(PAGES)
        dirty.mask[list(range(40) if every_page else written)] = True
        move(source, target, dirty.runs(), codec, skip=number > 0)
    assert source.path.read_bytes() == target.path.read_bytes()
    assert source.terms == target.terms
    digest = region_sum(np.array(source.terms, dtype=np.uint64))
    for side in (source, target):
        everything = [side.worker.rehash(1, run(*pair).tobytes()) for pair in (((0, 100),), ((100, 100),))]
        assert sum(everything) & (2**64 - 1) == digest


def test_what_did_not_change_does_not_travel(source: Side) -> None:
    source.write(0, page("noise") * 10)
    pack(source, run((0, 20)))
    source.write(3, page("text"))
    source.write(4, page("zero"))
    again = pack(source, run((0, 20)), skip=True)
    assert (again.data_pages, again.zero_pages, again.unchanged_pages) == (1, 1, 18)
    nothing = pack(source, run((0, 20)), skip=True)
    assert (nothing.data_pages, nothing.zero_pages, nothing.unchanged_pages) == (0, 0, 20)


@pytest.mark.parametrize("codec", CODECS)
def test_a_batch_of_zeros_is_runs_alone(source: Side, codec: str) -> None:
    packed = pack(source, run((0, 50), (60, 10)), codec)
    assert (packed.data_pages, packed.zero_pages, packed.zero_runs, packed.blocks) == (0, 60, 2, 0)
    assert (packed.codec, packed.payload_bytes) == (RAW, 16)


@pytest.mark.parametrize("codec", CODECS)
def test_noise_takes_no_more_room_than_raw(source: Side, target: Side, codec: str) -> None:
    source.write(0, b"".join(page("noise") for _ in range(BATCH)))
    packed = move(source, target, run((0, BATCH)), codec, skip=False)
    assert packed.payload_bytes == BATCH * PAGE + 8 + 4 * packed.blocks
    assert source.path.read_bytes() == target.path.read_bytes()


def test_slots_do_not_touch_each_other(source: Side, arena: SharedMemory) -> None:
    source.write(0, page("noise") * BATCH)
    arena.view[:SLOT] = b"\xa5" * SLOT
    pack(source, run((0, BATCH)), RAW, slot=1)
    assert bytes(arena.view[:SLOT]) == b"\xa5" * SLOT


@pytest.fixture
def job(source: Side) -> ToUnpack:
    """A batch of 1040 pages of text and 10 of zeros, in two blocks."""
    source.write(0, b"".join(page(f"page {number}, ") for number in range(1040)))
    return to_unpack(pack(source, run((0, 1050)), "lz4"))


@pytest.mark.parametrize("where", [0, 0.3, 0.9, 1])
def test_one_bit_that_flipped_on_the_way_is_found(
    target: Side, arena: SharedMemory, job: ToUnpack, where: float
) -> None:
    arena.view[SLOT + int(where * (job.payload_bytes - 1))] ^= 16
    with pytest.raises(IntegrityError, match="checksum"):
        target.worker.unpack(job)
    assert not any(target.terms)
    assert not len(target.regions[1].populated())


LIES = {
    "data_pages": (1039, 1041, 1100),
    "zero_pages": (9, 11, 0),
    "data_runs": (0, 2),
    "zero_runs": (0, 2),
    "blocks": (1, 3),
    "payload_bytes": (10, 30),
    "codec": (RAW, "zlib", "zstd", "snappy"),
}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in LIES.items() for value in values]
)
def test_a_source_that_lies_writes_nothing(
    target: Side, arena: SharedMemory, job: ToUnpack, name: str, value: Any
) -> None:
    lied = dataclasses.replace(job, **{name: value})
    payload = arena.view[SLOT : SLOT + lied.payload_bytes]
    lied = dataclasses.replace(lied, checksum=worker.checksum(payload))
    with pytest.raises(IntegrityError):
        target.worker.unpack(lied)
    assert not any(target.terms)
    assert not len(target.regions[1].populated())


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(data=st.data())
@pytest.mark.parametrize("codec", CODECS[1:])
def test_damage_with_a_right_checksum_is_an_integrity_error_or_other_pages_and_nothing_else(
    source: Side, target: Side, arena: SharedMemory, codec: str, data: st.DataObject
) -> None:
    source.write(0, page("text") * 70)
    packed = pack(source, run((0, 80)), codec)
    for _ in range(data.draw(st.integers(1, 4))):
        arena.view[SLOT + data.draw(st.integers(0, packed.payload_bytes - 1))] = data.draw(
            st.integers(0, 255)
        )
    payload = arena.view[SLOT : SLOT + packed.payload_bytes]
    lied = dataclasses.replace(to_unpack(packed), checksum=worker.checksum(payload))
    try:
        target.worker.unpack(lied)
    except IntegrityError:
        return
    assert target.path.stat().st_size == PAGES * PAGE


def test_rehashing_sees_what_is_there_and_not_what_was_sent(source: Side) -> None:
    source.write(0, page("text"))
    pack(source, run((0, 10)))
    everything = run((0, 10)).tobytes()
    assert source.worker.rehash(1, everything) == sum(source.terms)
    source.write(1, page("more"))
    assert source.worker.rehash(1, everything) != sum(source.terms)
    source.write(0, page("zero") * 2)
    assert source.worker.rehash(1, everything) == 0


def test_functions_need_a_worker() -> None:
    with pytest.raises(RuntimeError, match="start_worker"):
        worker.rehash(0, b"")


def test_no_codec_of_a_sample_pays_for_the_memory_that_all_write_to(
    source: Side, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first one would look slower than the next ones: such memory is dear."""
    for place in range(200):
        source.write(place, page("text"))
    faults: list[int] = []

    class Writing:
        def compress_into(self, data: memoryview, out: memoryview) -> int:
            filling = bytes(len(out))
            before = resource.getrusage(resource.RUSAGE_THREAD).ru_minflt
            out[:] = filling
            faults.append(resource.getrusage(resource.RUSAGE_THREAD).ru_minflt - before)
            return 0

    monkeypatch.setattr(registry, "create", lambda codec, level: Writing())
    rungs = (Rung("lz4", 1), Rung("zstd", 1))
    found = source.worker.sample(ToSample(1, run((0, 200)).tobytes(), rungs))
    assert set(found) == set(rungs)
    assert faults == [0, 0]
