"""That the README says what is: commands, options, defaults, exit codes, targets, files."""

import re
import shlex
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import typer

from migrated import client
from migrated.cli.exit_codes import table
from migrated.cli.main import app
from migrated.config import Settings, load
from migrated.errors import EXIT_CODES

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BEGIN, END = "<!-- exit-codes:begin -->\n", "<!-- exit-codes:end -->\n"

COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]

_ENDS_A_COMMAND = {"|", "&", "&&", ";", ">", ">>", "2>&1"}


def blocks(*languages: str) -> Iterator[str]:
    for language, text in re.findall(r"^```(\w*)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL):
        if language in languages:
            yield text.replace("\\\n", " ")


def shell_lines() -> Iterator[str]:
    """Every line that a person would type."""
    for text in blocks("sh"):
        yield from text.splitlines()
    for text in blocks("console"):
        yield from (line.removeprefix("$ ") for line in text.splitlines() if line.startswith("$ "))


def words_of(line: str) -> list[str]:
    """What `migrated` is given in ``line``; nothing if it is another command."""
    words = shlex.split(line, comments=True)
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
        words.pop(0)
    end = next((at for at, word in enumerate(words) if word in _ENDS_A_COMMAND), len(words))
    return words[1:end] if words[:1] == ["migrated"] else []


TYPED = sorted({line.strip() for line in shell_lines() if words_of(line)})
# In sentences and tables commands are named, and not always complete.
NAMED = sorted({text for text in re.findall(r"`(migrated [^`\n]+)`", README) if words_of(text)})


def command_of(words: list[str]) -> tuple[Any, list[str]]:
    """The command that ``words`` begin with, in whatever group, and what is left for it."""
    command, arguments = COMMANDS[words[0]], words[1:]
    while arguments and arguments[0] in getattr(command, "commands", {}):
        command, arguments = command.commands[arguments[0]], arguments[1:]
    return command, arguments


def options_of(command: Any) -> set[str]:
    return {name for parameter in command.params for name in parameter.opts + parameter.secondary_opts}


@pytest.mark.parametrize("line", TYPED)
def test_what_is_typed_can_be_typed(line: str) -> None:
    command, arguments = command_of(words_of(line))
    command.make_context(command.name, arguments)  # a wrong option, or one argument too few, raises


@pytest.mark.parametrize("line", NAMED)
def test_what_is_named_exists(line: str) -> None:
    words = words_of(line)
    if words[0].startswith("-"):
        return
    command, arguments = command_of(words)
    flags = {word.partition("=")[0] for word in arguments if word.startswith("-")}
    assert flags <= options_of(command) | {"--help"}


def test_commands_were_found() -> None:
    assert len(TYPED) > 15
    assert len(NAMED) > 10
    assert {words_of(line)[0] for line in TYPED + NAMED} >= set(COMMANDS) - {"exit-codes"}


def test_options_in_sentences_exist() -> None:
    groups = [command.commands.values() for command in COMMANDS.values() if hasattr(command, "commands")]
    known = set().union(*map(options_of, chain(COMMANDS.values(), *groups)))
    named = {text.split()[0].partition("=")[0] for text in re.findall(r"`(--[a-z][^`]*)`", README)}
    assert named - known == {"--help"}


def exit_code_table() -> str:
    rows = ["| code | reason | meaning |", "|---|---|---|"]
    return "\n".join(rows + [f"| {code} | `{reason}` | {text} |" for code, reason, text in table()]) + "\n"


def test_the_exit_codes() -> None:
    block = README.partition(BEGIN)[2].partition(END)[0]
    assert block == exit_code_table()
    listed = {
        reason: int(code) for code, reason in re.findall(r"^\| (\d+) \| `([\w-]+)`", block, re.MULTILINE)
    }
    assert listed == EXIT_CODES | {"done": 0}


DEFAULTS = re.findall(r"^\| `(\w+)\.(\w+)` \| (?:`(--[\w-]+)`)? ?\| `([^`]+)` \|", README, re.MULTILINE)


@pytest.mark.parametrize(("section", "key", "flag", "default"), DEFAULTS)
def test_a_default(section: str, key: str, flag: str, default: str, tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text(f"[{section}]\n{key} = {default}\n", encoding="utf-8")
    assert load(file) == Settings()
    assert not flag or flag in options_of(COMMANDS[section])


def test_the_defaults_of_what_flags_can_set_are_all_there() -> None:
    sections = {"send": Settings().send, "serve": Settings().serve}
    settable = {
        (name, key)
        for name, section in sections.items()
        for key in type(section).model_fields
        if f"--{key.replace('_', '-')}" in options_of(COMMANDS[name])
    }
    assert settable - {("send", "allow_seccomp")} <= {(section, key) for section, key, *_ in DEFAULTS}


def test_what_is_said_of_defaults_beside_qemus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "usable_cores", lambda: 8)
    send = Settings().send
    assert (send.compress_workers, send.level, send.codec, send.downtime) == (8, 1, "auto", 0.3)
    assert client.worker_counts(send) == (8, 4)


def test_settings_in_sentences_exist() -> None:
    for section, key in re.findall(r"`(host|send|serve|log)\.(\w+)\b", README):
        assert key in type(getattr(Settings(), section)).model_fields, f"{section}.{key}"


@pytest.mark.parametrize("text", [text for text in blocks("toml") if "[guests." in text])
def test_settings_can_be_read(text: str, tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text(text, encoding="utf-8")
    assert load(file).guests


def test_the_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    lines = [shlex.split(line, comments=True) for line in shell_lines()]
    inline = [text.split() for text in re.findall(r"`(make [^`]+)`", README)]
    used = {
        word for words in lines + inline if words[:1] == ["make"] for word in words[1:] if "=" not in word
    }
    assert used >= {"demo", "test", "bench"}
    assert used <= targets


def test_the_files_exist() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", README)
    paths = re.findall(r"`((?:codecs|config|deploy|migrated|tests|\.ci)/[\w./-]+)`", README)
    assert len(links) >= 4
    assert len(paths) >= 6
    assert [path for path in links + paths if not (ROOT / path).exists()] == []


def test_links_within_the_page_lead_somewhere() -> None:
    titles = re.findall(r"^#+ (.+)$", README, re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
    assert set(re.findall(r"\]\(#([^)]+)\)", README)) <= anchors


def test_no_line_is_hard_to_read() -> None:
    prose = re.sub(r"^```.*?^```$", "", README, flags=re.MULTILINE | re.DOTALL)
    assert [line for line in prose.splitlines() if len(line) > 120 and not line.startswith("|")] == []
