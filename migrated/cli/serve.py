"""``migrated serve``: take guests in. What it does is in :mod:`migrated.cli.serving`."""

from typing import Annotated

import typer

from migrated.cli.helptext import example
from migrated.cli.run import ConfigFile

__all__ = ["EPILOG", "serve"]

EPILOG = example(
    "migrated serve --guest a=demo:/dev/shm/a.mem",
    "migrated serve --config /etc/migrated/migrated.toml --listen 0.0.0.0:4440",
    "curl http://127.0.0.1:4441/metrics",
    codes="0 stopped when asked to, 2 bad settings, 5 or 6 an address can't be had",
)


def serve(
    *,
    listen: Annotated[
        str | None, typer.Option("--listen", metavar="ADDRESS", help="Where migrations arrive: HOST:PORT.")
    ] = None,
    control: Annotated[
        str | None,
        typer.Option("--control", metavar="ADDRESS", help="Where the HTTP API and /metrics are: HOST:PORT."),
    ] = None,
    guest: Annotated[
        list[str] | None,
        typer.Option(
            "--guest",
            metavar="NAME=KIND:PATH",
            help="A guest that may arrive, and where it goes, as in a=demo:/dev/shm/a.mem. Repeatable; "
            "adds to [guests] of the settings.",
        ),
    ] = None,
    config: ConfigFile = None,
) -> None:
    """Take guests in, several at once, until it is stopped.

    Only guests that the settings or --guest name are taken: nothing that a source sends is used as a path or
    a command. SIGTERM, SIGHUP or Ctrl-C lets running migrations finish (serve.drain_timeout) and refuses new ones; a
    second one cancels what is not decided, and their guests go on at their sources.
    """
    from migrated.cli.serving import guest_entries, serve_guests

    overrides = {"serve": {"listen": listen, "control": control}, "guests": guest_entries(guest or [])}
    serve_guests(config, overrides)
