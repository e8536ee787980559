"""Where the keys of a TOML text stand, for errors: the standard parser forgets the lines of what it read."""

import re
import tomllib

__all__ = ["key_lines"]

_PIECE = re.compile(
    r'"""(?:\\.|[^\\])*?"""'
    r"|'''.*?'''"
    r'|"(?:\\.|[^"\\\n])*"'
    r"|'[^'\n]*'"
    r"|\#[^\n]*"
    r"|[\[\]{}\n]"
    r"""|[^"'\#\[\]{}\n]+""",
    re.DOTALL,
)
_PART = r"""(?:"(?:\\.|[^"\\])*"|'[^']*'|[A-Za-z0-9_-]+)"""
_KEY = re.compile(rf"\s*({_PART}(?:\s*\.\s*{_PART})*)\s*")


def key_lines(text: str) -> dict[tuple[str, ...], int]:
    """The line, from 1, of every table header and key of valid TOML; those in inline tables are left out."""
    lines: dict[tuple[str, ...], int] = {}
    table: tuple[str, ...] = ()
    for number, statement in _statements(text):
        header = statement.lstrip().startswith("[")
        match = _KEY.match(statement.lstrip(" \t[") if header else statement)
        if match is None:
            continue
        path = _parts(match[1])
        if header:
            table = path
        else:
            path = table + path
        for length in range(1, len(path) + 1):
            lines.setdefault(path[:length], number)
    return lines


def _statements(text: str) -> list[tuple[int, str]]:
    """Line number and text of each header and assignment: newlines in strings and brackets do not end one."""
    found: list[tuple[int, str]] = []
    line = first = 1
    depth = 0
    held = ""
    for piece in _PIECE.findall(text + "\n"):
        if piece == "\n" and depth == 0:
            if held.strip():
                found.append((first, held))
            held = ""
            first = line + 1
        elif not piece.startswith("#"):
            depth += (piece in "[{") - (piece in "]}")
            held += piece
        line += piece.count("\n")
    return found


def _parts(key: str) -> tuple[str, ...]:
    """The parts of a dotted key, without quotes: read by the parser itself."""
    node: object = tomllib.loads(f"{key} = 0")
    parts: list[str] = []
    while isinstance(node, dict):
        ((name, node),) = node.items()
        parts.append(name)
    return tuple(parts)
