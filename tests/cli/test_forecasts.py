"""A plan in words: what is recommended, what would go wrong, and what programs get."""

import json
import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from migrated.cli.forecasts import advice, as_plain, header, table, unlikely
from migrated.compression.policy import NONE, Rung
from migrated.config import SendSettings
from migrated.engine.costs import Hosts, Limit, Memory, PageCost
from migrated.engine.forecast import Forecast
from migrated.engine.survey import Survey
from migrated.engine.writing import Writing
from migrated.net.link import MeasuredLink
from migrated.planning import Plan, Row
from migrated.telemetry.plain import as_json

LZ4, ZSTD = Rung("lz4", 1), Rung("zstd", 1)
MIB = 1 << 20

MEMORY = Memory(
    0.8, {NONE: PageCost(1e-6, 3300, 1e-6), LZ4: PageCost(2e-6, 1650, 1e-6), ZSTD: PageCost(3e-6, 1100, 1e-6)}
)


def forecast(rung: Rung, seconds: float, **more: Any) -> Forecast:
    common = Forecast(
        mix={rung: 1.0},
        converges=True,
        rounds=3,
        total_seconds=seconds,
        downtime_seconds=0.12,
        best_downtime=0.12,
        wire_bytes=100 * MIB,
        throttled=0.0,
        writes=10 * MIB,
        takes=50 * MIB,
        limit=Limit.LINK,
    )
    return replace(common, **more)


STALLED = {"converges": False, "best_downtime": 1.25, "writes": 45 * MIB, "takes": 20 * MIB}


def plan(*rows: Row, **more: Any) -> Plan:
    survey = Survey(
        total_bytes=512 * MIB,
        pages=104_960,
        memory=MEMORY,
        written=MEMORY,
        writing=Writing(((0.1, 512), (0.2, 1000), (3.2, 12_800)), 104_960),
        exact=True,
        looking=1e-6,
        scan_seconds=0.004,
        setup_seconds=0.2,
        speed=1.0,
    )
    made = Plan(
        guest=SimpleNamespace(kind="demo", tracker=SimpleNamespace(name="pagemap-scan")),  # type: ignore[arg-type]
        survey=survey,
        link=MeasuredLink(117e6, 0.0004),
        hosts=Hosts(117e6, 0.0004, 2, 2, 1.0, 1, 8, False),
        send=SendSettings(),
        rows=rows or ROWS,
        notes=(),
    )
    return replace(made, **more)


ROWS = (
    Row(NONE, False, forecast(NONE, 4.0)),
    Row(ZSTD, False, forecast(ZSTD, 2.0)),
    Row(None, True, forecast(ZSTD, 2.05, mix={ZSTD: 0.75, LZ4: 0.25})),
)


def shown(plan: Plan) -> list[str]:
    console = Console(width=200, highlight=False)
    with console.capture() as captured:
        console.print(table(plan))
    return [" ".join(line.split()) for line in captured.get().splitlines()]


def test_what_was_measured_is_said_first() -> None:
    assert header(plan(), "demo:/a.mem", "db2:4440") == [
        "guest   demo:/a.mem: 512 MiB, 410 MiB in use, 20% of that zero",
        "writes  different pages: 2 MiB in 100 ms, 50 MiB in 3.2 s; tracker pagemap-scan",
        "link    db2:4440: 936 Mb/s, round trip 400 us",
        "here    2 workers, 2 cores; there 1 workers, 8 cores",
    ]


def test_what_limits_the_hosts_and_the_link_is_said() -> None:
    made = plan(send=SendSettings(bandwidth=50e6))
    lines = header(replace(made, hosts=replace(made.hosts, speed=0.4, shared=True)), "g", "d")
    assert lines[2].endswith("limited by --bandwidth to 400 Mb/s")
    assert (
        lines[3]
        == "here    2 workers, 2 cores, busy: a worker gets 40% of one; there 1 workers, on the same cores"
    )
    unknown = replace(made, hosts=replace(made.hosts, far_cores=0))
    assert header(unknown, "g", "d")[3].endswith("there 1 workers, unknown cores")


def test_a_guest_that_writes_nothing() -> None:
    made = plan()
    quiet = replace(made, survey=replace(made.survey, writing=Writing(((0.1, 0.0),), 1)))
    assert header(quiet, "g", "d")[1] == "writes  nothing while it was watched; tracker pagemap-scan"


def test_a_row_for_each_codec_and_an_arrow_for_what_send_would_do() -> None:
    lines = shown(plan())
    assert "codec total time downtime sent ratio rounds" in lines
    assert "none 4 s 120 ms 100 MiB 0.99 3" in lines
    assert "zstd level 1 2 s 120 ms 100 MiB 2.98 3" in lines
    assert "→ auto 2.05 s 120 ms 100 MiB 2.65 3" in lines


def test_what_does_not_converge_says_so() -> None:
    lines = shown(plan(Row(NONE, False, forecast(NONE, 9.0, **STALLED)), ROWS[2]))
    assert "none does not converge 1.25 s at best 0.99" in lines


def test_a_guest_that_has_to_be_held() -> None:
    held = Row(None, True, forecast(ZSTD, 4.0, throttled=0.3))
    assert any("120 ms (held for 30% of the time)" in line for line in shown(plan(held)))


def test_auto_is_recommended_where_it_is_as_good() -> None:
    (line,) = advice(plan())
    assert line == (
        "auto (zstd level 1 75%, lz4 level 1 25%) is the fastest here: 2.05 s, with the guest paused for 120 ms"
    )


def test_the_fastest_is_recommended_and_what_the_other_costs() -> None:
    asked = Row(NONE, True, forecast(NONE, 4.0))
    slow_auto = Row(None, False, forecast(LZ4, 3.0))
    lines = advice(plan(asked, ROWS[1], slow_auto))
    assert lines == [
        "zstd level 1 is the fastest here: 2 s, with the guest paused for 120 ms",
        "none, as it is asked for, would take 4 s",
    ]


def test_why_it_would_not_converge() -> None:
    stalled = Row(NONE, False, forecast(NONE, 9.0, **STALLED))
    lines = advice(plan(stalled, *ROWS[1:]))
    assert lines[1] == (
        "with none it would not converge: the guest writes 45 MiB/s and the link takes 20 MiB/s of its pages"
    )
    for limit, words in ((Limit.SOURCE, "this host packs"), (Limit.DESTINATION, "the other host takes")):
        changed = replace(stalled, forecast=replace(stalled.forecast, limit=limit))
        assert words in advice(plan(changed, *ROWS[1:]))[1]


def test_a_limit_that_is_too_short_for_any_guest() -> None:
    late = forecast(NONE, 9.0, **STALLED | {"writes": 0.0})
    (line,) = advice(plan(Row(NONE, False, late), Row(None, True, late)))
    assert line == (
        "with any codec it would not converge: it would be paused for 1.25 s at best, and the limit is 300 ms"
    )


def test_a_pause_longer_than_asked_for_is_said() -> None:
    lines = advice(plan(Row(None, True, forecast(ZSTD, 2.0, downtime_seconds=0.9))))
    assert lines[-1] == "auto would pause it for 900 ms; --downtime asks for 300 ms"


def test_what_would_be_refused_is_said() -> None:
    assert (
        advice(plan(notes=("the destination has no guest 'a'",)))[-1]
        == "note: the destination has no guest 'a'"
    )


def test_what_send_would_end_with() -> None:
    assert unlikely(plan()) is None
    stalled = Row(None, True, forecast(ZSTD, 9.0, **STALLED))
    error = unlikely(plan(Row(LZ4, False, forecast(LZ4, 2.0)), stalled))
    assert error is not None
    assert error.exit_code == 14
    assert error.what.startswith("with auto it would not converge: the guest writes 45 MiB/s")
    assert error.hint == "choose lz4 level 1"


@pytest.mark.parametrize(("on_stall", "ways"), [("fail", True), ("throttle", False)])
def test_what_to_do_where_no_codec_helps(on_stall: Any, ways: bool) -> None:
    error = unlikely(
        plan(Row(None, True, forecast(ZSTD, 9.0, **STALLED)), send=SendSettings(on_stall=on_stall))
    )
    assert error is not None
    assert error.hint.startswith("allow more with --downtime")
    assert ("--on-stall" in error.hint) is ways


def test_for_programs() -> None:
    found = json.loads(as_json({"guest": "demo:/a", **as_plain(plan())}))
    assert found["used_bytes"] == 410 * MIB
    assert found["fastest"] == {"codec": "zstd", "level": 1}
    assert found["link"]["bytes_per_second"] == 117e6
    none, zstd, auto = found["forecasts"]
    assert (none["codec"], none["level"], none["asked"]) == ("none", 0, False)
    assert none["mix"] == [{"codec": "none", "level": 0, "share": 1.0}]
    assert (auto["codec"], auto["asked"], auto["total_seconds"]) == ("auto", True, 2.05)
    assert [each["share"] for each in auto["mix"]] == [0.75, 0.25]
    assert math.isclose(zstd["ratio"], 0.8 * 4096 / 1100)
    assert zstd["limit"] == "link"
