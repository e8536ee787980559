"""``migrated resolve``: settle a migration whose outcome never became known here."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from migrated.cli.helptext import example
from migrated.cli.run import ConfigFile, Json, say

if TYPE_CHECKING:
    from migrated.engine.records import Record

__all__ = ["EPILOG", "resolve"]

EPILOG = example(
    "migrated resolve 3f2a                         asks the destination until it answers",
    "migrated resolve 3f2a --tries 1               asks once",
    "migrated resolve 3f2a --resume-here --fenced  the destination is lost for good, and switched off",
    "migrated resolve 3f2a --forget --fenced       there, when it is back: the guest goes on at its source",
    codes="0 settled, 2 no such migration, 4 settled, but the guest that was to go on here has ended, "
    "20 still unknown: no answer within --tries, or the destination cannot start the guest",
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
            "--fenced",
            help="With --resume-here or --forget: you made sure that the guest does not run at the destination.",
        ),
    ] = False,
    forget: Annotated[
        bool,
        typer.Option(
            "--forget",
            help="At the destination: never run the guest that was to run here; it goes on at its source.",
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
    goes on here. A guest that was resumed here with --resume-here is to be forgotten there with --forget, before
    `migrated serve` starts again and runs it, too.
    """
    from migrated.cli.forgetting import find_record, forget_guest
    from migrated.cli.run import loop, print_json, read_settings
    from migrated.client import outgoing_records
    from migrated.client import resolve as settle
    from migrated.engine.records import OPEN
    from migrated.errors import UsageError

    settings = read_settings(config)
    if forget and (resume_here or tries is not None):
        raise UsageError("--forget asks nobody and resumes nothing", "leave out --resume-here and --tries")
    if fenced and not (resume_here or forget):
        raise UsageError(
            "--fenced only goes with --resume-here or --forget", "leave it out to ask the destination"
        )
    if forget:
        row = forget_guest(settings, migration_id, fenced=fenced)
        if as_json:
            print_json(row)
        else:
            print(f"forgotten: guest {row['guest']} will not run here by migration {row['migration_id']}")
        return
    record = find_record(outgoing_records(settings), migration_id, doing=OPEN, where="began on")
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
    if resume_here and not moved:
        say(
            f"should {destination} come back, run this there before `migrated serve`: "
            f"migrated resolve {settled.migration_id} --forget"
        )


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
