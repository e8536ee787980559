"""How a command ends when it fails: one line that says what, one that says what to do, and the exit code."""

import os
import sys
import traceback

from migrated.errors import MigratedError

__all__ = ["DEBUG_VARIABLE", "fail", "one_line"]

DEBUG_VARIABLE = "MIGRATED_DEBUG"
"""Set to 1, errors come with their traceback."""


def one_line(text: str) -> str:
    """``text`` without line breaks and control characters: it may quote a peer."""
    joined = " ".join(text.split())
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in joined)


def fail(what: str, hint: str = "", *, cause: BaseException | None = None) -> None:
    """Say on standard error what failed and what to do; with a traceback if the person asked for those."""
    if cause is not None and os.environ.get(DEBUG_VARIABLE) == "1":
        traceback.print_exception(cause)
    red, plain = ("\x1b[31m", "\x1b[0m") if _colours() else ("", "")
    print(f"migrated: {red}error{plain}: {one_line(what)}", file=sys.stderr)
    if hint:
        print(f"  → {one_line(hint)}", file=sys.stderr)
    sys.stderr.flush()


def fail_with(error: MigratedError) -> int:
    """As :func:`fail`, and return the exit code."""
    fail(error.what, error.hint, cause=error)
    return error.exit_code


def _colours() -> bool:
    return sys.stderr.isatty() and "NO_COLOR" not in os.environ
