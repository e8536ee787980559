"""A finished migration in the words of QEMU's `info migrate`, with what QEMU does not say beside."""

from migrated.cli.packing import packing
from migrated.engine.events import Report
from migrated.units import format_duration, format_rate, format_size

__all__ = ["summary"]


def summary(report: Report) -> list[str]:
    """The lines, without an end of line."""
    rows = list(_rows(report))
    width = max(len(label) for label, _ in rows) + 1
    return [f"{label + ':':<{width}} {text}" for label, text in rows]


def _rows(report: Report) -> list[tuple[str, str]]:
    normal = report.sent_pages
    rows = [
        ("Migration status", "completed" if report.moved else "completed (copied: the guest is still here)"),
        ("total time", _milliseconds(report.total_seconds)),
        ("downtime", _milliseconds(report.downtime_seconds) + _parts(report)),
        ("setup", _milliseconds(report.setup_seconds)),
        ("transferred ram", _kbytes(report.wire_bytes)),
        ("throughput", f"{report.throughput * 8 / 1e6:.2f} mbps ({format_rate(report.throughput)})"),
        ("remaining ram", _kbytes(0)),
        ("total ram", _kbytes(report.total_bytes)),
        ("normal", f"{normal} pages ({format_size(normal * report.page_size)})"),
        ("duplicate", f"{report.zero_pages} pages (all zero, sent as runs)"),
        ("unchanged", f"{report.unchanged_pages} pages (looked at, not sent)"),
        *_copied(report),
        *_deltas(report),
        ("compression", _compression(report)),
        ("rounds", str(report.rounds)),
        *_connections(report),
        ("dirty tracking", report.tracker),
        ("digest", f"{report.digest} (equal on both sides)"),
        ("migration id", report.migration_id),
    ]
    return rows + [("note", note) for note in report.notes]


def _milliseconds(seconds: float) -> str:
    long = f" ({format_duration(seconds)})" if seconds >= 10 else ""
    return f"{seconds * 1000:.0f} milliseconds{long}"


def _parts(report: Report) -> str:
    parts = ", ".join(f"{name} {format_duration(each)}" for name, each in report.downtime_parts.items())
    seconds = report.expected_downtime
    expected = "" if seconds is None else f"expected {format_duration(seconds)}"
    said = "; ".join(filter(None, (parts, expected)))
    return f" ({said})" if said else ""


def _kbytes(size: int) -> str:
    return f"{size // 1024} kbytes ({format_size(size)})"


def _copied(report: Report) -> list[tuple[str, str]]:
    if not report.copied_pages:
        return []
    return [("copied", f"{report.copied_pages} pages (there twice: the destination copied the other one)")]


def _deltas(report: Report) -> list[tuple[str, str]]:
    if not report.delta_pages:
        return []
    return [("deltas", f"{report.delta_pages} of the normal pages (only what had changed was sent)")]


def _connections(report: Report) -> list[tuple[str, str]]:
    return [("connections", str(report.connections))] if report.connections > 1 else []


def _compression(report: Report) -> str:
    ratio = report.raw_bytes / report.wire_bytes if report.wire_bytes else 0.0
    shown = f", {ratio:.2f} bytes of pages in one on the wire" if ratio else ""
    packed = packing(report.codec, report.level, report.raw_bytes_by_codec)
    return packed if packed == "none" else packed + shown
