"""The policy's ladder, and where it goes on recorded and made-up pipelines."""

from collections import Counter
from dataclasses import dataclass
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrated.compression.policy import NONE, Auto, Choice, Cost, Load, Rung, Why, hull

LZ4, SNAPPY, ZLIB, ZSTD, ZSTD3, ZSTD6 = (
    Rung(*each) for each in (("lz4", 1), ("snappy", 1), ("zlib", 1), ("zstd", 1), ("zstd", 3), ("zstd", 6))
)
RUNGS = (LZ4, SNAPPY, ZLIB, ZSTD, ZSTD3, ZSTD6)

# Real guest memory in blocks of 256 KiB, one core: MB/s packed, ratio, MB/s unpacked, measured on a Debian guest.
GUEST = {
    rung: Cost(1 / (speed * 1e6), 1 / ratio, 1 / (unpacking * 1e6))
    for rung, speed, ratio, unpacking in (
        (LZ4, 459, 1.96, 1200),
        (SNAPPY, 536, 1.93, 900),
        (ZLIB, 304, 2.38, 400),
        (ZSTD, 269, 2.51, 700),
        (ZSTD3, 191, 2.61, 640),
        (ZSTD6, 73, 2.7, 640),
    )
}
NOISE = {rung: Cost(cost.seconds / 4, 0.999) for rung, cost in GUEST.items()}


def test_the_ladder_of_real_memory_keeps_what_no_mix_beats() -> None:
    ladder = hull(GUEST)
    assert ladder[0] == NONE
    assert {SNAPPY, ZSTD} <= set(ladder)
    assert LZ4 not in ladder, "slower than snappy there, and hardly denser"
    assert ZLIB not in ladder, "it is as fast to make as zstd, and takes longer to unpack"


def test_noise_has_no_ladder() -> None:
    assert hull(NOISE) == (NONE,)


@given(
    st.dictionaries(
        st.sampled_from(RUNGS),
        st.builds(Cost, st.floats(1e-10, 1e-6), st.floats(0.0, 1.1), st.floats(0.0, 1e-6)),
        max_size=6,
    )
)
def test_each_rung_costs_more_and_saves_less_than_the_one_below(costs: dict[Rung, Cost]) -> None:
    points = [Cost(0.0, 1.0), *(costs[rung] for rung in hull(costs)[1:])]
    slopes = [(left.wire - right.wire) / (right.both - left.both) for left, right in pairwise(points)]
    assert all(slope > 0 for slope in slopes)
    assert slopes == sorted(slopes, reverse=True)


@dataclass
class Pipeline:
    """Workers, a queue and a link in small: time goes on batch by batch."""

    auto: Auto
    costs: dict[Rung, Cost]
    link: float
    workers: int = 2
    slots: int = 6
    batch: float = 4e6
    overhead: float = 0.7e-9
    """Seconds of a worker for each byte besides the codec: read, hash, checksum."""

    def run(self, batches: int) -> tuple[float, Counter[Rung], Choice]:
        """Seconds, the rungs of the second half, and the last choice."""
        free_workers = [0.0] * self.workers
        link_free, now = 0.0, 0.0
        queued: list[tuple[float, float]] = []  # packed at, sent at
        used: Counter[Rung] = Counter()
        choice = Choice(NONE, Why.START)
        for number in range(batches):
            while True:
                held = [each for each in queued if each[1] > now]
                if len(held) < self.slots:
                    break
                now = min(sent for _, sent in held)
            sending = [each for each in held if each[0] <= now]
            load = Load(max(0, len(sending) - 1), bool(queued) and queued[0][1] <= now, 0.0)
            choice = self.auto.choose(load)
            cost = Cost(0.0, 1.0) if choice.rung == NONE else self.costs[choice.rung]
            first = min(range(self.workers), key=free_workers.__getitem__)
            start = max(now, free_workers[first])
            packed = start + self.batch * (cost.seconds + self.overhead)
            free_workers[first] = packed
            link_free = max(link_free, packed) + self.batch * cost.wire / self.link
            queued.append((packed, link_free))
            self.auto.packed(
                choice.rung, int(self.batch), int(self.batch * cost.wire), self.batch * cost.seconds
            )
            if number >= batches // 2:
                used[choice.rung] += 1
        return link_free, used, choice


def pipeline(link: float, costs: dict[Rung, Cost] = GUEST) -> Pipeline:
    auto = Auto(RUNGS, workers=2)
    auto.sampled(costs)
    return Pipeline(auto, costs, link)


def fixed_seconds(rung: Rung, link: float, batches: int, costs: dict[Rung, Cost] = GUEST) -> float:
    single = Auto((rung,), workers=2)
    return Pipeline(single, costs | {NONE: Cost(0.0, 1.0)}, link).run(batches)[0]


@pytest.mark.parametrize("link", [12.5e6, 25e6, 125e6, 1.25e9, 1e12])
@pytest.mark.parametrize("costs", [GUEST, NOISE], ids=["guest", "noise"])
def test_it_is_about_as_fast_as_the_best_fixed_choice(link: float, costs: dict[Rung, Cost]) -> None:
    seconds, _, _ = pipeline(link, costs).run(256)
    best = min(fixed_seconds(rung, link, 256, costs) for rung in (NONE, *RUNGS))
    assert seconds <= 1.10 * best


def test_a_fast_link_gets_no_compression() -> None:
    _, used, _ = pipeline(1e12).run(100)
    assert used.most_common(1)[0][0] == NONE


def test_a_slow_link_gets_the_densest() -> None:
    made = pipeline(2e6)
    _, used, choice = made.run(100)
    assert used.most_common(1)[0][0] == made.auto.ladder[-1]
    assert choice.why is Why.LINK


def test_between_two_rungs_it_mixes() -> None:
    _, used, _ = pipeline(200e6).run(200)
    assert len(used) >= 2


def test_it_changes_its_mind_when_the_link_changes() -> None:
    made = pipeline(1e12)
    made.run(50)
    made.link = 12.5e6
    _, used, _ = made.run(60)
    assert NONE not in used
    made.link = 1e12
    _, used, _ = made.run(60)
    assert used.most_common(1)[0][0] == NONE


def test_a_busy_destination_is_not_given_more_to_do() -> None:
    auto = Auto(RUNGS, workers=2)
    auto.sampled(GUEST)
    for _ in range(20):
        choice = auto.choose(Load(waiting=4, primed=True, destination_busy=0.9))
    assert choice == Choice(NONE, Why.DESTINATION)


def test_before_anything_is_known_it_takes_the_first() -> None:
    auto = Auto(RUNGS, workers=2)
    assert auto.choose(Load(4, primed=True, destination_busy=0.0)) == Choice(LZ4, Why.START)
    auto.sampled(GUEST)
    assert auto.choose(Load(0, primed=False, destination_busy=0.0)).rung in (LZ4, SNAPPY, NONE)


def test_with_nothing_to_choose_from_nothing_is_compressed() -> None:
    auto = Auto((), workers=2)
    for waiting in (0, 4):
        assert auto.choose(Load(waiting, primed=True, destination_busy=0.0)).rung == NONE


def test_a_sample_of_noise_ends_compression_and_other_pages_bring_it_back() -> None:
    auto = Auto(RUNGS, workers=2)
    auto.sampled(NOISE)
    assert auto.ladder == (NONE,)
    auto.sampled(GUEST)
    assert ZSTD in auto.ladder


def test_content_that_changes_changes_the_ladder() -> None:
    auto = Auto(RUNGS, workers=2)
    auto.sampled(GUEST)
    for _ in range(30):
        auto.packed(ZSTD, 4_000_000, 3_999_000, 0.004)
    assert ZSTD not in auto.ladder
