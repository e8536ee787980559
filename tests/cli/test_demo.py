"""`migrated demo` passes on what the demo guest's own program takes, all of it."""

import argparse
import inspect
from pathlib import Path

import pytest

from migrated.cli import main as cli
from migrated.cli.demo import demo
from migrated.guests.demo import program


def test_it_has_the_programs_options() -> None:
    taken = {
        action.option_strings[0]
        for action in program._parser()._actions
        if action.help is not argparse.SUPPRESS and action.option_strings[0] != "-h"
    }
    assert {"--" + name.replace("_", "-") for name in inspect.signature(demo).parameters} == taken


def test_arguments_and_exit_code_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []

    def main(arguments: list[str]) -> int:
        seen.append(arguments)
        return 12

    monkeypatch.setattr(program, "main", main)
    assert cli.main(["demo", "--file", "/x", "--dirty-rate", "0", "--working-set", "7", "--punch"]) == 12
    assert seen == [["--file", "/x", "--dirty-rate", "0", "--working-set", "7", "--punch"]]


def test_a_guest_runs_and_is_proved(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = str(tmp_path / "a.mem")
    assert cli.main(["demo", "--file", file, "--size", "4MiB", "--duration", "100ms", "--quiet"]) == 0
    assert cli.main(["demo", "--check", file]) == 0
    assert "every byte is right" in capfd.readouterr().out
