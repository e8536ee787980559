"""Every registered codec keeps the contract of `Codec`, at every level, over every kind of buffer.

A codec that is installed beside ours is tested too; one that trusts its input is spared the damaged input.
"""

import mmap
import random
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typing_extensions import Buffer

from migrated.compression import registry
from migrated.compression.codec import MAX_LEVEL, MIN_LEVEL, Codec
from migrated.errors import IntegrityError

NAMES = registry.names()
SAFE = [name for name in NAMES if not registry.info(name).trusts_input]
LEVELS = range(MIN_LEVEL, MAX_LEVEL + 1)
ALL = [pytest.param(name, level, id=f"{name}-{level}") for name in NAMES for level in LEVELS]
CANARY = 64


def _anonymous_map(data: bytes) -> Buffer:
    mapped = mmap.mmap(-1, len(data))
    mapped[:] = data
    return mapped


BUFFERS: dict[str, Callable[[bytes], Buffer]] = {
    "bytes": bytes,
    "bytearray": bytearray,
    "memoryview": lambda data: memoryview(b"--" + data + b"--")[2:-2],
    "memoryview of bytearray": lambda data: memoryview(bytearray(data)),
    "numpy bytes": lambda data: np.frombuffer(data, dtype=np.uint8),
    "mmap": _anonymous_map,
}


class Fenced:
    """A writable target within a larger buffer, and whether anything around it was written."""

    def __init__(self, size: int) -> None:
        self._all = bytearray(b"\xa5" * (size + 2 * CANARY))
        self.view = memoryview(self._all)[CANARY : CANARY + size]

    def assert_fence_stands(self) -> None:
        assert self._all[:CANARY] == b"\xa5" * CANARY
        assert self._all[len(self._all) - CANARY :] == b"\xa5" * CANARY


def packed(codec: Codec, raw: Buffer, room: int = 0) -> bytes:
    target = Fenced(room or memoryview(raw).nbytes * 2 + 1024)
    size = codec.compress_into(raw, target.view)
    target.assert_fence_stands()
    assert 0 < size <= len(target.view)
    return bytes(target.view[:size])


def unpacked(codec: Codec, block: Buffer, size: int) -> bytes:
    target = Fenced(size)
    try:
        codec.decompress_into(block, target.view)
    finally:
        target.assert_fence_stands()
    return bytes(target.view)


@pytest.fixture(scope="module", params=NAMES)
def codec(request: pytest.FixtureRequest) -> Codec:
    return registry.create(request.param, 1)


@pytest.fixture(scope="module", params=SAFE)
def safe_codec(request: pytest.FixtureRequest) -> Codec:
    return registry.create(request.param, 1)


def test_the_four_codecs_are_there() -> None:
    assert {"zlib", "lz4", "snappy", "zstd"} <= set(NAMES)


@pytest.mark.parametrize(("name", "level"), ALL)
def test_what_goes_in_comes_out(name: str, level: int, samples: dict[str, bytes]) -> None:
    codec = registry.create(name, level)
    reader = registry.create(name, MIN_LEVEL)
    for what, raw in samples.items():
        assert unpacked(reader, packed(codec, raw), len(raw)) == raw, what


@pytest.mark.parametrize("kind", BUFFERS)
def test_any_buffer_is_a_source(codec: Codec, kind: str, mixed: bytes) -> None:
    make = BUFFERS[kind]
    block = packed(codec, make(mixed))
    assert block == packed(codec, mixed)
    assert unpacked(codec, make(block), len(mixed)) == mixed


def test_items_and_dimensions_of_a_buffer_do_not_matter(codec: Codec, mixed: bytes) -> None:
    words = np.frombuffer(mixed, dtype=np.uint64).reshape(-1, 512)
    for source in (words, memoryview(words)):
        assert packed(codec, source) == packed(codec, mixed)


def test_a_target_may_be_shared_memory(codec: Codec, mixed: bytes) -> None:
    with mmap.mmap(-1, 4 * len(mixed)) as arena, memoryview(arena) as view:
        size = codec.compress_into(mixed, view[: 2 * len(mixed)])
        codec.decompress_into(view[:size], view[2 * len(mixed) : 3 * len(mixed)])
        assert view[2 * len(mixed) : 3 * len(mixed)] == mixed


@pytest.mark.parametrize(("name", "level"), ALL)
def test_what_does_not_fit_is_zero_bytes(name: str, level: int, mixed: bytes) -> None:
    codec = registry.create(name, level)
    size = len(packed(codec, mixed))
    assert len(packed(codec, mixed, room=size)) == size
    for room in (size - 1, 1, 0):
        target = Fenced(room)
        assert codec.compress_into(mixed, target.view) == 0
        target.assert_fence_stands()


def test_random_bytes_do_not_shrink(codec: Codec) -> None:
    raw = random.Random(5).randbytes(4096)
    assert codec.compress_into(raw, memoryview(bytearray(len(raw) - 1))) == 0


@pytest.mark.parametrize("name", NAMES)
def test_the_best_level_is_no_worse_than_the_fastest(name: str, mixed: bytes) -> None:
    fastest, best = (len(packed(registry.create(name, level), mixed)) for level in (MIN_LEVEL, MAX_LEVEL))
    assert best <= fastest < 0.7 * len(mixed)


@pytest.mark.parametrize("name", NAMES)
def test_levels_outside_the_scale_are_refused(name: str) -> None:
    cls = type(registry.create(name, MIN_LEVEL))
    for level in (MIN_LEVEL - 1, MAX_LEVEL + 1, -1):
        with pytest.raises(ValueError, match=str(level)):
            cls(level)


@pytest.mark.parametrize("name", NAMES)
def test_every_level_is_described(name: str) -> None:
    assert all(registry.info(name).levels[level] for level in LEVELS)


@settings(max_examples=60, deadline=None)
@given(
    level=st.sampled_from(LEVELS),
    pieces=st.lists(
        st.tuples(st.binary(min_size=1, max_size=64), st.integers(min_value=1, max_value=300)),
        min_size=1,
        max_size=20,
    ),
)
def test_any_bytes_come_back(codec: Codec, level: int, pieces: list[tuple[bytes, int]]) -> None:
    raw = b"".join(piece * times for piece, times in pieces)
    assert unpacked(codec, packed(registry.create(codec.name, level), raw), len(raw)) == raw


@pytest.mark.parametrize("name", SAFE)
def test_nothing_comes_back_as_nothing(name: str) -> None:
    codec = registry.create(name, MIN_LEVEL)
    block = packed(codec, b"")
    assert unpacked(codec, block, 0) == b""
    with pytest.raises(IntegrityError):
        unpacked(codec, block, 1)


def test_the_size_must_be_exact(codec: Codec, mixed: bytes) -> None:
    block = packed(codec, mixed)
    for size in (0, 1, len(mixed) - 1, len(mixed) + 1, 2 * len(mixed)):
        with pytest.raises(IntegrityError):
            unpacked(codec, block, size)
    assert unpacked(codec, block, len(mixed)) == mixed, "an error must not spoil the next call"


def test_every_truncation_is_noticed(safe_codec: Codec, samples: dict[str, bytes]) -> None:
    raw = samples["a page of text"]
    block = packed(safe_codec, raw)
    for length in range(len(block)):
        with pytest.raises(IntegrityError):
            unpacked(safe_codec, block[:length], len(raw))


def test_bytes_behind_a_block_are_noticed(safe_codec: Codec, mixed: bytes) -> None:
    block = packed(safe_codec, mixed)
    for tail in (b"\x00", b"x", block):
        with pytest.raises(IntegrityError):
            unpacked(safe_codec, block + tail, len(mixed))


@settings(max_examples=300, deadline=None)
@given(garbage=st.binary(max_size=400), size=st.integers(min_value=0, max_value=5000))
def test_garbage_is_an_integrity_error_or_fills_the_target(
    safe_codec: Codec, garbage: bytes, size: int
) -> None:
    try:
        unpacked(safe_codec, garbage, size)
    except IntegrityError:
        return


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_damage_is_an_integrity_error_or_fills_the_target(safe_codec: Codec, data: st.DataObject) -> None:
    raw = b"live migration of memory in use " * 20 + bytes(range(256)) + bytes(400)
    block = bytearray(packed(safe_codec, raw))
    for _ in range(data.draw(st.integers(min_value=1, max_value=4))):
        block[data.draw(st.integers(min_value=0, max_value=len(block) - 1))] = data.draw(st.integers(0, 255))
    try:
        unpacked(safe_codec, block, len(raw))
    except IntegrityError:
        return


@pytest.mark.parametrize("name", SAFE)
def test_another_codecs_block_is_refused(name: str, mixed: bytes) -> None:
    codec = registry.create(name, MIN_LEVEL)
    for other in set(NAMES) - {name}:
        with pytest.raises(IntegrityError):
            unpacked(codec, packed(registry.create(other, MIN_LEVEL), mixed), len(mixed))
