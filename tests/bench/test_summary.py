"""Medians, spread, and ratios to the best mode of QEMU."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest

from migrated.bench.vm.drive import Status
from migrated.bench.vm.results import Measurement
from migrated.bench.vm.summary import CellSummary, Spread, as_plain, summarise

Make = Callable[..., Measurement]


def cell_of(made: Make, totals: Mapping[str, Sequence[float]]) -> CellSummary:
    """One cell: total seconds of each run of some modes."""
    (cell,) = summarise(
        made(mode, run, total_seconds=total)
        for mode, each in totals.items()
        for run, total in enumerate(each, 1)
    )
    return cell


def test_medians_and_ratios(made: Make) -> None:
    totals = {
        "qemu:none": (5.0, 4.0, 9.0),
        "qemu:multifd-zstd": (4.0, 3.0, 5.0),
        "migrated:lz4": (2.0, 2.5, 1.0),
    }
    cell = cell_of(made, totals)
    assert cell.best is not None
    assert cell.best.mode == "qemu:multifd-zstd"
    ours = cell.modes[-1]
    assert ours.total is not None
    assert (ours.total.median, ours.total.low, ours.total.high) == (2.0, 1.0, 2.5)
    assert cell.ratio(ours, "total") == 0.5
    assert cell.ratio(ours, "link_bytes") == 1.0


def test_qemus_modes_come_first(made: Make) -> None:
    (cell,) = summarise([made("migrated:off"), made("qemu:none"), made("migrated:lz4"), made("qemu:xbzrle")])
    assert [each.mode for each in cell.modes] == ["qemu:none", "qemu:xbzrle", "migrated:off", "migrated:lz4"]


def test_a_mode_that_did_not_always_complete_is_not_the_best(made: Make) -> None:
    (cell,) = summarise(
        [
            made("qemu:none", 1),
            made("qemu:none", 2),
            made("qemu:multifd-zstd", 1, total_seconds=1.0),
            made("qemu:multifd-zstd", 2, status=Status.NEVER, why="not done", total_seconds=90.0),
        ]
    )
    assert cell.best is not None
    assert cell.best.mode == "qemu:none"
    zstd = cell.modes[1]
    assert (zstd.runs, zstd.completed, zstd.why) == (2, 1, "not done")
    assert zstd.total is not None
    assert zstd.total.high == 1.0, "what never ended is no total time"


def test_a_mode_that_broke_a_guest_is_not_the_best(made: Make) -> None:
    (cell,) = summarise([made("qemu:none"), made("qemu:xbzrle", total_seconds=1.0, intact=False)])
    assert cell.best is not None
    assert cell.best.mode == "qemu:none"


def test_without_a_mode_of_qemu_there_is_no_ratio(made: Make) -> None:
    (cell,) = summarise([made("migrated:lz4")])
    assert cell.best is None
    assert cell.ratio(cell.modes[0], "total") is None


def test_auto_stands_beside_the_best_choice_that_is_fixed(made: Make) -> None:
    totals = {
        "qemu:none": (0.5, 0.5, 0.5),
        "migrated:off": (5.0, 5.0, 5.0),
        "migrated:lz4": (2.0, 2.5, 1.0),
        "migrated:auto": (3.0, 2.0, 1.1),
    }
    cell = cell_of(made, totals)
    assert cell.auto is not None
    assert cell.auto.fixed == "migrated:lz4"
    assert cell.auto.ratio == Spread(1.0, 0.8, 1.5), "of the medians; then of two moves of one run"
    (plain,) = as_plain([cell])
    assert plain["auto"] == {"fixed": "migrated:lz4", "ratio": {"median": 1.0, "low": 0.8, "high": 1.5}}


@pytest.mark.parametrize(
    "others",
    [
        [],
        [("qemu:none", {})],
        [("migrated:lz4", {"intact": False})],
        [("migrated:lz4", {"status": Status.NEVER, "why": "not done"})],
    ],
)
def test_auto_stands_beside_nothing_that_did_not_move_the_guest(
    made: Make, others: list[tuple[str, dict[str, Any]]]
) -> None:
    (cell,) = summarise([made("migrated:auto"), *(made(mode, **facts) for mode, facts in others)])
    assert cell.auto is None
    (cell,) = summarise([made("migrated:lz4"), *(made(mode, **facts) for mode, facts in others)])
    assert cell.auto is None, "there is none"


def test_one_guest_that_is_wrong_shows(made: Make) -> None:
    (cell,) = summarise([made(run=1), made(run=2, intact=False, why="page 7")])
    assert not cell.modes[0].intact
    assert cell.modes[0].why == "page 7"


def test_parts_are_medians(made: Make) -> None:
    parts = [{"pause": 0.01, "start": 0.03}, {"pause": 0.03, "start": 0.01}, {"pause": 0.02, "start": 0.02}]
    (cell,) = summarise(made("migrated:off", run, parts=each) for run, each in enumerate(parts))
    assert cell.modes[0].parts == {"pause": 0.02, "start": 0.02}


def test_cells_keep_apart(made: Make) -> None:
    cells = summarise([made(), made(link="200 Mb/s"), made(guest="redis")])
    assert [(each.link, each.guest) for each in cells] == [
        ("1 Gb/s", "idle"),
        ("200 Mb/s", "idle"),
        ("1 Gb/s", "redis"),
    ]


def test_for_programs(made: Make) -> None:
    (plain,) = as_plain(
        summarise([made(), made("migrated:lz4", total_seconds=2.5), made("qemu:xbzrle", status=Status.NEVER)])
    )
    assert plain["best_qemu_mode"] == "qemu:none"
    by_name = {each["mode"]: each for each in plain["modes"]}
    assert by_name["migrated:lz4"]["ratios"]["total"] == pytest.approx(0.5)
    assert by_name["migrated:lz4"]["total"] == {"median": 2.5, "low": 2.5, "high": 2.5}
    assert by_name["qemu:xbzrle"]["completed"] == 0
    assert "total" not in by_name["qemu:xbzrle"]
