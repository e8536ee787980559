"""The story of a migration in log lines, in both formats."""

import io
import json
import logging
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from migrated.engine.events import Event, Failed, Finished, Observer, Report, Stalled
from migrated.telemetry.logs import configure, log_observer

Begin = Callable[..., list[Event]]
Fail = Callable[[str], list[Event]]


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    root, own = logging.getLogger(), logging.getLogger("migrated")
    before = root.handlers[:], root.level, own.level
    yield io.StringIO()
    root.handlers[:] = before[0]
    root.setLevel(before[1])
    own.setLevel(before[2])


def story(stream: io.StringIO, *events: Event) -> list[str]:
    observer: Observer = log_observer(logging.getLogger("migrated.test"), "0" * 32, "db")
    for event in events:
        observer(event)
    return [re.sub(r"^\S+Z ", "", line) for line in stream.getvalue().splitlines()]


def entries(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_whole_migration_in_lines(stream: io.StringIO, begin: Begin, complete: list[Event]) -> None:
    configure("info", "text", stream)
    assert story(stream, *begin(), *complete) == [
        "info db: setup",
        (
            f"info db: sending 64 MiB (shm) as migration {'0' * 32}, zstd level 1, "
            "tracker pagemap-scan, 2 workers"
        ),
        "info db: pre-copy",
        "info db: round 1: 768 pages, 1.98 MiB in 500 ms (33.2 Mb/s)",
        "info db: stop-and-copy",
        "info db: round 2 (the last): 16 pages, 19.5 KiB in 10 ms (16 Mb/s)",
        "info db: commit",
        (
            "info db: moved in 1.25 s, downtime 45 ms (pause 1 ms, last round 44 ms), 2 rounds, "
            "1.56 MiB of pages as 586 KiB on the wire (3.84 Mb/s)"
        ),
        "info db: completed",
    ]


def test_debug_adds_the_estimate(stream: io.StringIO, begin: Begin) -> None:
    configure("debug", "text", stream)
    assert story(stream, *begin())[-1] == (
        "debug db: 1280 pages left, the guest writes 19.1 MiB/s, expected downtime 250 ms"
    )


def test_only_what_matters_from_warning_on(
    stream: io.StringIO, begin: Begin, fail: Fail, report: Report
) -> None:
    configure("warning", "text", stream)
    stalled = Stalled("throttle", "4 rounds did not help")
    finished = Finished(replace(report, notes=("not all could be tidied up",)))
    assert story(stream, *begin(), stalled, *fail("cancelled"), *fail("unreachable"), finished) == [
        "warning db: rounds stopped helping: 4 rounds did not help; throttle",
        "warning db: it failed: cancelled; try again",
        "error db: it failed: unreachable; try again",
        "warning db: not all could be tidied up",
    ]


def test_json_has_the_figures(stream: io.StringIO, begin: Begin, complete: list[Event], fail: Fail) -> None:
    configure("info", "json", stream)
    story(stream, *begin(), *complete, *fail("stalled"))
    told = entries(stream)
    assert [each["event"] for each in told] == (
        [
            "state",
            "started",
            "state",
            "round",
            "state",
            "round",
            "state",
            "finished",
            "state",
            "failed",
            "state",
        ]
    )
    assert all(each["migration_id"] == "0" * 32 and each["guest"] == "db" for each in told)
    first, finished, failed = told[3], told[7], told[9]
    assert (first["round"], first["last"], first["sent_pages"], first["seconds"]) == (1, False, 768, 0.5)
    assert finished["downtime_seconds"] == 0.045
    assert finished["downtime_parts"] == {"pause": 0.001, "last round": 0.044}
    assert (failed["level"], failed["reason"], failed["hint"]) == ("error", "stalled", "try again")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", failed["time"])


def test_nothing_is_logged_per_batch(stream: io.StringIO, begin: Begin) -> None:
    configure("debug", "text", stream)
    assert story(stream, *begin()[4:6]) == []


@pytest.mark.parametrize("layout", ["text", "json"])
def test_a_peer_cannot_write_lines_of_its_own(stream: io.StringIO, layout: Any) -> None:
    configure("info", layout, stream)
    story(stream, Failed("peer-failed", "no\n2026-01-01 info db: completed\x1b[2J\u2028", ""))
    assert stream.getvalue().count("\n") == 1
    assert "\x1b" not in stream.getvalue()


@pytest.mark.parametrize("layout", ["text", "json"])
def test_a_traceback_is_kept(stream: io.StringIO, layout: Any) -> None:
    configure("info", layout, stream)
    try:
        raise RuntimeError("why")
    except RuntimeError:
        logging.getLogger("migrated.test").exception("it broke")
    text = stream.getvalue() if layout == "text" else entries(stream)[0]["exception"]
    assert "RuntimeError: why" in text
    assert "Traceback" in text


def test_configured_again_it_replaces_itself_and_nothing_else(stream: io.StringIO) -> None:
    other = logging.NullHandler()
    logging.getLogger().addHandler(other)
    configure("debug", "text", stream)
    configure("error", "json", stream)
    logging.getLogger("migrated.test").warning("unheard")
    logging.getLogger("migrated.test").error("heard")
    assert [each["message"] for each in entries(stream)] == ["heard"]
    assert other in logging.getLogger().handlers


def test_libraries_are_heard_from_their_warnings_on(stream: io.StringIO) -> None:
    configure("debug", "text", stream)
    logging.getLogger("aiohttp.access").info("GET /")
    logging.getLogger("asyncio").warning("slow callback")
    logging.getLogger("migrated").debug("ours")
    assert [line.split(" ", 1)[1] for line in stream.getvalue().splitlines()] == [
        "warning slow callback",
        "debug ours",
    ]


def test_an_unknown_level_is_refused(stream: io.StringIO) -> None:
    with pytest.raises(ValueError, match="LOUD"):
        configure("loud", "text", stream)
