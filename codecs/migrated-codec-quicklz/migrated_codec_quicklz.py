"""QuickLZ 1.4.1 as pyquicklz builds it: level 3, no streaming, not memory-safe.

A block starts with a header: flags; then compressed length (with the header) and decompressed length, one
byte each or, with flag 2, a little-endian u32 each. Flag 1: compressed, else the bytes follow as they are.
Bits 2 and 3: QuickLZ's level.
"""

import struct
from typing import TYPE_CHECKING

import quicklz

from migrated.compression.codec import Codec
from migrated.errors import IntegrityError

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["QuickLzCodec"]

COMPRESSED, LONG = 0x01, 0x02
LEVEL_SHIFT, LEVEL_MASK, LEVEL = 2, 0x03, 3
SHORT_HEADER, LONG_HEADER = struct.Struct("<BBB"), struct.Struct("<BII")


class QuickLzCodec(Codec):
    """QuickLZ blocks. The header is checked before it is believed; what follows it is trusted."""

    name = "quicklz"
    trusts_input = True

    @classmethod
    def describe_level(cls, level: int) -> str:
        del level
        return f"QuickLZ {LEVEL}"

    def compress_into(self, source: "Buffer", target: memoryview) -> int:
        # pyquicklz takes bytes only, and makes nothing of nothing.
        packed = quicklz.compress(bytes(source))
        if len(packed) > len(target):
            return 0
        target[: len(packed)] = packed
        return len(packed)

    def decompress_into(self, source: "Buffer", target: memoryview) -> None:
        packed = bytes(source)
        _check_header(packed, len(target))
        raw = quicklz.decompress(packed)
        if len(raw) != len(target):
            raise IntegrityError(f"a QuickLZ block holds {len(raw)} bytes instead of {len(target)}")
        target[:] = raw


def _check_header(packed: bytes, size: int) -> None:
    """Raise IntegrityError unless the header says what is true: the lengths, and the level we can decode."""
    header = LONG_HEADER if packed[:1] and packed[0] & LONG else SHORT_HEADER
    if len(packed) < header.size:
        raise IntegrityError("a QuickLZ block ends within its header")
    flags, compressed, decompressed = header.unpack_from(packed)
    if (flags >> LEVEL_SHIFT) & LEVEL_MASK != LEVEL:
        raise IntegrityError(f"a QuickLZ block is not of level {LEVEL}, the only one that pyquicklz reads")
    if (compressed, decompressed) != (len(packed), size):
        raise IntegrityError(
            f"a QuickLZ block declares {compressed} bytes for {decompressed}, and is {len(packed)} for {size}"
        )
    if not flags & COMPRESSED and len(packed) != header.size + size:
        raise IntegrityError("a stored QuickLZ block is not as long as what it holds")
