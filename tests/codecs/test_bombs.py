"""A small block must not make a destination allocate more than a small multiple of what it asked for.

Measured where it counts: in a process of its own whose address space may grow by HEADROOM only.
"""

import subprocess
import sys
import zlib

import lz4.block
import pytest
import snappy
import zstandard

HEADROOM = 16 << 20
BOMB = 128 << 20
TARGET = 4096

_PROGRAM = f"""
import re, resource, sys
from pathlib import Path
from migrated.compression import registry
from migrated.errors import IntegrityError

codec = registry.create(sys.argv[1], 1)
target = memoryview(bytearray({TARGET}))
small = bytearray(2 * {TARGET})
size = codec.compress_into(bytes({TARGET}), memoryview(small))
codec.decompress_into(small[:size], target)  # every lazy part of the codec is there now
block = sys.stdin.buffer.read()
used = 1024 * int(re.search(r"VmSize:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
resource.setrlimit(resource.RLIMIT_AS, (used + {HEADROOM}, used + {HEADROOM}))
try:
    bytearray(2 * {HEADROOM})
except MemoryError:
    pass
else:
    sys.exit("the limit does not hold")
try:
    codec.decompress_into(block, target)
except IntegrityError as error:
    print("refused:", error)
"""


def _zstd_header(window_log: int, size: int) -> bytes:
    """A frame's start: a window of its own, the content's size in two bytes, a raw block cut off."""
    magic, two_byte_size, raw_last_block = 0xFD2FB528, 0x40, 1 | (size << 3)
    return (
        magic.to_bytes(4, "little")
        + bytes([two_byte_size, (window_log - 10) << 3])
        + (size - 256).to_bytes(2, "little")
        + raw_last_block.to_bytes(3, "little")
        + b"start"
    )


BOMBS = {
    "zlib-long": ("zlib", lambda: zlib.compress(bytes(BOMB), 1)),
    "lz4-long": ("lz4", lambda: lz4.block.compress(bytes(BOMB), store_size=False)),
    "lz4-with-a-size": (
        "lz4",
        lambda: b"\xff\xff\xff\x7f" + lz4.block.compress(bytes(TARGET), store_size=False),
    ),
    "snappy-long": ("snappy", lambda: snappy.compress(bytes(BOMB))),
    "snappy-declares-4-gib": ("snappy", lambda: b"\xff\xff\xff\xff\x0f" + snappy.compress(bytes(TARGET))[2:]),
    "zstd-declared": ("zstd", lambda: zstandard.compress(bytes(BOMB))),
    "zstd-undeclared": (
        "zstd",
        lambda: zstandard.ZstdCompressor(write_content_size=False).compress(bytes(BOMB)),
    ),
    "zstd-window": ("zstd", lambda: _zstd_header(window_log=27, size=TARGET)),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_without_memory(name: str) -> None:
    codec, make = BOMBS[name]
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, codec], input=make(), capture_output=True, check=False, timeout=60
    )
    assert done.stderr == b""
    assert done.returncode == 0
    assert done.stdout.startswith(b"refused:")
