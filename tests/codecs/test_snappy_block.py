import snappy
from migrated_codecs.snappy_block import SnappyCodec


def test_snappy_reads_what_we_write(mixed: bytes) -> None:
    target = memoryview(bytearray(2 * len(mixed)))
    size = SnappyCodec(1).compress_into(mixed, target)
    assert snappy.uncompress(bytes(target[:size])) == mixed


def test_we_read_what_snappy_writes(mixed: bytes) -> None:
    target = bytearray(len(mixed))
    SnappyCodec(1).decompress_into(snappy.compress(mixed), memoryview(target))
    assert target == mixed
