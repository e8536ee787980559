"""Codec and level in words."""

from collections.abc import Mapping

from migrated.compression.layout import RAW
from migrated.engine.options import AUTO

__all__ = ["packing"]

_WORDS = {RAW: "none"}


def packing(codec: str, level: int, raw_bytes_by_codec: Mapping[str, int]) -> str:
    """``zstd level 1``, ``none``, or ``auto`` with the shares of memory that each codec has had so far."""
    if codec != AUTO:
        return f"{codec} level {level}" if level and codec not in (RAW, "none") else "none"
    total = sum(raw_bytes_by_codec.values())
    if not total:
        return AUTO
    shares = sorted(((size / total, name) for name, size in raw_bytes_by_codec.items()), reverse=True)
    named = [f"{_WORDS.get(name, name)} {share:.0%}" for share, name in shares if share >= 0.005]
    return f"{AUTO} ({', '.join(named)})"
