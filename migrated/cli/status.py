"""``migrated status``: what moves on this host, and what moved lately."""

from typing import Annotated

import typer

from migrated.cli.helptext import example
from migrated.cli.run import ConfigFile, Json

__all__ = ["EPILOG", "status"]

EPILOG = example(
    "migrated status              all migrations of this host, and the last ones that ended",
    "migrated status 3f2a         everything about one; the first letters of an id are enough",
    "migrated status --watch      again every second, until Ctrl-C or, with an ID, its end",
    codes="0 done, 2 no such migration",
)


def status(
    migration_id: Annotated[
        str | None, typer.Argument(metavar="[ID]", help="One migration, or how its id begins. Default: all.")
    ] = None,
    *,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Show it again every second.")] = False,
    recent: Annotated[
        int, typer.Option("--recent", metavar="N", help="How many of those that ended. Default 10.", min=0)
    ] = 10,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Show the migrations of this host: those under way, and the last ones that ended.

    Shows what this user's processes do; root sees the system's too.
    """
    from migrated.cli.overview import Overview
    from migrated.cli.run import loop, read_settings

    overview = Overview(read_settings(config), migration_id, recent=recent, as_json=as_json)
    try:
        loop(overview.watch if watch else overview.show)
    except KeyboardInterrupt:
        if not watch:
            raise
