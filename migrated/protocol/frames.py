"""What goes around every message: the preamble of a connection and the header of a frame.

    preamble   "MIGRATE" (7 bytes), wire format (u8)          each side sends it first, unasked
    frame      type (u8), flags (u8), reserved (u16), body length (u32), body        little-endian

Type 0 is never valid. Flags and the reserved field are 0 in this wire format, and anything else is an error,
so that they can get a meaning later. The wire format changes only if frames themselves do; what the messages
mean is the *version*, and the offer negotiates it.
"""

import struct

__all__ = ["BATCH_TYPE", "FRAME", "FRAME_BYTES", "MAGIC", "PREAMBLE", "WIRE_FORMAT"]

MAGIC = b"MIGRATE"
WIRE_FORMAT = 1
PREAMBLE = MAGIC + bytes([WIRE_FORMAT])

FRAME = struct.Struct("<BBHI")
FRAME_BYTES = FRAME.size

BATCH_TYPE = 3
"""The type of the only frame whose body is no message: a batch header and its payload."""
