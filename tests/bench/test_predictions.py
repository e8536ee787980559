"""Forecasts beside what then happened."""

from dataclasses import asdict
from typing import Any

import pytest

from migrated.bench.hosts import loopback
from migrated.bench.predictions import Compared, _compared, measure, summary, table

FORECAST = {
    "converges": True,
    "total_seconds": 1.2,
    "downtime_seconds": 0.1,
    "wire_bytes": 90,
    "rounds": 3,
}
REPORT = {"total_seconds": 1.0, "downtime_seconds": 0.2, "wire_bytes": 100, "rounds": 4}
STALLS = FORECAST | {"converges": False}


def compared(forecast: dict[str, Any] = FORECAST, report: dict[str, Any] | None = REPORT) -> Compared:
    return _compared("1gbit", "20MB/s", "lz4", forecast, report)


def test_how_far_it_is_off() -> None:
    row = compared()
    assert row.moved
    assert row.total_off == pytest.approx(0.2)
    assert row.sent_off == pytest.approx(-0.1)
    assert (row.downtime, row.rounds) == ((0.1, 0.2), (3, 4))


def test_a_summary() -> None:
    wrong = compared(FORECAST | {"total_seconds": 2.0})
    found = summary([compared(), wrong, compared(report=None), compared(STALLS, None)])
    assert found["measurements"] == 4
    assert found["verdicts"] == 0.75
    assert found["total_median"] == pytest.approx(0.6)
    assert found["total_worst"] == pytest.approx(1.0)
    assert found["total_good"] == 0.5
    assert found["sent_good"] == 1.0
    assert summary([]) == {"measurements": 0}


def test_a_table_of_them() -> None:
    from rich.console import Console

    console = Console(width=200)
    with console.capture() as captured:
        console.print(table([compared(), compared(report=None), compared(STALLS, None)]))
    lines = [" ".join(line.split()) for line in captured.get().splitlines()]
    assert "1gbit 20MB/s lz4 1.2 s 1 s +20% 100 ms 200 ms 90 B 100 B -10%" in lines
    assert "1gbit 20MB/s lz4 converges does not wrong" in lines
    assert "1gbit 20MB/s lz4 does not does not" in lines


@pytest.mark.slow
@pytest.mark.needs("ptrace")
def test_a_guest_is_planned_and_copied() -> None:
    limited = ("--bandwidth=8MB/s", "--downtime=2s")
    (row,) = measure(loopback(), "8MB/s", "1MB/s", ["none"], size="16MiB", runs=1, more=limited)
    assert row.moved, asdict(row)
    assert abs(row.total_off) < 1
    assert row.sent[0] > 8 << 20
