"""What every message is made of: a dataclass that travels as a map, and the checks of its values.

A check raises ``ValueError`` with the value's name and bounds. The values come from a peer, so nothing here
trusts their types: ``True`` is no number, and a list is a tuple, as msgpack is told to read it.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields
from typing import Self

__all__ = [
    "CODEC",
    "MAX_TEXT",
    "MAX_VERSION",
    "U32",
    "U64",
    "WORD",
    "Record",
    "check_codecs",
    "check_entries",
    "check_flag",
    "check_match",
    "check_number",
    "check_printable",
    "check_versions",
    "check_words",
    "make_harmless",
]

MAX_TEXT = 2000
"""Characters of a reason or a hint; a screenful."""

MAX_VERSION = 65535
U32, U64 = (1 << 32) - 1, (1 << 64) - 1
WORD = re.compile(r"[a-z0-9][a-z0-9-]{0,31}", re.ASCII)
CODEC = re.compile(r"[a-z0-9-]{1,16}", re.ASCII)


class Record:
    """A dataclass that travels as a map."""

    __slots__ = ()

    def to_wire(self) -> dict[str, object]:
        """The map that travels."""
        return {field.name: getattr(self, field.name) for field in fields(self)}  # type: ignore[arg-type]

    @classmethod
    def from_wire(cls, body: Mapping[str, object]) -> Self:
        """The record of a map; ``ValueError`` if it lacks a key or a value is out of bounds."""
        known = {}
        for field in fields(cls):  # type: ignore[arg-type]  # every record is a dataclass
            if field.name in body:
                known[field.name] = body[field.name]
            elif field.default is MISSING:
                raise ValueError(f"it lacks {field.name}")
        return cls(**known)


def check_number(name: str, value: object, low: int, high: int) -> None:
    if type(value) is not int or not low <= value <= high:
        raise ValueError(f"{name} is {_short(value)}, not a number from {low} to {high}")


def check_flag(name: str, value: object) -> None:
    if type(value) is not bool:
        raise ValueError(f"{name} is {_short(value)}, not true or false")


def check_match(name: str, value: object, pattern: re.Pattern[str], what: str) -> None:
    if type(value) is not str or not pattern.fullmatch(value):
        raise ValueError(f"{name} is {_short(value)}, not {what}")


def check_printable(name: str, value: object, limit: int) -> None:
    if type(value) is not str or not 0 < len(value) <= limit or not value.isprintable():
        raise ValueError(f"{name} is {_short(value)}, not 1 to {limit} printable characters")


def check_entries(name: str, value: object, limit: int) -> None:
    if type(value) is not tuple or len(value) > limit:
        raise ValueError(f"{name} is no list of at most {limit}")


def check_words(name: str, value: object, pattern: re.Pattern[str]) -> None:
    check_entries(name, value, 32)
    assert isinstance(value, tuple)
    for word in value:
        check_match(name, word, pattern, "a word")
    if len(set(value)) < len(value):
        raise ValueError(f"{name} names something twice")


def check_versions(low: object, high: object) -> None:
    check_number("min_version", low, 1, MAX_VERSION)
    check_number("max_version", high, 1, MAX_VERSION)
    assert isinstance(low, int)
    assert isinstance(high, int)
    if low > high:
        raise ValueError(f"min_version {low} is above max_version {high}")


def check_codecs(value: object) -> None:
    if type(value) is not dict or len(value) > 32:
        raise ValueError("codecs is no map of at most 32 codecs")
    for name, levels in value.items():
        check_match("codecs", name, CODEC, "a codec's name")
        check_entries(f"levels of {name}", levels, 10)
        for level in levels:
            check_number(f"level of {name}", level, 0, 9)
        if not levels or len(set(levels)) < len(levels):
            raise ValueError(f"levels of {name} are none, or named twice")


def make_harmless(record: Record, name: str) -> None:
    """Make a text of ``record`` harmless for a terminal and a log: one printable line, not too long."""
    text = getattr(record, name)
    if type(text) is not str:
        raise ValueError(f"{name} is {_short(text)}, not a text")
    if len(text) > MAX_TEXT:
        text = text[: MAX_TEXT - 3] + "..."
    if not text.isprintable():
        text = "".join(_printable_characters(text))
    object.__setattr__(record, name, text)


def _printable_characters(text: str) -> Iterable[str]:
    for each in text:
        yield each if each.isprintable() else " " if each.isspace() else "?"


def _short(value: object) -> str:
    """``value`` for an error text. What a peer nested deeply is not walked through, only its kind named."""
    if isinstance(value, str | bytes):
        return ascii(value[:40]) + ("..." if len(value) > 40 else "")
    return ascii(value) if value is None or isinstance(value, int | float) else f"a {type(value).__name__}"
