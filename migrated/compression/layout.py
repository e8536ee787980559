"""How a batch's payload lies in its slot, and how it is read back without trusting it.

    offset 0                                                                payload_bytes
    | blocks, or the raw pages | data runs | zero runs | block table |

Runs are pairs of little-endian u32 (first page, pages); the block table is one u32 a block, its stored length.
Data pages are concatenated in the runs' order and cut into blocks of ``BLOCK_PAGES`` (the last may be shorter); a
block stored at its raw length is raw. A batch of the raw codec has no block table. The pages come first, so
that raw pages are read from the guest straight into the slot, and written from it straight to their place.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from migrated.errors import IntegrityError
from migrated.pages import Runs

__all__ = ["BLOCK_PAGES", "RAW", "Tables", "read_tables", "slot_bytes", "write_tables"]

RAW = "raw"
"""The codec name of batches whose pages travel as they are."""

BLOCK_PAGES = 64
"""256 KiB of 4 KiB pages: the knee of ratio against speed on real guest memory (64 to 256 KiB)."""

_RUN_BYTES = 8
_LENGTH_BYTES = 4


def slot_bytes(batch_pages: int, page_size: int) -> int:
    """The largest payload of a batch that covers ``batch_pages`` pages: all raw, each page a run of its own."""
    return batch_pages * (page_size + _RUN_BYTES) + _LENGTH_BYTES * -(-batch_pages // BLOCK_PAGES)


@dataclass(frozen=True, slots=True)
class Tables:
    """A payload's tables, proven consistent: ``block_lengths`` is empty for a raw batch."""

    data_runs: Runs
    zero_runs: Runs
    block_lengths: Sequence[int]
    stored_bytes: int


def write_tables(slot: memoryview, offset: int, data: Runs, zero: Runs, block_lengths: Sequence[int]) -> int:
    """Write the tables behind the ``offset`` bytes of blocks; return the payload's length."""
    tail = data.astype("<u4").tobytes() + zero.astype("<u4").tobytes() + np.array(block_lengths, "<u4").tobytes()
    slot[offset : offset + len(tail)] = tail
    return offset + len(tail)


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
) -> Tables:
    """Read and check the tables of ``payload`` against what the batch's header says.

    Raises:
        IntegrityError: the header and the tables do not agree, or a run lies outside the region. Nothing
            has been written or decompressed then.
    """
    tail = _RUN_BYTES * (data_runs + zero_runs) + _LENGTH_BYTES * blocks
    stored = len(payload) - tail
    if stored < 0:
        raise IntegrityError(f"a batch of {len(payload)} bytes has no room for its tables of {tail} bytes")
    words: NDArray[np.int64] = np.frombuffer(payload[stored:], dtype="<u4").astype(np.int64)
    runs = words[: 2 * (data_runs + zero_runs)].reshape(-1, 2)
    data, zero, lengths = runs[:data_runs], runs[data_runs:], words[2 * (data_runs + zero_runs) :]
    _check_runs(data, data_pages, region_pages, "data")
    _check_runs(zero, zero_pages, region_pages, "zero")
    raw_bytes = data_pages * page_size
    if blocks == 0:
        if stored != raw_bytes:
            raise IntegrityError(f"a raw batch of {data_pages} pages holds {stored} bytes, not {raw_bytes}")
    elif blocks != -(-data_pages // BLOCK_PAGES):
        raise IntegrityError(f"a batch of {data_pages} pages declares {blocks} blocks")
    elif int(lengths.sum()) != stored or int(lengths.max()) > BLOCK_PAGES * page_size or int(lengths.min()) < 1:
        raise IntegrityError("a batch's block lengths do not add up to its payload")
    return Tables(data, zero, [int(length) for length in lengths], stored)
