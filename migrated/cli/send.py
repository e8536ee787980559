"""``migrated send``: move a guest to another host. What it does is in :mod:`migrated.cli.sending`."""

from pathlib import Path
from typing import Annotated, Any

import typer

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

_PAGES = "How pages are sent"
_ROUNDS = "When rounds end"
_GUEST = "About the guest"
_OUTPUT = "Output"


def _option(*names: str, metavar: str, help: str, panel: str) -> Any:  # noqa: A002
    return typer.Option(*names, metavar=metavar, help=help, rich_help_panel=panel)


def send(
    guest: Annotated[
        str,
        typer.Argument(
            metavar="GUEST",
            help="What to move: demo:/path, shm:/path, qemu:/path of its QMP socket, or pid:N for a copy.",
        ),
    ],
    destination: Annotated[
        str,
        typer.Argument(metavar="DEST", help="Where `migrated serve` runs: HOST, HOST:PORT or unix:/path."),
    ],
    *,
    name: Annotated[
        str, _option("--name", metavar="NAME", help="What the destination calls the guest.", panel=_GUEST)
    ] = "",
    pid: Annotated[
        list[int] | None,
        _option(
            "--pid", metavar="N", help="A process that writes the memory of shm:. Repeatable.", panel=_GUEST
        ),
    ] = None,
    pause: Annotated[
        str, _option("--pause", metavar="CMD", help="Command that stops who writes it (shm:).", panel=_GUEST)
    ] = "",
    resume: Annotated[
        str, _option("--resume", metavar="CMD", help="Command that lets it go on here (shm:).", panel=_GUEST)
    ] = "",
    after: Annotated[
        str,
        _option(
            "--after",
            metavar="WHAT",
            help="What becomes of a copied process (pid:): resume, stop or kill.",
            panel=_GUEST,
        ),
    ] = "resume",
    mappings: Annotated[
        str,
        _option(
            "--mappings",
            metavar="WHICH",
            help="What is copied of a process (pid:): anonymous or writable.",
            panel=_GUEST,
        ),
    ] = "anonymous",
    keep_source: Annotated[
        bool,
        typer.Option(
            "--keep-source",
            help="Leave a virtual machine that has moved here, paused (qemu:). Never let it run again.",
            rich_help_panel=_GUEST,
        ),
    ] = False,
    tracker: Annotated[
        str | None,
        _option(
            "--tracker",
            metavar="NAME",
            help="How writes are seen: auto, pagemap-scan, soft-dirty or hash.",
            panel=_GUEST,
        ),
    ] = None,
    allow_seccomp: Annotated[
        bool,
        typer.Option(
            "--allow-seccomp",
            help="Make the tracker's one system call even in a guest under an unknown seccomp filter.",
            rich_help_panel=_GUEST,
        ),
    ] = False,
    codec: Annotated[
        str | None,
        _option(
            "--codec",
            metavar="NAME",
            help="auto (each batch as is fastest now), one of `migrated codecs`, or none.",
            panel=_PAGES,
        ),
    ] = None,
    level: Annotated[
        str | None,
        _option("--level", metavar="0-9", help="0 no compression, 1 fastest, 9 best ratio.", panel=_PAGES),
    ] = None,
    bandwidth: Annotated[
        str | None,
        _option("--bandwidth", metavar="RATE", help="At most this, as in 1gbit or 50MB/s.", panel=_PAGES),
    ] = None,
    compress_workers: Annotated[
        str | None,
        _option("--compress-workers", metavar="N", help="Processes here, at most one a core.", panel=_PAGES),
    ] = None,
    decompress_workers: Annotated[
        str | None,
        _option(
            "--decompress-workers", metavar="N", help="Processes there; 0: a quarter of ours.", panel=_PAGES
        ),
    ] = None,
    batch_size: Annotated[
        str | None, _option("--batch-size", metavar="SIZE", help="Memory a batch, as in 4MiB.", panel=_PAGES)
    ] = None,
    delta_cache: Annotated[
        str | None,
        _option(
            "--delta-cache",
            metavar="SIZE",
            help="Memory for pages as sent last: of those only changes are sent again. 0: never.",
            panel=_PAGES,
        ),
    ] = None,
    downtime: Annotated[
        str | None,
        _option("--downtime", metavar="TIME", help="How long it may be paused, as in 300ms.", panel=_ROUNDS),
    ] = None,
    max_rounds: Annotated[
        str | None, _option("--max-rounds", metavar="N", help="The most rounds while it runs.", panel=_ROUNDS)
    ] = None,
    on_stall: Annotated[
        str | None,
        _option(
            "--on-stall",
            metavar="WHAT",
            help="When rounds stop helping: fail, throttle (slow it down) or switch (pause it longer).",
            panel=_ROUNDS,
        ),
    ] = None,
    verify: Annotated[
        str | None,
        _option(
            "--verify",
            metavar="WHAT",
            help="digest: of the pages as sent. full: read all memory again while it is paused.",
            panel=_ROUNDS,
        ),
    ] = None,
    config: ConfigFile = None,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Print events as JSON lines, the report last.", rich_help_panel=_OUTPUT),
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Print nothing but errors.", rich_help_panel=_OUTPUT)
    ] = False,
) -> None:
    """Move a guest to another host while it runs.

    Defaults not said here come from the settings (`migrated config`). Ctrl-C cancels: the guest goes on here.
    Once the destination may run it, Ctrl-C only tells so, and a second one leaves the guest paused until
    `migrated resolve`.
    """
    from migrated.cli.sending import Order, send_guest

    settings = {
        "codec": codec,
        "level": level,
        "bandwidth": bandwidth,
        "compress_workers": compress_workers,
        "decompress_workers": decompress_workers,
        "batch_size": batch_size,
        "delta_cache": delta_cache,
        "downtime": downtime,
        "max_rounds": max_rounds,
        "on_stall": on_stall,
        "verify": verify,
        "tracker": tracker,
        "allow_seccomp": allow_seccomp or None,
    }
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
