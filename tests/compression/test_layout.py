"""A payload's tables: what is written is read, and tables that lie are refused, whatever they say."""

import contextlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from migrated.compression.layout import (
    DeltaTable,
    Tables,
    pack_copies,
    raw_lengths,
    read_copies,
    read_tables,
    write_tables,
)
from migrated.errors import IntegrityError
from migrated.pages import Runs, pages_of_runs
from migrated.protocol import BLOCK_BYTES, BatchHeader, BatchLimits, data_size, max_payload

PAGE = 4096
REGION_PAGES = 300
PER_BLOCK = BLOCK_BYTES // PAGE


def runs(*pairs: tuple[int, int]) -> Runs:
    return np.array(pairs, dtype=np.int64).reshape(-1, 2)


def counts(data: Runs, zero: Runs, blocks: list[int]) -> dict[str, int]:
    """What a header says of these tables."""
    return {
        "data_pages": int(data[:, 1].sum()),
        "zero_pages": int(zero[:, 1].sum()),
        "data_runs": len(data),
        "zero_runs": len(zero),
        "blocks": len(blocks),
    }


def payload_of(data: Runs, zero: Runs, blocks: list[int], *, stored: int | None = None) -> memoryview:
    """A payload whose blocks are zeros, ``stored`` bytes of them."""
    offset = sum(blocks) if stored is None else stored
    slot = memoryview(bytearray(offset + 8 * (len(data) + len(zero)) + 4 * len(blocks)))
    assert write_tables(slot, offset, data, zero, blocks) == len(slot)
    return slot


def read(payload: memoryview, said: dict[str, int], region_pages: int = REGION_PAGES) -> Tables:
    return read_tables(payload, **said, page_size=PAGE, region_pages=region_pages)


@st.composite
def batches(draw: Any) -> tuple[Runs, Runs, list[int]]:
    """Data runs and zero runs of a region, apart, and block lengths that fit."""
    kinds = draw(st.lists(st.sampled_from("dz."), min_size=1, max_size=REGION_PAGES))
    found = []
    for kind in "dz":
        mask = np.array([each == kind for each in kinds])
        edges = np.flatnonzero(np.diff(np.concatenate(([0], mask.astype(np.int8), [0]))))
        found.append(np.stack((edges[::2], edges[1::2] - edges[::2]), axis=1).astype(np.int64))
    data, zero = found
    raw = raw_lengths(int(data[:, 1].sum()) * PAGE)
    return data, zero, [draw(st.integers(1, length)) for length in raw]


@settings(deadline=None)
@given(batches())
def test_what_is_written_is_read(batch: tuple[Runs, Runs, list[int]]) -> None:
    data, zero, blocks = batch
    tables = read(payload_of(data, zero, blocks), counts(data, zero, blocks))
    assert np.array_equal(tables.data_runs, data)
    assert np.array_equal(tables.zero_runs, zero)
    assert list(tables.block_lengths) == blocks
    assert tables.stored_bytes == sum(blocks)


@pytest.mark.parametrize(
    ("pages", "lengths"),
    [(0, []), (1, [PAGE]), (PER_BLOCK, [BLOCK_BYTES]), (PER_BLOCK + 1, [BLOCK_BYTES, PAGE])],
)
def test_pages_are_cut_into_blocks_and_a_rest(pages: int, lengths: list[int]) -> None:
    assert raw_lengths(pages * PAGE) == lengths


GOOD = (runs((3, 2), (7, 1)), runs((100, 50)), [5000])


def test_the_tables_that_the_lies_start_from_are_good() -> None:
    read(payload_of(*GOOD), counts(*GOOD))


@pytest.mark.parametrize(
    "data",
    [
        runs((7, 1), (3, 2)),
        runs((3, 2), (4, 1)),
        runs((3, 3), (7, 0)),
        runs((3, 0), (7, 3)),
        runs((3, 2), (REGION_PAGES, 1)),
        runs((3, 2), (REGION_PAGES - 1, 2)),
        runs((3, 2), (2**32 - 1, 1)),
        runs((3, 2**32 - 1), (7, 4)),
        runs((2**32 - 1, 2**32 - 1), (1, 1)),
        runs((3, 2), (7, 2)),
        runs((3, 1), (7, 1)),
    ],
)
@pytest.mark.parametrize("kind", ["data", "zero"])
def test_runs_out_of_order_out_of_the_region_or_of_other_pages_are_refused(kind: str, data: Runs) -> None:
    said = counts(*GOOD)
    if kind == "data":
        with pytest.raises(IntegrityError, match="data"):
            read(payload_of(data, GOOD[1], GOOD[2]), said)
        return
    with pytest.raises(IntegrityError, match="zero"):
        read(payload_of(GOOD[0], data, GOOD[2]), said | {"zero_runs": 2, "zero_pages": 3})


@pytest.mark.parametrize(
    "said",
    [
        {"data_pages": 4},
        {"data_pages": 0},
        {"data_pages": PER_BLOCK * 2},
        {"zero_pages": 0},
        {"zero_pages": 49},
        {"data_runs": 0},
        {"data_runs": 1},
        {"data_runs": 3},
        {"zero_runs": 0},
        {"zero_runs": 2},
        {"zero_runs": 2**31},
        {"blocks": 0},
        {"blocks": 2},
        {"blocks": 2**31},
        {"data_runs": 0, "data_pages": 0},
        {"data_runs": 0, "zero_runs": 0, "blocks": 0},
        {"data_runs": 0, "zero_runs": 0, "blocks": 0, "data_pages": 0, "zero_pages": 0},
    ],
)
def test_a_header_that_says_something_else_is_refused(said: dict[str, int]) -> None:
    with pytest.raises(IntegrityError):
        read(payload_of(*GOOD), counts(*GOOD) | said)


@pytest.mark.parametrize("blocks", [[0], [5000, 1], [3 * PAGE + 1]])
def test_blocks_of_impossible_lengths_are_refused(blocks: list[int]) -> None:
    with pytest.raises(IntegrityError):
        read(payload_of(GOOD[0], GOOD[1], blocks), counts(*GOOD))


@pytest.mark.parametrize("stored", [0, 4999, 5001])
def test_blocks_that_do_not_fill_the_payload_are_refused(stored: int) -> None:
    with pytest.raises(IntegrityError, match="add up"):
        read(payload_of(*GOOD, stored=stored), counts(*GOOD))


def test_a_later_block_longer_than_it_may_be_is_refused() -> None:
    pages = PER_BLOCK + 1
    data, zero = runs((0, pages)), runs()
    read(payload_of(data, zero, [10, PAGE]), counts(data, zero, [10, PAGE]), pages)
    for blocks in ([10, PAGE + 1], [0, PAGE], [BLOCK_BYTES + 1, PAGE]):
        with pytest.raises(IntegrityError, match="block lengths"):
            read(payload_of(data, zero, blocks), counts(data, zero, blocks), pages)


def test_a_region_smaller_than_its_runs_is_refused() -> None:
    with pytest.raises(IntegrityError, match="within 149 pages"):
        read(payload_of(*GOOD), counts(*GOOD), region_pages=149)


NUMBERS = st.one_of(st.integers(0, 8), st.integers(0, 400), st.integers(0, 2**32 - 1))


@settings(deadline=None)
@given(
    st.binary(max_size=200),
    st.fixed_dictionaries(
        dict.fromkeys(("data_pages", "zero_pages", "data_runs", "zero_runs", "blocks"), NUMBERS)
    ),
)
def test_no_payload_and_no_header_make_it_fail_otherwise_or_take_much(
    payload: bytes, said: dict[str, int]
) -> None:
    said["data_pages"] %= 1 << 20
    try:
        tables = read(memoryview(payload), said)
    except IntegrityError:
        return
    check(tables, said)


@settings(deadline=None)
@given(batches(), st.data())
def test_good_tables_with_a_few_bytes_changed_are_refused_or_still_consistent(
    batch: tuple[Runs, Runs, list[int]], data: st.DataObject
) -> None:
    said = counts(*batch)
    payload = payload_of(*batch)
    stored = sum(batch[2])
    for _ in range(data.draw(st.integers(1, 3))):
        if len(payload) > stored:
            payload[data.draw(st.integers(stored, len(payload) - 1))] = data.draw(st.integers(0, 255))
    try:
        tables = read(payload, said)
    except IntegrityError:
        return
    check(tables, said)


def check(tables: Tables, said: dict[str, int]) -> None:
    """What passed is safe to work with: pages of the region, each once, and blocks that hold them."""
    for found, count in ((tables.data_runs, said["data_pages"]), (tables.zero_runs, said["zero_pages"])):
        pages = pages_of_runs(found)
        assert len(pages) == count
        assert (np.diff(pages) > 0).all()
        assert len(pages) == 0 or (pages[0] >= 0 and pages[-1] < REGION_PAGES)
    deltas = said.get("delta_pages", 0)
    size = data_size(said["data_pages"], deltas, said.get("delta_words", 0), PAGE)
    assert tables.data_bytes == size <= said["data_pages"] * PAGE
    assert (tables.deltas is None) == (deltas == 0)
    if tables.deltas is not None:
        assert tables.deltas.mask.shape == (said["data_pages"],)
        assert np.count_nonzero(tables.deltas.mask) == deltas
    raw = raw_lengths(size)
    assert len(tables.block_lengths) == len(raw)
    assert all(1 <= length <= most for length, most in zip(tables.block_lengths, raw, strict=True))
    assert sum(tables.block_lengths) == tables.stored_bytes


@settings(deadline=None)
@given(batches())
def test_what_is_written_is_within_the_limits_of_the_protocol(batch: tuple[Runs, Runs, list[int]]) -> None:
    data, zero, blocks = batch
    said = counts(*batch)
    if not said["data_pages"] + said["zero_pages"]:
        return
    payload = payload_of(data, zero, blocks)
    limits = BatchLimits(batch_pages=REGION_PAGES, page_size=PAGE, region_pages=(REGION_PAGES,), codecs=1)
    header = BatchHeader(
        round=1, sequence=1, region=0, codec=2, level=1, payload_bytes=len(payload), checksum=0, **said
    )
    header.check(limits)
    assert len(payload) <= max_payload(REGION_PAGES, PAGE)


@st.composite
def delta_batches(draw: Any) -> tuple[memoryview, dict[str, int], DeltaTable, list[int]]:
    """A payload some of whose data pages are deltas, what its header says, its delta table and block lengths."""
    data, zero, _ = draw(batches())
    pages = int(data[:, 1].sum())
    mask = np.array(draw(st.lists(st.booleans(), min_size=pages, max_size=pages)), dtype=np.bool_)
    deltas = int(np.count_nonzero(mask))
    words = draw(st.integers(deltas, deltas * 409))
    table = DeltaTable(mask, draw(st.integers(0, 2**64 - 1)))
    raw = raw_lengths(data_size(pages, deltas, words, PAGE))
    blocks = [draw(st.integers(1, length)) for length in raw]
    slot = memoryview(bytearray(sum(blocks) + max_payload(pages + len(zero), PAGE)))
    end = write_tables(slot, sum(blocks), data, zero, blocks, table if deltas else None)
    said = counts(data, zero, blocks) | {"delta_pages": deltas, "delta_words": words}
    return slot[:end], said, table, blocks


@settings(deadline=None)
@given(delta_batches())
def test_what_is_written_of_deltas_is_read_and_within_the_limits_of_the_protocol(
    batch: tuple[memoryview, dict[str, int], DeltaTable, list[int]],
) -> None:
    payload, said, table, blocks = batch
    tables = read(payload, said)
    check(tables, said)
    assert list(tables.block_lengths) == blocks
    if said["delta_pages"]:
        assert tables.deltas is not None
        assert np.array_equal(tables.deltas.mask, table.mask)
        assert tables.deltas.bases == table.bases
    else:
        assert tables.deltas is None
    if said["data_pages"] + said["zero_pages"]:
        limits = BatchLimits(REGION_PAGES, PAGE, (REGION_PAGES,), codecs=1, deltas=True)
        header = BatchHeader(
            round=2, sequence=1, region=0, codec=2, level=1, payload_bytes=len(payload), checksum=0, **said
        )
        header.check(limits)


@settings(deadline=None)
@given(delta_batches(), st.data())
def test_deltas_with_lies_are_refused_or_still_consistent(
    batch: tuple[memoryview, dict[str, int], DeltaTable, list[int]], data: st.DataObject
) -> None:
    payload, said, _, blocks = batch
    name = data.draw(st.sampled_from([None, *said]))
    if name is not None:
        said[name] = data.draw(NUMBERS) % (1 << 20)
    for _ in range(data.draw(st.integers(0 if name else 1, 2))):
        if len(payload) > sum(blocks):
            payload[data.draw(st.integers(sum(blocks), len(payload) - 1))] = data.draw(st.integers(0, 255))
    try:
        tables = read(payload, said)
    except IntegrityError:
        return
    check(tables, said)


@given(
    st.lists(st.integers(0, REGION_PAGES - 1), min_size=1, max_size=60, unique=True).map(sorted),
    st.data(),
)
def test_copies_are_read_as_they_were_written(pages: list[int], data: st.DataObject) -> None:
    bases = [
        page - 1 if page and data.draw(st.booleans()) else data.draw(st.integers(0, 9)) for page in pages
    ]
    runs = pack_copies(np.array(pages, dtype=np.int64), np.array(bases, dtype=np.int64))
    read_pages, read_bases = read_copies(runs, len(pages), REGION_PAGES)
    assert (read_pages.tolist(), read_bases.tolist()) == (pages, bases)


@given(st.binary(max_size=60), st.integers(0, 70))
def test_copies_of_noise_are_refused_or_within_the_region(runs: bytes, pages: int) -> None:
    with contextlib.suppress(IntegrityError):
        found, bases = read_copies(runs, pages, REGION_PAGES)
        assert len(found) == len(bases) == pages
        assert len(set(found.tolist())) == pages
        assert max(*found.tolist(), *bases.tolist()) < REGION_PAGES


def delta_batch(mask: list[bool], words: int) -> tuple[memoryview, dict[str, int]]:
    """A batch of so many data pages from page 0 on."""
    data, zero = runs((0, len(mask))), runs()
    size = data_size(len(mask), sum(mask), words, PAGE)
    slot = memoryview(bytearray(100))
    end = write_tables(slot, 5, data, zero, [5], DeltaTable(np.array(mask), 77))
    assert size <= BLOCK_BYTES
    return slot[:end], counts(data, zero, [5]) | {"delta_pages": sum(mask), "delta_words": words}


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({"delta_pages": 0}, "a batch's"),
        ({"delta_pages": 1}, "its map names others"),
        ({"delta_pages": 3}, "its map names others"),
        ({"delta_pages": 0, "delta_words": 0}, "a batch's"),
        ({"delta_words": 819}, "declares 12290 bytes"),
        ({"delta_words": 2**32 - 1}, "declares"),
    ],
)
def test_a_header_that_says_something_else_of_deltas_is_refused(said: dict[str, int], why: str) -> None:
    payload, good = delta_batch([True, False, True], 3)
    read(payload, good)
    with pytest.raises(IntegrityError, match=why):
        read(payload, good | said)


def test_a_delta_map_names_no_page_behind_the_last() -> None:
    payload, good = delta_batch([True, False, True], 3)
    payload[5 + 8] = 0b1001  # the map is behind 5 bytes of data and one run
    with pytest.raises(IntegrityError, match="its map names others"):
        read(payload, good)
