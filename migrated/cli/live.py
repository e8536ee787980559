"""The live view of `migrated send` on a terminal."""

import asyncio
from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from migrated.cli.errors import one_line
from migrated.cli.packing import packing
from migrated.cli.summary import summary
from migrated.cli.views import View
from migrated.engine.events import Event, Report, RoundFinished, Stalled, StateChanged
from migrated.engine.progress import Progress
from migrated.engine.rounds import Tuning
from migrated.units import format_duration, format_rate, format_size

__all__ = ["LiveView", "picture"]

_REFRESH_SECONDS = 0.2
"""Five pictures a second look alive; each takes a few milliseconds of the event loop."""

_BAR_WIDTH = 40


class LiveView(View):
    """A few lines that are drawn again and again, finished rounds above them, the summary last."""

    def __init__(self, guest: str, destination: str, console: Console | None = None) -> None:
        super().__init__()
        self._console = console or Console(highlight=False)
        self._title = f"{guest} → {destination}"
        self._live = Live(
            console=self._console, auto_refresh=False, transient=True, get_renderable=self._picture
        )

    def _picture(self) -> RenderableType:
        return picture(self._title, self.tally.snapshot(), self.tuning)

    def __enter__(self) -> Self:
        self._live.start(refresh=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    async def keep_showing(self) -> None:
        """Draw until cancelled."""
        while True:
            await asyncio.sleep(_REFRESH_SECONDS)
            self._live.refresh()

    def __call__(self, event: Event) -> None:
        """Take one event in; those that matter are drawn at once."""
        last = self.tally.progress.last_round
        super().__call__(event)
        match event:
            case RoundFinished():
                rate = event.wire_bytes / event.seconds if event.seconds else 0.0
                self._print(
                    f"round {event.round}{' (paused)' if last else ''}: {event.sent_pages} pages, "
                    f"{format_size(event.wire_bytes)} in {format_duration(event.seconds)}, "
                    f"{format_rate(rate)}",
                    "dim",
                )
            case Stalled():
                self._print(f"rounds stopped helping: {event.why}; {event.action}", "yellow")
            case StateChanged():
                self._live.refresh()

    def _print(self, text: str, style: str) -> None:
        self._console.print(Text(one_line(text), style=style))

    def say(self, text: str) -> None:
        """Above what is drawn."""
        self._print(f"migrated: {text}", "yellow")

    def report(self, report: Report) -> None:
        """The summary."""
        for line in summary(report):
            label, colon, text = line.partition(":")
            self._console.print(Text.assemble((label + colon, "bold"), text), soft_wrap=True)


def picture(title: str, shown: Progress, tuning: Tuning | None) -> RenderableType:
    """The progress as a few lines."""
    head = Text.assemble((title, "bold"), f"  {shown.guest}" if shown.guest else "")
    if not shown.round:
        return Group(head, Text(f"{shown.state}, {format_duration(shown.elapsed_seconds)}", style="cyan"))
    bar = Table.grid(padding=(0, 1))
    share = shown.round_pages_done / shown.round_pages if shown.round_pages else 1.0
    bar.add_row(
        Text(shown.state, style="red" if shown.last_round else "cyan"),
        Text(f"round {shown.round}"),
        ProgressBar(total=1.0, completed=share, width=_BAR_WIDTH),
        Text(f"{share:.0%}"),
        Text(format_duration(shown.elapsed_seconds), style="dim"),
    )
    sent = f"sent {format_size(shown.wire_bytes)}"
    if shown.wire_bytes:
        sent += f" for {format_size(shown.raw_bytes)} of pages ({shown.raw_bytes / shown.wire_bytes:.2f}:1)"
    codec, level = tuning.shown if tuning else (shown.codec, shown.level)
    codec = packing(codec, level, shown.raw_bytes_by_codec)
    flow = Text(f"{sent}   {format_rate(shown.wire_bytes_per_second)}   {codec}   {shown.tracker}")
    return Group(head, bar, flow, Text(_outlook(shown, tuning)))


def _outlook(shown: Progress, tuning: Tuning | None) -> str:
    parts = [f"remaining {format_size(shown.remaining_bytes)} of {format_size(shown.total_bytes)}"]
    if shown.expected_downtime is not None:
        limit = f" (limit {format_duration(tuning.downtime)})" if tuning else ""
        parts.append(f"dirty {format_size(shown.dirty_bytes_per_second)}/s")
        parts.append(f"expected downtime {format_duration(shown.expected_downtime)}{limit}")
    if shown.stalled:
        parts.append(f"stalled: {shown.stalled}")
    return "   ".join(parts)
