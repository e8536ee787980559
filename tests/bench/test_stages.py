"""The cost of the stages: sums and floors on given figures, and one small real run."""

import pytest

from migrated.bench.stages import CODECS, StageCost, Stages, floor_rate, measure, table

GIB = 1 << 30
COSTS = [
    StageCost("source", "read", 0.2, 0.1),
    StageCost("source", "send", 0.4, 0.4),
    StageCost("destination", "receive", 0.4, 0.4),
    StageCost("destination", "write", 0.6, 0.5),
    StageCost("source", "lz4 1", 2.0, 2.0, 2.0),
    StageCost("destination", "lz4 1", 0.5, 0.5, 2.0),
    StageCost("source", "zstd 1", 4.0, 4.0, 4.0),
]


def test_the_floor_of_a_path_adds_up_its_stages() -> None:
    assert floor_rate(COSTS, "", 1) == pytest.approx(GIB / 1.4)
    assert floor_rate(COSTS, "", 2) == pytest.approx(2 * GIB / 1.4)


def test_what_a_codec_saves_is_not_sent() -> None:
    assert floor_rate(COSTS, "lz4 1", 1) == pytest.approx(GIB / (0.1 + 0.2 + 0.2 + 0.5 + 2.5))


def test_the_table_says_what_was_reached() -> None:
    made = table(Stages(tuple(COSTS), 1e9), {"": 0.5 * floor_rate(COSTS, "", 1)})
    assert made.row_count == len(COSTS) + len(CODECS) + 1


def test_a_small_real_run_has_every_stage_and_no_time_below_zero() -> None:
    found = measure(8 << 20, 1)
    costs = found.costs
    assert found.chained > 0
    assert {("source", "read"), ("source", "zstd 1"), ("destination", "write")} <= {
        (each.side, each.stage) for each in costs
    }
    assert all(each.seconds > 0 and each.floor >= 0 for each in costs)
    assert all(each.ratio > 1.2 for each in costs if each.ratio)
