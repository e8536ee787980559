"""``migrated bench deltas``. What it measures is in :mod:`migrated.bench.deltas`."""

from typing import Annotated

import typer

from migrated.cli.helptext import example
from migrated.cli.run import Json

__all__ = ["EPILOG", "deltas"]

EPILOG = example(
    "migrated bench deltas",
    "migrated bench deltas --runs 9 --codec zstd --json",
    codes="0 done, 2 wrong command line, 6 this host lacks something",
)


def deltas(
    *,
    runs: Annotated[int, typer.Option("--runs", metavar="N", min=1, help="How often each is measured.")] = 5,
    codec: Annotated[str, typer.Option("--codec", metavar="NAME", help="One of raw, lz4, zstd.")] = "",
    as_json: Json = False,
) -> None:
    """Measure what deltas bring: bytes on the wire and CPU time a page, for guests that write in different ways.

    Two figures a cell: pages that travel whole, and what has changed in them. CPU time of a worker, from the third
    round on; looking is the part of the source's that finding deltas takes, also where none are found. Keeping is
    what the second round takes once, for at most as many pages as there is room for.
    """
    from dataclasses import asdict

    from migrated.bench.deltas import CODECS, WRITERS, measure, table
    from migrated.cli.run import print_json, say, show
    from migrated.errors import UsageError

    if codec and codec not in CODECS:
        raise UsageError(f"{codec!r} is not measured", f"{', '.join(CODECS)} are")
    found = []
    for name in [codec] if codec else CODECS:
        for writer in WRITERS:
            say(f"measuring {writer} with {name} ...")
            found.append(measure(writer, name, runs))
    if as_json:
        print_json([asdict(each) for each in found])
    else:
        show(table(found))
