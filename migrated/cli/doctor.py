"""``migrated doctor``: what this host can do, and what to do about what it can't."""

from migrated.cli.helptext import example
from migrated.cli.run import ConfigFile, Json

__all__ = ["EPILOG", "doctor"]

EPILOG = example(
    "migrated doctor",
    "migrated doctor --json | jq -r '.checks[] | select(.level != \"ok\") | .hint'",
    codes="0 something can be moved here, 6 nothing can",
)


def doctor(*, config: ConfigFile = None, as_json: Json = False) -> None:
    """Look at what this host can do, and say what to do about the rest.

    Trackers, permissions, memory, codecs, limits, folders. All is tried out, not guessed from versions.
    """
    from dataclasses import asdict

    from migrated.cli.checks import Level, run_checks
    from migrated.cli.run import print_json, read_settings, show
    from migrated.errors import ResourceError

    checks = list(run_checks(read_settings(config)))
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
