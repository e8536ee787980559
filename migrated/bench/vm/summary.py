"""Measurements put together: medians and spread of each mode in each cell, beside the best mode of QEMU there."""

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from migrated.bench.vm.drive import Status
from migrated.bench.vm.guests import parse_guest
from migrated.bench.vm.plan import Cell, LinkRate
from migrated.bench.vm.results import Measurement

__all__ = ["AutoTime", "CellSummary", "ModeSummary", "Spread", "as_plain", "summarise"]

_QEMU = "qemu:"
_AUTO = "migrated:auto"


@dataclass(frozen=True)
class Spread:
    """Several values of one figure."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread | None":
        """None of no values."""
        return cls(statistics.median(values), min(values), max(values)) if values else None


@dataclass(frozen=True)
class ModeSummary:
    """A mode in a cell, over the runs that completed. ``parts`` are medians, ``why`` is of the first that did not;
    ``expected`` is what ours expected of the downtime."""

    mode: str
    runs: int
    completed: int
    intact: bool
    statuses: tuple[str, ...]
    why: str
    total: Spread | None
    downtime: Spread | None
    expected: Spread | None
    gap: Spread | None
    switch: Spread | None
    arrived: Spread | None
    link_bytes: Spread | None
    busy: Spread | None
    rounds: Spread | None
    parts: Mapping[str, float]

    @property
    def is_qemu(self) -> bool:
        """Whether it is one of QEMU's own."""
        return self.mode.startswith(_QEMU)


@dataclass(frozen=True)
class AutoTime:
    """The total time of codec `auto` to that of ``fixed``, the choice of ours with the lowest median: of the medians,
    and the lowest and highest ratio of two moves of one run. Where these lie on both sides of 1 it may be noise."""

    fixed: str
    ratio: Spread


@dataclass(frozen=True)
class CellSummary:
    """A cell. ``best`` is QEMU's mode with the lowest median total time of those that always moved the guest intact;
    ``stolen`` are the seconds of a processor that another guest of the same machine got during a migration."""

    link: str
    guest: str
    modes: tuple[ModeSummary, ...]
    best: ModeSummary | None
    auto: AutoTime | None
    probe: Spread
    stolen: Spread
    written_rate: Spread | None

    @property
    def scored(self) -> bool:
        """See :attr:`migrated.bench.vm.plan.Cell.scored`."""
        return Cell(LinkRate.parse(self.link), parse_guest(self.guest)).scored

    def ratio(self, mode: ModeSummary, figure: str) -> float | None:
        """``mode``'s median of ``figure`` to that of the best; None where either has none."""
        if self.best is None:
            return None
        ours: Spread | None = getattr(mode, figure)
        theirs: Spread | None = getattr(self.best, figure)
        return ours.median / theirs.median if ours and theirs and theirs.median else None


def summarise(measurements: Iterable[Measurement]) -> list[CellSummary]:
    """Cells and modes in the order in which they first were measured; QEMU's modes first."""
    cells: dict[tuple[str, str], dict[str, list[Measurement]]] = {}
    for each in measurements:
        cells.setdefault((each.link, each.guest), {}).setdefault(each.mode, []).append(each)
    return [_cell(link, guest, modes) for (link, guest), modes in cells.items()]


def _cell(link: str, guest: str, by_mode: Mapping[str, Sequence[Measurement]]) -> CellSummary:
    modes = [_mode(mode, by_mode[mode]) for mode in sorted(by_mode, key=_place)]
    steady = [each for each in modes if each.total and each.intact and each.completed == each.runs]
    every = [each for runs in by_mode.values() for each in runs]
    probe = Spread.of([each.probe_seconds for each in every])
    stolen = Spread.of([each.stolen_seconds for each in every])
    assert probe is not None
    assert stolen is not None
    return CellSummary(
        link,
        guest,
        tuple(modes),
        _fastest(each for each in steady if each.is_qemu),
        _auto_time(steady, by_mode),
        probe,
        stolen,
        Spread.of([each.written_rate for each in every if each.written_rate]),
    )


def _fastest(modes: Iterable[ModeSummary]) -> ModeSummary | None:
    return min(modes, key=lambda each: each.total.median if each.total else 0.0, default=None)


def _auto_time(steady: Sequence[ModeSummary], by_mode: Mapping[str, Sequence[Measurement]]) -> AutoTime | None:
    auto = next((each for each in steady if each.mode == _AUTO), None)
    fixed = _fastest(each for each in steady if not (each.is_qemu or each is auto))
    if not (auto and auto.total and fixed and fixed.total):
        return None
    totals = {each.run: each.total_seconds for each in by_mode[fixed.mode]}
    pairs = [each.total_seconds / totals[each.run] for each in by_mode[_AUTO] if each.run in totals]
    ratio = auto.total.median / fixed.total.median
    return AutoTime(fixed.mode, Spread(ratio, min(pairs, default=ratio), max(pairs, default=ratio)))


def _place(mode: str) -> bool:
    return not mode.startswith(_QEMU)


def _mode(mode: str, runs: Sequence[Measurement]) -> ModeSummary:
    completed = [each for each in runs if each.status is Status.COMPLETED]

    def spread(value: Callable[[Measurement], float]) -> Spread | None:
        return Spread.of([value(each) for each in completed])

    names = dict.fromkeys(name for each in completed for name in each.parts)
    return ModeSummary(
        mode=mode,
        runs=len(runs),
        completed=len(completed),
        intact=all(each.intact for each in runs),
        statuses=tuple(str(each.status) for each in runs),
        why=next((each.why for each in sorted(runs, key=lambda each: each.intact) if each.why), ""),
        total=spread(lambda each: each.total_seconds),
        downtime=spread(lambda each: each.downtime_seconds),
        expected=Spread.of([each.expected_seconds for each in completed if each.expected_seconds]),
        gap=spread(lambda each: each.gap_seconds),
        switch=spread(lambda each: each.switch_seconds),
        arrived=spread(lambda each: each.arrived_seconds),
        link_bytes=spread(lambda each: each.link_bytes),
        busy=spread(lambda each: each.busy_seconds),
        rounds=spread(lambda each: each.rounds),
        parts={name: statistics.median([each.parts.get(name, 0.0) for each in completed]) for name in names},
    )


_FIGURES = ("total", "downtime", "expected", "gap", "switch", "arrived", "link_bytes", "busy", "rounds")
_COMPARED = ("total", "downtime", "gap", "switch", "link_bytes")


def as_plain(cells: Iterable[CellSummary]) -> list[dict[str, Any]]:
    """For JSON. Seconds and bytes; ``ratios`` are to the best mode of QEMU."""
    return [
        {
            "link": cell.link,
            "guest": cell.guest,
            "scored": cell.scored,
            "best_qemu_mode": cell.best.mode if cell.best else None,
            "auto": {"fixed": cell.auto.fixed, "ratio": cell.auto.ratio.__dict__} if cell.auto else None,
            "probe_seconds": cell.probe.__dict__,
            "stolen_seconds": cell.stolen.__dict__,
            "written_rate": cell.written_rate.__dict__ if cell.written_rate else None,
            "modes": [_plain_mode(cell, mode) for mode in cell.modes],
        }
        for cell in cells
    ]


def _plain_mode(cell: CellSummary, mode: ModeSummary) -> dict[str, Any]:
    figures = {name: spread.__dict__ for name in _FIGURES if (spread := getattr(mode, name))}
    ratios = {name: cell.ratio(mode, name) for name in _COMPARED}
    return {
        "mode": mode.mode,
        "runs": mode.runs,
        "completed": mode.completed,
        "intact": mode.intact,
        "why": mode.why,
        **figures,
        "downtime_parts": dict(mode.parts),
        "ratios": {name: ratio for name, ratio in ratios.items() if ratio is not None},
    }
