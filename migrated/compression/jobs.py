"""What a worker is told of a batch and what it answers: a few numbers each, and no page."""

from dataclasses import dataclass

from migrated.compression.policy import Rung

__all__ = ["Compared", "Packed", "ToCompare", "ToCopy", "ToPack", "ToSample", "ToUnpack", "Unpacked"]


@dataclass(frozen=True, slots=True)
class ToPack:
    """Read these pages of a region and leave them as a batch in ``slot``. ``runs`` is a Runs array's bytes.

    ``round`` is that of a batch whose pages may travel as deltas, from the second on; else 0. No page is packed
    twice in a round, and what earlier rounds have packed is in place at the destination before this one is.
    With ``duplicates`` pages that seem to be what other ones are stay behind.
    """

    region: int
    runs: bytes
    slot: int
    codec: str
    level: int
    skip_unchanged: bool
    round: int = 0
    duplicates: bool = False


@dataclass(frozen=True, slots=True)
class Packed:
    """A batch as it lies in its slot: what its header will say, and what it cost (CPU seconds: in all, for the codec,
    for finding deltas; ``seconds`` on the clock). ``data_bytes`` is what the codec was given: less than its data pages,
    if some are deltas. ``duplicates`` are the pages that stayed behind and the ones that they seem to be, the bytes of
    int64 pairs."""

    data_pages: int
    zero_pages: int
    unchanged_pages: int
    data_runs: int
    zero_runs: int
    blocks: int
    payload_bytes: int
    checksum: int
    codec: str
    cpu_seconds: float
    codec_seconds: float
    delta_seconds: float
    seconds: float
    data_bytes: int
    delta_pages: int
    delta_words: int
    duplicates: bytes = b""


@dataclass(frozen=True, slots=True)
class ToCompare:
    """Say which of these ``pairs`` of pages of a region are equal, and the second one still what was sent of it. The
    bytes of int64 pairs, by their first page, each once."""

    region: int
    pairs: bytes


@dataclass(frozen=True, slots=True)
class Compared:
    """``equal`` has a byte a pair; ``bases`` is the hash over the terms of the second pages of equal ones."""

    equal: bytes
    bases: int
    cpu_seconds: float


@dataclass(frozen=True, slots=True)
class ToCopy:
    """Make pages of a region what others of it are. ``runs`` is :func:`migrated.compression.layout.pack_copies`'s;
    ``bases`` is the hash over the terms of these others."""

    region: int
    runs: bytes
    pages: int
    bases: int


@dataclass(frozen=True, slots=True)
class ToSample:
    """Compress the non-zero ones of these pages of a region with each of ``rungs``."""

    region: int
    runs: bytes
    rungs: tuple[Rung, ...]


@dataclass(frozen=True, slots=True)
class ToUnpack:
    """Check the batch in ``slot`` and put its pages in place. Codec RAW has no blocks."""

    region: int
    slot: int
    payload_bytes: int
    checksum: int
    codec: str
    level: int
    data_pages: int
    zero_pages: int
    data_runs: int
    zero_runs: int
    blocks: int
    delta_pages: int = 0
    delta_words: int = 0


@dataclass(frozen=True, slots=True)
class Unpacked:
    """A batch is in place; what it took on the worker's processor, and on the clock."""

    data_pages: int
    zero_pages: int
    cpu_seconds: float
    seconds: float
