"""What `migrated status` shows: live rows from every process, ended ones from the history, unsettled ones
from the durable records."""

import asyncio
import datetime
import sys
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from migrated.cli.packing import packing
from migrated.cli.run import print_json, show
from migrated.client import outgoing_records
from migrated.config import Settings
from migrated.control.client import everything
from migrated.control.directory import Row, matching
from migrated.engine.events import Role, State
from migrated.engine.ports import in_thread
from migrated.engine.records import OPEN, Outcome
from migrated.errors import UsageError
from migrated.telemetry.history import History
from migrated.units import format_duration, format_rate, format_size

__all__ = ["Overview", "details", "table"]

_SECONDS = 1.0
_SHORT_ID = 8

_FIGURES = ("round", "sent", "rate", "dirty", "remaining", "downtime", "time")
_COLUMNS = ("id", "", "guest", "state", *_FIGURES, "when")
_LEAVE_OUT = ("time", "sent", "round", "dirty", "when", "remaining")
"""On a narrow terminal, these first; `migrated status ID` and a pipe have everything."""

_STYLES = {
    State.COMPLETED: "green",
    State.FAILED: "red",
    State.CANCELLED: "yellow",
    State.UNKNOWN: "bold red",
    State.STOP_AND_COPY: "magenta",
}


class Overview:
    """All migrations of this host, or the one that ``migration_id`` means."""

    def __init__(
        self, settings: Settings, migration_id: str | None, *, recent: int = 10, as_json: bool = False
    ) -> None:
        self._settings = settings
        self._migration_id = migration_id
        self._recent = recent
        self._as_json = as_json

    async def show(self) -> list[Row]:
        """Once; the rows shown. UsageError if there is no such migration."""
        rows = await self._rows()
        if self._as_json:
            print_json(rows[0] if self._migration_id and len(rows) == 1 else {"migrations": rows})
        else:
            show(self._picture(rows))
        return rows

    async def watch(self) -> None:
        """Every second, on a terminal in place; until the one that was asked for ends, or for ever."""
        if self._as_json or not sys.stdout.isatty():
            rows = await self.show()
            while not self._over(rows):
                await asyncio.sleep(_SECONDS)
                rows = await self.show()
            return
        from rich.live import Live

        with Live(console=Console(highlight=False), auto_refresh=False) as live:
            while True:
                rows = await self._rows()
                live.update(self._picture(rows), refresh=True)
                if self._over(rows):
                    return
                await asyncio.sleep(_SECONDS)

    def _over(self, rows: list[Row]) -> bool:
        return self._migration_id is not None and all(map(_final, rows))

    def _picture(self, rows: list[Row]) -> RenderableType:
        if self._migration_id:
            return Group(*map(details, rows))
        return table(rows, Console().width if sys.stdout.isatty() else None)

    async def _rows(self) -> list[Row]:
        live = [found.row for found in await everything()]
        ended = await in_thread(self._ended, 0 if self._migration_id is None else 1000)
        # A daemon still tells of what ended in its time, with more detail than the history; and a source that
        # went on asking is live although its record says "committing".
        noted = {_key(row): row for row in ended}
        rows = [{**noted.pop(_key(row), {}), **row} for row in live] + list(noted.values())
        if self._migration_id is None:
            return rows
        found = matching(rows, self._migration_id)
        if not found:
            raise UsageError(
                f"no migration {self._migration_id!r} is known on this host",
                "see `migrated status`, as root for all",
            )
        if len({row["migration_id"] for row in found}) > 1:
            ids = ", ".join(sorted({row["migration_id"] for row in found}))
            raise UsageError(f"{self._migration_id!r} could be {ids}", "write more of the id")
        return found

    def _ended(self, at_least: int) -> list[Row]:
        rows = [
            row
            for row in History(self._settings.host.state_path).recent(max(self._recent, at_least))
            if isinstance(row.get("migration_id"), str) and row.get("state") in set(State)
        ]
        unsettled = {
            record.migration_id: record
            for record in outgoing_records(self._settings).all()
            if record.outcome in OPEN
        }
        # Resolved since: the history was written before, the record knows better.
        for row in rows:
            if row["state"] == State.UNKNOWN and row["migration_id"] not in unsettled:
                row["state"], row["error"] = self._settled(row["migration_id"]), ""
        noted = {row["migration_id"] for row in rows}
        lost = [
            {
                "migration_id": record.migration_id,
                "role": "source",
                "guest": record.guest,
                "state": State.UNKNOWN,
                "error": f"settle it with: migrated resolve {record.migration_id}",
                "ended": record.written,
            }
            for record in unsettled.values()
            if record.migration_id not in noted
        ]
        return lost + rows

    def _settled(self, migration_id: str) -> State:
        record = outgoing_records(self._settings).read(migration_id)
        return State.COMPLETED if record and record.outcome is Outcome.COMPLETED else State.FAILED


def _key(row: Row) -> tuple[str, str]:
    return row["migration_id"], row.get("role") or "source"


def _final(row: Row) -> bool:
    return State(row["state"]).final


def table(rows: list[Row], width: int | None = None) -> RenderableType:
    """One line a migration: those under way first. Columns that say least are left out until it fits
    ``width``."""
    if not rows:
        return Text("no migrations here, now or lately")
    lines = [dict(zip(_COLUMNS, _cells(row), strict=True)) for row in sorted(rows, key=_order)]
    names = list(_COLUMNS)
    if width is not None:
        today = f"{datetime.datetime.now(datetime.UTC).astimezone():%Y-%m-%d} "
        for line in lines:
            line["when"] = Text(line["when"].plain.removeprefix(today))
        names = [name for name in names if any(line[name].plain for line in lines)]
        for name in _LEAVE_OUT:
            if _wide(names, lines) > width and name in names:
                names.remove(name)
    shown = Table(box=None, pad_edge=False)
    for name in names:
        shown.add_column(name, justify="right" if name in _FIGURES else "left", no_wrap=True)
    for line in lines:
        shown.add_row(*(line[name] for name in names))
    return shown


def _wide(names: list[str], lines: list[dict[str, Text]]) -> int:
    return sum(max(len(name), *(line[name].cell_len for line in lines)) + 2 for name in names) - 2


def _order(row: Row) -> tuple[bool, float]:
    return _final(row), -float(row.get("ended") or 0)


def _cells(row: Row) -> list[Text]:
    state = State(row["state"])
    running = not state.final
    value = row.get
    return [
        Text(str(row["migration_id"])[:_SHORT_ID]),
        Text("out" if value("role") != Role.DESTINATION else "in"),
        Text(str(value("guest") or "?")),
        Text(state, style=_STYLES.get(state, "cyan")),
        Text(str(value("round") or "")),
        Text(_known(value("wire_bytes"), format_size)),
        Text(_known(value("wire_bytes_per_second"), format_rate) if running else ""),
        Text(_known(value("dirty_bytes_per_second"), _per_second) if running else ""),
        Text(_remaining(row) if running else ""),
        Text(_downtime(row)),
        Text(_known(value("elapsed_seconds"), format_duration)),
        Text(_when(value("ended")) if not running else "now"),
    ]


def _known(value: Any, show: Any) -> str:
    return show(value) if isinstance(value, int | float) and value else ""


def _remaining(row: Row) -> str:
    """A destination knows it only once the source has told its estimates."""
    told = row.get("role") != Role.DESTINATION or row.get("expected_downtime") is not None
    return _known(row.get("remaining_bytes"), format_size) if told else ""


def _per_second(rate: float) -> str:
    return f"{format_size(rate)}/s"


def _downtime(row: Row) -> str:
    if row.get("downtime_seconds") is not None:
        return format_duration(row["downtime_seconds"])
    return f"~{format_duration(row['expected_downtime'])}" if row.get("expected_downtime") is not None else ""


def _when(ended: Any) -> str:
    if not isinstance(ended, int | float):
        return ""
    at = datetime.datetime.fromtimestamp(ended, datetime.UTC).astimezone()
    return at.strftime("%Y-%m-%d %H:%M:%S")


def details(row: Row) -> RenderableType:
    """Everything about one migration, a line a fact."""
    shown = Table(box=None, show_header=False, pad_edge=False)
    shown.add_column(style="bold")
    shown.add_column()
    for label, text in _facts(row):
        if text:
            shown.add_row(Text(label), Text(text))
    return shown


def _facts(row: Row) -> list[tuple[str, str]]:
    value = row.get
    size = int(value("page_size") or 0)
    sends = value("role") != Role.DESTINATION
    codecs = value("wire_bytes_by_codec") or {}
    raw = value("raw_bytes_by_codec") or {}
    per_codec = ", ".join(
        f"{name}: {format_size(raw.get(name, 0))} as {format_size(wire)}" for name, wire in codecs.items()
    )
    progress = f"{value('round')} ({value('round_pages_done')} of {value('round_pages')} pages)"
    return [
        ("migration id", str(row["migration_id"])),
        (
            "guest",
            f"{value('guest') or '?'}{_in_brackets(value('kind'))}, this host is the {value('role') or '?'}",
        ),
        ("destination", str(value("destination") or "")),
        ("state", str(row["state"])),
        ("error", str(value("error") or "")),
        ("hint", str(value("hint") or "")),
        ("ended", _when(value("ended"))),
        ("total time", _known(value("elapsed_seconds"), format_duration)),
        ("downtime", _downtime(row)),
        ("round", progress if value("round") else ""),
        ("total ram", _known(value("total_bytes"), format_size)),
        ("remaining ram", _remaining(row)),
        ("transferred ram", _known(value("wire_bytes"), format_size)),
        ("throughput", _known(value("wire_bytes_per_second"), format_rate)),
        ("dirty rate", _known(value("dirty_bytes_per_second"), _per_second)),
        ("normal", f"{value('sent_pages')} pages" if value("sent_pages") is not None else ""),
        ("duplicate", f"{value('zero_pages')} pages (all zero)" if value("zero_pages") is not None else ""),
        ("unchanged", f"{value('unchanged_pages')} pages" if value("unchanged_pages") is not None else ""),
        ("copied", f"{value('copied_pages')} pages (there twice)" if value("copied_pages") else ""),
        ("deltas", f"{value('delta_pages')} of the normal pages" if value("delta_pages") else ""),
        ("page size", format_size(size) if size else ""),
        (
            "compression",
            packing(str(value("codec")), value("level") or 0, {}) if value("codec") and sends else "",
        ),
        ("by codec", per_codec),
        ("workers", str(value("workers") or "")),
        ("connections", str(value("connections")) if (value("connections") or 1) > 1 else ""),
        ("dirty tracking", str(value("tracker") or "")),
        ("stalled", str(value("stalled") or "")),
    ]


def _in_brackets(text: Any) -> str:
    return f" ({text})" if text else ""
