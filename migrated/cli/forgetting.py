"""What `migrated resolve ID --forget` does, at the destination: by the daemon if one runs, else by its records."""

import sys
from collections.abc import Collection

import typer

from migrated.cli.run import loop
from migrated.config import Settings
from migrated.control import sockets
from migrated.control.client import ControlClient
from migrated.control.directory import Row
from migrated.engine.records import Outcome, Record, Records
from migrated.errors import ResourceError, UnreachableError, UsageError
from migrated.outcomes import Outcomes

__all__ = ["find_record", "forget_guest"]


def find_record(records: Records, migration_id: str, *, doing: Collection[Outcome], where: str) -> Record:
    """The one that ``migration_id``, in full or short, means. UsageError if none or several: the text says ``where``
    they would be, and which wait, ``doing`` that."""
    known = list(records.all())
    found = [each for each in known if each.migration_id == migration_id]
    found = found or [each for each in known if migration_id and each.migration_id.startswith(migration_id)]
    if not found:
        waiting = ", ".join(each.migration_id for each in known if each.outcome in doing)
        raise UsageError(
            f"no migration {migration_id!r} {where} this host",
            f"waiting for an outcome: {waiting or 'none'}",
        )
    if len(found) > 1:
        raise UsageError(
            f"{migration_id!r} could be {', '.join(each.migration_id for each in found)}",
            "write more of the id",
        )
    return found[0]


def forget_guest(settings: Settings, migration_id: str, *, fenced: bool) -> Row:
    """Never run the guest here that was to run and does not; returns the migration's id, outcome and guest.

    ``fenced``: the person has said already that it does not run here. UsageError says why it can't be.
    """
    outcomes = Outcomes(settings)
    record = find_record(outcomes.records, migration_id, doing=(Outcome.RUN,), where="came to")
    if record.outcome is Outcome.RUN and not fenced:
        _confirm(record)
    try:
        outcomes.claim()
    except ResourceError as error:  # a daemon runs: it decides
        daemon_says = error
    else:
        try:
            done = loop(lambda: outcomes.forget(record.migration_id))
        finally:
            outcomes.release()
        return {"migration_id": done.migration_id, "outcome": done.outcome, "guest": done.guest}
    return loop(lambda: _by_daemon(settings, record.migration_id, daemon_says))


async def _by_daemon(settings: Settings, migration_id: str, why: ResourceError) -> Row:
    wanted = str(settings.host.state_path.resolve())
    for path in sockets.live_sockets():
        client = ControlClient(path)
        try:
            found = (await client.info()).get("state_dir") == wanted
        except UnreachableError:
            continue
        if found:
            return await client.forget(migration_id)
    raise ResourceError(
        f"{why.what}, and it can't be asked",
        "run this as the user who runs it, or stop it first",
    )


def _confirm(record: Record) -> None:
    """What had arrived is removed: the person says that it is needed no more."""
    if not sys.stdin.isatty():
        raise UsageError(
            f"--forget removes what had arrived here of guest {record.guest}",
            "make sure that it does not run here, then say so with --fenced",
        )
    question = (
        f"Does guest {record.guest} go on at its source, and not run here? What had arrived is removed."
    )
    if not typer.confirm(question, default=False, err=True):
        raise UsageError("nothing was changed", "leave out --forget, at the source, to have it started here")
