"""What commands share: settings from flags, the event loop, output."""

import asyncio
import sys
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

if TYPE_CHECKING:
    from rich.console import RenderableType

    from migrated.config import Settings

__all__ = ["ConfigFile", "Json", "loop", "print_json", "read_settings", "say", "show"]

_T = TypeVar("_T")

_PIPE_WIDTH = 200
_THREADS = 64

ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="Read settings from FILE (see `migrated config`)."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def read_settings(file: Path | None, overrides: Mapping[str, object] | None = None) -> "Settings":
    """The settings in force; ``overrides`` as :func:`migrated.config.load` takes them."""
    from migrated.config import load

    return load(file, overrides)


def loop(main: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
    """Run ``main()`` on uvloop and return what it returns."""
    import uvloop

    def new_loop() -> asyncio.AbstractEventLoop:
        made = uvloop.new_event_loop()
        # Hooks and guests that start may block a thread for long; a record on its way to the disk never waits for one.
        made.set_default_executor(ThreadPoolExecutor(_THREADS))
        return made

    with asyncio.Runner(loop_factory=new_loop) as runner:
        return runner.run(main())


def print_json(value: object) -> None:
    """``value`` as one line on standard output."""
    from migrated.telemetry.plain import as_json

    print(as_json(value), flush=True)


def show(renderable: "RenderableType") -> None:
    """Print a table. In a pipe it is as wide as need be, and plain: `grep` and `awk` see whole lines."""
    from rich.console import Console

    terminal = Console(highlight=False)
    if terminal.is_terminal:
        terminal.print(renderable)
        return
    wide = Console(highlight=False, width=_PIPE_WIDTH)
    with wide.capture() as captured:
        wide.print(renderable)
    print(*(line.rstrip() for line in captured.get().splitlines()), sep="\n", flush=True)


def say(text: str) -> None:
    """A line for the person, on standard error: results have standard output for themselves."""
    print(f"migrated: {text}", file=sys.stderr, flush=True)
