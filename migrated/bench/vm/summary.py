"""Measurements put together: medians and spread of each mode in each cell, beside the best mode of QEMU there."""

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from migrated.bench.vm.drive import Status
from migrated.bench.vm.guests import parse_guest
from migrated.bench.vm.plan import Cell, LinkRate
from migrated.bench.vm.results import Measurement

__all__ = ["CellSummary", "ModeSummary", "Spread", "as_plain", "summarise"]

_QEMU = "qemu:"


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
class CellSummary:
    """A cell. ``best`` is QEMU's mode with the lowest median total time of those that always moved the guest intact;
    ``stolen`` are the seconds of a processor that another guest of the same machine got during a migration."""

    link: str
    guest: str
    modes: tuple[ModeSummary, ...]
    best: ModeSummary | None
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
    steady = [
        each for each in modes if each.is_qemu and each.total and each.intact and each.completed == each.runs
    ]
    every = [each for runs in by_mode.values() for each in runs]
    probe = Spread.of([each.probe_seconds for each in every])
    stolen = Spread.of([each.stolen_seconds for each in every])
    assert probe is not None
    assert stolen is not None
    return CellSummary(
        link,
        guest,
        tuple(modes),
        min(steady, key=lambda each: each.total.median if each.total else 0.0, default=None),
        probe,
        stolen,
        Spread.of([each.written_rate for each in every if each.written_rate]),
    )


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
