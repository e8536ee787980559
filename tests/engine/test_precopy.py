"""What pre-copy makes of what its rounds took: with a guest, workers and a connection that are none."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest

from migrated.engine.convergence import HASHED_BYTES_PER_SECOND
from migrated.engine.events import Estimated, Event, RoundFinished, RoundStarted
from migrated.engine.options import OnStall, SendOptions, Verify
from migrated.engine.precopy import PreCopy
from migrated.engine.rounds import RoundResult, Tuning
from migrated.errors import StalledError
from migrated.pages import PAGE_SIZE, PageSet

PAGES = 100_000
WIRE_RATE = 100e6
"""Bytes a second of every round here, but those with copies: they compare."""

OPTIONS = SendOptions(
    guest_name="guest",
    codecs={},
    compress_workers=1,
    decompress_workers=1,
    batch_pages=1024,
    max_rounds=30,
    on_stall=OnStall.FAIL,
    verify=Verify.DIGEST,
    commit_timeout=30.0,
    destination="there",
)


@dataclass
class Round:
    """What a round sends, and looks at in vain; what the guest writes meanwhile, from which page on; for how long is
    compared, and whether anything has to be after it."""

    sends: int
    twins: int = 0
    unchanged: int = 0
    written: int = 0
    begin: int = 0
    compares: float = 0.0
    changed: bool = False


class Unseen:
    """What the tracker does not see: after some rounds, anything."""

    def __init__(self, fakes: "Fakes") -> None:
        self.candidates = False
        self._fakes = fakes

    def populated(self) -> list[PageSet]:
        return [PageSet.full(PAGES)]

    def collect(self) -> list[PageSet]:
        self.candidates = self._fakes.pushed[-1].changed
        return [PageSet.full(PAGES) if self.candidates else PageSet(PAGES)]


class Fakes:
    """The source's guest, tracker, pusher, channel and conversation in one, and their clock."""

    exact = True
    switch_seconds = 0.0

    def __init__(self, rounds: Sequence[Round]) -> None:
        self.tracker = self
        self.unseen = Unseen(self)
        self.twins = range(0)
        self.now = 0.0
        self.pushed: list[Round] = []
        self._rounds: Iterator[Round] = iter(rounds)

    def clock(self) -> float:
        return self.now

    def arm(self) -> None:
        pass

    def check(self) -> None:
        pass

    def collect(self) -> list[PageSet]:
        dirty = PageSet(PAGES)
        made = self.pushed[-1]
        dirty.mask[made.begin : made.begin + made.written] = True
        return [dirty]

    def set_rate(self, bytes_per_second: float) -> None:
        pass

    async def send(self, message: object) -> None:
        pass

    async def barrier(self, number: int) -> None:
        pass

    async def push(self, number: int, pending: Sequence[PageSet], *, first: bool) -> RoundResult:
        made = next(self._rounds)
        self.pushed.append(made)
        self.twins = range(made.twins)
        wire_bytes = made.sends * PAGE_SIZE
        self.now += wire_bytes / WIRE_RATE + made.compares
        looked = PAGES if self.unseen.candidates else made.sends + made.unchanged
        return RoundResult(made.sends, looked, 1, wire_bytes)


async def pre_copy(fakes: Fakes, **changes: Any) -> list[Event]:
    """Its events, until it would pause the guest."""
    events: list[Event] = []
    parts: Any = fakes
    tuning = Tuning("lz4", 1, math.inf, 0.3)
    rounds = PreCopy(
        *(parts, parts, parts, parts.unseen, parts),
        replace(OPTIONS, **changes),
        tuning,
        events.append,
        fakes.clock,
    )
    await rounds.pre_copy()
    return events


async def test_the_guest_is_paused_when_the_rest_fits() -> None:
    fakes = Fakes([Round(PAGES, written=20_000), Round(20_000, written=90)])
    events = await pre_copy(fakes)
    assert [event.round for event in events if isinstance(event, RoundFinished)] == [1, 2]
    last = [event for event in events if isinstance(event, Estimated)][-1]
    assert last.wire_bytes_per_second == pytest.approx(WIRE_RATE)
    assert last.expected_downtime == pytest.approx(0.03 + 90 * PAGE_SIZE / WIRE_RATE, rel=0.05)


async def test_one_more_round_makes_a_pause_that_fits_shorter() -> None:
    fakes = Fakes([Round(PAGES, written=4000), Round(4000, written=300), Round(300, written=20)])
    events = await pre_copy(fakes)
    expected = [event.expected_downtime for event in events if isinstance(event, Estimated)]
    sending = [4000 * PAGE_SIZE / WIRE_RATE, 300 * PAGE_SIZE / WIRE_RATE]
    assert expected[:2] == pytest.approx([0.03 + each for each in sending], rel=0.05)
    assert len(fakes.pushed) == 3, "12 ms are worth it"


async def test_where_all_memory_is_compared_no_round_is_made_for_a_shorter_pause() -> None:
    fakes = Fakes([Round(PAGES, written=4000), Round(4000, written=4000)])
    fakes.exact = False
    await pre_copy(fakes, compress_workers=4)
    assert len(fakes.pushed) == 2


async def test_pages_that_seem_to_be_copies_are_not_left_to_the_last_round() -> None:
    fakes = Fakes([Round(PAGES - 5000, twins=5000), Round(0, compares=0.5)])
    events = await pre_copy(fakes)
    assert [event.round for event in events if isinstance(event, RoundFinished)] == [1, 2]
    assert [event.pages for event in events if isinstance(event, RoundStarted)] == [PAGES, 5000]


async def test_comparing_what_was_sent_says_nothing_of_the_link_or_of_the_pages_that_are_written() -> None:
    """Of all pages a few had changed: what follows is not as cheap as all of them were, nor as slow."""
    fakes = Fakes([Round(PAGES, changed=True), Round(1000, written=4000, compares=2.0), Round(4000)])
    events = await pre_copy(fakes)
    before, last, _ = (event for event in events if isinstance(event, Estimated))
    assert before.remaining_pages == PAGES
    assert last.wire_bytes_per_second == pytest.approx(WIRE_RATE)
    assert last.remaining_wire_bytes == pytest.approx(4000 * PAGE_SIZE)


async def test_a_round_that_may_have_to_send_little_of_what_it_compares_can_be_the_last() -> None:
    """As many pages as changed in the one before are expected, and the time that comparing all takes: it took longer in
    the round, beside the guest and what was sent, than it does anywhere in a pause."""
    rounds = [Round(PAGES, changed=True), *[Round(100, changed=True, compares=0.2)] * 20]
    fakes = Fakes(rounds)
    events = await pre_copy(fakes, compress_workers=4)
    last = [event for event in events if isinstance(event, Estimated)][-1]
    assert len(fakes.pushed) == 2
    assert last.remaining_pages == 100
    assert 0.03 + PAGES * PAGE_SIZE / HASHED_BYTES_PER_SECOND / 4 < last.expected_downtime < 0.3


@pytest.mark.parametrize("exact", [True, False])
async def test_comparing_is_expected_to_take_what_it_took(exact: bool) -> None:
    """Half a second by the rate of other hosts; here a round of it was done in less, so it fits the pause."""
    rounds = [Round(PAGES, changed=True), *[Round(100, changed=True, compares=0.15)] * 20]
    fakes = Fakes(rounds)
    fakes.exact = exact
    events = await pre_copy(fakes)
    last = [event for event in events if isinstance(event, Estimated)][-1]
    assert len(fakes.pushed) == 2
    assert 0.03 + 0.15 < last.expected_downtime < 0.2


async def test_what_the_tracker_saw_counts_beside_what_has_to_be_compared() -> None:
    """A burst of writes is not taken for the few pages that changed in the round before."""
    fakes = Fakes([Round(PAGES, written=20_000), Round(100, written=20_000, changed=True), Round(20_000)])
    events = await pre_copy(fakes, compress_workers=4)
    remaining = [event.remaining_pages for event in events if isinstance(event, Estimated)]
    assert remaining == [20_000, 20_000, 0]


async def test_a_guest_that_always_has_to_be_compared_is_told_why_it_does_not_move() -> None:
    rounds = [Round(PAGES, changed=True), *[Round(100, changed=True, compares=0.4)] * 20]
    with pytest.raises(StalledError, match="it keeps giving pages back"):
        await pre_copy(Fakes(rounds))


async def test_pages_that_the_round_before_did_not_send_are_expected_to_have_changed() -> None:
    """Half of the second round's arrived by the first as they are: that says nothing of others, only of the same."""
    fakes = Fakes(
        [
            Round(PAGES, written=20_000),
            Round(10_000, unchanged=10_000, written=15_000, begin=20_000),
            Round(15_000, written=5000, begin=20_000),
            Round(2500, unchanged=2500),
        ]
    )
    events = await pre_copy(fakes)
    estimates = [event for event in events if isinstance(event, Estimated)]
    changed = [event.remaining_wire_bytes / PAGE_SIZE for event in estimates]
    assert changed == pytest.approx([20_000, 15_000, 2500, 0])


async def test_comparing_copies_says_nothing_of_the_link() -> None:
    """Slow as it was: a link at a hundredth of its rate would have the guest wait for another round."""
    fakes = Fakes(
        [Round(PAGES - 5000, twins=5000), Round(500, written=4000, compares=2.0), Round(4000, written=10)]
    )
    events = await pre_copy(fakes)
    last = [event for event in events if isinstance(event, Estimated)][1]
    assert last.wire_bytes_per_second == pytest.approx(WIRE_RATE)
    assert last.remaining_wire_bytes == pytest.approx(4000 * PAGE_SIZE)
    assert last.expected_downtime < 0.3


async def test_what_was_expected_without_the_copies_is_no_best() -> None:
    """Nothing to send but copies looks like no downtime at all, and no round after it like a better one."""
    rounds = [Round(PAGES - 5000, twins=5000, written=0)]
    rounds += [Round(20_000, written=round(20_000 * 0.9**each)) for each in range(9)]
    fakes = Fakes([*rounds, Round(10_000, written=10)])
    await pre_copy(fakes)
    assert len(fakes.pushed) == 11, "it goes on for as long as each round is better than the one before"


async def test_rounds_that_do_not_help_end_with_the_best_of_them() -> None:
    fakes = Fakes([Round(PAGES - 5000, twins=5000)] + [Round(20_000, written=20_000)] * 9)
    with pytest.raises(StalledError, match=r"best so far 8[45]. ms"):
        await pre_copy(fakes)
    assert len(fakes.pushed) == 6, (
        "five rounds behind the one with twins: the best, and four that are not better"
    )
