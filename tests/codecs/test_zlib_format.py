import zlib

import pytest
from migrated_codecs.zlib_format import CHUNK, ZlibCodec

from migrated.errors import IntegrityError


@pytest.mark.parametrize("level", range(1, 10))
def test_zlib_reads_what_we_write(level: int, mixed: bytes) -> None:
    target = memoryview(bytearray(2 * len(mixed)))
    size = ZlibCodec(level).compress_into(mixed, target)
    assert zlib.decompress(target[:size]) == mixed


@pytest.mark.parametrize("level", [0, 1, 6, 9])
def test_we_read_what_zlib_writes(level: int, mixed: bytes) -> None:
    target = bytearray(len(mixed))
    ZlibCodec(1).decompress_into(zlib.compress(mixed, level), memoryview(target))
    assert target == mixed


@pytest.mark.parametrize("size", [CHUNK - 1, CHUNK, CHUNK + 1, 4 * CHUNK])
def test_sizes_around_the_chunk(size: int) -> None:
    raw = bytes(range(256)) * (size // 256) + bytes(size % 256)
    target = bytearray(size)
    ZlibCodec(1).decompress_into(zlib.compress(raw), memoryview(target))
    assert target == raw


def test_the_checksum_is_checked(mixed: bytes) -> None:
    block = bytearray(zlib.compress(mixed))
    block[-1] ^= 1
    with pytest.raises(IntegrityError, match="checksum"):
        ZlibCodec(1).decompress_into(block, memoryview(bytearray(len(mixed))))


def test_a_block_that_wants_a_dictionary_is_damaged(mixed: bytes) -> None:
    stream = zlib.compressobj(zdict=mixed[:1000])
    block = stream.compress(mixed) + stream.flush()
    with pytest.raises(IntegrityError):
        ZlibCodec(1).decompress_into(block, memoryview(bytearray(len(mixed))))
