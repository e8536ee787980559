"""``migrated cancel``: end a migration; the guest goes on where it came from."""

from typing import Annotated

import typer

from migrated.cli.helptext import example
from migrated.cli.run import Json

__all__ = ["EPILOG", "cancel"]

EPILOG = example(
    "migrated status          shows the ids",
    "migrated cancel 3f2a     the first letters of an id are enough",
    codes="0 it is being cancelled, 2 there is none, or it is decided already",
)


def cancel(
    migration_id: Annotated[
        str, typer.Argument(metavar="ID", help="Of `migrated status`, or how it begins.")
    ],
    *,
    as_json: Json = False,
) -> None:
    """Cancel a migration of this host. The guest goes on at the source.

    Works at both ends, until the migration is decided.
    """
    from migrated.cli.run import loop, print_json
    from migrated.control.client import everything, only

    async def run() -> str:
        found = only(await everything(), migration_id)
        await found.client.cancel(found.migration_id)
        return found.migration_id

    cancelled = loop(run)
    if as_json:
        print_json({"migration_id": cancelled, "cancelled": True})
    else:
        print(f"cancelling {cancelled}; the guest goes on at the source")
