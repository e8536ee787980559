"""``migrated demo``: a guest to try things with. The program is :mod:`migrated.guests.demo`."""

import inspect
from typing import Annotated, Any

import typer

from migrated.cli.helptext import example

__all__ = ["EPILOG", "demo"]

EPILOG = example(
    "migrated demo --file /dev/shm/a.mem --size 512MiB --dirty-rate 20MB/s",
    "migrated demo --file /dev/shm/a.mem --resume      goes on where it stopped",
    "migrated demo --check /dev/shm/a.mem              proves every byte of one that does not run",
    codes="0 it was stopped, 2 wrong command line, 3 the file can't be used, 12 a byte is wrong",
)


def _text(flag: str, metavar: str, help: str) -> Any:  # noqa: A002
    return typer.Option(flag, metavar=metavar, help=help)


def demo(
    *,
    file: Annotated[
        str | None, _text("--file", "FILE", "Its memory; new, or a guest's with --resume.")
    ] = None,
    check: Annotated[
        str | None, _text("--check", "FILE", "Prove the memory of a guest that does not run.")
    ] = None,
    size: Annotated[str | None, _text("--size", "SIZE", "Memory of a new guest. Default 512MiB.")] = None,
    mix: Annotated[
        str | None,
        _text("--mix", "SHARES", "Kinds of pages. Default zero=20,text=40,code=30,random=10."),
    ] = None,
    dirty_rate: Annotated[
        str | None, _text("--dirty-rate", "RATE", "Memory rewritten per second. Default 20MB/s; 0 for none.")
    ] = None,
    verify_rate: Annotated[
        str | None, _text("--verify-rate", "RATE", "Memory proved per second. Default 16MB/s.")
    ] = None,
    working_set: Annotated[
        int | None, _text("--working-set", "PERCENT", "Share of its pages that are rewritten. Default 100.")
    ] = None,
    punch: Annotated[
        bool, typer.Option("--punch", help="Punch pages that become zero out of the file.")
    ] = False,
    seed: Annotated[int | None, _text("--seed", "N", "Another seed, other bytes.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the file.")] = False,
    standby: Annotated[
        bool, typer.Option("--standby", help="Wait for `start` on standard input, then go on from the file.")
    ] = False,
    duration: Annotated[str | None, _text("--duration", "TIME", "Stop by itself after this time.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON lines.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print failures only.")] = False,
) -> None:
    """Run a guest to migrate: its memory is a file that it changes and proves, without end.

    Its whole state is in that file, so a copy of it goes on where the original stopped, and says so if one
    byte is wrong.
    """
    arguments: list[str] = []
    given = locals()
    for name in inspect.signature(demo).parameters:
        value = given[name]
        flag = "--" + name.replace("_", "-")
        if value is True:
            arguments.append(flag)
        elif value is not None and value is not False:
            arguments += [flag, str(value)]
    from migrated.guests.demo.program import main

    raise typer.Exit(main(arguments))
