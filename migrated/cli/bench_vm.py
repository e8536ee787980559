"""``migrated bench vm`` and ``migrated bench show``: QEMU's own migration and ours, side by side."""

import shutil
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from migrated.cli.helptext import example
from migrated.cli.run import Json

__all__ = ["SHOW_EPILOG", "VM_EPILOG", "show", "vm"]

VM_EPILOG = example(
    "migrated bench vm --set quick --runs 1",
    "migrated bench vm --set score --output score.jsonl             5 runs of each mode in 6 cells",
    "migrated bench vm --set score --output score.jsonl --resume    goes on where it was stopped",
    "migrated bench vm --link 200mbit --guest mixed:20MB/s --mode qemu:multifd-zstd --mode migrated:zstd,level=3",
    codes="0 done, 2 wrong command line, 5 it takes root, 6 QEMU or gcc is missing, 12 a guest's memory was wrong",
)

SHOW_EPILOG = example(
    "migrated bench show score.jsonl",
    "migrated bench show score.jsonl --markdown",
)

_WHAT = "What is measured"
_HOW = "How"
_OUTPUT = "Output"


def _option(*names: str, metavar: str, help: str, panel: str) -> Any:  # noqa: A002
    return typer.Option(*names, metavar=metavar, help=help, rich_help_panel=panel)


def vm(
    *,
    name_of_set: Annotated[
        str,
        _option(
            "--set", metavar="NAME", help="Links and guests: quick, standard, score or full.", panel=_WHAT
        ),
    ] = "standard",
    link: Annotated[
        list[str] | None,
        _option(
            "--link", metavar="RATE", help="Instead of the set's; or unlimited. Repeatable.", panel=_WHAT
        ),
    ] = None,
    guest: Annotated[
        list[str] | None,
        _option(
            "--guest",
            metavar="KIND",
            help="Instead of the set's: idle, redis, or text, mixed or random with a rate of writing, "
            "as in mixed:40MB/s. Repeatable.",
            panel=_WHAT,
        ),
    ] = None,
    mode: Annotated[
        list[str] | None,
        _option(
            "--mode",
            metavar="MODE",
            help="Instead of all: qemu:NAME or migrated:CODEC, with options as in migrated:zstd,level=3. "
            "Repeatable.",
            panel=_WHAT,
        ),
    ] = None,
    runs: Annotated[
        int, typer.Option("--runs", metavar="N", min=1, help="Of each mode.", rich_help_panel=_HOW)
    ] = 5,
    memory: Annotated[str, _option("--memory", metavar="SIZE", help="Of the VM.", panel=_HOW)] = "1GiB",
    fill: Annotated[
        str, _option("--fill", metavar="SIZE", help="What it fills of that.", panel=_HOW)
    ] = "512MiB",
    processors: Annotated[
        int, typer.Option("--processors", metavar="N", min=1, help="Of the VM.", rich_help_panel=_HOW)
    ] = 1,
    downtime: Annotated[
        str, _option("--downtime", metavar="TIME", help="The limit, of QEMU and of ours.", panel=_HOW)
    ] = "300ms",
    patience: Annotated[
        str,
        _option("--patience", metavar="TIME", help="A migration that takes longer never ends.", panel=_HOW),
    ] = "90s",
    cold: Annotated[
        bool,
        typer.Option(
            "--cold",
            help="Let the destination take what memory there is. Where this host is a VM itself, a page that it has "
            "not had in use takes up to 14 us instead of 3, in whatever mode.",
            rich_help_panel=_HOW,
        ),
    ] = False,
    output: Annotated[
        Path | None,
        _option("--output", metavar="FILE", help="Keep each measurement, as a line of JSON.", panel=_OUTPUT),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with that file.", rich_help_panel=_OUTPUT)
    ] = False,
    as_json: Json = False,
) -> None:
    """Move a VM by each of QEMU's own modes and by `migrated` with each codec, and compare.

    Two network namespaces of this host, with a link between them, and a VM without KVM that starts each time from
    the same state. The modes take turns, so that noise of the host meets all of them. Takes root, QEMU, and for the
    VM apt-get and gcc.
    """
    from migrated.bench.vm.modes import default_modes, parse_mode
    from migrated.bench.vm.plan import SETS, cells_of, steps
    from migrated.bench.vm.results import Results
    from migrated.bench.vm.run import Machinery, check_host, host_facts, run, settings_of
    from migrated.cli.run import say
    from migrated.errors import IntegrityError, UsageError
    from migrated.units import parse_duration, parse_size

    if name_of_set not in SETS:
        raise UsageError(f"there is no set {name_of_set!r}", f"there are {', '.join(SETS)}")
    if resume and output is None:
        raise UsageError("--resume goes on with a file, and none is named", "add --output FILE")
    links, guests = SETS[name_of_set]
    cells = cells_of(link or links, guest or guests)
    modes = [parse_mode(each) for each in mode] if mode else default_modes()
    machinery = Machinery(
        memory=parse_size(memory),
        fill=parse_size(fill),
        processors=processors,
        downtime=parse_duration(downtime),
        patience=parse_duration(patience),
        warm=not cold,
    )
    if machinery.fill > machinery.memory * _MOST:
        raise UsageError(
            f"a VM of {memory} has no room for {fill} and its kernel", f"fill at most {_MOST:.0%} of it"
        )
    check_host()
    settings, host = settings_of(machinery), host_facts()
    if output is None:
        results = Results(settings, host)
    elif resume:
        results = Results.resume(output, settings, host)
    else:
        results = Results.create(output, settings, host)
    try:
        run(machinery, list(steps(cells, modes, runs)), results, _tell)
    except KeyboardInterrupt:
        say(
            "ended early; "
            + (f"--output {output} --resume goes on" if output else "nothing was kept: no --output")
        )
        raise
    _print(results, as_json=as_json, markdown=False)
    wrong = [each for each in results.measurements if not each.intact]
    if wrong:
        say(f"{len(wrong)} of {len(results.measurements)} guests were not intact")
        raise IntegrityError(f"{wrong[0].mode} in {wrong[0].link}, {wrong[0].guest}: {wrong[0].why}")


_WIDE = 175
"""Columns of a table with the spread of every figure."""

_MOST = 0.8
"""The share of a VM's memory that can be filled: its kernel wants some 100 MiB."""


def show(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What `migrated bench vm --output` wrote.")],
    *,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown tables.")] = False,
    plot: Annotated[
        Path | None, typer.Option("--plot", metavar="PICTURE", help="Draw them, too: to a .svg or .png.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show the results of `migrated bench vm` again, also while it goes on."""
    from migrated.bench.vm.results import Results

    results = Results.read(file)
    _print(results, as_json=as_json, markdown=markdown)
    if plot is not None:
        from migrated.bench.vm.plot import draw
        from migrated.bench.vm.summary import summarise

        draw(summarise(results.measurements), plot)


def _print(results: Any, *, as_json: bool, markdown: bool) -> None:
    from migrated.bench.vm.show import tables
    from migrated.bench.vm.summary import as_plain, summarise
    from migrated.cli import run

    if as_json:
        cells = as_plain(summarise(results.measurements))
        run.print_json({"settings": results.settings, "host": results.host, "cells": cells})
    else:
        wide = markdown or not sys.stdout.isatty() or shutil.get_terminal_size().columns >= _WIDE
        run.show(tables(results, markdown=markdown, wide=wide))


def _tell(measurement: Any, done: int, count: int, left: float) -> None:
    from migrated.bench.vm.show import line_of
    from migrated.cli.run import say
    from migrated.units import format_duration

    say(f"[{done}/{count}] {line_of(measurement)}; {format_duration(left)} left")
