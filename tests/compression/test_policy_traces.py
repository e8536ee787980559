"""The policy on what was recorded while real memory moved over real links; see make_traces.py.

A recording goes on as it did, whatever the policy chooses now: what is tested is where it goes, not what comes of it.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from migrated.compression.policy import NONE, Auto, Cost, Rung

RECORDED = Path(__file__).parent / "recorded"
DENSE = {Rung("zlib", 1), Rung("zstd", 1), Rung("zstd", 3), Rung("zstd", 6)}
QUICK = {Rung("lz4", 1), Rung("snappy", 1)}


def replayed(name: str) -> list[Rung]:
    """What the policy of now chooses for each batch."""
    lines: list[list[Any]] = [
        json.loads(line) for line in (RECORDED / f"{name}.jsonl").read_text().splitlines()
    ]
    (_, rungs, workers, far_workers), *rest = lines
    policy = Auto([Rung(*each) for each in rungs], workers=workers, far_workers=far_workers)
    chosen = []
    for what, *told in rest:
        match what:
            case "sampling":
                policy.sampling()
            case "sampled":
                policy.sampled({Rung(codec, level): Cost(*costs) for codec, level, *costs in told[0]})
            case "packed":
                codec, level, raw_bytes, wire_bytes, took = told
                policy.packed(Rung(codec, level), raw_bytes, wire_bytes, **took)
            case "sent":
                codec, level, wire_bytes, seconds, took = told
                policy.sent(Rung(codec, level), wire_bytes, seconds, **took)
            case "choose":
                chosen.append(policy.choose().rung)
    return chosen


def share(chosen: list[Rung], of: set[Rung]) -> float:
    return sum(rung in of for rung in chosen) / len(chosen)


@pytest.mark.parametrize("name", sorted(path.stem for path in RECORDED.iterdir()))
def test_it_chooses_as_it_did(name: str) -> None:
    """Differs once the policy is changed: look at what it chooses now, and write that down (make_traces.py choices)."""
    lines = [json.loads(line) for line in (RECORDED / f"{name}.jsonl").read_text().splitlines()]
    assert replayed(name) == [Rung(*each[1:]) for each in lines if each[0] == "choose"]


def test_a_slow_link_is_worth_the_dense_ones() -> None:
    assert share(replayed("200mbit")[20:], DENSE) > 0.9


def test_no_link_is_worth_nothing_dense() -> None:
    late = replayed("unlimited")[20:]
    assert share(late, DENSE) == 0
    assert share(late, {NONE}) > 0.5


def test_between_them_they_are_mixed() -> None:
    late = replayed("1gbit")[20:]
    assert share(late, DENSE) > 0.1
    assert share(late, QUICK | {NONE}) > 0.05
    assert share(late, {NONE}) < 0.2


def test_it_follows_a_link_that_gets_slow() -> None:
    chosen = replayed("1gbit-then-100mbit")
    assert share(chosen[-40:], DENSE) > 0.9


def test_it_follows_a_link_that_gets_fast() -> None:
    chosen = replayed("100mbit-then-4gbit")
    middle = len(chosen) // 4
    assert share(chosen[40:middle], DENSE) > 0.9
    assert share(chosen[-20:], DENSE) < 0.1
