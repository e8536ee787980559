"""Proving that a demo guest's memory is as it should be, while it runs and offline."""

import os
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from migrated.errors import IntegrityError
from migrated.guests.demo.content import GROUP_PAGES, PAGE_WORDS, Kind, Words, expected_pages, mix
from migrated.guests.demo.layout import FILLED_AT, HEADER_BYTES, RUNNER, RUNNER_AT, Counter
from migrated.guests.demo.state import GuestMemory, checksum_of_record
from migrated.pages import PAGE_SIZE

__all__ = ["CheckedFile", "Prover", "WrongByteError", "check_file"]


class WrongByteError(IntegrityError):
    """A byte of the guest's memory is not what it should be. ``offset`` counts from the file's start."""

    def __init__(self, where: str, offset: int, found: int, expected: int, more: str = "") -> None:
        self.page, self.byte = divmod(offset, PAGE_SIZE)
        self.where = where
        self.offset = offset
        self.found = found
        self.expected = expected
        super().__init__(
            f"wrong byte in the demo guest's memory: page {self.page} ({where}), byte {self.byte} of the "
            f"page, offset {offset:#x} of the file: found {found:#04x}, expected {expected:#04x}{more}"
        )


class Prover:
    """Proves parts of ``memory`` between operations; raises WrongByteError for the first byte that is wrong.

    Pages are read with pread: a load through the mapping would give every hole a page of memory.
    """

    def __init__(self, memory: GuestMemory) -> None:
        self._memory = memory
        self._rows = np.zeros((GROUP_PAGES, PAGE_WORDS), dtype=np.uint64)
        self._overlay = False

    def overlay_redone(self) -> None:
        """Take the pages redone at opening from the mapping: it is private, the file has them unfinished."""
        self._overlay = True

    def prove_group(self, group: int) -> int:
        """Prove one group of data pages; returns how many pages that are."""
        memory, rows = self._memory, self._rows
        pages = np.arange(group * GROUP_PAGES, (group + 1) * GROUP_PAGES, dtype=np.uint64)
        at = memory.layout.data_at + group * GROUP_PAGES * PAGE_SIZE
        if os.preadv(memory.descriptor, [rows.data], at) != rows.nbytes:
            raise IntegrityError(f"the demo guest's memory file ends before its page {at // PAGE_SIZE}")
        if self._overlay:
            for page in memory.redone[memory.redone // np.uint64(GROUP_PAGES) == group].tolist():
                rows[page % GROUP_PAGES] = memory.data[page]
        kind = Kind(int(memory.kinds[group]))
        versions = memory.versions[pages].astype(np.uint64)
        if kind is Kind.ZERO:
            _compare(self._rows, np.zeros_like(rows), at, lambda row: f"data page {pages[row]}, a zero page")
            return GROUP_PAGES
        wanted = expected_pages(memory.header.seed, pages, versions, memory.kinds_of(pages))
        if not np.array_equal(rows, wanted):
            _compare(
                rows, wanted, at, lambda row: _describe(kind, rows[row], int(pages[row]), int(versions[row]))
            )
        return GROUP_PAGES

    def prove_tables(self) -> None:
        """Prove the record, the key-value table and the sum of the version table."""
        memory, layout = self._memory, self._memory.layout
        record = memory.record.copy()
        wanted = record.copy()
        wanted[Counter.CHECKSUM] = checksum_of_record(record)
        _compare(record[None], wanted[None], PAGE_SIZE, lambda _: "the record of counters, its checksum")
        tags = mix(memory.table[:, 0] ^ memory.keys)
        if not np.array_equal(tags, memory.table[:, 1]):
            table = np.stack((memory.table[:, 0], tags), axis=1)
            _compare(
                memory.table,
                table,
                layout.table_at,
                lambda slot: f"key-value table, value or tag of slot {slot}",
            )
        if int(tags.sum()) != memory.counter(Counter.TABLE_SUM):
            raise IntegrityError(
                f"the demo guest's key-value table (page {layout.table_at // PAGE_SIZE} on) lost an update: "
                f"every slot is whole, and their sum is {int(tags.sum()):#x} instead of "
                f"{memory.counter(Counter.TABLE_SUM):#x}"
            )
        total = int(memory.versions.sum(dtype=np.uint64))
        if total != memory.counter(Counter.PAGES_WRITTEN):
            raise IntegrityError(
                f"the demo guest's version table (page {layout.versions_at // PAGE_SIZE} on) counts {total} "
                f"rewritten pages and the record {memory.counter(Counter.PAGES_WRITTEN)}: "
                "one of them is of another time"
            )


def _describe(kind: Kind, row: Words, page: int, version: int) -> str:
    stamp = f"it is stamped page {row[0]} version {row[1]}" if row.any() else "it is all zeros"
    return f"data page {page}, {kind.name.lower()}, should have version {version}; {stamp}"


def _compare(found: Words, wanted: Words, at: int, where: Callable[[int], str]) -> None:
    """Raise WrongByteError for the first byte of ``found`` (rows of words, from offset ``at``) that is
    wrong."""
    have, want = (np.ascontiguousarray(each).view(np.uint8).ravel() for each in (found, wanted))
    wrong = np.flatnonzero(have != want)
    if len(wrong):
        first = int(wrong[0])
        more = f"; {len(wrong)} bytes are wrong" if len(wrong) > 1 else ""
        row = first // (found.shape[1] * 8)
        raise WrongByteError(where(row), at + first, int(have[first]), int(want[first]), more)


@dataclass(frozen=True, slots=True)
class CheckedFile:
    """What :func:`check_file` found, all of it right."""

    counters: dict[str, int]
    data_pages: int
    redone_pages: int


def check_file(descriptor: int) -> CheckedFile:
    """Prove every byte of a memory file that no guest runs on, without changing it.

    An operation in flight is finished in private memory first. What is not proved is what is dead: the
    journal of an operation that is done. WrongByteError or IntegrityError for what is wrong.
    """
    memory = GuestMemory(descriptor, private=True)
    prover = Prover(memory)
    prover.overlay_redone()
    prover.prove_tables()
    for group in range(memory.layout.groups):
        prover.prove_group(group)
    layout = memory.layout
    written = memory.versions[np.repeat(memory.kinds == Kind.ZERO, GROUP_PAGES)]
    if written.any():
        raise IntegrityError("the demo guest's version table says that zero pages were rewritten")
    for name, start, stop in (
        ("unused bytes of the first page", HEADER_BYTES, FILLED_AT),
        ("unused bytes of the first page", RUNNER_AT + RUNNER.size, PAGE_SIZE),
        ("unused bytes behind the record", PAGE_SIZE + memory.record.nbytes, 2 * PAGE_SIZE),
        (
            "unused bytes behind the version table",
            layout.versions_at + memory.versions.nbytes,
            layout.data_at,
        ),
        ("unused pages at the end", layout.data_at + layout.data_pages * PAGE_SIZE, layout.size),
    ):
        unused = np.frombuffer(os.pread(descriptor, stop - start, start), dtype=np.uint8)
        if unused.any():
            first = int(np.flatnonzero(unused)[0])
            raise WrongByteError(name, start + first, int(unused[first]), 0)
    counters = {which.name.lower(): memory.counter(which) for which in Counter}
    return CheckedFile(counters, layout.data_pages, len(memory.redone))
