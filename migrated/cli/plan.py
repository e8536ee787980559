"""``migrated plan``: what moving a guest would take. What it does is in :mod:`migrated.cli.planning`."""

from pathlib import Path
from typing import Annotated

import typer

from migrated.cli import flags
from migrated.cli.helptext import example
from migrated.cli.run import ConfigFile

__all__ = ["EPILOG", "plan"]

EPILOG = example(
    "migrated plan demo:/dev/shm/a.mem db2.example",
    "migrated plan qemu:/run/vm.qmp db2 --name vm --seconds 20           a guest whose load comes and goes",
    "migrated plan demo:/dev/shm/a.mem db2 --bandwidth 500Mbit/s --downtime 100ms",
    "migrated plan shm:/dev/shm/db.mem db2 --pid 812 --json | jq .forecasts",
    codes="0 it would move, 14 it would not converge as it is asked for, 3 no such guest, 7 unreachable, 130 cancelled",
)


def plan(
    guest: Annotated[
        str,
        typer.Argument(
            metavar="GUEST",
            help="What would move: demo:/path, shm:/path, qemu:/path of its QMP socket, or pid:N for a copy.",
        ),
    ],
    destination: flags.Destination,
    *,
    seconds: Annotated[
        float,
        typer.Option("--seconds", metavar="N", min=0.2, max=3600, help="How long the guest is watched."),
    ] = 3.0,
    name: flags.Name = "",
    pid: flags.Pids = None,
    pause: flags.Pause = "",
    resume: flags.Resume = "",
    mappings: flags.Mappings = "anonymous",
    tracker: flags.Tracker = None,
    allow_seccomp: flags.AllowSeccomp = False,
    codec: flags.Codec = None,
    level: flags.Level = None,
    bandwidth: flags.Bandwidth = None,
    compress_workers: flags.CompressWorkers = None,
    decompress_workers: flags.DecompressWorkers = None,
    batch_size: flags.BatchSize = None,
    delta_cache: flags.DeltaCache = None,
    streams: flags.Streams = None,
    downtime: flags.Downtime = None,
    max_rounds: flags.MaxRounds = None,
    on_stall: flags.OnStall = None,
    verify: flags.Verify = None,
    config: ConfigFile = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one line of JSON.", rich_help_panel=flags.OUTPUT)
    ] = False,
) -> None:
    """Predict what `migrated send` would take with each codec, moving nothing: time, downtime, bytes.

    The link is filled for a second; the guest is tracked and read, but never paused. What `send` would do with
    these options is marked with an arrow.
    """
    settings = flags.send_settings(locals())
    from migrated.cli.planning import Order, plan_guest

    plan_guest(
        Order(
            guest=guest,
            destination=destination,
            seconds=seconds,
            settings=settings,
            config=Path(config) if config else None,
            name=name,
            pids=tuple(pid or ()),
            pause=pause,
            resume=resume,
            mappings=mappings,
            as_json=as_json,
        )
    )
