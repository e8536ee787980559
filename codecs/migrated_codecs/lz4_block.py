"""The LZ4 block format, without a size in front: the batch knows the size.

Levels, from 64 MiB of non-zero pages of live processes, Python sources and 9 % random bytes, in blocks of
256 KiB on one core (ratio, MB/s):

    fast, acceleration 8  2.17  611     HC 2  3.06  133     HC 5  3.20  72     HC 8   3.24  49
    fast, acceleration 4  2.34  563     HC 3  3.13  116     HC 6  3.22  60     HC 9   3.24  31
    fast, acceleration 2  2.49  510     HC 4  3.17  100     HC 7  3.23  41     HC 12  3.27   5
    fast, acceleration 1  2.57  483

Level 1 is fast with acceleration 1: more of it loses ratio nearly as fast as it gains speed. Levels 2 to 9
are LZ4 HC of that number, whose merit is that it still decodes at 2 GB/s; where the source's core is what
counts, zstd 1 is faster and denser. HC 12 costs six times the time of HC 9 for 1 %.

cramjam and `lz4` are both LZ4's own C library. Level 1 and decoding go through cramjam, because it fills the
target where `lz4` returns fresh bytes. Compressing gains 2 to 10 %, and what does not shrink is given up early:
256 KiB of noise take 18 us instead of 314. Decoding: 3.1 against 0.6 GB/s with an untuned heap, 2.4 against 1.6
with a tuned one. HC is `lz4`'s: there the work is in the search, and copying the result costs nothing.
"""

from typing import TYPE_CHECKING

import cramjam
import lz4.block

from migrated.compression.codec import Codec
from migrated.errors import IntegrityError

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["Lz4Codec"]


class Lz4Codec(Codec):
    """LZ4 blocks: any LZ4 decoder that is told the size reads them."""

    name = "lz4"

    @classmethod
    def describe_level(cls, level: int) -> str:
        return "LZ4 fast" if level == 1 else f"LZ4 HC {level}"

    def compress_into(self, source: "Buffer", target: memoryview) -> int:
        if self.level == 1:
            try:
                size: int = cramjam.lz4.compress_block_into(source, target, store_size=False)
            except cramjam.CompressionError:  # it does not fit
                return 0
            return size
        packed = lz4.block.compress(source, mode="high_compression", compression=self.level, store_size=False)
        if len(packed) > len(target):
            return 0
        target[: len(packed)] = packed
        return len(packed)

    def decompress_into(self, source: "Buffer", target: memoryview) -> None:
        try:
            size = cramjam.lz4.decompress_block_into(source, target, output_len=len(target))
        except cramjam.DecompressionError as error:
            raise IntegrityError(f"an LZ4 block is damaged or has over {len(target)} bytes") from error
        if size != len(target):
            raise IntegrityError(f"an LZ4 block holds {size} bytes instead of {len(target)}")
