"""``migrated bench``: measurements, one command each. What they measure is in :mod:`migrated.bench`."""

import contextlib
import signal
from collections.abc import Iterator
from typing import Annotated

import typer

from migrated.cli import bench_deltas, bench_plan, bench_stages, bench_vm
from migrated.cli.helptext import Command, Commands, example
from migrated.cli.run import Json

__all__ = ["EPILOG", "app"]

EPILOG = example(
    "migrated bench vm --set quick --runs 1     a VM moves by QEMU's own modes and by ours",
    "migrated bench engine --only throughput    how fast memory moves between two processes here",
    "migrated bench engine --runs 3 --json",
    codes="0 done, 2 wrong command line, 5 it takes root, 6 this host lacks something",
)

_ENGINE_EPILOG = example(
    "migrated bench vm --set quick --runs 1     a VM moves by QEMU's own modes and by ours",
    "migrated bench engine",
    "migrated bench engine --only link --runs 3",
    codes="0 done, 2 wrong command line, 5 it takes root, 6 this host lacks something",
)


def _callback(context: typer.Context) -> None:
    """Measure on this host: the engine, its stages, deltas, forecasts, virtual machines beside QEMU's own migration."""
    context.with_resource(_ending_cleanly())


@contextlib.contextmanager
def _ending_cleanly() -> Iterator[None]:
    """SIGTERM ends a measurement as Ctrl-C does: machines, hosts and memory files go, what was measured stays."""

    def interrupt(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one would end the tidying up
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def engine(
    *,
    runs: Annotated[int, typer.Option("--runs", metavar="N", min=1, help="How often each is measured.")] = 5,
    only: Annotated[
        str,
        typer.Option(
            "--only", metavar="PART", help="One of throughput, files, link, far, memory, growth, loop, jobs."
        ),
    ] = "",
    as_json: Json = False,
) -> None:
    """Measure throughput, use of 1 Gb/s links near and far (takes root), memory, growth with the guest, event loops,
    the workers' jobs.

    A demo guest's memory is copied from one process to another, both on this host.
    """
    import os

    from migrated.bench.engine import PARTS, Figures, table
    from migrated.cli.run import print_json, say, show
    from migrated.errors import UsageError

    if only and only not in PARTS:
        raise UsageError(f"there is no part {only!r}", f"there are {', '.join(PARTS)}")
    wanted = [only] if only else list(PARTS)
    if not only and os.geteuid() != 0:
        say("without root: links between two network namespaces are not measured")
        wanted = [name for name in wanted if name not in ("link", "far")]
    figures: Figures = {}
    for name in wanted:
        say(f"measuring {name} ...")
        figures |= PARTS[name](runs)
    if as_json:
        print_json(figures)
    else:
        show(table(figures))


def _app() -> typer.Typer:
    made = typer.Typer(cls=Commands, no_args_is_help=True, rich_markup_mode=None)
    made.callback()(_callback)
    for name, function, epilog in (
        ("vm", bench_vm.vm, bench_vm.VM_EPILOG),
        ("show", bench_vm.show, bench_vm.SHOW_EPILOG),
        ("engine", engine, _ENGINE_EPILOG),
        ("stages", bench_stages.stages, bench_stages.EPILOG),
        ("plan", bench_plan.plan, bench_plan.EPILOG),
        ("deltas", bench_deltas.deltas, bench_deltas.EPILOG),
    ):
        made.command(name, cls=Command, epilog=epilog)(function)
    return made


app = _app()
