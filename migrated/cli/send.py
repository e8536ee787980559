"""``migrated send``: move a guest to another host. What it does is in :mod:`migrated.cli.sending`."""

from pathlib import Path
from typing import Annotated

import typer

from migrated.cli import flags
from migrated.cli.helptext import example
from migrated.cli.run import ConfigFile

__all__ = ["EPILOG", "send"]

EPILOG = example(
    "migrated send demo:/dev/shm/a.mem db2.example              moves the demo guest",
    "migrated send shm:/dev/shm/db.mem db2 --name db --pid 812  process 812 writes that memory",
    "migrated send pid:812 db2:4440 --after stop                copies a process's memory",
    "migrated send qemu:/run/vm.qmp db2 --name vm               moves a virtual machine",
    "migrated send demo:/dev/shm/a.mem db2 --codec lz4 --bandwidth 500Mbit/s --downtime 100ms",
    codes="0 it moved, 3-14 it did not and goes on here, 20 unknown (migrated resolve), 130 cancelled",
)


def send(
    guest: Annotated[
        str,
        typer.Argument(
            metavar="GUEST",
            help="What to move: demo:/path, shm:/path, qemu:/path of its QMP socket, or pid:N for a copy.",
        ),
    ],
    destination: flags.Destination,
    *,
    name: flags.Name = "",
    pid: flags.Pids = None,
    pause: flags.Pause = "",
    resume: flags.Resume = "",
    after: Annotated[
        str,
        flags.option(
            "--after",
            metavar="WHAT",
            help="What becomes of a copied process (pid:): resume, stop or kill.",
            panel=flags.GUEST,
        ),
    ] = "resume",
    mappings: flags.Mappings = "anonymous",
    keep_source: Annotated[
        bool,
        typer.Option(
            "--keep-source",
            help="Leave a virtual machine that has moved here, paused (qemu:). Never let it run again.",
            rich_help_panel=flags.GUEST,
        ),
    ] = False,
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
        bool,
        typer.Option(
            "--json", help="Print events as JSON lines, the report last.", rich_help_panel=flags.OUTPUT
        ),
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Print nothing but errors.", rich_help_panel=flags.OUTPUT)
    ] = False,
) -> None:
    """Move a guest to another host while it runs.

    Defaults not said here come from the settings (`migrated config`). Ctrl-C cancels: the guest goes on here.
    Once the destination may run it, Ctrl-C only tells so, and a second one leaves the guest paused until
    `migrated resolve`.
    """
    settings = flags.send_settings(locals())
    from migrated.compression import fork_server

    fork_server.start()  # it loads what the workers need while this process loads all else and opens the guest
    from migrated.cli.sending import Order, send_guest

    send_guest(
        Order(
            guest=guest,
            destination=destination,
            settings=settings,
            config=Path(config) if config else None,
            name=name,
            pids=tuple(pid or ()),
            pause=pause,
            resume=resume,
            after=after,
            mappings=mappings,
            keep=keep_source,
            as_json=as_json,
            quiet=quiet,
        )
    )
