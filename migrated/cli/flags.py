"""Arguments and options that `migrated send` and `migrated plan` have in common, and what they say in words."""

import shlex
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, TypeVar

import typer

from migrated.errors import UsageError

__all__ = [
    "GUEST",
    "OUTPUT",
    "PAGES",
    "ROUNDS",
    "AllowSeccomp",
    "Bandwidth",
    "BatchSize",
    "Codec",
    "CompressWorkers",
    "DecompressWorkers",
    "DeltaCache",
    "Destination",
    "Downtime",
    "Level",
    "Mappings",
    "MaxRounds",
    "Name",
    "OnStall",
    "Pause",
    "Pids",
    "Resume",
    "Tracker",
    "Verify",
    "command_of",
    "option",
    "word_of",
]

PAGES = "How pages are sent"
ROUNDS = "When rounds end"
GUEST = "About the guest"
OUTPUT = "Output"
"""Groups of options in the help."""

_Word = TypeVar("_Word", bound=StrEnum)


def option(*names: str, metavar: str, help: str, panel: str) -> Any:  # noqa: A002
    """An option with a value, in the group ``panel``."""
    return typer.Option(*names, metavar=metavar, help=help, rich_help_panel=panel)


def word_of(words: type[_Word], flag: str, text: str) -> _Word:
    """One of ``words``; UsageError names them all."""
    try:
        return words(text)
    except ValueError:
        raise UsageError(f"{flag} {text!r} is not known", f"allowed: {', '.join(words)}") from None


def command_of(flag: str, text: str) -> tuple[str, ...]:
    """A command line as its words; UsageError if its quotes do not match."""
    try:
        return tuple(shlex.split(text))
    except ValueError as error:
        raise UsageError(f"{flag}: cannot read {text!r} as a command: {error}", "check its quotes") from None


Destination = Annotated[
    str, typer.Argument(metavar="DEST", help="Where `migrated serve` runs: HOST, HOST:PORT or unix:/path.")
]

Name = Annotated[
    str, option("--name", metavar="NAME", help="What the destination calls the guest.", panel=GUEST)
]
Pids = Annotated[
    list[int] | None,
    option("--pid", metavar="N", help="A process that writes the memory of shm:. Repeatable.", panel=GUEST),
]
Pause = Annotated[
    str, option("--pause", metavar="CMD", help="Command that stops who writes it (shm:).", panel=GUEST)
]
Resume = Annotated[
    str, option("--resume", metavar="CMD", help="Command that lets it go on here (shm:).", panel=GUEST)
]
Mappings = Annotated[
    str,
    option(
        "--mappings",
        metavar="WHICH",
        help="What is copied of a process (pid:): anonymous or writable.",
        panel=GUEST,
    ),
]
Tracker = Annotated[
    str | None,
    option(
        "--tracker",
        metavar="NAME",
        help="How writes are seen: auto, pagemap-scan, soft-dirty or hash.",
        panel=GUEST,
    ),
]
AllowSeccomp = Annotated[
    bool,
    typer.Option(
        "--allow-seccomp",
        help="Make the tracker's one system call even in a guest under an unknown seccomp filter.",
        rich_help_panel=GUEST,
    ),
]

Codec = Annotated[
    str | None,
    option(
        "--codec",
        metavar="NAME",
        help="auto (each batch as is fastest now), one of `migrated codecs`, or none.",
        panel=PAGES,
    ),
]
Level = Annotated[
    str | None,
    option(
        "--level",
        metavar="0-9",
        help="0 no compression; of a codec that is named: 1 fastest, 9 best ratio.",
        panel=PAGES,
    ),
]
Bandwidth = Annotated[
    str | None,
    option("--bandwidth", metavar="RATE", help="At most this, as in 1gbit or 50MB/s.", panel=PAGES),
]
CompressWorkers = Annotated[
    str | None,
    option("--compress-workers", metavar="N", help="Processes here, at most one a core.", panel=PAGES),
]
DecompressWorkers = Annotated[
    str | None,
    option("--decompress-workers", metavar="N", help="Processes there; 0: half of ours.", panel=PAGES),
]
BatchSize = Annotated[
    str | None, option("--batch-size", metavar="SIZE", help="Memory a batch, as in 8MiB.", panel=PAGES)
]
DeltaCache = Annotated[
    str | None,
    option(
        "--delta-cache",
        metavar="SIZE",
        help="Memory for pages as sent last: of those only changes are sent again. 0: never.",
        panel=PAGES,
    ),
]

Streams = Annotated[
    str | None,
    option(
        "--streams", metavar="N", help="Connections that carry pages. 0: what the link is worth.", panel=PAGES
    ),
]

Downtime = Annotated[
    str | None,
    option("--downtime", metavar="TIME", help="How long it may be paused, as in 300ms.", panel=ROUNDS),
]
MaxRounds = Annotated[
    str | None, option("--max-rounds", metavar="N", help="The most rounds while it runs.", panel=ROUNDS)
]
OnStall = Annotated[
    str | None,
    option(
        "--on-stall",
        metavar="WHAT",
        help="When rounds stop helping: fail, throttle (slow it down) or switch (pause it longer).",
        panel=ROUNDS,
    ),
]
Verify = Annotated[
    str | None,
    option(
        "--verify",
        metavar="WHAT",
        help="digest: of the pages as sent. full: read all memory again while it is paused.",
        panel=ROUNDS,
    ),
]


_SETTINGS = (
    *("codec", "level", "bandwidth", "compress_workers", "decompress_workers", "batch_size", "delta_cache"),
    *("downtime", "max_rounds", "on_stall", "verify", "tracker"),
)


def send_settings(given: Mapping[str, object]) -> dict[str, object]:
    """The overrides of the section ``send`` among a command's parameters, by their names."""
    return {name: given[name] for name in _SETTINGS} | {
        "streams": given.get("streams"),
        "allow_seccomp": given["allow_seccomp"] or None,
    }
