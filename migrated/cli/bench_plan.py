"""``migrated bench plan``."""

from typing import Annotated

import typer

from migrated.cli.helptext import example
from migrated.cli.run import Json

__all__ = ["EPILOG", "plan"]

EPILOG = example(
    "migrated bench plan",
    "migrated bench plan --link 200mbit --dirty-rate 40MB/s --codec none --codec zstd --runs 5",
    "migrated bench plan --json | jq .summary",
    codes="0 done, 2 wrong command line, 5 a link takes root, 6 this host lacks something",
)

_CODECS = ("none", "lz4", "zstd", "auto")
_LINKS = ("1gbit", "200mbit", "unlimited")
_RATES = ("0", "20MB/s")


def plan(
    *,
    link: Annotated[
        list[str] | None,
        typer.Option("--link", metavar="RATE", help="As in 1gbit, or unlimited. Repeatable."),
    ] = None,
    dirty_rate: Annotated[
        list[str] | None,
        typer.Option("--dirty-rate", metavar="RATE", help="What the guest writes, as in 20MB/s. Repeatable."),
    ] = None,
    codec: Annotated[
        list[str] | None, typer.Option("--codec", metavar="NAME", help="One to compare. Repeatable.")
    ] = None,
    size: Annotated[str, typer.Option("--size", metavar="SIZE", help="Of the guest's memory.")] = "512MiB",
    runs: Annotated[int, typer.Option("--runs", metavar="N", min=1, help="How often each is measured.")] = 3,
    as_json: Json = False,
) -> None:
    """How far `migrated plan` is off: plan, then copy a demo guest with each codec, and compare.

    Between two network namespaces of this host, which takes root; `--link unlimited` alone does not.
    """
    from contextlib import nullcontext
    from dataclasses import asdict

    from migrated.bench.hosts import UNLIMITED, loopback
    from migrated.bench.hosts import link as between
    from migrated.bench.predictions import Compared, measure, summary, table
    from migrated.cli.run import print_json, say, show
    from migrated.units import parse_rate, parse_size

    links = tuple(link or _LINKS)
    for rate in links:
        parse_rate(rate)
    parse_size(size)
    found: list[Compared] = []
    for rate in links:
        with nullcontext(loopback()) if rate == UNLIMITED else between(rate) as ends:
            for writes in dirty_rate or _RATES:
                found += measure(ends, rate, writes, codec or _CODECS, size=size, runs=runs, say=say)
    if as_json:
        print_json({"rows": [asdict(row) for row in found], "summary": summary(found)})
        return
    show(table(found))
    print(*(f"{name:<14} {value:.2f}" for name, value in summary(found).items()), sep="\n", flush=True)
