"""Sizes, rates and durations as people type and read them.

Inside, a size is an ``int`` of bytes, a rate a ``float`` of bytes per second (``inf``: unlimited), a duration
a ``float`` of seconds. Text that cannot be read is a :class:`migrated.errors.UsageError` that shows what can.

- Sizes: ``k m g t p`` count in 1024s whether or not ``iB`` or ``B`` follows, as in QEMU. Case is free.
- Rates: ``k m g t`` count in 1000s, ``Ki Mi Gi Ti`` in 1024s. ``b`` and ``bit`` are bits, ``B`` is bytes: the
  one place where case counts. A rate without a unit could mean either and is refused.
- Durations: ``us ms s m h``, also several in falling order: ``1 m 30 s``.
"""

import math
import re
from fractions import Fraction

from migrated.errors import UsageError

__all__ = ["format_duration", "format_rate", "format_size", "parse_duration", "parse_rate", "parse_size"]

_MAX_SIZE = 1 << 62
"""The largest size that is read: far beyond any memory, and every sum of a few still fits an int64."""

_MAX_TEXT = 64
"""Longer text is no quantity; the bound keeps the arithmetic of exact fractions small."""

_NUMBER = r"(\d+(?:\.\d+)?|\.\d+)"
_SIZE = re.compile(rf"{_NUMBER}\s*([kmgtp]?)(?:i?b)?", re.ASCII | re.IGNORECASE)
_RATE = re.compile(rf"{_NUMBER}\s*(?:([kKmMgGtT])(i?))?(b|bit|B)(?:/s|ps)?", re.ASCII)
_DURATION_PART = re.compile(rf"\s*{_NUMBER}\s*(us|ms|min|s|m|h)", re.ASCII)

_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4, "p": 5}
_SECONDS = {
    "h": Fraction(3600),
    "m": Fraction(60),
    "min": Fraction(60),
    "s": Fraction(1),
    "ms": Fraction(1, 1000),
    "us": Fraction(1, 1_000_000),
}


def parse_size(text: str) -> int:
    """Bytes of ``64MiB``, ``512M``, ``1.5g`` or ``4096``; a fraction of a byte is cut off."""
    match = _SIZE.fullmatch(_stripped(text))
    size = int(Fraction(match[1]) * 1024 ** _POWERS[match[2].lower()]) if match else -1
    if not 0 <= size <= _MAX_SIZE:
        raise _unreadable("size", text, "write it as 4096, 64MiB, 512M or 1.5G")
    return size


def format_size(size: float) -> str:
    """``512 MiB``, ``1.5 GiB``: three digits, counted in 1024s."""
    return _scaled(size, 1024, ("B", "KiB", "MiB", "GiB", "TiB", "PiB"))


def parse_rate(text: str) -> float:
    """Bytes per second of ``1gbit``, ``50MB/s`` or ``50MiB/s``; ``unlimited`` and 0 are ``inf``."""
    stripped = _stripped(text)
    if stripped.lower() in ("unlimited", "0"):
        return math.inf
    match = _RATE.fullmatch(stripped)
    if match is None:
        raise _unreadable("rate", text, "write it as 1gbit, 100Mbit/s, 50MB/s, 50MiB/s or unlimited")
    step = 1024 if match[3] else 1000
    rate = Fraction(match[1]) * step ** _POWERS[(match[2] or "").lower()]
    return float(rate if match[4] == "B" else rate / 8) or math.inf


def format_rate(rate: float) -> str:
    """``941 Mb/s``: three digits, in bits, counted in 1000s, as links are; ``unlimited`` for ``inf``."""
    if math.isinf(rate):
        return "unlimited"
    return _scaled(rate * 8, 1000, ("b/s", "kb/s", "Mb/s", "Gb/s", "Tb/s"))


def parse_duration(text: str) -> float:
    """Seconds of ``300ms``, ``2s``, ``1.5m`` or ``1 m 30 s``; a bare 0 needs no unit."""
    stripped = _stripped(text)
    if stripped == "0":
        return 0.0
    seconds, place, smaller_than = Fraction(0), 0, Fraction(1 << 62)
    while place < len(stripped):
        part = _DURATION_PART.match(stripped, place)
        if part is None or _SECONDS[part[2]] >= smaller_than:
            break
        smaller_than = _SECONDS[part[2]]
        seconds += Fraction(part[1]) * smaller_than
        place = part.end()
    if place == 0 or place < len(stripped):
        raise _unreadable("duration", text, "write it as 300ms, 2s, 5m or 1m30s")
    return float(seconds)


def format_duration(seconds: float) -> str:
    """``840 us``, ``12 ms``, ``2.35 s``, ``1 m 30 s``, ``3 h 5 m``; ``for ever`` for ``inf``."""
    if math.isinf(seconds):
        return "for ever"
    for limit, unit, scale in ((1e-3, "us", 1e6), (1.0, "ms", 1e3), (60.0, "s", 1.0)):
        shown = _digits(seconds * scale)
        if float(shown) < limit * scale:
            return f"{shown} {unit}"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} m {whole % 60} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} m"


def _stripped(text: str) -> str:
    return text.strip() if len(text) <= _MAX_TEXT else ""


def _unreadable(kind: str, text: str, hint: str) -> UsageError:
    shown = text if len(text) <= _MAX_TEXT else text[:_MAX_TEXT] + "..."
    return UsageError(f"cannot read {shown!r} as a {kind}", hint)


def _digits(value: float) -> str:
    """Three digits, or all of those before the point; no zeros at the end of a fraction."""
    if value >= 99.95:
        return f"{value:.0f}"
    text = f"{value:.1f}" if value >= 9.995 else f"{value:.2f}"
    return text.rstrip("0").rstrip(".")


def _scaled(value: float, step: int, units: tuple[str, ...]) -> str:
    for unit in units[:-1]:
        shown = _digits(value)
        if float(shown) < step:
            return f"{shown} {unit}"
        value /= step
    return f"{_digits(value)} {units[-1]}"
