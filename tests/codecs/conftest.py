"""Data that looks like a guest's memory, the same on every run."""

import random

import pytest


def _text(size: int) -> bytes:
    words = [b"page", b"dirty", b"round", b"guest", b"region", b"migrate", b"0x7ffd", b"\n", b"of", b"the"]
    rng = random.Random(1)
    return b" ".join(rng.choice(words) for _ in range(size // 3))[:size]


def _records(size: int) -> bytes:
    rng = random.Random(2)
    one = (
        rng.getrandbits(20).to_bytes(8, "little")
        + b"\x00\x7f".rjust(8, b"\x10")
        + bytes(12)
        + rng.randbytes(4)
        for _ in range(-(-size // 32))
    )
    return b"".join(one)[:size]


def _mixed(size: int) -> bytes:
    part = size // 4
    return _text(part) + _records(part) + bytes(part) + random.Random(3).randbytes(size - 3 * part)


@pytest.fixture(scope="session")
def samples() -> dict[str, bytes]:
    """Name -> raw bytes; sizes of one page, of a whole block, and such that no code likes."""
    return {
        "one byte": b"x",
        "a page of zeros": bytes(4096),
        "a page of text": _text(4096),
        "a page of random bytes": random.Random(4).randbytes(4096),
        "an odd size": _mixed(12345),
        "a block": _mixed(256 * 1024),
    }


@pytest.fixture(scope="session")
def mixed() -> bytes:
    """64 KiB of text, records, zeros and random bytes."""
    return _mixed(64 * 1024)
