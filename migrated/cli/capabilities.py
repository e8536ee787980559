"""``migrated capabilities``: what a destination can do."""

from typing import Annotated

import typer

from migrated.cli.helptext import example
from migrated.cli.run import ConfigFile, Json

__all__ = ["EPILOG", "capabilities"]

EPILOG = example(
    "migrated capabilities db2.example:4440",
    "migrated capabilities db2.example --json | jq .codecs",
    codes="0 it answered, 7 unreachable, 9 it is no migrated",
)


def capabilities(
    destination: Annotated[str, typer.Argument(metavar="DEST", help="Its address, as in HOST or HOST:PORT.")],
    *,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Ask a destination what it can do: versions, codecs, guests, limits."""
    from dataclasses import asdict

    from migrated.cli.run import loop, print_json, read_settings, show
    from migrated.client import capabilities as ask
    from migrated.net.address import parse_address
    from migrated.units import format_size

    address = parse_address(destination)
    send = read_settings(config).send
    found = loop(lambda: ask(address, send))
    if as_json:
        print_json({"destination": str(address), **asdict(found)})
        return
    from rich.table import Table

    shown = Table(box=None, show_header=False, pad_edge=False)
    shown.add_column(style="bold")
    shown.add_row("software", found.software)
    shown.add_row("protocol versions", f"{found.min_version} to {found.max_version}")
    shown.add_row("codecs", ", ".join(f"{name} ({_levels(levels)})" for name, levels in found.codecs.items()))
    shown.add_row("guests", ", ".join(found.guests) or "none: name some under [guests] in its settings")
    shown.add_row("largest region", format_size(found.max_region_bytes))
    shown.add_row("pages per batch", f"up to {found.batch_pages_max}")
    shown.add_row("decompress workers", str(found.decompress_workers))
    shown.add_row("connections", f"{found.streams} a migration")
    shown.add_row("processors", str(found.cores or "not said"))
    shown.add_row("features", ", ".join(found.features) or "none")
    show(shown)


def _levels(levels: tuple[int, ...]) -> str:
    if len(levels) > 1 and list(levels) == list(range(levels[0], levels[-1] + 1)):
        return f"levels {levels[0]}-{levels[-1]}"
    return "levels " + ", ".join(map(str, levels))
