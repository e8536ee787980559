"""A process that ends is noticed when it ends, and not when somebody next looks at it."""

import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from migrated.engine.events import State, StateChanged
from migrated.errors import GuestDiedError, PeerFailedError


@pytest.fixture
def life() -> Iterator[tuple[int, Callable[[], None]]]:
    """A descriptor to watch, and what makes it readable."""
    watched, other = os.pipe()
    yield watched, lambda: os.write(other, b"x") and None
    os.close(watched)
    os.close(other)


def at(state: State, then: Callable[[], None], events: list[Any]) -> Callable[[Any], None]:
    def observe(event: Any) -> None:
        events.append(event)
        if isinstance(event, StateChanged) and event.state is state:
            then()

    return observe


@pytest.mark.parametrize("state", [State.PRE_COPY, State.STOP_AND_COPY])
async def test_what_was_prepared_there_ends(
    sides: Any, life: tuple[int, Callable[[], None]], state: State
) -> None:
    """At 8 MiB in several seconds this comes in the middle of a round, or of the wait after it."""
    watched, end = life
    sides.target.watched = lambda: watched
    sides.target.why_ended = lambda: GuestDiedError("the machine there has ended")
    sides.observe_far = at(state, end, sides.far_events)
    with pytest.raises(PeerFailedError, match="the machine there has ended"):
        await sides.move(sides.sender())
    assert sides.source.calls[-1] == "resume"
    assert sides.target.calls == ["discard"]


async def test_one_that_ends_when_it_runs_is_no_failure(
    sides: Any, life: tuple[int, Callable[[], None]]
) -> None:
    watched, end = life
    sides.target.watched = lambda: watched
    sides.observe_far = at(State.COMMIT, end, sides.far_events)
    report = await sides.move(sides.sender())
    assert report.moved


async def test_one_that_ends_here_when_it_is_whole_there_is_saved(
    sides: Any, life: tuple[int, Callable[[], None]]
) -> None:
    watched, end = life
    sides.source.watched = lambda: [watched]
    make_ready = sides.target.make_ready
    ended = threading.Event()

    def ready() -> None:
        end()
        ended.wait(0.2)  # the source's loop, which is ours too, sees it meanwhile
        make_ready()

    sides.target.make_ready = ready
    report = await sides.move(sides.sender())
    assert report.moved
    assert sides.target.calls == ["make_ready", "start True"]


@pytest.mark.parametrize("state", [State.PRE_COPY, State.STOP_AND_COPY])
async def test_the_guest_here_ends(sides: Any, life: tuple[int, Callable[[], None]], state: State) -> None:
    watched, end = life

    def check() -> None:
        raise GuestDiedError("the guest has ended")

    def die() -> None:
        sides.source.check = check
        end()

    sides.source.watched = lambda: [watched]
    sides.observe = at(state, die, sides.events)
    with pytest.raises(GuestDiedError, match="the guest has ended"):
        await sides.move(sides.sender())
    assert sides.target.calls == ["discard"]
