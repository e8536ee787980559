"""The header of a batch, and the bounds that it must keep before anything is allocated for it.

A batch is a set of pages of one region and one round. Behind the frame header stand the batch header, fixed
binary since it comes some hundred times a second, and the payload:

    header     round (u32), sequence (u32), region (u16), codec (u8), level (u8), data pages (u32), zero pages
               (u32), data runs (u32), zero runs (u32), blocks (u32), payload bytes (u32), checksum (u64), delta
               pages (u32), delta words (u32)
    payload    the blocks; data runs: first page, pages (u32 each); zero runs: the same; only with delta pages,
               the delta map: a bit for every data page, the first page's the lowest of the first word (u32
               each), and the bases' hash (u64); block table: the stored length of every block (u32 each)

all little-endian. The data is the data pages, concatenated in the order of their runs; behind them, in place of
those that the delta map names, what has changed in these (:mod:`migrated.compression.delta`). It is cut into
blocks of :data:`BLOCK_BYTES`, the last may be shorter; a block that is stored in its raw length is stored raw.
Codec 0 is never valid, :data:`RAW_CODEC` stores every block raw, ``n + FIRST_CODEC`` is the n-th codec of the
accept. ``checksum`` is the xxh3_64 of the payload. What is inside the payload is not this module's business.

Delta pages need the feature :data:`DELTA`. Their bases are the pages as rounds before have left them.
"""

import struct
from dataclasses import dataclass
from typing import Self

from typing_extensions import Buffer

__all__ = [
    "BLOCK_BYTES",
    "DELTA",
    "FIRST_CODEC",
    "HEADER_BYTES",
    "RAW_CODEC",
    "BatchHeader",
    "BatchLimits",
    "block_count",
    "data_size",
    "delta_table_size",
    "max_payload",
]

BLOCK_BYTES = 4 << 20
"""Raw bytes of a block, by default a whole batch. What a codec looks back on ends there: at its denser levels zstd
makes 1.5 to 3 % fewer bytes of one such block than of four of 1 MiB, and 5 to 7 % fewer than of sixteen of 256 KiB; at
the first two hardly any. The others look back on 32 or 64 KiB, at any size."""

RAW_CODEC = 1
FIRST_CODEC = 2
DELTA = "delta"
"""The feature of a peer that takes deltas."""

_MAX_LEVEL = 9
_RUN_BYTES = 8
_TABLE_BYTES = 4
_HASH_BYTES = 8
_MAP_BITS = 32
_DELTA_WORD_BYTES = 8 + 2
_DELTA_PAGE_BYTES = 2
_MAX_DELTA_PAGE_SIZE = 256 << 10
"""Places and counts of words have 16 bits each: pages of up to 32,768 words."""

_HEADER = struct.Struct("<IIHBBIIIIIIQII")

HEADER_BYTES = _HEADER.size


def block_count(data_bytes: int) -> int:
    """The blocks that ``data_bytes`` of raw pages are cut into."""
    return -(-data_bytes // BLOCK_BYTES)


def data_size(data_pages: int, delta_pages: int, delta_words: int, page_size: int) -> int:
    """The bytes of a batch's data before it is cut into blocks.

    A delta page has a count (u16) and for each word that changed in it a place (u16) and the change (u64).
    """
    whole = (data_pages - delta_pages) * page_size
    return whole + delta_pages * _DELTA_PAGE_BYTES + delta_words * _DELTA_WORD_BYTES


def delta_table_size(data_pages: int, delta_pages: int) -> int:
    """The bytes of a delta map and the bases' hash."""
    return -(-data_pages // _MAP_BITS) * _TABLE_BYTES + _HASH_BYTES if delta_pages else 0


def max_payload(batch_pages: int, page_size: int) -> int:
    """The longest payload of a batch: every page stored raw, or as a delta that is no shorter, and a run of its
    own. What a slot has to hold."""
    data_bytes = batch_pages * page_size
    tables = batch_pages * _RUN_BYTES + block_count(data_bytes) * _TABLE_BYTES
    return tables + delta_table_size(batch_pages, batch_pages) + data_bytes


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """What both sides agreed on: no batch goes beyond. ``codecs`` is how many the accept names, ``deltas`` whether
    it takes delta pages.

    ``batch_pages`` bounds a batch's pages, those with data and the zero ones together.
    """

    batch_pages: int
    page_size: int
    region_pages: tuple[int, ...]
    codecs: int
    deltas: bool = False

    @property
    def max_payload(self) -> int:
        """The longest payload that any batch can have."""
        return max_payload(self.batch_pages, self.page_size)


@dataclass(frozen=True, slots=True)
class BatchHeader:
    """What stands before a batch's payload. Not checked when made: :meth:`check` needs the limits."""

    round: int
    sequence: int
    region: int
    codec: int
    level: int
    data_pages: int
    zero_pages: int
    data_runs: int
    zero_runs: int
    blocks: int
    payload_bytes: int
    checksum: int
    delta_pages: int = 0
    delta_words: int = 0

    @classmethod
    def unpack(cls, buffer: Buffer) -> Self:
        """The header at the start of ``buffer``, which has :data:`HEADER_BYTES` at least; unchecked."""
        return cls(*_HEADER.unpack_from(buffer))

    def pack(self) -> bytes:
        """The header's :data:`HEADER_BYTES`; ``ValueError`` for a number that has no room."""
        try:
            return _HEADER.pack(
                self.round,
                self.sequence,
                self.region,
                self.codec,
                self.level,
                self.data_pages,
                self.zero_pages,
                self.data_runs,
                self.zero_runs,
                self.blocks,
                self.payload_bytes,
                self.checksum,
                self.delta_pages,
                self.delta_words,
            )
        except struct.error as error:
            raise ValueError(f"batch header: {error}") from error

    def check(self, limits: BatchLimits) -> None:
        """Raise ``ValueError`` unless the header is within ``limits`` and its numbers fit each other.

        What passes decompresses to exactly :func:`data_size` bytes, which is no more than ``data_pages`` pages,
        and its payload has room for its tables and at least a byte of every block.
        """
        if self.round < 1 or self.sequence < 1:
            raise ValueError(f"round {self.round} and sequence {self.sequence} count from 1")
        if self.region >= len(limits.region_pages):
            raise ValueError(f"region {self.region} of {len(limits.region_pages)}")
        if not RAW_CODEC <= self.codec < FIRST_CODEC + limits.codecs:
            raise ValueError(f"codec {self.codec}, {limits.codecs} were agreed on")
        if not (self.level == 0 if self.codec == RAW_CODEC else 1 <= self.level <= _MAX_LEVEL):
            raise ValueError(f"level {self.level} of codec {self.codec}")
        region_pages = limits.region_pages[self.region]
        if self.data_pages + self.zero_pages > limits.batch_pages:
            raise ValueError(
                f"{self.data_pages + self.zero_pages} pages, {limits.batch_pages} were agreed on"
            )
        if not 0 < self.data_pages + self.zero_pages <= region_pages:
            raise ValueError(f"{self.data_pages + self.zero_pages} pages of a region of {region_pages}")
        if not _runs_fit(self.data_runs, self.data_pages):
            raise ValueError(f"{self.data_runs} runs of {self.data_pages} data pages")
        if not _runs_fit(self.zero_runs, self.zero_pages):
            raise ValueError(f"{self.zero_runs} runs of {self.zero_pages} zero pages")
        if not self._deltas_fit(limits):
            raise ValueError(
                f"{self.delta_words} changed words in {self.delta_pages} delta pages of {self.data_pages}"
                + ("" if limits.deltas else ", and deltas were not agreed on")
            )
        data_bytes = data_size(self.data_pages, self.delta_pages, self.delta_words, limits.page_size)
        if self.blocks != block_count(data_bytes):
            raise ValueError(f"{self.blocks} blocks of {data_bytes} bytes")
        tables = (self.data_runs + self.zero_runs) * _RUN_BYTES + self.blocks * _TABLE_BYTES
        tables += delta_table_size(self.data_pages, self.delta_pages)
        least = data_bytes if self.codec == RAW_CODEC else self.blocks
        if not tables + least <= self.payload_bytes <= tables + data_bytes:
            raise ValueError(
                f"a payload of {self.payload_bytes} bytes, not {tables + least} to {tables + data_bytes}"
            )

    def _deltas_fit(self, limits: BatchLimits) -> bool:
        """Whether each delta page has a changed word at least, and all of them take no more than whole pages."""
        if self.delta_pages == self.delta_words == 0:
            return True
        return (
            limits.deltas
            and limits.page_size <= _MAX_DELTA_PAGE_SIZE
            and 0 < self.delta_pages <= min(self.data_pages, self.delta_words)
            and data_size(0, 0, self.delta_words, 0) + self.delta_pages * _DELTA_PAGE_BYTES
            <= self.delta_pages * limits.page_size
        )


def _runs_fit(runs: int, pages: int) -> bool:
    """Whether ``pages`` can stand in ``runs``: a run has a page at least, and no page means no run."""
    return 0 < runs <= pages or runs == pages == 0
