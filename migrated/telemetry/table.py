"""The table of metrics in the README, made from the catalogue.

It stands between two marker lines. ``python -m migrated.telemetry.table README.md`` writes it anew.
"""

import sys
from pathlib import Path

from migrated.telemetry.catalogue import describe

__all__ = ["BEGIN", "END", "render", "renew"]

BEGIN = "<!-- metrics:begin -->"
END = "<!-- metrics:end -->"


def render() -> str:
    """The table in Markdown, ending in a newline."""
    lines = ["| metric | type | labels | meaning |", "|---|---|---|---|"]
    for name, kind, labels, text in describe():
        shown = ", ".join(f"`{label}`" for label in labels) or "-"
        lines.append(f"| `{name}` | {kind} | {shown} | {text} |")
    return "\n".join(lines) + "\n"


def renew(document: str) -> str:
    """``document`` with the table between its markers; ValueError unless each stands there once, in order."""
    if document.count(BEGIN) != 1 or document.count(END) != 1 or document.index(BEGIN) > document.index(END):
        raise ValueError(f"no one pair of lines {BEGIN} and {END}")
    before, rest = document.split(BEGIN)
    return f"{before}{BEGIN}\n{render()}{END}{rest.split(END)[1]}"


def _main() -> None:
    path = Path(sys.argv[1])
    path.write_text(renew(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    _main()
