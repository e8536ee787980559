"""The demo guest's memory: mapped, changed by operations that are whole or not there, and filled at first.

An operation rewrites some data pages and table slots and moves the counters. What the state is going to be is
first written to the journal, then the journal is armed by one 8-byte store, then everything is put in place,
then the journal is disarmed. Every value in the journal is absolute, so an operation that was cut anywhere is
finished by doing it (again) when the file is opened, here or in a copy of the file at another host.
"""

import mmap
import os
from itertools import pairwise

import numpy as np
import xxhash
from numpy.typing import NDArray

from migrated.errors import IntegrityError
from migrated.guests.demo.content import (
    GROUP_PAGES,
    PAGE_WORDS,
    ZERO_EVERY,
    Kind,
    Words,
    expected_pages,
    kinds_of_groups,
    mix,
    stream,
)
from migrated.guests.demo.layout import (
    FILLED,
    FILLED_AT,
    JOURNAL,
    JOURNAL_AT,
    JOURNAL_PAGES,
    JOURNAL_SLOTS,
    RECORD_AT,
    RUNNER,
    RUNNER_AT,
    Counter,
    Header,
    Layout,
    read_header,
)
from migrated.pages import PAGE_SIZE, runs_of_pages

__all__ = ["GuestMemory", "checksum_of_record", "create_memory"]

_RECORD_WORDS = JOURNAL["record"].shape[0]
_AT_ONCE = 256
"""Pages made and stored at a time: 1 MiB stays in the cache and in memory that the process has already."""


def create_memory(descriptor: int, header: Header) -> None:
    """Fill the empty file with a guest's first state. It counts as a guest's only when all is done."""
    layout = Layout.of(header.size)
    os.ftruncate(descriptor, layout.size)
    os.pwrite(descriptor, header.pack(), 0)
    values = stream(header.seed, 1 << 32, layout.table_slots)
    tags = mix(values ^ _keys(header, layout))
    os.pwrite(descriptor, np.stack((values, tags), axis=1).tobytes(), layout.table_at)
    record = np.zeros(_RECORD_WORDS, dtype=np.uint64)
    record[Counter.TABLE_SUM] = tags.sum()
    record[Counter.CHECKSUM] = checksum_of_record(record)
    os.pwrite(descriptor, record.tobytes(), RECORD_AT)
    kinds = kinds_of_groups(header.seed, header.shares, layout.groups)
    live = np.flatnonzero(kinds != Kind.ZERO)
    for first in range(0, len(live), _AT_ONCE // GROUP_PAGES):
        groups = live[first : first + _AT_ONCE // GROUP_PAGES]
        pages = (groups[:, None] * GROUP_PAGES + np.arange(GROUP_PAGES)).ravel().astype(np.uint64)
        rows = expected_pages(
            header.seed, pages, np.zeros(len(pages), dtype=np.uint64), np.repeat(kinds[groups], GROUP_PAGES)
        )
        done = 0
        for start, count in runs_of_pages(groups).tolist():
            view = rows[done : done + count * GROUP_PAGES].data.cast("B")
            os.pwrite(descriptor, view, layout.data_at + start * GROUP_PAGES * PAGE_SIZE)
            done += count * GROUP_PAGES
    os.pwrite(descriptor, FILLED, FILLED_AT)


def checksum_of_record(record: Words) -> int:
    """What the record's last word says of the others."""
    return xxhash.xxh3_64_intdigest(record[: Counter.CHECKSUM].tobytes())


def _keys(header: Header, layout: Layout) -> Words:
    return stream(header.seed ^ 0x6B65, 0, layout.table_slots)


class GuestMemory:
    """A guest's memory file, mapped. With ``private`` nothing of what is done here reaches the file.

    Opening finishes the operation that was in flight, if there was one. GuestError for a file that is no
    guest's, IntegrityError for an armed journal that is damaged.
    """

    def __init__(self, descriptor: int, *, private: bool = False) -> None:
        self.descriptor = descriptor
        self.header = read_header(descriptor)
        self.layout = layout = Layout.of(self.header.size)
        self.map = mmap.mmap(descriptor, layout.size, mmap.MAP_PRIVATE if private else mmap.MAP_SHARED)
        # A private mapping cannot punch the file: zeros read the same.
        self._punch = self.header.punch and not private
        self.record: Words = np.frombuffer(self.map, np.uint64, _RECORD_WORDS, RECORD_AT)
        self.table: Words = np.frombuffer(
            self.map, np.uint64, 2 * layout.table_slots, layout.table_at
        ).reshape(-1, 2)
        self.versions: NDArray[np.uint32] = np.frombuffer(
            self.map, np.uint32, layout.data_pages, layout.versions_at
        )
        self.data: Words = np.frombuffer(
            self.map, np.uint64, layout.data_pages * PAGE_WORDS, layout.data_at
        ).reshape(-1, PAGE_WORDS)
        self.keys = _keys(self.header, layout)
        self.kinds = kinds_of_groups(self.header.seed, self.header.shares, layout.groups)
        live = np.flatnonzero(self.kinds != Kind.ZERO)
        self.writable_groups = live[: -(-len(live) * self.header.working_set // 100)]
        self._journal = np.frombuffer(self.map, JOURNAL, 1, JOURNAL_AT)[0]
        # A 0-d view of its own: one store of 8 bytes arms the journal.
        self._armed = np.frombuffer(self.map, np.uint64, 1, JOURNAL_AT)
        self.redone = self._redo()
        """The data pages of the operation that was finished at opening."""

    def settle_in(self, pid: int, start: int) -> None:
        """Write down who runs this guest now."""
        self.map[RUNNER_AT : RUNNER_AT + RUNNER.size] = RUNNER.pack(pid, start)

    def counter(self, which: Counter) -> int:
        """One word of the record."""
        return int(self.record[which])

    def kinds_of(self, pages: Words) -> NDArray[np.uint8]:
        """The kind of each of the data pages."""
        kinds: NDArray[np.uint8] = self.kinds[pages // np.uint64(GROUP_PAGES)]
        return kinds

    def commit(
        self, pages: NDArray[np.int64], slots: NDArray[np.int64], values: Words, counters: dict[Counter, int]
    ) -> None:
        """One operation: ``pages`` (each once) get their next version, ``slots`` (each once) their
        ``values``.

        ``counters`` says what to add to words of the record, or - for the clock - what to set; what hangs on
        pages and slots is counted here.
        """
        if len(pages) > JOURNAL_PAGES or len(slots) > JOURNAL_SLOTS:
            raise ValueError("an operation has no room for so much in the journal")
        journal, record = self._journal, self.record.copy()
        tags = mix(values ^ self.keys[slots])
        for which, amount in counters.items():
            record[which] = np.uint64(amount if which is Counter.WALL_NS else int(record[which]) + amount)
        record[Counter.OPERATIONS] += np.uint64(len(pages) + len(slots))
        record[Counter.PAGES_WRITTEN] += np.uint64(len(pages))
        record[Counter.SLOTS_WRITTEN] += np.uint64(len(slots))
        # Arrays of one, since scalars of numpy warn when they wrap around and arrays do not.
        record[[Counter.TABLE_SUM]] += tags.sum(keepdims=True) - self.table[slots, 1].sum(keepdims=True)
        record[Counter.CHECKSUM] = checksum_of_record(record)
        journal["pages"], journal["slots"] = len(pages), len(slots)
        journal["record"][:] = record
        journal["page"][: len(pages)] = pages
        journal["version"][: len(pages)] = self.versions[pages] + np.uint32(1)
        journal["slot"][: len(slots)] = slots
        journal["value"][: len(slots)] = values
        journal["checksum"] = self._checksum_of_journal()
        self._armed[0] = 1
        self._put_in_place()
        self._armed[0] = 0

    def _put_in_place(self) -> None:
        journal = self._journal
        pages = journal["page"][: int(journal["pages"])].astype(np.uint64)
        versions = journal["version"][: len(pages)]
        slots, values = (journal[name][: int(journal["slots"])] for name in ("slot", "value"))
        self.versions[pages] = versions
        punched = np.zeros(len(pages), dtype=np.bool_)
        if self._punch:
            punched = versions % ZERO_EVERY == ZERO_EVERY - 1
            for page in pages[punched].tolist():
                self.map.madvise(mmap.MADV_REMOVE, self.layout.data_at + page * PAGE_SIZE, PAGE_SIZE)
        kept, wide = pages[~punched], versions[~punched].astype(np.uint64)
        for low, high in pairwise([*range(0, len(kept), _AT_ONCE), len(kept)]):
            part = kept[low:high]
            self.data[part] = expected_pages(self.header.seed, part, wide[low:high], self.kinds_of(part))
        self.table[slots, 0] = values
        self.table[slots, 1] = mix(values ^ self.keys[slots])
        self.record[:] = journal["record"]

    def _checksum_of_journal(self) -> int:
        journal = self._journal
        pages, slots = int(journal["pages"]), int(journal["slots"])
        if pages > JOURNAL_PAGES or slots > JOURNAL_SLOTS:
            raise IntegrityError("the demo guest's journal is damaged: its counts are beyond its room")
        digest = xxhash.xxh3_64(journal["record"].tobytes())
        for name, count in (("page", pages), ("version", pages), ("slot", slots), ("value", slots)):
            digest.update(journal[name][:count].tobytes())
        return digest.intdigest() ^ pages ^ slots << 32

    def _redo(self) -> Words:
        if not self._armed[0]:
            return np.empty(0, dtype=np.uint64)
        if self._checksum_of_journal() != int(self._journal["checksum"]):
            raise IntegrityError("the demo guest's journal is damaged: it is armed and its checksum is wrong")
        self._put_in_place()
        self._armed[0] = 0
        redone: Words = self._journal["page"][: int(self._journal["pages"])].astype(np.uint64)
        return redone
