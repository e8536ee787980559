"""One Zstandard frame a block (RFC 8878), with its size in the header; the checksum is the batch's.

From 64 MiB of files as a page cache holds them (60 % programs, 25 % texts, 15 % data), on one core (ratio, the better
MB/s of 2 runs):

                       blocks of 256 KiB    of 1 MiB      of 4 MiB
    level 1: fast 14       2.89  417       2.93  407     2.94  415
    level 2: fast 15       2.91  410       2.96  388     2.97  396
    level 3: zstd 3        2.98  313       3.08  292     3.11  277
    level 6: zstd 6        3.13  110       3.25  106     3.30  104
    level 7: zstd 8        3.15   87       3.28   75     3.35   68
    level 8: zstd 9        3.15   86       3.28   59     3.37   60

In blocks over 256 KiB zstd's own levels 1 and 2 look for matches of 7 and 6 bytes. What memory repeats is shorter,
pointers and instructions, so the first two levels here look for 5, in a table of 2**14 or 2**15 entries: zstd 2's
ratio, 10 to 20 % faster. Of zstd's own levels 4 gives no more than 3; 7 is left out, since 6 is faster and hardly less
dense; 10 to 12 give nothing over 9, so the best ratio is zstd 15, for links so slow that 10 MB/s a core keep them
full.
"""

from typing import TYPE_CHECKING

import zstandard

from migrated.compression.codec import Codec
from migrated.errors import IntegrityError

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["ZstdCodec"]

ZSTD_LEVELS = {3: 3, 4: 4, 5: 5, 6: 6, 7: 8, 8: 9, 9: 15}
"""The person's level to zstd's, from the third on."""

FAST_HASH_LOGS = {1: 14, 2: 15}
"""The first two are zstd's fastest strategy with a hash table of 2**so many entries: 64 and 128 KiB."""

_FAST_MATCH = 5
_WINDOW_LOG = 22
"""A window of a whole block: 4 MiB. A frame that asks for more is refused."""


class ZstdCodec(Codec):
    """zstd frames that declare their content's size. Both contexts are kept between calls."""

    name = "zstd"

    def __init__(self, level: int) -> None:
        super().__init__(level)
        self._compressor = zstandard.ZstdCompressor(compression_params=_parameters(level))
        self._decompressor = zstandard.ZstdDecompressor(max_window_size=1 << _WINDOW_LOG)

    @classmethod
    def describe_level(cls, level: int) -> str:
        return f"zstd {ZSTD_LEVELS[level]}" if level in ZSTD_LEVELS else f"zstd fast {FAST_HASH_LOGS[level]}"

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
            # Only a frame that fills the target exactly is decompressed straight into it, without a window of its
            # own: look first. An unknown size reads as 2**64-1.
            if frame.content_size != size:
                raise IntegrityError(f"a zstd frame declares {frame.content_size} bytes instead of {size}")
            reader = self._decompressor.stream_reader(packed, read_across_frames=True)
            got = reader.readinto(target)
            if got != size:
                raise IntegrityError(f"a zstd frame holds {got} bytes instead of {size}")
            if reader.read(1):
                raise IntegrityError(f"behind a zstd frame of {size} bytes is another one")
        except zstandard.ZstdError as error:
            raise IntegrityError(f"a zstd frame of {size} bytes is damaged: {error}") from error


def _parameters(level: int) -> zstandard.ZstdCompressionParameters:
    frame = {"write_content_size": True, "write_checksum": False, "write_dict_id": False}
    if level in ZSTD_LEVELS:
        return zstandard.ZstdCompressionParameters.from_level(ZSTD_LEVELS[level], **frame)
    return zstandard.ZstdCompressionParameters(
        window_log=_WINDOW_LOG,
        chain_log=FAST_HASH_LOGS[level],
        hash_log=FAST_HASH_LOGS[level],
        search_log=1,
        min_match=_FAST_MATCH,
        target_length=0,
        strategy=zstandard.STRATEGY_FAST,
        **frame,
    )
