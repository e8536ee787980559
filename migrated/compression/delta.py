"""Deltas: what has changed in pages that were sent before, in place of the pages.

Page by page the 64-bit words that differ from what was sent last, the page's base, XORed with it. In a batch's
data, behind the pages that travel whole:

    | changed words (u64 each) | their places in the page (u16 each) | count of each page (u16 each) |

Each of the three columns is stored by bytes: first the lowest byte of every number, then the next one. A counter
that goes on or a pointer into the same heap change few of their bytes, so most of these bytes are zero and lie
side by side: a codec makes two thirds of what it would make of the numbers in their order. Words rather than
pages full of zeros, because a page with 8 changed bytes is 20 bytes without any codec, and 13 with each of them;
as a page of zeros Snappy would make 200 of it, LZ4 30, and take ten times as long.

The destination has the base in its memory, and its table of terms says which content that is: one hash over the
terms of all bases of a batch shows whether both sides mean the same.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from migrated.compression.digest import checksum
from migrated.errors import IntegrityError
from migrated.protocol import data_size

__all__ = ["Deltas", "bases_hash", "read_deltas", "write_deltas"]


@dataclass(frozen=True, slots=True)
class Deltas:
    """Changes of some pages, in their order: ``counts`` of each, and of each word what to XOR and where."""

    words: NDArray[np.uint64]
    places: NDArray[np.uint16]
    counts: NDArray[np.uint16]

    @property
    def size(self) -> int:
        """Bytes that they take in a batch's data."""
        return data_size(len(self.counts), len(self.counts), len(self.words), 0)

    def apply(self, pages: NDArray[np.uint64]) -> None:
        """Change ``pages``, shape (pages, words of a page) and contiguous, which are the bases, into what they are
        now."""
        pages.reshape(-1)[_flat(self.places, self.counts, pages.shape[1])] ^= self.words


def _flat(places: NDArray[np.uint16], counts: NDArray[np.uint16], page_words: int) -> NDArray[np.int64]:
    """``places`` as if all pages were one."""
    firsts = np.arange(0, len(counts) * page_words, page_words, dtype=np.int64)
    return np.repeat(firsts, counts) + places


def bases_hash(terms: NDArray[np.uint64]) -> int:
    """What a batch says of its bases, whose ``terms`` are in the order of its delta pages."""
    return checksum(terms.astype("<u8").data.cast("B"))


def write_deltas(deltas: Deltas, target: memoryview) -> None:
    """Fill ``target``, which has ``deltas.size`` bytes."""
    end = 0
    for column in (deltas.words, deltas.places, deltas.counts):
        size = column.nbytes
        width = column.itemsize
        by_bytes = column.astype(f"<u{width}", copy=False).view(np.uint8).reshape(-1, width).T
        np.frombuffer(target[end : end + size], dtype=np.uint8).reshape(width, -1)[:] = by_bytes
        end += size


def read_deltas(data: memoryview, pages: int, words: int, page_words: int) -> Deltas:
    """The deltas of ``pages`` pages of ``page_words`` words that fill ``data``.

    Raises:
        IntegrityError: they don't say for each page one word at least, its places rising and within the page.
    """
    if len(data) != data_size(pages, pages, words, 0):
        raise IntegrityError(f"{pages} deltas of {words} words do not take {len(data)} bytes")
    changed = _column(data, 0, words, 8)
    places, counts = _column(data, 8 * words, words, 2), _column(data, 10 * words, pages, 2)
    if int(counts.sum(dtype=np.int64)) != words or bool((counts == 0).any()):
        raise IntegrityError(f"the counts of {pages} deltas do not add up to {words} words")
    rising = bool((np.diff(_flat(places, counts, page_words)) > 0).all())
    if not rising or bool((places >= page_words).any()):
        raise IntegrityError(f"a delta's places do not rise, or lie outside its page of {page_words} words")
    return Deltas(changed, places, counts)


def _column(data: memoryview, start: int, length: int, width: int) -> NDArray[Any]:
    by_bytes = np.frombuffer(data[start : start + length * width], dtype=np.uint8).reshape(width, length)
    return np.ascontiguousarray(by_bytes.T).view(f"<u{width}").reshape(length).astype(f"u{width}", copy=False)
