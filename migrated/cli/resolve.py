"""``migrated resolve``: settle a migration whose outcome never became known here."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from migrated.cli.helptext import example
from migrated.cli.run import ConfigFile, Json, say

if TYPE_CHECKING:
    from migrated.config import Settings
    from migrated.engine.records import Record

__all__ = ["EPILOG", "resolve"]

EPILOG = example(
    "migrated resolve 3f2a                         asks the destination until it answers",
    "migrated resolve 3f2a --tries 1               asks once",
    "migrated resolve 3f2a --resume-here --fenced  the destination is lost for good, and switched off",
    codes="0 settled, 2 no such migration, 20 still unknown: no answer within --tries, or it cannot start the guest",
)


def resolve(
    migration_id: Annotated[
        str, typer.Argument(metavar="ID", help="Of `migrated status`, or how it begins.")
    ],
    *,
    resume_here: Annotated[
        bool,
        typer.Option(
            "--resume-here", help="Ask nobody: the guest goes on here. Fence the destination first."
        ),
    ] = False,
    fenced: Annotated[
        bool,
        typer.Option(
            "--fenced", help="With --resume-here: you made sure the destination can't run the guest."
        ),
    ] = False,
    tries: Annotated[
        int | None,
        typer.Option("--tries", metavar="N", help="Ask at most N times. Default: until it answers.", min=1),
    ] = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Settle a migration that ended with "outcome unknown": its guest is paused here.

    The destination knows whether it runs the guest. If it does, the copy here is given up; if not, the guest
    goes on here.
    """
    from migrated.cli.run import loop, print_json, read_settings
    from migrated.client import resolve as settle
    from migrated.errors import UsageError

    settings = read_settings(config)
    record = _find(settings, migration_id)
    if fenced and not resume_here:
        raise UsageError("--fenced only goes with --resume-here", "leave it out to ask the destination")
    _refuse_while_asked(record)
    if resume_here and not fenced:
        _confirm(record)
    destination = str(record.details.get("destination", "?"))
    if not resume_here and record.outcome == "committing":
        say(f"asking {destination} what became of migration {record.migration_id}")
    settled = loop(lambda: settle(settings, record.migration_id, resume_here=resume_here, tries=tries))
    moved = settled.outcome == "completed"
    if as_json:
        print_json({"migration_id": settled.migration_id, "outcome": settled.outcome, "guest": settled.guest})
    elif moved:
        print(f"completed: {destination} runs guest {settled.guest}; the copy here is given up")
    else:
        print(f"aborted: guest {settled.guest} goes on here")


def _find(settings: "Settings", migration_id: str) -> "Record":
    from migrated.client import outgoing_records
    from migrated.errors import UsageError

    records = list(outgoing_records(settings).all())
    found = [each for each in records if each.migration_id == migration_id]
    found = found or [each for each in records if migration_id and each.migration_id.startswith(migration_id)]
    if not found:
        waiting = ", ".join(each.migration_id for each in records if each.outcome == "committing")
        raise UsageError(
            f"no migration {migration_id!r} began on this host",
            f"waiting for an outcome: {waiting or 'none'}",
        )
    if len(found) > 1:
        raise UsageError(
            f"{migration_id!r} could be {', '.join(each.migration_id for each in found)}",
            "write more of the id",
        )
    return found[0]


def _refuse_while_asked(record: "Record") -> None:
    """What asks by itself would give the guest up, or resume it, behind the person's back."""
    from migrated.control import sockets
    from migrated.errors import UsageError

    asking = f"send-{record.migration_id}{sockets.SUFFIX}"
    if record.outcome == "committing" and any(path.name == asking for path in sockets.live_sockets()):
        raise UsageError(
            f"`migrated send` of migration {record.migration_id[:8]} still runs, and asks by itself",
            "wait for it, or end it first: Ctrl-C twice",
        )


def _confirm(record: "Record") -> None:
    """A guest that runs twice ruins its data: the person says that it can't."""
    from migrated.errors import UsageError

    destination = record.details.get("destination", "the destination")
    if not sys.stdin.isatty():
        raise UsageError(
            f"--resume-here lets the guest go on here although {destination} may run it too",
            "switch that host off or cut it off, then say so with --fenced",
        )
    question = f"Is {destination} switched off or cut off, so that guest {record.guest} can't run there?"
    if not typer.confirm(question, default=False, err=True):
        raise UsageError("nothing was changed", "ask the destination: leave out --resume-here")
