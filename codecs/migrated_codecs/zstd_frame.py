"""One Zstandard frame a block (RFC 8878), with its size in the header; the checksum is the batch's.

Levels, from 64 MiB of non-zero pages of live processes, Python sources and 9 % random bytes, in blocks of
256 KiB on one core (ratio, MB/s):

    zstd -1  3.57  330     zstd 3  4.01  204     zstd 6  4.17  73     zstd 9   4.20  47     zstd 15  4.46  6
    zstd 1   3.82  301     zstd 4  4.09   97     zstd 7  4.16  62     zstd 10  4.21  29     zstd 19  4.52  2
    zstd 2   3.96  254     zstd 5  4.11   85     zstd 8  4.18  57     zstd 12  4.22  14

Levels 1 to 6 are zstd's own. 7 is left out, since 6 is faster and denser; 10 to 12 give nothing over 9, so
the best ratio is zstd 15, for links so slow that 6 MB/s a core keep them full.
"""

from typing import TYPE_CHECKING

import zstandard

from migrated.compression.codec import Codec
from migrated.errors import IntegrityError

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["ZstdCodec"]

ZSTD_LEVELS = {1: 1, 2: 2, 3: 3, 4: 4, 5: 5, 6: 6, 7: 8, 8: 9, 9: 15}
"""The person's level to zstd's."""


class ZstdCodec(Codec):
    """zstd frames that declare their content's size. Both contexts are kept between calls."""

    name = "zstd"

    def __init__(self, level: int) -> None:
        super().__init__(level)
        self._compressor = zstandard.ZstdCompressor(
            level=ZSTD_LEVELS[level], write_content_size=True, write_checksum=False, write_dict_id=False
        )
        self._decompressor = zstandard.ZstdDecompressor()

    @classmethod
    def describe_level(cls, level: int) -> str:
        return f"zstd {ZSTD_LEVELS[level]}"

    def compress_into(self, source: "Buffer", target: memoryview) -> int:
        packed = self._compressor.compress(memoryview(source))
        if len(packed) > len(target):
            return 0
        target[: len(packed)] = packed
        return len(packed)

    def decompress_into(self, source: "Buffer", target: memoryview) -> None:
        size = len(target)
        packed = memoryview(source)
        try:
            frame = zstandard.get_frame_parameters(packed)
            # The library allocates what the frame declares, whatever max_output_size says: look first. Of the
            # window it never allocates more than that. An unknown size reads as 2**64-1.
            if frame.content_size != size:
                raise IntegrityError(f"a zstd frame declares {frame.content_size} bytes instead of {size}")
            # stream_reader().readinto() is as fast, but says nothing of a truncated frame or bytes behind it.
            raw = self._decompressor.decompress(packed, allow_extra_data=False)
        except zstandard.ZstdError as error:
            raise IntegrityError(f"a zstd frame of {size} bytes is damaged: {error}") from error
        if len(raw) != size:
            raise IntegrityError(f"a zstd frame holds {len(raw)} bytes instead of {size}")
        target[:] = raw
