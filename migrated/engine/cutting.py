"""How a round is cut into batches: small ones first and last, large ones between.

While the first batch is read and packed the link has nothing to send, and while the last one is unpacked nothing else
is done. Between them a large batch costs less: what each takes besides its pages is about 1 ms of all processes.

    pages |        ___________
          |      _|           |_
          |    _|               |__
          |  _|                    |____
          +-----------------------------> time
"""

from collections.abc import Iterator

__all__ = ["SMALLEST", "batch_limit", "batch_sizes"]

SMALLEST = 64
"""Pages. Below 256 KiB the cost of a task outweighs what is won by spreading it."""

_SHARE = 4
"""Batches a worker gets of a round, at least: small ones in a short round, so that all workers finish together."""

_ALIKE, _ALIKE_EACH = 8, 2
"""Batches of a size, in all and for each worker, before the next ones are twice as large: what is under way at the
start is packed before anything is known of the link."""

_LEFT_SHARE = 2
"""Batches a worker gets of what is left of a round, at least."""


def batch_limit(pages: int, workers: int, batch_pages: int) -> int:
    """The pages of the largest batch in a round of so many: at most ``batch_pages``, fewer in a short round."""
    return min(batch_pages, max(SMALLEST, pages // (workers * _SHARE)))


def batch_sizes(pages: int, workers: int, batch_pages: int) -> Iterator[int]:
    """How many pages each batch of a round of so many gets, at most; goes on for ever, for a round that is cut at
    other places, too.

    They double up to :func:`batch_limit`, and shrink when little is left.
    """
    limit = batch_limit(pages, workers, batch_pages)
    growing, left, number = min(SMALLEST, limit), pages, 0
    alike = max(_ALIKE, _ALIKE_EACH * workers)
    while True:
        size = min(growing, max(min(SMALLEST, limit), left // (workers * _LEFT_SHARE)))
        yield size
        left -= size
        number += 1
        if number % alike == 0:
            growing = min(2 * growing, limit)
