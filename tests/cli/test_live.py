"""The live view, drawn on a console that is a string."""

import asyncio
import io

import pytest
from rich.console import Console

from migrated.cli import live
from migrated.cli.live import LiveView, picture
from migrated.engine.progress import Progress, Tally
from migrated.engine.rounds import Tuning
from tests.cli.events import BEGINNING, REPORT, STORY


def drawn(progress: Progress, tuning: Tuning | None = None) -> list[str]:
    console = Console(file=io.StringIO(), width=120)
    console.print(picture("demo:/x → host", progress, tuning))
    return [line.rstrip() for line in console.file.getvalue().splitlines()]  # type: ignore[attr-defined]


def progress_after(count: int) -> Progress:
    tally = Tally(clock=lambda: 0.0)
    for event in STORY[:count]:
        tally(event)
    return tally.snapshot()


def test_before_the_first_round() -> None:
    assert drawn(progress_after(1)) == ["demo:/x → host", "setup, 0 us"]


def test_in_the_middle_of_a_round() -> None:
    head, bar, flow, outlook = drawn(progress_after(len(BEGINNING)), Tuning("zstd", 3, 1e9, 0.3))
    assert head == "demo:/x → host  counter"
    assert bar.startswith("pre-copy round 1 ━")
    assert "3%" in bar
    assert flow.startswith("sent 512 KiB for 2 MiB of pages (4.00:1)")
    assert "zstd level 3" in flow
    assert outlook == "remaining 62 MiB of 64 MiB"


def test_with_an_estimate_and_a_stall() -> None:
    *_, outlook = drawn(progress_after(len(BEGINNING) + 3), Tuning("zstd", 1, 1e9, 0.3))
    assert "dirty 1.91 MiB/s" in outlook
    assert "expected downtime for ever (limit 300 ms)" in outlook
    assert outlook.endswith("stalled: switch")


@pytest.fixture
def console() -> Console:
    return Console(file=io.StringIO(), width=120, force_terminal=True, highlight=False)


def text_of(console: Console) -> str:
    return console.file.getvalue()  # type: ignore[attr-defined,no-any-return]


async def test_a_whole_migration_leaves_rounds_and_the_summary(
    console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "_REFRESH_SECONDS", 0)
    view = LiveView("demo:/x", "host", console)
    with view:
        showing = asyncio.ensure_future(view.keep_showing())
        for event in STORY:
            view(event)
            await asyncio.sleep(0)
        view.say("look\x1b here")
        showing.cancel()
        await asyncio.gather(showing, return_exceptions=True)
    view.report(REPORT)
    shown = text_of(console)
    assert "round 1: 8000 pages, 7 MiB in 1.5 s" in shown
    assert "round 2 (paused): 192 pages" in shown
    assert "migrated: look\\x1b here" in shown
    assert "Migration status" in shown
    assert shown.index("round 2 (paused)") < shown.index("Migration status")
    assert shown.count("\x1b[?25l") == shown.count("\x1b[?25h") == 1  # the cursor is there again


def test_an_error_gives_the_terminal_back(console: Console) -> None:
    view = LiveView("demo:/x", "host", console)
    with pytest.raises(ZeroDivisionError), view:
        raise ZeroDivisionError
    assert text_of(console).count("\x1b[?25l") == text_of(console).count("\x1b[?25h") == 1
