import random

import pytest
import zstandard
from migrated_codecs.zstd_frame import ZstdCodec

from migrated.errors import IntegrityError


@pytest.mark.parametrize("level", range(1, 10))
def test_zstd_reads_what_we_write(level: int, mixed: bytes) -> None:
    target = memoryview(bytearray(2 * len(mixed)))
    size = ZstdCodec(level).compress_into(mixed, target)
    assert zstandard.decompress(target[:size]) == mixed


@pytest.mark.parametrize("how", [{}, {"write_checksum": True}, {"level": 19}, {"level": -5}])
def test_we_read_what_zstd_writes(how: dict[str, int], mixed: bytes) -> None:
    target = bytearray(len(mixed))
    ZstdCodec(1).decompress_into(zstandard.ZstdCompressor(**how).compress(mixed), memoryview(target))
    assert target == mixed


def test_a_frame_must_declare_its_size(mixed: bytes) -> None:
    frame = zstandard.ZstdCompressor(write_content_size=False).compress(mixed)
    with pytest.raises(IntegrityError, match="declares"):
        ZstdCodec(1).decompress_into(frame, memoryview(bytearray(len(mixed))))


def test_a_checksum_that_is_there_is_checked(mixed: bytes) -> None:
    frame = bytearray(zstandard.ZstdCompressor(write_checksum=True).compress(mixed))
    frame[-1] ^= 1
    with pytest.raises(IntegrityError, match="checksum"):
        ZstdCodec(1).decompress_into(frame, memoryview(bytearray(len(mixed))))


def test_a_skippable_frame_holds_nothing() -> None:
    frame = b"\x50\x2a\x4d\x18" + (100).to_bytes(4, "little") + bytes(100)
    with pytest.raises(IntegrityError):
        ZstdCodec(1).decompress_into(frame, memoryview(bytearray(100)))


@pytest.mark.parametrize("level", [1, 2])
def test_the_first_levels_find_what_is_short(level: int) -> None:
    """Five bytes that come again, as the upper ones of pointers do: in a block of 1 MiB zstd's own level 1 does not
    look for them."""
    rng = random.Random(1)
    upper = [rng.randbytes(3) + b"\x7f\x55" for _ in range(1000)]
    block = b"".join(rng.choice(upper) + rng.randbytes(2) for _ in range((1 << 20) // 7))
    size = ZstdCodec(level).compress_into(block, memoryview(bytearray(len(block))))
    assert 0 < size < 0.8 * len(zstandard.ZstdCompressor(level=1).compress(block))


def test_a_second_frame_is_noticed(mixed: bytes) -> None:
    frame = zstandard.compress(mixed)
    with pytest.raises(IntegrityError, match="behind"):
        ZstdCodec(1).decompress_into(frame + frame, memoryview(bytearray(len(mixed))))


def test_a_window_larger_than_a_block_is_refused(mixed: bytes) -> None:
    """Nothing that arrives makes us set memory aside for it."""
    packer = zstandard.ZstdCompressor(
        compression_params=zstandard.ZstdCompressionParameters(window_log=27)
    ).compressobj()
    wide = packer.compress(mixed) + packer.flush()
    with pytest.raises(IntegrityError, match="damaged"):
        ZstdCodec(1).decompress_into(zstandard.compress(mixed) + wide, memoryview(bytearray(len(mixed))))
