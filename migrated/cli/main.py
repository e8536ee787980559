"""The command ``migrated``: all commands put together, and how each ends."""

import contextlib
import gc
import os
import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from typing import Annotated, Any

import typer

from migrated import __version__
from migrated.cli import (
    bench,
    cancel,
    capabilities,
    codecs,
    config,
    demo,
    doctor,
    exit_codes,
    plan,
    resolve,
    send,
    serve,
    set_,
    status,
)
from migrated.cli.errors import DEBUG_VARIABLE, fail, fail_with
from migrated.cli.helptext import Command, Commands
from migrated.errors import CancelledByPersonError, MigratedError

__all__ = ["app", "main", "run"]

_NEW_OBJECTS = 20_000
"""Between two collections of garbage, instead of 700: what is imported stays, and to look through it again and again
took a tenth of the start."""

_EPILOG = f"""\
Example:
  migrated serve --listen 0.0.0.0:4440 --guest a=demo:/dev/shm/a.mem     on the destination
  migrated demo --file /dev/shm/a.mem --size 512MiB                      a guest to move
  migrated send demo:/dev/shm/a.mem HOST                                 moves it while it runs

Exit codes: 0 done, 2 wrong command line or setting, 20 outcome unknown, 130 cancelled; all of them:
migrated exit-codes. Errors come without a traceback unless {DEBUG_VARIABLE}=1.
"""


def _version(wanted: bool) -> None:
    if wanted:
        print(f"migrated {__version__}")
        raise typer.Exit


def _callback(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Move memory that is in use to another host, compressed, while its owner keeps running."""


def _app() -> typer.Typer:
    made = typer.Typer(
        name="migrated",
        cls=Commands,
        no_args_is_help=True,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
        epilog=_EPILOG,
    )
    made.callback()(_callback)
    groups: dict[str, list[tuple[str, Callable[..., Any], str]]] = {
        "Move a guest": [
            ("serve", serve.serve, serve.EPILOG),
            ("plan", plan.plan, plan.EPILOG),
            ("send", send.send, send.EPILOG),
            ("resolve", resolve.resolve, resolve.EPILOG),
        ],
        "While it moves": [
            ("status", status.status, status.EPILOG),
            ("set", set_.set_, set_.EPILOG),
            ("cancel", cancel.cancel, cancel.EPILOG),
        ],
        "Look around": [
            ("capabilities", capabilities.capabilities, capabilities.EPILOG),
            ("codecs", codecs.codecs, codecs.EPILOG),
            ("config", config.config, config.EPILOG),
            ("doctor", doctor.doctor, doctor.EPILOG),
            ("exit-codes", exit_codes.exit_codes, exit_codes.EPILOG),
            ("demo", demo.demo, demo.EPILOG),
        ],
    }
    for title, commands in groups.items():
        for name, function, epilog in commands:
            made.command(name, cls=Command, epilog=epilog, rich_help_panel=title)(function)
    made.add_typer(bench.app, name="bench", epilog=bench.EPILOG, rich_help_panel="Look around")
    return made


app = _app()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; whatever goes wrong is told on standard error."""
    try:
        code = app(args=arguments, prog_name="migrated", standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except MigratedError as error:
        return fail_with(error)
    except typer.TyperException as error:
        return _wrong_command_line(error)
    except typer.Abort:
        return CancelledByPersonError.exit_code
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return CancelledByPersonError.exit_code
    except BrokenPipeError:
        # Who read our output has enough. Python must not fail once more when it flushes at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + 13
    except Exception as error:
        fail(
            f"something that should not happen: {type(error).__name__}: {error}",
            f"please report it, with what {DEBUG_VARIABLE}=1 shows",
            cause=error,
        )
        return MigratedError.exit_code


def _wrong_command_line(error: typer.TyperException) -> int:
    context = getattr(error, "ctx", None)
    if type(error).__name__ == "NoArgsIsHelpError":
        print(error.format_message())
        return error.exit_code
    what = error.format_message().rstrip(".")
    fail(what[:1].lower() + what[1:], f"see: {context.command_path} --help" if context else "", cause=error)
    return error.exit_code


def _keep_workers_from_importing_this() -> None:
    """Tell :mod:`multiprocessing` that the main module is ``migrated.__main__``, also where it is the installed script:
    it would import that in every worker, and all commands with it, for 90 ms of each migration's start."""
    sys.modules["__main__"].__spec__ = ModuleSpec("migrated.__main__", None)


def run() -> None:
    """The entry point: ends the process."""
    # Before numpy is loaded: its BLAS starts a thread a core, and nothing here multiplies matrices.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    gc.set_threshold(_NEW_OBJECTS)
    _keep_workers_from_importing_this()
    code = main()
    with contextlib.suppress(OSError):
        sys.stdout.flush()
    sys.exit(code)


if __name__ == "__main__":
    run()
