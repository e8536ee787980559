"""Deltas between a sender and a receiver: agreed on, counted, and checked at the destination."""

import filecmp
import os
from typing import Any

import pytest

from migrated.engine.events import BatchMoved, Event, RoundFinished
from migrated.engine.options import STARTS_GUEST
from migrated.errors import PeerFailedError
from migrated.pages import PAGE_SIZE

CACHE = 4 << 20
PAGES = 200


def poke_after_rounds(sides: Any, *, spoil: bool = False) -> None:
    """After rounds 1 and 2 one byte of each of the first pages is written. The third round is the last.

    ``spoil``: what the destination has of one of them is not what the source believes any more.
    """

    def observe(event: Event) -> None:
        sides.events.append(event)
        if isinstance(event, RoundFinished) and event.round < 3:
            fd = os.open(sides.source.path, os.O_RDWR)
            for page in range(PAGES):
                os.pwrite(fd, bytes([event.round]), page * PAGE_SIZE + 77)
            os.close(fd)
            if spoil and event.round == 2:
                sides.receiver._stage.terms[0][5] ^= 1

    sides.observe = observe


def counted(events: list[Event]) -> tuple[int, int]:
    moved = [event for event in events if isinstance(event, BatchMoved)]
    return sum(event.delta_pages for event in moved), sum(event.saved_bytes for event in moved)


def last_round(sides: Any) -> RoundFinished:
    return [event for event in sides.events if isinstance(event, RoundFinished)][-1]


async def test_what_is_written_again_travels_as_what_has_changed(sides: Any) -> None:
    poke_after_rounds(sides)
    report = await sides.move(sides.sender(delta_cache=CACHE))
    assert filecmp.cmp(sides.source.path, sides.target.path, shallow=False)
    assert report.delta_pages == PAGES
    assert counted(sides.events) == counted(sides.far_events) == (PAGES, PAGES * (PAGE_SIZE - 12))
    assert (last_round(sides).sent_pages, last_round(sides).wire_bytes // PAGES) == (
        PAGES,
        pytest.approx(7, abs=7),
    )


@pytest.mark.parametrize(("cache", "features"), [(0, None), (CACHE, (STARTS_GUEST,)), (4096, None)])
async def test_without_a_cache_or_a_destination_that_takes_them_pages_travel_whole(
    sides: Any, cache: int, features: tuple[str, ...] | None
) -> None:
    sides.features = features or sides.features
    poke_after_rounds(sides)
    report = await sides.move(sides.sender(delta_cache=cache))
    assert filecmp.cmp(sides.source.path, sides.target.path, shallow=False)
    assert report.delta_pages == 0
    assert counted(sides.events) == counted(sides.far_events) == (0, 0)
    assert last_round(sides).wire_bytes > PAGES * 50


async def test_another_base_at_the_destination_gives_the_guest_back(sides: Any) -> None:
    poke_after_rounds(sides, spoil=True)
    with pytest.raises(PeerFailedError, match="not on the pages that are here") as failure:
        await sides.move(sides.sender(delta_cache=CACHE))
    assert "--delta-cache 0" in failure.value.hint
    assert "resume" in sides.source.calls
    assert not sides.target.path.exists()
