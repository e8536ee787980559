import lz4.block
import pytest
from migrated_codecs.lz4_block import Lz4Codec


@pytest.mark.parametrize("level", range(1, 10))
def test_lz4_reads_what_we_write(level: int, mixed: bytes) -> None:
    target = memoryview(bytearray(2 * len(mixed)))
    size = Lz4Codec(level).compress_into(mixed, target)
    assert lz4.block.decompress(target[:size], uncompressed_size=len(mixed)) == mixed


@pytest.mark.parametrize("how", [{}, {"mode": "fast", "acceleration": 8}, {"mode": "high_compression"}])
def test_we_read_what_lz4_writes(how: dict[str, object], mixed: bytes) -> None:
    target = bytearray(len(mixed))
    Lz4Codec(1).decompress_into(lz4.block.compress(mixed, store_size=False, **how), memoryview(target))
    assert target == mixed
