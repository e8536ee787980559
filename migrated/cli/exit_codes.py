"""``migrated exit-codes``: every way to end."""

from migrated.cli.helptext import example
from migrated.cli.run import Json
from migrated.errors import MigratedError

__all__ = ["EPILOG", "exit_codes", "table"]

EPILOG = example("migrated exit-codes", "migrated exit-codes --json | jq")


def table() -> list[tuple[int, str, str]]:
    """Exit code, reason word and meaning of every error, by code, and of success."""
    rows = {(0, "done", "It worked.")}
    pending: list[type[MigratedError]] = [MigratedError]
    while pending:
        cls = pending.pop()
        # Modules add special cases of these errors, with the same codes; which of them are loaded is no matter here.
        pending += [each for each in cls.__subclasses__() if each.__module__ == MigratedError.__module__]
        meaning = (cls.__doc__ or "").splitlines()[0].split("; ``")[0].rstrip(".")
        rows.add((cls.exit_code, cls.reason, meaning if cls is not MigratedError else _INTERNAL))
    return sorted(rows)


_INTERNAL = "Something that should not happen: please report it"


def exit_codes(*, as_json: Json = False) -> None:
    """List the exit codes, with the reason words of JSON output and metrics."""
    from migrated.cli.run import print_json, show

    if as_json:
        print_json([{"exit_code": code, "reason": reason, "meaning": text} for code, reason, text in table()])
        return
    from rich.table import Table

    shown = Table("code", "reason", "meaning", box=None, pad_edge=False)
    for code, reason, text in table():
        shown.add_row(str(code), reason, text)
    show(shown)
