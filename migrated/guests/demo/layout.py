"""What lies where in a demo guest's memory file.

    page 0      what never changes (magic, size, seed, mix; with a checksum), and who runs it (pid, start
    time) page 1      the record: counters of what was done, with a checksum page 2 ..   the journal: one
    operation in flight
                the key-value table: (value, tag) words
                the version table: 32 bits for each data page
                data pages, in groups of 16 of one kind; zero pages are holes

All numbers are little-endian. Apart from page 0's last words everything changes by journalled operations
only.
"""

import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Self

import numpy as np
import xxhash

from migrated.errors import GuestError, UsageError
from migrated.guests.demo.content import GROUP_PAGES, Kind
from migrated.pages import PAGE_SIZE

__all__ = [
    "FILLED",
    "FILLED_AT",
    "HEADER_BYTES",
    "JOURNAL",
    "JOURNAL_AT",
    "JOURNAL_PAGES",
    "JOURNAL_SLOTS",
    "MAGIC",
    "MIN_SIZE",
    "RECORD_AT",
    "RUNNER",
    "RUNNER_AT",
    "Counter",
    "Header",
    "Layout",
    "parse_mix",
    "read_header",
    "read_runner",
]

MAGIC = b"MIGRDEMO"
FORMAT = 1
MIN_SIZE = 1 << 20
"""Room for the tables and some groups of pages."""
MAX_SIZE = 1 << 44
"""Version-table entries and journal entries number pages with 32 bits."""

_HEADER = struct.Struct("<8sIIQQ4IdIIQ")
HEADER_BYTES = _HEADER.size
FILLED_AT = 256
FILLED = b"FILLED\0\0"
RUNNER_AT = 264
RUNNER = struct.Struct("<QQ")
RECORD_AT = PAGE_SIZE
JOURNAL_AT = 2 * PAGE_SIZE

JOURNAL_PAGES = 2048
"""Pages that one operation may rewrite: 8 MiB; faster guests do several a tick."""
JOURNAL_SLOTS = 64
"""Slots of the key-value table that one operation may change."""


class Counter(IntEnum):
    """The words of the record. CHECKSUM covers the words before it."""

    OPERATIONS = 0
    HEARTBEATS = 1
    RUN_NS = 2
    RANDOM = 3
    PAGES_WRITTEN = 4
    SLOTS_WRITTEN = 5
    TABLE_SUM = 6
    PAGES_VERIFIED = 7
    TABLES_VERIFIED = 8
    SWEPT = 9
    WALL_NS = 10
    STARTS = 11
    CHECKSUM = 15


JOURNAL = np.dtype(
    [
        ("armed", "<u8"),
        ("checksum", "<u8"),
        ("pages", "<u8"),
        ("slots", "<u8"),
        ("record", "<u8", (len(Counter) + 3,)),
        ("page", "<u4", (JOURNAL_PAGES,)),
        ("version", "<u4", (JOURNAL_PAGES,)),
        ("slot", "<u8", (JOURNAL_SLOTS,)),
        ("value", "<u8", (JOURNAL_SLOTS,)),
    ]
)
"""The operation in flight: while ``armed`` is 1 the rest says what the state is going to be."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Places in a file of ``size`` bytes, in bytes from its start; see the module's docstring."""

    size: int
    table_at: int
    table_slots: int
    versions_at: int
    data_at: int
    data_pages: int

    @classmethod
    def of(cls, size: int) -> Self:
        """The layout of a file of ``size`` bytes; UsageError for a size that has none."""
        if size % PAGE_SIZE or not MIN_SIZE <= size <= MAX_SIZE:
            raise UsageError(
                f"a demo guest cannot have {size} bytes of memory",
                f"give a multiple of {PAGE_SIZE} from 1 MiB to 16 TiB",
            )
        pages = size // PAGE_SIZE
        table_page = 2 + -(-JOURNAL.itemsize // PAGE_SIZE)
        # Proved in under a millisecond, several times a second.
        table_pages = min(pages // 64, 256)
        version_page = table_page + table_pages
        version_pages = -(-(pages - version_page) // (PAGE_SIZE // 4 + 1))
        data_page = version_page + version_pages
        return cls(
            size=size,
            table_at=table_page * PAGE_SIZE,
            table_slots=table_pages * (PAGE_SIZE // 16),
            versions_at=version_page * PAGE_SIZE,
            data_at=data_page * PAGE_SIZE,
            data_pages=(pages - data_page) // GROUP_PAGES * GROUP_PAGES,
        )

    @property
    def groups(self) -> int:
        """Groups of 16 data pages."""
        return self.data_pages // GROUP_PAGES


@dataclass(frozen=True, slots=True)
class Header:
    """What never changes in a guest's life: its settings.

    ``shares`` are relative shares of zero, text, code and random pages; ``dirty_rate`` is in bytes per
    second; ``working_set`` is the percentage of the pages that are not zero that get rewritten; with
    ``punch`` a page that comes to be zero is punched out of the file instead of overwritten.
    """

    size: int
    seed: int
    shares: tuple[int, int, int, int]
    dirty_rate: float
    working_set: int = 100
    punch: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.working_set <= 100:
            raise UsageError(f"a working set of {self.working_set} %", "give 1 to 100")
        if min(self.shares) < 0 or not 0 < sum(self.shares) < 2**32:
            raise UsageError(
                "the mix has no pages in it", "for example --mix zero=20,text=40,code=30,random=10"
            )
        if not 0 <= self.dirty_rate < 1e12:
            raise UsageError(
                f"a dirty rate of {self.dirty_rate} bytes/s", "give 0 to 1 TB/s, for example 20MB/s"
            )

    def pack(self) -> bytes:
        """The first bytes of the file."""
        flags = int(self.punch)
        body = (PAGE_SIZE, self.size, self.seed, *self.shares, self.dirty_rate, self.working_set, flags)
        packed = _HEADER.pack(MAGIC, FORMAT, *body, 0)
        return packed[:-8] + xxhash.xxh3_64_intdigest(packed[:-8]).to_bytes(8, "little")

    @classmethod
    def unpack(cls, packed: bytes) -> Self:
        """Read what :meth:`pack` made; GuestError if it is something else."""
        if len(packed) < HEADER_BYTES or packed[: len(MAGIC)] != MAGIC:
            raise GuestError(
                "this is not the memory file of a demo guest", "make one with `migrated demo --file`"
            )
        _, version, page_size, size, seed, *rest = _HEADER.unpack_from(packed)
        zero, text, code, random, dirty_rate, working_set, flags, checksum = rest
        if xxhash.xxh3_64_intdigest(packed[: HEADER_BYTES - 8]) != checksum:
            raise GuestError("the first page of this demo guest's memory file is damaged", "make a new guest")
        if (version, page_size) != (FORMAT, PAGE_SIZE):
            raise GuestError(
                f"the memory file has format {version} with {page_size}-byte pages, "
                f"this guest reads format {FORMAT} with {PAGE_SIZE}-byte pages",
                "run it with the version of migrated that made it",
            )
        return cls(size, seed, (zero, text, code, random), dirty_rate, working_set, bool(flags & 1))


def read_header(descriptor: int) -> Header:
    """The settings in the memory file; GuestError if it is no guest's, or its making was cut short."""
    packed = os.pread(descriptor, PAGE_SIZE, 0)
    header = Header.unpack(packed)
    if packed[FILLED_AT : FILLED_AT + 8] != FILLED:
        raise GuestError(
            "the guest's memory is not filled yet", "wait until it says that it runs, or make it anew"
        )
    actual = os.fstat(descriptor).st_size
    if actual != header.size:
        raise GuestError(f"the memory file has {actual} bytes instead of {header.size}")
    return header


def read_runner(descriptor: int) -> tuple[int, int]:
    """The pid that ran the guest last, and that process's start time in clock ticks since boot; zeros if
    none."""
    pid, start = RUNNER.unpack(os.pread(descriptor, RUNNER.size, RUNNER_AT))
    return pid, start


def parse_mix(text: str) -> tuple[int, int, int, int]:
    """``zero=20,text=40,code=30,random=10`` as shares in the order of :class:`Kind`; what is left out is
    0."""
    shares: Mapping[str, int] = {}
    try:
        shares = {name.strip(): int(share) for name, share in (part.split("=") for part in text.split(","))}
    except ValueError as error:
        raise UsageError(
            f"{text!r} is no mix of pages", "for example zero=20,text=40,code=30,random=10"
        ) from error
    known = [kind.name.lower() for kind in Kind]
    for name, share in shares.items():
        if name not in known or share < 0:
            raise UsageError(
                f"{name}={share} in the mix {text!r}", f"kinds are {', '.join(known)}; shares 0 or more"
            )
    zero, words, code, random = (shares.get(name, 0) for name in known)
    return zero, words, code, random
