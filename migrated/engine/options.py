"""What one migration is asked to do."""

from dataclasses import dataclass
from enum import StrEnum

from migrated.compression.policy import Rung
from migrated.compression.stage import slot_count

__all__ = [
    "AUTO",
    "AUTO_RUNGS",
    "MAX_DEVICE_STATE",
    "STARTS_GUEST",
    "START_FAILED",
    "OnStall",
    "SendOptions",
    "Verify",
    "usable_streams",
]

AUTO = "auto"
"""The codec that is none of its own: each batch gets what is fastest now."""

AUTO_RUNGS = tuple(
    Rung(*each) for each in (("lz4", 1), ("snappy", 1), ("zlib", 1), ("zstd", 1), ("zstd", 3), ("zstd", 6))
)
"""What AUTO chooses from, where both sides have it; it begins with the first. The levels between these are no
better than mixes of them."""

STARTS_GUEST = "starts-guest"
"""The feature of a destination that will run the guest. Without it the memory is copied, and the source's goes on."""


MAX_DEVICE_STATE = 256 << 20
"""Bytes. 0.3 to 0.6 MB are usual; the memory of a large display is sent with it."""


START_FAILED = "start-failed"
"""The code of the one failure after COMMIT that asking again does not mend: a person has to look."""


class OnStall(StrEnum):
    """What to do when rounds stop helping."""

    FAIL = "fail"
    THROTTLE = "throttle"
    SWITCH = "switch"


class Verify(StrEnum):
    """What is compared before COMMIT: the terms of the pages as sent, or all memory read again."""

    DIGEST = "digest"
    FULL = "full"


@dataclass(frozen=True, slots=True)
class SendOptions:
    """What one migration was asked to do. ``codecs`` are those this side offers, with their levels;
    ``delta_cache`` is how many bytes of pages as sent last it may keep, 0 for no deltas; ``streams`` how many
    connections it wants."""

    guest_name: str
    codecs: dict[str, tuple[int, ...]]
    compress_workers: int
    decompress_workers: int
    batch_pages: int
    max_rounds: int
    on_stall: OnStall
    verify: Verify
    commit_timeout: float
    destination: str
    delta_cache: int = 0
    streams: int = 1


def usable_streams(wanted: int, workers: int) -> int:
    """How many connections a source with so many workers can use: one of its batches at least is being packed."""
    return min(wanted, slot_count(workers) - 1)
