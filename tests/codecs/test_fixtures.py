"""Blocks that older versions sent are still read: see `make_fixtures.py`."""

import hashlib
import json
from pathlib import Path

import pytest

from migrated.compression import registry

FIXTURES = Path(__file__).parent / "fixtures"
INDEX = json.loads((FIXTURES / "index.json").read_text())


def test_every_codec_of_ours_has_frozen_blocks() -> None:
    ours = {name for name in registry.names() if registry.info(name).distribution.startswith("migrated ")}
    assert {entry["codec"] for entry in INDEX.values()} == ours
    assert {file.name for file in FIXTURES.glob("*.bin")} == set(INDEX)


@pytest.mark.parametrize("file", sorted(INDEX))
def test_a_frozen_block_is_read(file: str) -> None:
    expected = INDEX[file]
    target = bytearray(expected["raw_bytes"])
    registry.create(expected["codec"], 1).decompress_into((FIXTURES / file).read_bytes(), memoryview(target))
    assert hashlib.sha256(target).hexdigest() == expected["raw_sha256"]
