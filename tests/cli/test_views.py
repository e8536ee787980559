"""What `migrated send` prints while it works, in a pipe and for programs; and the summary."""

import asyncio
import io
import json
import os
from dataclasses import replace

import pytest

from migrated.cli import views
from migrated.cli.summary import summary
from migrated.cli.views import JsonView, LineView, View, make_view
from migrated.errors import StalledError
from tests.cli.events import BEGINNING, MIGRATION_ID, REPORT, STORY

_STARTED = "counter (demo), 64 MiB, compression zstd level 1, 2 workers, tracker pagemap-scan"


def test_a_line_a_round_and_a_state_then_the_summary() -> None:
    out = io.StringIO()
    view = LineView(out, "demo:/x -> host")
    for event in STORY:
        view(event)
    view.report(REPORT)
    lines = out.getvalue().splitlines()
    assert lines[:9] == [
        "state: setup",
        f"demo:/x -> host: {_STARTED}, migration {MIGRATION_ID}",
        "state: pre-copy",
        "round 1: 8000 of 16384 pages sent, 7 MiB in 1.5 s (39.1 Mb/s)",
        "estimate: remaining 768 KiB (97.7 KiB on the wire), dirty rate 1.91 MiB/s, expected downtime for ever",
        "rounds stopped helping: it does not get better; switch",
        "state: stop-and-copy",
        "round 2 (the last, guest paused): 192 of 192 pages sent, 1 MiB in 50 ms (168 Mb/s)",
        "state: commit",
    ]
    assert lines[9] == "state: completed"
    assert lines[10:] == summary(REPORT)


def test_a_reader_that_has_gone_does_not_stop_the_guest_on_its_way() -> None:
    """As in `migrated send ... | head -3`."""
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as out:
        view = LineView(out, "demo:/x -> host")
        for event in STORY:
            view(event)
        view.report(REPORT)


def test_the_summary_has_qemus_words() -> None:
    facts = dict(line.split(":", 1) for line in summary(REPORT))
    assert {name: text.strip() for name, text in facts.items()} == {
        "Migration status": "completed",
        "total time": "2500 milliseconds",
        "downtime": "60 milliseconds (pause 10 ms, last round 50 ms)",
        "setup": "200 milliseconds",
        "transferred ram": "8192 kbytes (8 MiB)",
        "throughput": "26.84 mbps (26.8 Mb/s)",
        "remaining ram": "0 kbytes (0 B)",
        "total ram": "65536 kbytes (64 MiB)",
        "normal": "8192 pages (32 MiB)",
        "duplicate": "4096 pages (all zero, sent as runs)",
        "unchanged": "12 pages (looked at, not sent)",
        "compression": "zstd level 1, 4.00 bytes of pages in one on the wire",
        "rounds": "2",
        "dirty tracking": "pagemap-scan",
        "digest": "00ff (equal on both sides)",
        "migration id": MIGRATION_ID,
        "note": "a note",
    }


def test_the_downtime_stands_beside_what_was_expected() -> None:
    line = "downtime:         60 milliseconds (pause 10 ms, last round 50 ms; expected 75 ms)"
    assert line in summary(replace(REPORT, expected_downtime=0.075))


def test_a_summary_with_deltas() -> None:
    line = "deltas:           40 of the normal pages (only what had changed was sent)"
    assert line in summary(replace(REPORT, delta_pages=40))


@pytest.mark.parametrize("change", [{"level": 0}, {"codec": "none"}])
def test_a_summary_without_compression(change: dict[str, object]) -> None:
    assert "compression:      none" in summary(replace(REPORT, **change))


def test_a_summary_of_a_copy_and_of_nothing_sent() -> None:
    lines = summary(replace(REPORT, moved=False, wire_bytes=0, total_seconds=0, downtime_parts={}))
    assert lines[0].endswith("completed (copied: the guest is still here)")
    assert "throughput:       0.00 mbps (0 b/s)" in lines


def lines_of(out: io.StringIO) -> list[dict[str, object]]:
    def never(word: str) -> None:
        pytest.fail(f"{word} is not JSON")

    return [json.loads(line, parse_constant=never) for line in out.getvalue().splitlines()]


def test_json_lines_end_with_the_report() -> None:
    out = io.StringIO()
    view = JsonView(out)
    for event in STORY:
        view(event)
    view.report(REPORT)
    lines = lines_of(out)
    assert [line["event"] for line in lines] == [
        "state-changed",
        "started",
        "state-changed",
        "round-started",
        "round-finished",
        "estimated",
        "stalled",
        "state-changed",
        "round-started",
        "round-finished",
        "state-changed",
        "state-changed",
        "report",
    ]
    assert lines[5]["expected_downtime"] is None
    assert lines[-1]["wire_bytes"] == 8 << 20
    assert lines[-1]["throughput"] == REPORT.throughput


def test_json_lines_end_with_the_failure() -> None:
    out = io.StringIO()
    view = JsonView(out)
    view.say("look")
    view.failed(StalledError("too fast", "slow down"))
    note, failed = lines_of(out)
    assert note["text"] == "look"
    assert failed | {"elapsed_seconds": 0} == {
        "event": "failed",
        "elapsed_seconds": 0,
        "reason": "stalled",
        "what": "too fast",
        "hint": "slow down",
        "exit_code": 14,
    }


async def test_json_tells_how_far_it_is_every_second(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(views, "_PROGRESS_SECONDS", 0)
    out = io.StringIO()
    view = JsonView(out)
    for event in BEGINNING:
        view(event)
    showing = asyncio.ensure_future(view.keep_showing())
    while "progress" not in out.getvalue():
        await asyncio.sleep(0)
    showing.cancel()
    await asyncio.gather(showing, return_exceptions=True)
    progress = next(line for line in lines_of(out) if line["event"] == "progress")
    assert progress["round_pages_done"] == 524
    assert progress["wire_bytes"] == 1 << 19


def test_a_quiet_view_says_only_what_must_be_known(capsys: pytest.CaptureFixture[str]) -> None:
    view = make_view("a", "b", as_json=False, quiet=True)
    with view:
        for event in STORY:
            view(event)
        view.say("the guest\nstays paused")
    view.report(REPORT)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "migrated: the guest stays paused\n"


def test_the_view_fits_the_output(capsys: pytest.CaptureFixture[str]) -> None:
    assert type(make_view("a", "b", as_json=False, quiet=True)) is View
    assert isinstance(make_view("a", "b", as_json=True, quiet=True), JsonView)
    assert isinstance(make_view("a", "b", as_json=False, quiet=False), LineView)


def test_what_auto_took_is_in_the_summary() -> None:
    shares = {"lz4": 3 << 20, "zstd": 1 << 20}
    lines = summary(replace(REPORT, codec="auto", level=0, raw_bytes_by_codec=shares))
    assert any("compression:      auto (lz4 75%, zstd 25%), " in line for line in lines)
