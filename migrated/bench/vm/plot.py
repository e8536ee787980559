"""The figures of a benchmark as a picture: a row for each cell, a column for each figure, a bar for each mode."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from migrated.bench.vm.summary import CellSummary, ModeSummary, Spread
from migrated.errors import ResourceError, UsageError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["KINDS", "draw"]

KINDS = (".svg", ".png")

_OURS, _QEMUS, _BEST = "#2f6fb2", "#b9bec5", "#7d848d"
_WIDTH, _BAR, _AROUND = 12.0, 0.23, 1.1
"""Inches: of the picture, of a bar, and of what is above and below the bars of a cell."""


@dataclass(frozen=True)
class _Column:
    title: str
    figure: str
    scale: float


_COLUMNS = (
    _Column("total time, s", "total", 1.0),
    _Column("longest silence of the guest, ms", "gap", 1e3),
    _Column("on the link, MB", "link_bytes", 1e-6),
)


def draw(cells: Sequence[CellSummary], file: Path) -> None:
    """Draw medians as bars, with lines from the lowest to the highest, to ``file`` (.svg or .png).

    QEMU's modes are grey, its best one darker, with a line through the column that it sets; a mode that never ended has
    no bar and says so. ResourceError: the library that draws is not installed, or the file can't be written.
    """
    if file.suffix not in KINDS:
        raise UsageError(f"{file} is no picture's name", f"end it with {' or '.join(KINDS)}")
    if not cells:
        raise UsageError("there is nothing to draw: no measurement is done yet", "wait for the first ones")
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ResourceError(
            f"drawing takes matplotlib: {error}", "install it: pip install 'migrated[plots]'"
        ) from error
    heights = [len(cell.modes) * _BAR + _AROUND for cell in cells]
    # Text stays text, and the same results are the same file.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "migrated", "font.size": 9}):
        figure = Figure(figsize=(_WIDTH, sum(heights)), layout="constrained")
        axes = figure.subplots(
            len(cells), len(_COLUMNS), squeeze=False, sharey="row", gridspec_kw={"height_ratios": heights}
        )
        for cell, row in zip(cells, axes, strict=True):
            for column, each in zip(_COLUMNS, row, strict=True):
                _panel(each, cell, column)
            runs = max(mode.runs for mode in cell.modes)
            row[0].set_title(
                f"{cell.link}, {cell.guest}: {runs} run{'s' if runs > 1 else ''} of each", loc="left"
            )
        try:
            figure.savefig(file, dpi=110, metadata={"Date": None} if file.suffix == ".svg" else None)
        except OSError as error:
            raise ResourceError(f"cannot write {file}: {error.strerror}", "choose another place") from error


def _panel(axes: "Axes", cell: CellSummary, column: _Column) -> None:
    axes.set_xlabel(column.title)
    axes.set_yticks(range(len(cell.modes)), [mode.mode for mode in cell.modes])
    axes.set_ylim(len(cell.modes) - 0.5, -0.5)
    axes.spines[["top", "right"]].set_visible(False)
    for place, mode in enumerate(cell.modes):
        value: Spread | None = getattr(mode, column.figure)
        if value is None:
            axes.text(0, place, f" {mode.statuses[0]}", va="center", color=_BEST)
            continue
        low, median, high = (column.scale * each for each in (value.low, value.median, value.high))
        axes.barh(place, median, height=0.7, color=_color(cell, mode))
        axes.hlines(place, low, high, color="#222222", linewidth=1)
        axes.text(high, place, f" {median:.{1 if median < 20 else 0}f}", va="center", fontsize=8)
    if cell.best is not None:
        limit: Spread | None = getattr(cell.best, column.figure)
        if limit is not None:
            axes.axvline(column.scale * limit.median, color=_BEST, linewidth=1, linestyle=(0, (4, 3)))
    axes.set_xlim(0, axes.get_xlim()[1] * 1.08)


def _color(cell: CellSummary, mode: ModeSummary) -> str:
    if not mode.is_qemu:
        return _OURS
    return _BEST if mode is cell.best else _QEMUS
