import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrated.protocol.batch import (
    BLOCK_BYTES,
    HEADER_BYTES,
    RAW_CODEC,
    BatchHeader,
    BatchLimits,
    block_count,
    data_size,
    delta_table_size,
    max_payload,
)

U32 = st.integers(0, (1 << 32) - 1)
HEADERS = st.builds(
    BatchHeader,
    round=U32,
    sequence=U32,
    region=st.integers(0, (1 << 16) - 1),
    codec=st.integers(0, 255),
    level=st.integers(0, 255),
    data_pages=U32,
    zero_pages=U32,
    data_runs=U32,
    zero_runs=U32,
    blocks=U32,
    payload_bytes=U32,
    checksum=st.integers(0, (1 << 64) - 1),
    delta_pages=U32,
    delta_words=U32,
)
LIMITS = st.builds(
    BatchLimits,
    batch_pages=st.integers(1, 2048),
    page_size=st.sampled_from([4096, 65536]),
    region_pages=st.lists(st.integers(1, 1 << 20), min_size=1, max_size=3).map(tuple),
    codecs=st.integers(0, 4),
    deltas=st.booleans(),
)


@st.composite
def good_batches(draw: st.DrawFn) -> tuple[BatchLimits, BatchHeader]:
    limits = draw(LIMITS)
    region = draw(st.integers(0, len(limits.region_pages) - 1))
    pages = limits.region_pages[region]
    data_pages = draw(st.integers(0, min(limits.batch_pages, pages)))
    room = min(limits.batch_pages, pages) - data_pages
    zero_pages = draw(st.integers(0 if data_pages else 1, max(room, 0 if data_pages else 1)))
    data_runs = draw(st.integers(min(1, data_pages), data_pages))
    zero_runs = draw(st.integers(min(1, zero_pages), zero_pages))
    codec = draw(st.integers(RAW_CODEC, RAW_CODEC + limits.codecs))
    delta_pages = draw(st.integers(0, data_pages if limits.deltas else 0))
    most = (delta_pages * limits.page_size - 2 * delta_pages) // 10
    delta_words = draw(st.integers(delta_pages, most))
    data_bytes = data_size(data_pages, delta_pages, delta_words, limits.page_size)
    blocks = block_count(data_bytes)
    stored = data_bytes if codec == RAW_CODEC else draw(st.integers(blocks, data_bytes))
    return limits, BatchHeader(
        round=draw(st.integers(1, 1 << 31)),
        sequence=draw(st.integers(1, 1 << 31)),
        region=region,
        codec=codec,
        level=0 if codec == RAW_CODEC else draw(st.integers(1, 9)),
        data_pages=data_pages,
        zero_pages=zero_pages,
        data_runs=data_runs,
        zero_runs=zero_runs,
        blocks=blocks,
        payload_bytes=8 * (data_runs + zero_runs)
        + delta_table_size(data_pages, delta_pages)
        + 4 * blocks
        + stored,
        checksum=draw(st.integers(0, (1 << 64) - 1)),
        delta_pages=delta_pages,
        delta_words=delta_words,
    )


@given(HEADERS)
def test_headers_round_trip(header: BatchHeader) -> None:
    packed = header.pack()
    assert len(packed) == HEADER_BYTES <= 64
    assert BatchHeader.unpack(packed + b"behind") == header
    assert BatchHeader.unpack(memoryview(packed)) == header


@given(good_batches())
def test_every_good_header_passes_and_fits_the_largest_payload(
    batch: tuple[BatchLimits, BatchHeader],
) -> None:
    limits, header = batch
    header.check(limits)
    assert header.payload_bytes <= limits.max_payload


@given(HEADERS, LIMITS)
def test_no_header_goes_beyond_the_limits(header: BatchHeader, limits: BatchLimits) -> None:
    try:
        header.check(limits)
    except ValueError:
        return
    assert header.data_pages <= limits.batch_pages
    assert header.data_pages + header.zero_pages <= limits.region_pages[header.region]
    assert header.payload_bytes <= limits.max_payload
    assert header.delta_pages <= header.data_pages


@given(good_batches(), st.data())
def test_a_changed_number_never_asks_for_more(
    batch: tuple[BatchLimits, BatchHeader], data: st.DataObject
) -> None:
    limits, header = batch
    name = data.draw(st.sampled_from([field.name for field in dataclasses.fields(header)]))
    changed = dataclasses.replace(header, **{name: data.draw(st.integers(0, 255) | U32)})
    try:
        changed.check(limits)
    except ValueError:
        return
    assert changed.data_pages <= limits.batch_pages
    assert changed.payload_bytes <= limits.max_payload
    size = data_size(changed.data_pages, changed.delta_pages, changed.delta_words, limits.page_size)
    assert 0 <= size <= changed.data_pages * limits.page_size


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"round": 0}, "count from 1"),
        ({"sequence": 0}, "count from 1"),
        ({"region": 2}, "region 2 of 2"),
        ({"codec": 0}, "codec 0"),
        ({"codec": 4}, "2 were agreed on"),
        ({"level": 0}, "level 0 of codec 2"),
        ({"level": 10}, "level 10"),
        ({"codec": RAW_CODEC}, "level 1 of codec 1"),
        ({"codec": RAW_CODEC, "level": 0}, "payload of 35"),
        ({"data_pages": 65}, "64 were agreed on"),
        ({"data_pages": 0, "zero_pages": 0}, "0 pages"),
        ({"data_pages": 7}, "67 pages, 64 were agreed on"),
        ({"zero_pages": 254}, "257 pages, 64 were agreed on"),
        ({"region": 1}, "region of 1"),
        ({"data_runs": 0}, "0 runs of 3"),
        ({"data_runs": 4}, "4 runs of 3"),
        ({"zero_runs": 0}, "0 runs of 60"),
        ({"zero_pages": 0}, "1 runs of 0"),
        ({"blocks": 0}, "0 blocks"),
        ({"blocks": 2}, "2 blocks"),
        ({"payload_bytes": 28}, "payload of 28 bytes, not 29 to"),
        ({"payload_bytes": 28 + 3 * 4096 + 1}, "not 29 to 12316"),
    ],
)
def test_check_names_what_is_wrong(
    header: BatchHeader, limits: BatchLimits, change: dict[str, int], why: str
) -> None:
    header.check(limits)
    with pytest.raises(ValueError, match=why):
        dataclasses.replace(header, **change).check(limits)


@pytest.mark.parametrize(
    "change",
    [
        {"delta_pages": 0},
        {"delta_pages": 4},
        {"delta_words": 0},
        {"delta_words": 1},
        {"delta_words": 819},
        {"delta_words": (1 << 32) - 1},
        {"delta_pages": (1 << 32) - 1, "delta_words": (1 << 32) - 1},
    ],
)
def test_deltas_that_cannot_be_are_refused(
    header: BatchHeader, limits: BatchLimits, change: dict[str, int]
) -> None:
    limits = dataclasses.replace(limits, deltas=True)
    tables = 3 * 8 + 12 + 4
    good = dataclasses.replace(header, delta_pages=2, delta_words=5, payload_bytes=tables + 1)
    good.check(limits)
    dataclasses.replace(good, delta_words=818).check(limits)  # 8,184 of 8,192 bytes
    with pytest.raises(ValueError, match="delta pages of 3"):
        dataclasses.replace(good, **change).check(limits)


def test_deltas_have_to_be_agreed_on(header: BatchHeader, limits: BatchLimits) -> None:
    deltas = dataclasses.replace(header, delta_pages=2, delta_words=5, payload_bytes=3 * 8 + 12 + 4 + 1)
    deltas.check(dataclasses.replace(limits, deltas=True))
    with pytest.raises(ValueError, match="not agreed on"):
        deltas.check(limits)


def test_words_of_a_delta_have_16_bits_for_their_place(header: BatchHeader) -> None:
    for size, fits in ((256 << 10, True), (512 << 10, False)):
        limits = BatchLimits(batch_pages=64, page_size=size, region_pages=(256,), codecs=1, deltas=True)
        blocks = block_count(data_size(3, 2, 5, size))
        batch = dataclasses.replace(
            header, delta_pages=2, delta_words=5, blocks=blocks, payload_bytes=3 * 8 + 12 + 5 * blocks
        )
        if fits:
            batch.check(limits)
        else:
            with pytest.raises(ValueError, match="delta pages"):
                batch.check(limits)


def test_a_slot_holds_the_largest_batch_of_deltas() -> None:
    pages = 1000
    runs, table, blocks = 8 * pages, delta_table_size(pages, pages), 4 * block_count(pages * 4096)
    assert max_payload(pages, 4096) == pages * 4096 + runs + table + blocks


def test_zero_pages_count_towards_the_batch(header: BatchHeader) -> None:
    limits = BatchLimits(batch_pages=64, page_size=4096, region_pages=(1 << 20,), codecs=1)
    data_pages = header.data_pages
    most = dataclasses.replace(
        header,
        zero_pages=64 - data_pages,
        zero_runs=1,
        payload_bytes=header.payload_bytes + 8 * (1 - header.zero_runs),
    )
    most.check(limits)
    with pytest.raises(ValueError, match="were agreed on"):
        dataclasses.replace(most, zero_pages=65 - data_pages).check(limits)


def test_blocks_are_cut_of_raw_bytes() -> None:
    assert [block_count(size) for size in (0, 1, BLOCK_BYTES, BLOCK_BYTES + 1)] == [0, 1, 1, 2]


def test_number_without_room_is_refused(header: BatchHeader) -> None:
    with pytest.raises(ValueError, match="batch header"):
        dataclasses.replace(header, payload_bytes=1 << 32).pack()
