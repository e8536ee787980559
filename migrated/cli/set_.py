"""``migrated set``: change a migration while it runs."""

from typing import Annotated

import typer

from migrated.cli.helptext import example
from migrated.cli.run import Json

__all__ = ["EPILOG", "set_"]

EPILOG = example(
    "migrated set 3f2a bandwidth 500Mbit/s     leave room on the link for others",
    "migrated set 3f2a downtime 1s             accept a longer pause, so that it ends",
    "migrated set 3f2a level 3",
    "migrated set 3f2a codec lz4               one of those that both sides share",
    codes="0 changed, 2 no such migration or key, or a bad value",
)


def set_(
    migration_id: Annotated[
        str, typer.Argument(metavar="ID", help="Of `migrated status`, or how it begins.")
    ],
    key: Annotated[str, typer.Argument(metavar="KEY", help="bandwidth, downtime, level or codec.")],
    value: Annotated[str, typer.Argument(metavar="VALUE", help="As for the flag of `migrated send`.")],
    *,
    as_json: Json = False,
) -> None:
    """Change a running migration, on the host where it was started."""
    from migrated.cli.run import loop, print_json
    from migrated.control.client import everything, only

    async def run() -> dict[str, object]:
        found = only(await everything(), migration_id)
        return await found.client.change(found.migration_id, {key: value})

    row = loop(run)
    if as_json:
        print_json(row)
    else:
        print(f"migration {row['migration_id']}: {key} is {value} from now on")
