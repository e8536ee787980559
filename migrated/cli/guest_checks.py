"""What `migrated doctor GUEST` looks at."""

from collections.abc import Iterator
from pathlib import Path

from migrated.cli.findings import Check, Level
from migrated.cli.qemu_checks import machine_checks
from migrated.errors import MigratedError
from migrated.guests.uri import open_source, parse

__all__ = ["guest_checks"]


def guest_checks(text: str) -> Iterator[Check]:
    """Whether the guest at this URI can be moved. UsageError if it is none."""
    uri = parse(text)
    if uri.kind == "qemu":
        yield from machine_checks(Path(uri.target))
        return
    try:
        guest = open_source(uri)
    except MigratedError as error:
        yield Check(text, Level.FAIL, error.what, error.hint)
        return
    try:
        yield Check(text, Level.OK, f"it can be moved; {guest.tracker_note}")
    finally:
        guest.close()
