"""``migrated codecs``: what pages can be compressed with here."""

from typing import Annotated

import typer

from migrated.cli.helptext import example
from migrated.cli.run import Json

__all__ = ["EPILOG", "codecs"]

EPILOG = example(
    "migrated codecs",
    "migrated codecs --levels        what each codec makes of levels 1 to 9",
    codes="0 done, 6 none can be used",
)


def codecs(
    *,
    levels: Annotated[bool, typer.Option("--levels", help="Show what each makes of levels 1 to 9.")] = False,
    as_json: Json = False,
) -> None:
    """List the installed codecs. Level 0 means no compression with every one of them."""
    from dataclasses import asdict

    from migrated.cli.run import print_json, show
    from migrated.compression import registry
    from migrated.errors import ResourceError

    broken = registry.problems()
    infos = [registry.info(name) for name in registry.names() if name not in broken]
    if as_json:
        print_json(
            {
                "codecs": [asdict(each) for each in infos],
                "broken": {name: error.what for name, error in broken.items()},
            }
        )
    else:
        from rich.table import Table

        shown = Table(
            "codec", "comes from", "level 1", "level 9", "offered to sources", box=None, pad_edge=False
        )
        for each in infos:
            offered = "only if serve.codecs names it" if each.trusts_input else "yes"
            shown.add_row(each.name, each.distribution, each.levels[1], each.levels[9], offered)
        for name, error in broken.items():
            shown.add_row(name, f"broken: {error.what}; {error.hint}")
        show(shown)
        if levels:
            for each in infos:
                print(f"\n{each.name}")
                for level, text in each.levels.items():
                    print(f"  {level}  {text}")
    if not infos:
        raise ResourceError("no codec can be used", "install migrated again with what it needs")
