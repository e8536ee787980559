"""Results as a person reads them: a table a cell, the split of our downtime below it, and the host's noise."""

from collections.abc import Iterator, Mapping
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table

from migrated.bench.vm.drive import Status
from migrated.bench.vm.results import Measurement, Results
from migrated.bench.vm.summary import CellSummary, ModeSummary, Spread, summarise
from migrated.units import format_duration, format_size

__all__ = ["line_of", "tables"]

_HEADS = (
    *("mode", "total, s", "x", "down, ms", "x", "switch, ms", "x", "silent, ms", "link, MB", "x"),
    *("rounds", "there, s", "guest"),
)
_PARTS = ("pause", "last scan", "last round", "device state", "start")


def tables(results: Results, *, markdown: bool = False, wide: bool = True) -> RenderableType:
    """Everything in ``results``; if not ``wide``, in 120 columns, without the spread of all but the total time."""
    parts: list[RenderableType] = list(_head(results))
    for cell in summarise(results.measurements):
        parts += ["", _title(cell), _table(cell, markdown=markdown, wide=wide), *_below(cell)]
    return Group(*parts)


def _head(results: Results) -> Iterator[str]:
    host, settings = results.host, results.settings
    yield (
        f"{host.get('cores')} cores ({host.get('processor')}), Linux {host.get('kernel')}, "
        f"QEMU {host.get('qemu')}, {settings.get('accelerator')}; both sides share them"
    )
    contents: Mapping[str, Mapping[str, Any]] = settings.get("contents", {})
    ratios = "; ".join(
        f"{name.split('-')[1]} lz4 {each.get('lz4')}, zstd {each.get('zstd')}"
        for name, each in contents.items()
    )
    yield (
        f"VM of {format_size(settings.get('memory', 0))}, {format_size(settings.get('fill', 0))} of it filled "
        f"(ratio at 256 KiB: {ratios}); downtime limit {format_duration(settings.get('downtime', 0.0))}"
        + ("; the destination takes memory that this host has had in use" if settings.get("warm") else "")
    )
    yield (
        "median (lowest-highest); x: to QEMU's best mode, marked *; down: the downtime as the tool reports it (QEMU's "
        "ends when the source has sent all, ours when the guest runs there); switch: from the guest's last beat here "
        "to the first there; silent: its longest silence; there: from the command to its first beat there"
    )


def _title(cell: CellSummary) -> str:
    written = f", rewrites {cell.written_rate.median / 1e6:.0f} MB/s" if cell.written_rate else ""
    if not cell.scored:
        written += " (more than the link carries: not scored)"
    runs = max(each.runs for each in cell.modes)
    return f"{cell.link}, {cell.guest}{written} - {runs} run{'s' if runs > 1 else ''} of each mode"


def _table(cell: CellSummary, *, markdown: bool, wide: bool) -> Table:
    made = Table(box=box.MARKDOWN if markdown else box.SIMPLE_HEAD, pad_edge=markdown, collapse_padding=True)
    for head in _HEADS:
        shown = head if markdown else head.replace(", ", "\n")
        made.add_column(shown, justify="left" if head in ("mode", "guest") else "right", no_wrap=True)
    for mode in cell.modes:
        made.add_row(*_row(cell, mode, wide=wide))
    return made


def _row(cell: CellSummary, mode: ModeSummary, *, wide: bool) -> list[str]:
    name = mode.mode + (" *" if cell.best is mode else "")
    if not mode.completed:
        ends = {Status.NEVER: "never", Status.MISSING: "this QEMU has no such mode", Status.FAILED: "failed"}
        return [name, ends.get(Status(mode.statuses[0]), "failed"), *[""] * (len(_HEADS) - 3), _guest(mode)]
    return [
        name,
        _spread(mode.total, 1, 2),
        _ratio(cell.ratio(mode, "total")),
        _spread(mode.downtime, 1000, 0, wide=wide),
        _ratio(cell.ratio(mode, "downtime")),
        _spread(mode.switch, 1000, 0, wide=wide),
        _ratio(cell.ratio(mode, "switch")),
        _spread(mode.gap, 1000, 0, wide=wide),
        _spread(mode.link_bytes, 1e-6, 0, wide=wide),
        _ratio(cell.ratio(mode, "link_bytes")),
        f"{mode.rounds.median:g}" if mode.rounds else "",
        _spread(mode.arrived, 1, 2, wide=wide),
        _guest(mode),
    ]


def _guest(mode: ModeSummary) -> str:
    """Whether its memory is right; and how often it moved, if not always."""
    short = "" if mode.completed in (0, mode.runs) else f", {mode.completed} of {mode.runs} moved"
    return ("intact" if mode.intact else "WRONG") + short


def _below(cell: CellSummary) -> Iterator[str]:
    for mode in cell.modes:
        if mode.parts:
            names = [name for name in _PARTS if name in mode.parts]
            names += [name for name in mode.parts if name not in names]
            split = ", ".join(f"{name} {1000 * mode.parts[name]:.0f}" for name in names)
            expected = f"; expected {_spread(mode.expected, 1000, 0)}" if mode.expected else ""
            yield f"downtime of {mode.mode}, ms: {split}{expected}"
    for mode in cell.modes:
        if mode.why:
            yield f"{mode.mode}: {'' if mode.intact else 'WRONG: '}{mode.why}"
    if cell.auto:
        yield (
            f"total time of migrated:auto to that of the best choice of ours, {cell.auto.fixed}: "
            f"{cell.auto.ratio.median:.2f}; run by run {cell.auto.ratio.low:.2f} to {cell.auto.ratio.high:.2f}"
        )
    probe, stolen = cell.probe, cell.stolen
    yield (
        f"noise of this host: a fixed piece of work took {1000 * probe.median:.0f} ms "
        f"({1000 * probe.low:.0f}-{1000 * probe.high:.0f}), up to {probe.high / probe.low - 1:+.0%}; "
        f"of its processors' time others got {1000 * stolen.median:.0f} ms a migration "
        f"({1000 * stolen.low:.0f}-{1000 * stolen.high:.0f})"
    )


def _spread(value: Spread | None, scale: float, digits: int, *, wide: bool = True) -> str:
    if value is None:
        return ""
    shown = [f"{scale * each:.{digits}f}" for each in (value.median, value.low, value.high)]
    return shown[0] if shown[1] == shown[2] or not wide else f"{shown[0]} ({shown[1]}-{shown[2]})"


def _ratio(value: float | None) -> str:
    return f"{value:.2f}" if value is not None else ""


def line_of(each: Measurement) -> str:
    """One measurement on a line, for progress."""
    what = f"{each.link}, {each.guest}, {each.mode}, run {each.run}: "
    if each.status is not Status.COMPLETED:
        return f"{what}{each.status}: {each.why}"
    figures = (
        f"{each.total_seconds:.2f} s, downtime {1000 * each.downtime_seconds:.0f} ms, "
        f"silent for {1000 * each.gap_seconds:.0f} ms, {each.link_bytes / 1e6:.0f} MB, {each.rounds} rounds"
    )
    return what + figures + ("" if each.intact else f"; NOT INTACT: {each.why}")
