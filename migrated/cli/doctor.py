"""``migrated doctor``: what this host or a guest can do, and what to do about what it can't."""

from typing import TYPE_CHECKING, Annotated

import typer

from migrated.cli.helptext import example
from migrated.cli.run import ConfigFile, Json

if TYPE_CHECKING:
    from collections.abc import Iterator

    from migrated.cli.findings import Check

__all__ = ["EPILOG", "doctor"]

EPILOG = example(
    "migrated doctor                    this host",
    "migrated doctor qemu:/run/vm.qmp   whether that VM can move, and all that keeps it from it",
    "migrated doctor --json | jq -r '.checks[] | select(.level != \"ok\") | .hint'",
    codes="0 something, or the guest, can be moved, 3 the guest can't, 6 nothing can",
)


def doctor(
    guest: Annotated[
        str,
        typer.Argument(metavar="GUEST", help="A guest to look at instead of the host: qemu:/path and so on."),
    ] = "",
    *,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Look at what this host can do, or one guest, and say what to do about the rest.

    Trackers, permissions, memory, codecs, limits, folders, QEMU. All is tried out, not guessed from versions. A guest
    goes on as it is.
    """
    from dataclasses import asdict

    from migrated.cli.findings import Level
    from migrated.cli.run import print_json, show
    from migrated.errors import GuestError, ResourceError

    checks = list(_checks_of(guest) if guest else _checks_here(config))
    if as_json:
        print_json({"checks": [asdict(each) for each in checks]})
    else:
        from rich.table import Table
        from rich.text import Text

        styles = {Level.OK: "green", Level.WARN: "yellow", Level.FAIL: "bold red"}
        shown = Table(box=None, show_header=False, pad_edge=False)
        for each in checks:
            text = Text(each.found)
            if each.hint:
                text.append(f"\n→ {each.hint}", style="bold")
            shown.add_row(Text(each.level, style=styles[each.level]), Text(each.subject), text)
        show(shown)
    if any(each.vital for each in checks):
        raise ResourceError("nothing can be moved on this host", "see the lines above that say fail")
    if guest and any(each.level is Level.FAIL for each in checks):
        raise GuestError(f"{guest} cannot be moved as it is", "see the lines above that say fail")


def _checks_here(config: ConfigFile) -> "Iterator[Check]":
    from migrated.cli.checks import run_checks
    from migrated.cli.run import read_settings

    return run_checks(read_settings(config))


def _checks_of(guest: str) -> "Iterator[Check]":
    from migrated.cli.guest_checks import guest_checks

    return guest_checks(guest)
