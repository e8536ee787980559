"""The header of a batch, and the bounds that it must keep before anything is allocated for it.

A batch is a set of pages of one region and one round. Behind the frame header stand the batch header, fixed
binary since it comes some hundred times a second, and the payload:

    header     round (u32), sequence (u32), region (u16), codec (u8), level (u8), data pages (u32), zero pages
               (u32), data runs (u32), zero runs (u32), blocks (u32), payload bytes (u32), checksum (u64)
    payload    the blocks; data runs: first page, pages (u32 each); zero runs: the same; block table: the stored
               length of every block (u32 each)

all little-endian. The data pages, concatenated in the order of their runs, are cut into blocks of
:data:`BLOCK_BYTES`, the last may be shorter; a block that is stored in its raw length is stored raw. Codec 0
is never valid, :data:`RAW_CODEC` stores every block raw, ``n + FIRST_CODEC`` is the n-th codec of the accept.
``checksum`` is the xxh3_64 of the payload. What is inside the payload is not this module's business.
"""

import struct
from dataclasses import dataclass
from typing import Self

from typing_extensions import Buffer

__all__ = [
    "BLOCK_BYTES",
    "FIRST_CODEC",
    "HEADER_BYTES",
    "RAW_CODEC",
    "BatchHeader",
    "BatchLimits",
    "block_count",
    "max_payload",
]

BLOCK_BYTES = 256 << 10
"""Raw bytes of a block: 64 to 256 KiB is the knee of ratio and speed on guest memory, for every codec."""

RAW_CODEC = 1
FIRST_CODEC = 2
_MAX_LEVEL = 9
_RUN_BYTES = 8
_TABLE_BYTES = 4
_HEADER = struct.Struct("<IIHBBIIIIIIQ")

HEADER_BYTES = _HEADER.size


def block_count(data_bytes: int) -> int:
    """The blocks that ``data_bytes`` of raw pages are cut into."""
    return -(-data_bytes // BLOCK_BYTES)


def max_payload(batch_pages: int, page_size: int) -> int:
    """The longest payload of a batch: every page stored raw, and a run of its own. What a slot has to hold."""
    data_bytes = batch_pages * page_size
    return batch_pages * _RUN_BYTES + block_count(data_bytes) * _TABLE_BYTES + data_bytes


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """What both sides agreed on: no batch goes beyond. ``codecs`` is how many the accept names.

    ``batch_pages`` bounds a batch's pages, those with data and the zero ones together.
    """

    batch_pages: int
    page_size: int
    region_pages: tuple[int, ...]
    codecs: int

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
            )
        except struct.error as error:
            raise ValueError(f"batch header: {error}") from error

    def check(self, limits: BatchLimits) -> None:
        """Raise ``ValueError`` unless the header is within ``limits`` and its numbers fit each other.

        What passes decompresses to exactly ``data_pages`` pages, and its payload has room for its runs, its
        block table and at least a byte of every block.
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
            raise ValueError(f"{self.data_pages + self.zero_pages} pages, {limits.batch_pages} were agreed on")
        if not 0 < self.data_pages + self.zero_pages <= region_pages:
            raise ValueError(f"{self.data_pages + self.zero_pages} pages of a region of {region_pages}")
        if not _runs_fit(self.data_runs, self.data_pages):
            raise ValueError(f"{self.data_runs} runs of {self.data_pages} data pages")
        if not _runs_fit(self.zero_runs, self.zero_pages):
            raise ValueError(f"{self.zero_runs} runs of {self.zero_pages} zero pages")
        data_bytes = self.data_pages * limits.page_size
        if self.blocks != block_count(data_bytes):
            raise ValueError(f"{self.blocks} blocks of {data_bytes} bytes")
        tables = (self.data_runs + self.zero_runs) * _RUN_BYTES + self.blocks * _TABLE_BYTES
        least = data_bytes if self.codec == RAW_CODEC else self.blocks
        if not tables + least <= self.payload_bytes <= tables + data_bytes:
            raise ValueError(
                f"a payload of {self.payload_bytes} bytes, not {tables + least} to {tables + data_bytes}"
            )


def _runs_fit(runs: int, pages: int) -> bool:
    """Whether ``pages`` can stand in ``runs``: a run has a page at least, and no page means no run."""
    return 0 < runs <= pages or runs == pages == 0
