"""Write the frozen blocks of `fixtures/` for codecs and levels that have none yet.

    .venv/bin/python tests/codecs/make_fixtures.py

A block that is there is never written again: it stands for what a released version sent. If a test says that
one cannot be read any more, the codec has changed its format, and wants a new name on the wire instead.
"""

import hashlib
import json
import random
from pathlib import Path

from migrated.compression import registry

FIXTURES = Path(__file__).parent / "fixtures"
LEVELS = (1, 3, 6, 9)
CODECS = ("lz4", "snappy", "zlib", "zstd")


def raw_block() -> bytes:
    """A small block with what memory has: text, pointers, zeros, and bytes that do not shrink."""
    text = b"".join(
        b"round %d: %d pages dirty, %d sent\n" % (n, n * 7919 % 512, n * 104729 % 4096) for n in range(90)
    )
    pointers = b"".join((0x7F55_1000_0000 + n * n * 48).to_bytes(8, "little") for n in range(384))
    return text + pointers + bytes(2000) + random.Random(7).randbytes(700)


def main() -> None:
    index_file = FIXTURES / "index.json"
    index = json.loads(index_file.read_text()) if index_file.exists() else {}
    raw = raw_block()
    for codec in CODECS:
        for level in LEVELS:
            file = f"{codec}-{level}.bin"
            if file in index:
                continue
            target = memoryview(bytearray(2 * len(raw)))
            size = registry.create(codec, level).compress_into(raw, target)
            (FIXTURES / file).write_bytes(target[:size])
            index[file] = {
                "codec": codec,
                "raw_bytes": len(raw),
                "raw_sha256": hashlib.sha256(raw).hexdigest(),
            }
            print("made", file, size)
    index_file.write_text(json.dumps(index, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
