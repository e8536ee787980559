"""How a batch's payload lies in its slot, and how it is read back without trusting it.

    offset 0                                                                payload_bytes
    | blocks, or the raw data | data runs | zero runs | delta map | bases' hash | block table |

Runs are pairs of little-endian u32 (first page, pages); the block table is one u32 a block, its stored length.
Data pages are concatenated in the runs' order, but those that the delta map names come last and as deltas (see
:mod:`migrated.compression.delta`); a batch without any has no delta map. The data is cut into blocks of
``BLOCK_BYTES`` (the last may be shorter); a block stored at its raw length is raw, and in a batch of the codec RAW
every block is. The pages come first, so that raw pages are read from the guest straight into the slot, and written
from it straight to their place.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from migrated.errors import IntegrityError
from migrated.pages import Runs, pages_of_runs
from migrated.protocol import BLOCK_BYTES, data_size, delta_table_size

__all__ = [
    "RAW",
    "DeltaTable",
    "Tables",
    "pack_copies",
    "raw_lengths",
    "read_copies",
    "read_tables",
    "write_tables",
]

RAW = "raw"
"""The codec name of batches whose pages travel as they are."""

_RUN_BYTES = 8
_LENGTH_BYTES = 4
_COPY_BYTES = 12
_MAP_BITS = 32


@dataclass(frozen=True, slots=True)
class DeltaTable:
    """Which data pages travel as deltas, a truth value a page, and the hash that stands for all their bases."""

    mask: NDArray[np.bool_]
    bases: int


@dataclass(frozen=True, slots=True)
class Tables:
    """A payload's tables, proven consistent; the blocks take the first ``stored_bytes``."""

    data_runs: Runs
    zero_runs: Runs
    block_lengths: Sequence[int]
    stored_bytes: int
    data_bytes: int
    deltas: DeltaTable | None


def raw_lengths(size: int) -> list[int]:
    """The lengths of the blocks that ``size`` bytes are cut into."""
    whole, rest = divmod(size, BLOCK_BYTES)
    return [BLOCK_BYTES] * whole + ([rest] if rest else [])


def write_tables(
    slot: memoryview,
    offset: int,
    data: Runs,
    zero: Runs,
    block_lengths: Sequence[int],
    deltas: DeltaTable | None = None,
) -> int:
    """Write the tables behind the ``offset`` bytes of blocks; return the payload's length."""
    tail = data.astype("<u4").tobytes() + zero.astype("<u4").tobytes()
    if deltas is not None:
        tail += _pack_map(deltas.mask) + deltas.bases.to_bytes(8, "little")
    tail += np.array(block_lengths, "<u4").tobytes()
    slot[offset : offset + len(tail)] = tail
    return offset + len(tail)


def _pack_map(mask: NDArray[np.bool_]) -> bytes:
    packed = np.packbits(mask, bitorder="little").tobytes()
    return packed + bytes(-len(packed) % (_MAP_BITS // 8))


def _read_deltas(table: memoryview, data_pages: int, delta_pages: int) -> DeltaTable | None:
    if not delta_pages:
        return None
    bits = np.unpackbits(np.frombuffer(table[:-8], dtype=np.uint8), bitorder="little").view(np.bool_)
    # A bit behind the last page names no page.
    if int(np.count_nonzero(bits)) != delta_pages or bool(bits[data_pages:].any()):
        raise IntegrityError(f"a batch declares {delta_pages} delta pages, its map names others")
    return DeltaTable(bits[:data_pages], int.from_bytes(table[-8:], "little"))


def _check_runs(runs: Runs, pages: int, region_pages: int, kind: str) -> None:
    if len(runs) == 0:
        if pages:
            raise IntegrityError(f"a batch declares {pages} {kind} pages and no {kind} runs")
        return
    starts, counts = runs[:, 0], runs[:, 1]
    stops = starts + counts
    if int(counts.min()) < 1 or int(stops[-1]) > region_pages or bool((starts[1:] < stops[:-1]).any()):
        raise IntegrityError(f"a batch's {kind} runs are not sorted, apart and within {region_pages} pages")
    if int(counts.sum()) != pages:
        raise IntegrityError(f"a batch declares {pages} {kind} pages, its runs have {int(counts.sum())}")


def read_tables(
    payload: memoryview,
    *,
    data_pages: int,
    zero_pages: int,
    data_runs: int,
    zero_runs: int,
    blocks: int,
    page_size: int,
    region_pages: int,
    delta_pages: int = 0,
    delta_words: int = 0,
) -> Tables:
    """Read and check the tables of ``payload`` against what the batch's header says.

    Raises:
        IntegrityError: the header and the tables do not agree, or a run lies outside the region. Nothing
            has been written or decompressed then.
    """
    runs_end = _RUN_BYTES * (data_runs + zero_runs)
    deltas_end = runs_end + delta_table_size(data_pages, delta_pages)
    tail = deltas_end + _LENGTH_BYTES * blocks
    stored = len(payload) - tail
    if stored < 0:
        raise IntegrityError(f"a batch of {len(payload)} bytes has no room for its tables of {tail} bytes")
    tables = payload[stored:]
    runs = _numbers(tables[:runs_end]).reshape(-1, 2)
    data, zero, lengths = runs[:data_runs], runs[data_runs:], _numbers(tables[deltas_end:])
    _check_runs(data, data_pages, region_pages, "data")
    _check_runs(zero, zero_pages, region_pages, "zero")
    deltas = _read_deltas(tables[runs_end:deltas_end], data_pages, delta_pages)
    size = data_size(data_pages, delta_pages, delta_words, page_size)
    if size > data_pages * page_size:
        raise IntegrityError(f"a batch of {data_pages} pages declares {size} bytes of data")
    raw = raw_lengths(size)
    if len(raw) != blocks:
        raise IntegrityError(f"a batch of {data_pages} pages declares {blocks} blocks")
    if int(lengths.sum()) != stored or bool((lengths > raw).any()) or bool((lengths < 1).any()):
        raise IntegrityError("a batch's block lengths do not add up to its payload")
    return Tables(data, zero, [int(length) for length in lengths], stored, size, deltas)


def _numbers(table: memoryview) -> NDArray[np.int64]:
    return np.frombuffer(table, dtype="<u4").astype(np.int64)


def pack_copies(pages: NDArray[np.int64], bases: NDArray[np.int64]) -> bytes:
    """``pages``, which rise, and what each is a copy of, as runs: page, base, count (u32 each)."""
    starts = np.flatnonzero(np.concatenate(([True], (np.diff(pages) != 1) | (np.diff(bases) != 1))))
    counts = np.diff(np.concatenate((starts, [len(pages)])))
    return np.stack((pages[starts], bases[starts], counts), axis=1).astype("<u4").tobytes()


def read_copies(runs: bytes, pages: int, region_pages: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The pages and their bases that :func:`pack_copies` was given; ``pages`` is how many there ought to be.

    Raises:
        IntegrityError: the runs are not that many pages, sorted, apart and within the region.
    """
    if len(runs) % _COPY_BYTES or not runs:
        raise IntegrityError(f"{len(runs)} bytes are no runs of copies")
    numbers = _numbers(memoryview(runs)).reshape(-1, 3)
    _check_runs(numbers[:, ::2], pages, region_pages, "copied")
    if int((numbers[:, 1] + numbers[:, 2]).max()) > region_pages:
        raise IntegrityError(f"copies are made of pages that are not within {region_pages} pages")
    return pages_of_runs(numbers[:, ::2]), pages_of_runs(numbers[:, 1:])
