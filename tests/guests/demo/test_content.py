"""Pages of the demo guest look like memory, and are the same everywhere."""

import numpy as np
import pytest
import xxhash
import zstandard

from migrated.guests.demo.content import Kind, Words, expected_pages, kinds_of_groups, stream


def _pages(kind: Kind, count: int, version: int = 0, first: int = 0) -> Words:
    numbers = np.arange(first, first + count, dtype=np.uint64)
    return expected_pages(7, numbers, np.full(count, version, np.uint64), np.full(count, kind, np.uint8))


def _ratio(rows: Words) -> float:
    compressor, raw = zstandard.ZstdCompressor(level=1), rows.tobytes()
    packed = sum(len(compressor.compress(raw[at : at + 262144])) for at in range(0, len(raw), 262144))
    return len(raw) / packed


@pytest.mark.parametrize(
    ("kind", "low", "high"), [(Kind.TEXT, 2.5, 3.0), (Kind.CODE, 1.9, 2.4), (Kind.RANDOM, 0.99, 1.01)]
)
def test_each_kind_compresses_as_what_it_stands_for(kind: Kind, low: float, high: float) -> None:
    assert low < _ratio(_pages(kind, 1024)) < high


def test_zero_pages_and_every_sixteenth_version_are_zero() -> None:
    assert not _pages(Kind.ZERO, 16, 3).any()
    assert not _pages(Kind.TEXT, 16, 15).any()
    assert not _pages(Kind.RANDOM, 16, 31).any()
    assert _pages(Kind.TEXT, 16, 16).any(axis=1).all()


def test_no_two_pages_or_versions_are_alike() -> None:
    rows = [_pages(kind, 50, version) for kind in Kind if kind for version in range(4)]
    digests = {row.tobytes() for part in rows for row in part}
    assert len(digests) == 3 * 4 * 50


def test_a_page_does_not_hang_on_its_neighbours() -> None:
    alone, among = _pages(Kind.CODE, 1, first=9), _pages(Kind.CODE, 20)
    assert np.array_equal(alone[0], among[9])


def test_kinds_keep_the_proportions_everywhere() -> None:
    kinds = kinds_of_groups(11, (20, 40, 30, 10), 8192)
    for part in (kinds, kinds[1000:1200], kinds[-200:]):
        shares = np.bincount(part, minlength=4) / len(part)
        assert np.allclose(shares, (0.2, 0.4, 0.3, 0.1), atol=0.02)
    assert set(kinds_of_groups(1, (0, 0, 0, 1), 100).tolist()) == {Kind.RANDOM}


def test_content_is_frozen() -> None:
    """A guest must find its own bytes at a host with another numpy, or another version of migrated."""
    rows = np.concatenate([_pages(kind, 64, 5) for kind in Kind])
    assert f"{xxhash.xxh3_64_intdigest(rows.tobytes()):016x}" == "1d587f1c757deeb1"
    assert stream(1, 2, 1).tolist() == [13757245211066428519]
