"""How help looks: plain text in groups, with a worked example below, quick to print and easy to copy.

Options are grouped by their ``rich_help_panel``, commands by theirs, in the order in which they first come;
an epilog is printed as it is written.
"""

from typing import Any

from typer.core import TyperCommand, TyperGroup

__all__ = ["Command", "Commands", "example"]

_WHOLE_SENTENCE = 200


def example(*lines: str, codes: str = "0 done, 2 wrong command line") -> str:
    """An epilog of commands as typed, each with what it does, and the exit codes to expect."""
    shown = "".join(f"  {line}\n" for line in lines)
    return f"Example:\n{shown}\nExit codes: {codes};\nall of them: migrated exit-codes"


class Command(TyperCommand):
    """A command with grouped options."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Arguments by their plain names."""
        return [piece.strip("{}") for piece in super().collect_usage_pieces(ctx)]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Arguments first, then each group of options."""
        _write_options(self, ctx, formatter)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002
        """As written."""
        _write_epilog(self.epilog, formatter)


class Commands(TyperGroup):
    """The commands, grouped, in the order in which they were added."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002
        """Not sorted: the order tells how they belong together."""
        return list(self.commands)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """The commands, then the options."""
        self.format_commands(ctx, formatter)
        _write_options(self, ctx, formatter)

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002
        """Each group of commands with the first sentence of their help."""
        groups: dict[str, list[tuple[str, str]]] = {}
        width = max(map(len, self.commands), default=0)
        for name, command in self.commands.items():
            if not command.hidden:
                panel = getattr(command, "rich_help_panel", None)
                title = panel if isinstance(panel, str) else "Commands"
                text = command.get_short_help_str(limit=_WHOLE_SENTENCE)
                groups.setdefault(title, []).append((name.ljust(width), text))
        _write_groups(groups, formatter)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002
        """As written."""
        _write_epilog(self.epilog, formatter)


def _write_options(command: Any, ctx: Any, formatter: Any) -> None:
    groups: dict[str, list[tuple[str, str]]] = {}
    for param in command.get_params(ctx):
        record = param.get_help_record(ctx)
        if record is None:
            continue
        if param.param_type_name == "argument":
            title, record = "Arguments", (param.metavar or param.name.upper(), param.help or "")
        else:
            panel = getattr(param, "rich_help_panel", None)
            title = panel if isinstance(panel, str) else "Options"
        groups.setdefault(title, []).append(record)
    general = groups.pop("Options", [])
    _write_groups(groups | ({"Options": general} if general else {}), formatter)


def _write_groups(groups: dict[str, list[tuple[str, str]]], formatter: Any) -> None:
    for title, rows in groups.items():
        with formatter.section(title):
            formatter.write_dl(rows)


def _write_epilog(epilog: str | None, formatter: Any) -> None:
    if epilog:
        formatter.write_paragraph()
        formatter.write(epilog.rstrip() + "\n")
