"""The policy's ladder, and where it goes on recorded and made-up pipelines."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_pipeline import Pipeline

from migrated.compression.policy import NONE, Auto, Choice, Cost, Rung, Why, hull

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


def sampled(*rows: tuple[Rung, float, float, float]) -> dict[Rung, Cost]:
    """Of each rung the nanoseconds that packing takes a byte, what is left of it, and those of unpacking."""
    return {rung: Cost(packing * 1e-9, wire, unpacking * 1e-9) for rung, packing, wire, unpacking in rows}


# A small Debian guest beside a page file of text, under this project's own sampling.
SMALL = sampled(
    (LZ4, 2.1, 0.49, 0.43),
    (SNAPPY, 2.6, 0.455, 0.8),
    (ZLIB, 3.2, 0.37, 2.15),
    (ZSTD, 4.9, 0.34, 1.55),
    (ZSTD3, 7.9, 0.336, 1.6),
    (ZSTD6, 17.7, 0.31, 1.4),
)
# One full of text, while others used the cores, too.
TEXT = sampled(
    (LZ4, 1.2, 0.244, 0.81),
    (SNAPPY, 1.7, 0.251, 0.62),
    (ZLIB, 1.7, 0.184, 1.14),
    (ZSTD, 2.4, 0.17, 0.93),
)
NOISE = {rung: Cost(cost.seconds / 4, 0.999) for rung, cost in GUEST.items()}


def test_the_ladder_of_real_memory_keeps_what_no_mix_beats() -> None:
    ladder = hull(GUEST)
    assert ladder[0] == NONE
    assert {SNAPPY, ZSTD} <= set(ladder)
    assert LZ4 not in ladder, "slower than snappy there, and hardly denser"
    assert ZLIB not in ladder, "it is as fast to make as zstd, and takes longer to unpack"


def test_where_few_workers_unpack_what_they_take_weighs_more() -> None:
    assert LZ4 in hull(GUEST, far=4.0), "it takes longer to make than snappy, and less to unpack"


def test_noise_has_no_ladder() -> None:
    assert hull(NOISE) == (NONE,)


@given(
    st.dictionaries(
        st.sampled_from(RUNGS),
        st.builds(Cost, st.floats(1e-10, 1e-6), st.floats(0.0, 1.1), st.floats(0.0, 1e-6)),
        max_size=6,
    ),
    st.sampled_from([0.5, 1.0, 2.0, 8.0]),
)
def test_each_rung_costs_more_and_saves_less_than_the_one_below(costs: dict[Rung, Cost], far: float) -> None:
    points = [Cost(0.0, 1.0), *(costs[rung] for rung in hull(costs, far)[1:])]
    slopes = [
        (left.wire - right.wire)
        / (right.seconds + far * right.unpacking - left.seconds - far * left.unpacking)
        for left, right in pairwise(points)
    ]
    assert all(slope > 0 for slope in slopes)
    assert slopes == sorted(slopes, reverse=True)


CONTENTS = {"guest": GUEST, "small": SMALL, "noise": NOISE}

HOSTS = {
    "two cores, both sides": {},
    "two cores, both sides and a guest": {"others": 1},
    "two hosts of two cores": {"shared": False},
    "two hosts, eight workers": {"shared": False, "workers": 8, "far_workers": 2, "cores": 16},
}

LINKS = {25e6: 200, 125e6: 200, 312e6: 400, 1e10: 1600}
"""Bytes a second, and batches that take some seconds."""


def pipeline(link: float, costs: dict[Rung, Cost] = GUEST, **hosts: int) -> Pipeline:
    workers = hosts.get("workers", 2)
    auto = Auto(RUNGS, workers=workers, far_workers=hosts.get("far_workers", 1))
    auto.sampled(costs)
    return Pipeline(auto, costs, link, **hosts)


@pytest.mark.parametrize(("link", "batches"), LINKS.items(), ids=map("{:g}".format, LINKS))
@pytest.mark.parametrize("costs", CONTENTS.values(), ids=CONTENTS)
@pytest.mark.parametrize("hosts", HOSTS.values(), ids=HOSTS)
def test_it_is_about_as_fast_as_the_best_fixed_choice(
    hosts: dict[str, int], costs: dict[Rung, Cost], link: float, batches: int
) -> None:
    seconds = pipeline(link, costs, **hosts).run(batches)
    fixed = {rung: Pipeline(rung, costs, link, **hosts).run(batches) for rung in (NONE, *RUNGS)}
    assert seconds <= 1.10 * min(fixed.values())


def test_a_fast_link_gets_no_compression() -> None:
    made = pipeline(1e12)
    made.run(100)
    assert made.used.most_common(1)[0][0] == NONE


def test_a_slow_link_gets_the_densest() -> None:
    made = pipeline(2e6)
    made.run(100)
    assert isinstance(made.auto, Auto)
    assert made.used.most_common(1)[0][0] == made.auto.ladder[-1]
    assert made.choice.why is Why.LINK


def test_between_two_rungs_it_mixes() -> None:
    made = pipeline(250e6)
    made.run(200)
    assert len([rung for rung, count in made.used.items() if count > 20]) >= 2


def test_it_changes_its_mind_when_the_link_changes() -> None:
    made = pipeline(1e12)
    made.run(50)
    made.link = 12.5e6
    made.run(20)  # what fills the buffers tells nothing
    made.run(40)
    assert NONE not in made.used
    made.link = 1e12
    made.run(100)
    made.run(40)
    assert made.used.most_common(1)[0][0] == NONE


def send(auto: Auto, *, asleep: float, batches: int = 30, carries: float = 0.0) -> None:
    """Batches of which each takes what it would over 1 Gb/s; ``asleep`` is a share of that."""
    seconds = 8e-9 * 4e6
    for _ in range(batches):
        auto.packed(NONE, 4_000_000, 4_000_000, codec_seconds=0.0, cpu_seconds=0.003, seconds=0.006)
        auto.sent(
            NONE, 4_000_000, seconds, asleep=asleep * seconds, waited=True, there=1e-9, carries=carries
        )


def find_idle(auto: Auto, batches: int, carries: float = 0.0, wire_bytes: int = 1_500_000) -> float:
    """Batches for which nobody waited; what the link is thought to take for a byte then."""
    for _ in range(batches):
        auto.sent(NONE, wire_bytes, 0.5e-3, asleep=0.0, waited=False, there=1e-9, carries=carries)
    return auto.link_seconds


def test_who_sends_and_has_no_core_does_not_take_the_link_for_slow() -> None:
    auto = Auto(RUNGS, workers=2)
    auto.sampled(SMALL)
    send(auto, asleep=0.1)
    assert auto.link_seconds < 1e-9
    assert auto.choose().rung == NONE
    send(auto, asleep=0.9)
    assert auto.link_seconds == pytest.approx(8e-9, rel=0.05)
    assert auto.choose().rung != NONE
    send(auto, asleep=0.1, batches=200)
    assert auto.link_seconds < 1e-9
    assert auto.choose().rung == NONE


def test_workers_that_are_slow_do_not_make_the_link_look_faster_than_the_kernel_knows_it_to_be() -> None:
    auto = Auto(RUNGS, workers=2)
    send(auto, asleep=0.9, carries=1.2e8)
    assert find_idle(auto, 100, carries=1.2e8) == pytest.approx(8e-9, rel=0.05)
    assert find_idle(auto, 100, carries=2.4e8) == pytest.approx(4.2e-9, rel=0.05)


def test_an_odd_rate_of_the_kernel_does_not_count() -> None:
    auto = Auto(RUNGS, workers=2)
    send(auto, asleep=0.9, carries=1.2e8)
    for _ in range(20):
        find_idle(auto, 1, carries=1e10)
        find_idle(auto, 2, carries=1.2e8)
    assert auto.link_seconds == pytest.approx(8e-9, rel=0.05)


def test_what_follows_a_pause_does_not_tell_of_the_link() -> None:
    """Small batches of a late round, some of which leave at once; of others the kernel can tell nothing."""
    auto = Auto(RUNGS, workers=2)
    send(auto, asleep=0.9, carries=1.2e8)
    for _ in range(10):
        find_idle(auto, 10, carries=6e8, wire_bytes=200_000)
        find_idle(auto, 2, wire_bytes=700_000)
        find_idle(auto, 2, carries=1.2e8)
    assert auto.link_seconds == pytest.approx(8e-9, rel=0.05)


def test_what_the_kernel_told_is_forgotten_when_it_tells_no_more() -> None:
    """A link that got faster has seldom enough to do for it to tell."""
    auto = Auto(RUNGS, workers=2)
    send(auto, asleep=0.9, carries=1.2e8)
    find_idle(auto, 100, carries=1.2e8)
    assert find_idle(auto, 100) < 1e-9


@pytest.mark.parametrize("carries", [1e6, 1e10], ids=["slow", "fast"])
def test_what_the_kernel_tells_is_no_measure_where_batches_wait(carries: float) -> None:
    """Its bytes may only have gone to a proxy of this host, or a window still have been narrow."""
    auto = Auto(RUNGS, workers=2)
    send(auto, asleep=0.9, carries=carries)
    assert auto.link_seconds == pytest.approx(8e-9, rel=0.05)


def test_many_small_batches_say_no_more_of_an_idle_link_than_a_few_large_ones() -> None:
    """A late round is cut into small ones, and each finds room in the link's buffers."""

    def after(wire_bytes: int) -> float:
        auto = Auto(RUNGS, workers=2)
        send(auto, asleep=0.9)
        for _ in range((16 << 20) // wire_bytes):
            auto.sent(NONE, wire_bytes, 1e-9 * wire_bytes, asleep=0.0, waited=False, there=1e-9)
        return auto.link_seconds

    assert after(128 << 10) == pytest.approx(after(1 << 20), rel=0.05)


def test_workers_that_wait_for_cores_leave_less_to_the_link() -> None:
    """Who sends waits for them, too, so that both are not busy at the same time."""

    def share_of_raw(stretch: float, link: float) -> float:
        auto = Auto((LZ4,), workers=2)
        auto.sampled({LZ4: Cost(4.8e-9 / stretch, 0.42)})
        for _ in range(100):
            # As slow altogether, by their own work or for want of cores.
            cpu = 7.4e-9 * 4e6 / stretch
            auto.packed(
                *(NONE, 4_000_000, 4_000_000), codec_seconds=0.0, cpu_seconds=cpu, seconds=stretch * cpu
            )
            auto.sent(NONE, 4_000_000, link * 4e6, asleep=0.9 * link * 4e6, waited=True, there=1e-9)
        return sum(auto.choose().rung == NONE for _ in range(80)) / 80

    assert 0.2 < share_of_raw(1.0, 8e-9) < 0.8
    assert share_of_raw(2.1, 8e-9) == 0.0
    assert share_of_raw(2.1, 3e-9) == 1.0, "over a fast link workers are dearer"


def test_a_slow_destination_is_not_given_more_to_do() -> None:
    made = pipeline(1e10, SMALL, shared=False)
    made.far_factor = 20.0
    made.run(150)
    made.run(100)
    assert made.used.most_common(1)[0][0] == NONE


def test_a_destination_that_waits_for_its_memory_is_not_sent_more_bytes() -> None:
    """Pages that its own host gives it only now take it 14 us each, with whatever codec: 4.5 ns a byte, say."""
    auto = Auto(RUNGS, workers=2)
    auto.sampled(TEXT)
    send(auto, asleep=0.95)
    chosen = []
    for _ in range(60):
        auto.packed(LZ4, 2 << 20, 512_000, codec_seconds=0.0024, cpu_seconds=0.0038, seconds=2.2 * 0.0038)
        auto.sent(LZ4, 512_000, 0.004, asleep=0.0038, waited=True, there=4.5e-9)
        chosen.append(auto.choose())
    assert chosen[-1].why is Why.DESTINATION
    assert NONE not in {choice.rung for choice in chosen[20:]}


def test_before_anything_is_known_nothing_is_compressed_and_then_the_first_is_taken() -> None:
    auto = Auto(RUNGS, workers=2)
    assert auto.choose() == Choice(NONE, Why.START)
    assert not auto.wants_sample, "the link may be none"
    send(auto, asleep=0.9, batches=1)
    assert auto.choose() == Choice(LZ4, Why.START)
    assert auto.wants_sample
    auto.sampled(GUEST)
    assert auto.choose().why is not Why.START


def test_one_stop_of_a_destination_that_is_starting_is_no_slow_link() -> None:
    auto = Auto(RUNGS, workers=2)
    for number in range(40):
        asleep = 0.010 if number == 4 else 0.0
        auto.sent(NONE, 256_000, 0.0005 + asleep, asleep=asleep, waited=True, there=0.0)
        assert auto.choose().rung == NONE
        assert not auto.wants_sample


@pytest.mark.parametrize(("seconds", "waits"), [(2e-9, False), (8e-9, True)])
def test_who_is_fast_sleeps_now_and_then_for_want_of_a_core(seconds: float, waits: bool) -> None:
    """Every other batch slept for: at 8e-9 s a byte that is a link of 1 Gb/s that has just filled its buffers."""
    auto = Auto(RUNGS, workers=2)
    for number in range(40):
        asleep = 0.5 * seconds * 4_000_000 if number % 2 else 0.0
        auto.sent(NONE, 4_000_000, seconds * 4_000_000, asleep=asleep, waited=True, there=0.1 * seconds)
    assert auto.wants_sample is (auto.choose().rung != NONE) is waits


def over_a_fast_link(auto: Auto, seconds: float = 2e-9, there: float = 0.0) -> None:
    """Of 40 batches each was slept for, as if there were a link of 4 Gb/s."""
    for _ in range(40):
        took = seconds * 4_000_000
        auto.sent(NONE, 4_000_000, took, asleep=0.9 * took, waited=True, there=there or 0.1 * seconds)
        auto.choose()


def test_over_a_fast_link_a_sample_tries_the_first_rung_and_the_others_once_that_pays() -> None:
    auto = Auto(RUNGS, workers=2)
    over_a_fast_link(auto)
    assert auto.wants_sample
    assert auto.to_sample == (LZ4,)
    auto.sampling()
    auto.sampled({LZ4: Cost(5e-9, 0.9, 0.1e-9)})
    assert auto.choose().rung == NONE, "much work for little"
    assert not auto.wants_sample
    auto.sampled({LZ4: Cost(0.2e-9, 0.3, 0.01e-9)})
    auto.choose()
    assert auto.wants_sample
    assert auto.to_sample == RUNGS
    auto.sampling()
    assert not auto.wants_sample, "one at a time"
    auto.sampled(GUEST)
    assert not auto.wants_sample


def test_what_a_fast_link_left_unknown_is_looked_at_when_it_gets_slow() -> None:
    auto = Auto(RUNGS, workers=2)
    over_a_fast_link(auto)
    auto.sampling()
    auto.sampled({LZ4: Cost(5e-9, 1.0, 0.1e-9)})
    auto.choose()
    assert not auto.wants_sample
    over_a_fast_link(auto, 8e-9)
    assert auto.wants_sample
    assert auto.to_sample == RUNGS


def test_over_no_link_no_page_is_looked_at() -> None:
    auto = Auto(RUNGS, workers=2)
    for _ in range(50):
        send(auto, asleep=0.1, batches=4)
        assert auto.choose() == Choice(NONE, Why.WORKERS)
        assert not auto.wants_sample


@pytest.mark.parametrize("link", [12.5e6, 25e6, 125e6])
def test_a_slow_link_is_found_out_before_much_has_gone_over_it(link: float) -> None:
    made = Pipeline(Auto(RUNGS, workers=2), GUEST, link)
    made.run(60)
    assert made.used[NONE] <= 24, "those that buffers took, and those that were packed meanwhile"


def test_with_nothing_to_choose_from_nothing_is_compressed() -> None:
    made = pipeline(1e6, {})
    made.auto = Auto((), workers=2)
    made.run(20)
    assert set(made.used) == {NONE}


def test_a_sample_of_noise_ends_compression_and_other_pages_bring_it_back() -> None:
    auto = Auto(RUNGS, workers=2)
    auto.sampled(NOISE)
    assert auto.ladder == (NONE,)
    auto.sampled(GUEST)
    assert ZSTD in auto.ladder


def test_pages_that_are_not_compressed_are_sampled_again_while_the_link_is_slow() -> None:
    made = pipeline(12.5e6, NOISE)
    auto = made.auto
    assert isinstance(auto, Auto)
    made.run(40)
    assert auto.wants_sample
    auto.sampling()
    assert not auto.wants_sample
    made.run(60)
    assert auto.wants_sample
    auto.sampling()
    made.link = 1e10
    made.run(200)
    auto.sampling()
    made.run(200)
    assert not auto.wants_sample, "what is fast enough as it is need not be known"


@pytest.mark.parametrize(("link", "rung"), [(25e6, LZ4), (125e6, LZ4), (1e10, NONE)])
def test_noise_is_looked_at_where_the_link_leaves_the_time(link: float, rung: Rung) -> None:
    made = pipeline(link, NOISE)
    made.run(40)
    made.run(40)
    assert set(made.used) == {rung}


def test_noise_is_left_alone_by_workers_that_are_what_is_slow() -> None:
    made = pipeline(125e6, {rung: Cost(8e-9, 0.999) for rung in RUNGS})
    made.run(40)
    made.run(40)
    assert set(made.used) == {NONE}


def test_other_pages_behind_noise_are_seen_without_a_sample() -> None:
    made = pipeline(25e6, NOISE)
    auto = made.auto
    assert isinstance(auto, Auto)
    made.run(60)
    assert auto.ladder == (NONE,)
    made.costs = GUEST
    made.run(20)
    assert len(auto.ladder) > 1


def test_one_odd_sample_is_made_up_for_while_the_link_leaves_the_time() -> None:
    odd = SMALL | {ZSTD6: Cost(17.7e-9, 0.335, 1.4e-9)}
    made = pipeline(25e6, odd)
    auto = made.auto
    assert isinstance(auto, Auto)
    auto.sampling()
    auto.sampled(odd)
    made.run(40)
    assert ZSTD6 not in made.used, "in those pages it hardly saves anything"
    for _ in range(5):
        if auto.wants_sample:
            auto.sampling()
            auto.sampled(SMALL)
        made.run(8)
    made.used.clear()
    made.run(60)
    assert made.used[ZSTD6] > 20


def taken(costs: dict[Rung, Cost], rounds: int = 20) -> int:
    """How many samples are wanted of such pages over a link of 100 Mb/s, in so many times eight batches."""
    made = pipeline(12.5e6, costs)
    auto = made.auto
    assert isinstance(auto, Auto)
    count = 0
    for _ in range(rounds):
        if auto.wants_sample:
            auto.sampling()
            auto.sampled(costs)
            count += 1
        made.run(8)
    return count


def test_no_more_than_some_samples_are_taken() -> None:
    assert taken(GUEST, rounds=40) == 6


def test_where_nothing_can_be_compressed_a_sample_is_taken_now_and_then() -> None:
    assert 4 <= taken(NOISE) <= 6, "one in 32 of 160 batches"


def test_workers_that_are_what_is_slow_take_no_further_sample() -> None:
    made = pipeline(1e9, SMALL)
    auto = made.auto
    assert isinstance(auto, Auto)
    auto.sampling()
    auto.sampled(SMALL)
    made.run(100)
    assert not auto.wants_sample


def test_a_further_sample_leaves_what_batches_have_shown() -> None:
    auto = Auto(RUNGS, workers=2)
    auto.sampled(SMALL)
    for _ in range(60):
        auto.packed(
            ZSTD, 5 << 20, 68 * (5 << 20) // 100, codec_seconds=5e-9 * (5 << 20), cpu_seconds=0.1, seconds=0.1
        )
    auto.sampled({rung: Cost(cost.seconds, cost.wire / 2, cost.unpacking) for rung, cost in SMALL.items()})
    assert auto._known[ZSTD].wire == pytest.approx(0.68, rel=0.01), "twice what the sample was"
    assert auto._sampled[LZ4].wire == pytest.approx(0.75 * SMALL[LZ4].wire), "the mean of the two"
    assert auto._sampled[ZSTD].seconds == pytest.approx(5e-9, rel=0.01), "what the batches took"


def test_a_sample_of_zeros_says_nothing_and_another_is_taken() -> None:
    auto = Auto(RUNGS, workers=2)
    auto.sampling()
    auto.sampled({})
    send(auto, asleep=0.9)
    for _ in range(40):
        assert auto.choose().why is Why.START
    assert auto.wants_sample


@given(st.lists(st.tuples(st.sampled_from(RUNGS), st.integers(0, 1 << 22)), max_size=50))
def test_what_is_left_of_a_byte_is_never_more_than_it_nor_less_than_nothing(
    batches: list[tuple[Rung, int]],
) -> None:
    auto = Auto(RUNGS, workers=2)
    auto.sampled(GUEST)
    for rung, wire in batches:
        auto.packed(rung, 1 << 22, wire, codec_seconds=0.01, cpu_seconds=0.02, seconds=0.02)
    assert all(0.0 <= cost.wire <= 1.0 for cost in auto._known.values())


def test_content_that_changes_changes_the_ladder() -> None:
    auto = Auto(RUNGS, workers=2)
    auto.sampled(GUEST)
    for _ in range(60):
        auto.packed(ZSTD, 4_000_000, 3_999_000, codec_seconds=0.004, cpu_seconds=0.006, seconds=0.006)
    assert auto.ladder == (NONE,)


def test_pages_now_harder_now_easier_do_not_make_the_others_look_like_the_one_in_use() -> None:
    auto = Auto(RUNGS, workers=2)
    auto.sampled(SMALL)
    for _ in range(50):
        for wire in (0.7, 0.3):  # around what lz4 leaves of a byte
            auto.packed(LZ4, 10_000, int(10_000 * wire), codec_seconds=2e-5, cpu_seconds=3e-5, seconds=3e-5)
    lz4, zstd = (auto._known[rung].wire for rung in (LZ4, ZSTD))
    assert lz4 == pytest.approx(0.5, abs=0.05)
    assert zstd / lz4 == pytest.approx(SMALL[ZSTD].wire / SMALL[LZ4].wire, rel=0.1)
