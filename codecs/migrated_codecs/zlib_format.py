"""The zlib format (RFC 1950): ISA-L at the fast levels, zlib where a better ratio is asked for.

Levels, from 64 MiB of non-zero pages of live processes, Python sources and 9 % random bytes, in blocks of
256 KiB on one core (ratio, MB/s):

    ISA-L 0  3.13  440     zlib 1  3.44  88     zlib 4  3.74  58     zlib 7  3.91  26
    ISA-L 1  3.41  454     zlib 2  3.55  85     zlib 5  3.85  46     zlib 8  3.93  13
    ISA-L 2  3.44  447     zlib 3  3.64  70     zlib 6  3.90  30     zlib 9  3.93   8
    ISA-L 3  3.50  144

So ISA-L 1 to 3 are the fast levels - each denser than the one before, the first two five times as fast as
zlib 1 at its ratio - and zlib takes over at 4 with its own numbers. ISA-L 0 is no faster than 1. Measure
again with ``tests/bench/bench_codecs.py``, also on a memory image of your own.
"""

import zlib
from typing import TYPE_CHECKING, cast

from isal import igzip_lib

from migrated.compression.codec import Codec
from migrated.errors import IntegrityError

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["ZlibCodec"]

ISAL_LEVELS = 3
"""The levels up to this one are ISA-L's."""

CHUNK = 64 * 1024
"""Decompressed bytes taken at a time: well below 128 KiB, from where on an allocation costs page faults, and
all that a bomb can make us allocate. As fast as one call for the whole block (570 MB/s)."""

_IsalError = cast("type[Exception]", igzip_lib.error)


class ZlibCodec(Codec):
    """zlib format, readable by every zlib. ISA-L decodes what either library made, and checks Adler-32."""

    name = "zlib"

    @classmethod
    def describe_level(cls, level: int) -> str:
        return f"ISA-L {level}" if level <= ISAL_LEVELS else f"zlib {level}"

    def compress_into(self, source: "Buffer", target: memoryview) -> int:
        if self.level <= ISAL_LEVELS:
            packed = igzip_lib.compress(source, self.level, igzip_lib.COMP_ZLIB)
        else:
            packed = zlib.compress(source, self.level)
        if len(packed) > len(target):
            return 0
        target[: len(packed)] = packed
        return len(packed)

    def decompress_into(self, source: "Buffer", target: memoryview) -> None:
        stream = igzip_lib.IgzipDecompressor(igzip_lib.DECOMP_ZLIB)
        filled = 0
        fresh: Buffer = source
        while not stream.eof:
            # One byte more than there is room for tells a longer block from one of the right length, and
            # lets the decoder get to the checksum.
            try:
                chunk = stream.decompress(fresh, min(CHUNK, len(target) - filled + 1))
            except _IsalError as error:
                raise IntegrityError(f"a zlib block is damaged: {error}") from error
            if filled + len(chunk) > len(target):
                raise IntegrityError(f"a zlib block holds more than the {len(target)} bytes expected")
            if not chunk and not stream.eof:
                raise IntegrityError(f"a zlib block ends too early, after {filled} of {len(target)} bytes")
            target[filled : filled + len(chunk)] = chunk
            filled += len(chunk)
            fresh = b""
        if stream.unused_data:
            raise IntegrityError(f"{len(stream.unused_data)} foreign bytes follow a zlib block")
        if filled != len(target):
            raise IntegrityError(f"a zlib block holds {filled} bytes instead of {len(target)}")
