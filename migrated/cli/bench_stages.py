"""``migrated bench stages``."""

from typing import Annotated

import typer

from migrated.cli.helptext import example
from migrated.cli.run import Json

__all__ = ["EPILOG", "stages"]

EPILOG = example(
    "migrated bench stages",
    "migrated bench stages --whole --runs 5     and what whole migrations reach of it",
    "migrated bench stages --json",
    codes="0 done, 2 wrong command line, 6 this host lacks something",
)

_WHOLE = {"raw": "", "lz4": "lz4 1", "zstd": "zstd 1"}
"""Codecs of the throughput benchmark, and the stages that stand for them."""


def stages(
    *,
    runs: Annotated[int, typer.Option("--runs", metavar="N", min=1, help="How often each is measured.")] = 3,
    size: Annotated[str, typer.Option("--size", metavar="SIZE", help="Memory to measure with.")] = "256MiB",
    whole: Annotated[
        bool, typer.Option("--whole", help="Migrate too, without a link limit, and compare.")
    ] = False,
    as_json: Json = False,
) -> None:
    """What each stage on the way of a page costs here (CPU seconds per GiB), beside the least that it could.

    The last lines say how fast both sides together could be on these cores if every stage were at its floor, and how
    fast a chain of the stages is, one process a core and nothing around them.
    """
    import statistics
    from dataclasses import asdict

    from migrated.bench.engine import PARTS
    from migrated.bench.stages import measure, table
    from migrated.cli.run import print_json, say, show
    from migrated.units import parse_size

    found = measure(parse_size(size), runs, say)
    reached = {}
    if whole:
        figures = PARTS["throughput"](runs)
        for name, stage in _WHOLE.items():
            reached[stage] = 1e6 * statistics.median(figures[f"{name}: guest memory in round 1, MB/s"])
    if as_json:
        print_json(
            {
                "stages": [asdict(each) for each in found.costs],
                "chained": found.chained,
                "whole": reached,
            }
        )
    else:
        show(table(found, reached))
