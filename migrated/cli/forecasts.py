"""A plan in words, as a table, and for programs."""

from collections.abc import Iterator
from dataclasses import asdict, fields
from typing import Any

from rich import box
from rich.table import Table

from migrated.cli.packing import packing
from migrated.compression.duplicates import LEAST_SHARE
from migrated.compression.policy import NONE, Rung
from migrated.engine.costs import Limit, Mix
from migrated.engine.forecast import Forecast
from migrated.engine.options import AUTO, OnStall
from migrated.errors import StalledError
from migrated.pages import PAGE_SIZE
from migrated.planning import Plan, Row
from migrated.units import format_duration, format_rate, format_size

__all__ = ["advice", "as_plain", "header", "table", "unlikely"]

_AS_GOOD = 1.05
"""Within 5 % two forecasts are the same."""

_WORTH = 0.9
"""What is said to be faster takes a tenth less."""

_BUSY = 0.7
"""What a worker of an idle host gets of its core at least, between the tasks that it is given."""

_TAKERS = {
    Limit.LINK: "the link takes",
    Limit.SOURCE: "this host packs",
    Limit.DESTINATION: "the other host takes",
}


def header(plan: Plan, guest: str, destination: str) -> list[str]:
    """What was measured: a line each on guest, writes, link and hosts."""
    found, hosts, link = plan.survey, plan.hosts, plan.link
    used = f"{format_size(found.pages * PAGE_SIZE)} in use"
    zero = f", {1 - found.memory.data_share:.0%} of that zero" if found.pages else ""
    twice = f", {found.memory.twins:.0%} of the rest there twice" if found.memory.twins >= LEAST_SHARE else ""
    limited = f", limited by --bandwidth to {format_rate(plan.send.bandwidth)}" if _is_limited(plan) else ""
    rate = f"{format_rate(link.bytes_per_second)}, round trip {format_duration(link.round_trip)}"
    several = f", over {link.connections} connections" if link.connections > 1 else ""
    busy = f", busy: a worker gets {hosts.speed:.0%} of one" if hosts.speed < _BUSY else ""
    here = f"{hosts.workers} workers, {hosts.cores} cores{busy}"
    cores = "on the same cores" if hosts.shared else f"{hosts.far_cores or 'unknown'} cores"
    return [
        f"guest   {guest}: {format_size(found.total_bytes)}, {used}{zero}{twice}",
        f"writes  {_writes(plan)}; tracker {plan.guest.tracker.name}",
        f"link    {destination}: {rate}{several}{limited}",
        f"here    {here}; there {hosts.far_workers} workers, {cores}",
    ]


def _is_limited(plan: Plan) -> bool:
    return plan.send.bandwidth < float("inf")


def _writes(plan: Plan) -> str:
    points = plan.survey.writing.points
    if not points or not points[-1][1]:
        return "nothing while it was watched"
    shown = {points[0], points[-1]}
    return "different pages: " + ", ".join(
        f"{format_size(pages * PAGE_SIZE)} in {format_duration(when)}" for when, pages in sorted(shown)
    )


def table(plan: Plan) -> Table:
    """A row a codec; an arrow marks what `migrated send` would do."""
    made = Table(
        "", "codec", "total time", "downtime", "sent", "ratio", "rounds", box=box.SIMPLE_HEAD, pad_edge=False
    )
    for column in made.columns[2:]:
        column.justify = "right"
    for row in plan.rows:
        made.add_row(*_cells(plan, row), style=_style(plan, row))
    return made


def _cells(plan: Plan, row: Row) -> list[str]:
    found = row.forecast
    ratio = f"{_ratio(plan, found):.2f}"
    arrow, label = "→" if row.asked else "", _label(row.rung)
    if not found.converges:
        at_best = f"{format_duration(found.best_downtime)} at best"
        return [arrow, label, "does not converge", at_best, "", ratio, ""]
    held = f" (held for {found.throttled:.0%} of the time)" if found.throttled else ""
    return [
        arrow,
        label,
        format_duration(found.total_seconds),
        format_duration(found.downtime_seconds) + held,
        format_size(found.wire_bytes),
        ratio,
        str(found.rounds),
    ]


def _style(plan: Plan, row: Row) -> str:
    if not row.forecast.converges:
        return "red"
    return "green" if row is plan.best else ""


def _ratio(plan: Plan, found: Forecast) -> float:
    """Bytes of the pages with data in one on the wire."""
    memory = plan.survey.memory
    wire = memory.mixed(found.mix).wire
    return memory.data_share * PAGE_SIZE / wire if wire else 1.0


def _label(rung: Rung | None) -> str:
    return AUTO if rung is None else packing(rung.codec, rung.level, {})


def _mixed(mix: Mix) -> str:
    """The rungs of a mix with their shares."""
    if len(mix) == 1:
        return _label(next(iter(mix)))
    return ", ".join(
        f"{_label(rung)} {share:.0%}" for rung, share in sorted(mix.items(), key=lambda each: -each[1])
    )


def advice(plan: Plan) -> list[str]:
    """What to choose and why, and what would go wrong."""
    return [
        *_recommended(plan),
        *_stalls(plan),
        *_paused_long(plan),
        *(f"note: {text}" for text in plan.notes),
    ]


def _recommended(plan: Plan) -> Iterator[str]:
    best, auto = plan.best, plan.rows[-1]
    if best is None:
        return
    if auto.forecast.converges and auto.forecast.total_seconds <= _AS_GOOD * best.forecast.total_seconds:
        best = auto
    found = best.forecast
    name = f"{AUTO} ({_mixed(found.mix)})" if best.rung is None else _label(best.rung)
    yield (
        f"{name} is the fastest here: {format_duration(found.total_seconds)}, "
        f"with the guest paused for {format_duration(found.downtime_seconds)}"
    )
    asked = plan.asked.forecast
    if asked.converges and found.total_seconds < _WORTH * asked.total_seconds:
        yield f"{_label(plan.asked.rung)}, as it is asked for, would take {format_duration(asked.total_seconds)}"


def _stalls(plan: Plan) -> Iterator[str]:
    stalled = [row for row in plan.rows if not row.forecast.converges]
    if stalled:
        some = len(stalled) < len(plan.rows)
        names = ", ".join(_label(row.rung) for row in stalled) if some else "any codec"
        yield f"with {names} it would not converge: {_why(plan, stalled)}"


def _why(plan: Plan, stalled: list[Row]) -> str:
    """The one of ``stalled`` that comes nearest says why it still is not enough."""
    found = min((row.forecast for row in stalled), key=lambda each: each.best_downtime)
    limit = format_duration(plan.send.downtime)
    if found.writes > found.takes:
        return f"the guest writes {_rate(found.writes)} and {_TAKERS[found.limit]} {_rate(found.takes)} of its pages"
    return f"it would be paused for {format_duration(found.best_downtime)} at best, and the limit is {limit}"


def _rate(bytes_per_second: float) -> str:
    return f"{format_size(bytes_per_second)}/s"


def _paused_long(plan: Plan) -> Iterator[str]:
    found = plan.asked.forecast
    if found.converges and found.downtime_seconds > 1.5 * plan.send.downtime:
        yield (
            f"{_label(plan.asked.rung)} would pause it for {format_duration(found.downtime_seconds)}; "
            f"--downtime asks for {format_duration(plan.send.downtime)}"
        )


def unlikely(plan: Plan) -> StalledError | None:
    """What `migrated send` would end with; None if it would move the guest."""
    row = plan.asked
    if row.forecast.converges:
        return None
    others = [_label(each.rung) for each in plan.rows if each.forecast.converges]
    also = "" if OnStall(plan.send.on_stall) is OnStall.THROTTLE else ", or use --on-stall throttle or switch"
    hint = f"choose {' or '.join(others)}" if others else f"allow more with --downtime{also}"
    return StalledError(f"with {_label(row.rung)} it would not converge: {_why(plan, [row])}", hint)


def as_plain(plan: Plan) -> dict[str, Any]:
    """The plan for JSON. Seconds, bytes, bytes per second; codec ``none`` is no compression."""
    found = plan.survey
    return {
        "kind": plan.guest.kind,
        "tracker": plan.guest.tracker.name,
        "total_bytes": found.total_bytes,
        "used_bytes": found.pages * PAGE_SIZE,
        "zero_share": 1 - found.memory.data_share if found.pages else 0.0,
        "copies_share": found.memory.twins,
        "writes": [{"seconds": when, "bytes": pages * PAGE_SIZE} for when, pages in found.writing.points],
        "scan_seconds": found.scan_seconds,
        "link": asdict(plan.link),
        "hosts": asdict(plan.hosts),
        "forecasts": [_row(plan, row) for row in plan.rows],
        "fastest": None if plan.best is None else _names(plan.best.rung),
        "notes": list(plan.notes),
    }


def _row(plan: Plan, row: Row) -> dict[str, Any]:
    found = row.forecast
    facts = {each.name: getattr(found, each.name) for each in fields(found) if each.name != "mix"}
    mix = [{**_names(rung), "share": share} for rung, share in found.mix.items()]
    return {**_names(row.rung), "asked": row.asked, **facts, "ratio": _ratio(plan, found), "mix": mix}


def _names(rung: Rung | None) -> dict[str, object]:
    if rung is None:
        return {"codec": AUTO, "level": 0}
    return {"codec": "none" if rung == NONE else rung.codec, "level": rung.level}
