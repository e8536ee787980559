"""The command as a whole: help, errors, exit codes, and what it costs to start."""

import json
import re
import subprocess
import sys
from multiprocessing import spawn
from pathlib import Path
from types import ModuleType

import pytest

from migrated import __version__
from migrated.cli import main as cli
from migrated.cli.exit_codes import table
from migrated.errors import EXIT_CODES, CancelledByPersonError, GuestDiedError, OutcomeUnknownError
from tests.cli.conftest import Migrated

GROUPS = {each.name: each.typer_instance for each in cli.app.registered_groups if each.name}
COMMANDS = sorted([each.name for each in cli.app.registered_commands if each.name] + list(GROUPS))
IN_GROUPS = [
    f"{name} {each.name}" for name, group in GROUPS.items() if group for each in group.registered_commands
]

HEAVY = ("numpy", "rich", "aiohttp", "pydantic", "uvloop", "msgpack", "prometheus_client", "migrated.engine")


def test_the_commands_are_those_that_the_documents_name() -> None:
    named = (
        "bench cancel capabilities codecs config demo doctor exit-codes plan resolve send serve set status"
    )
    assert named.split() == COMMANDS


@pytest.mark.parametrize("command", COMMANDS + IN_GROUPS)
def test_help_has_an_example_and_exit_codes(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*command.split(), "--help"]) == 0
    shown = capsys.readouterr().out
    assert f"Usage: migrated {command}" in shown
    example = shown.partition("\nExample:\n")[2]
    assert re.search(rf"^  (\w+=\S+ )?migrated {command}", example, re.MULTILINE)
    assert "Exit codes: 0 " in example


@pytest.mark.parametrize("command", COMMANDS + IN_GROUPS)
def test_examples_are_command_lines_that_there_are(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Every flag of an example is one of the command that it is given to."""
    cli.main([*command.split(), "--help"])
    example = capsys.readouterr().out.partition("\nExample:\n")[2]
    for line in re.findall(r"^  .*migrated (.*)$", example, re.MULTILINE):
        line = line.partition("  ")[0].partition("|")[0]
        words = line.split()
        cli.main([*words[: 2 if words[0] in GROUPS else 1], "--help"])
        known = capsys.readouterr().out.partition("\nExample:\n")[0]
        for flag in re.findall(r"--[\w-]+", line):
            assert flag in known, line


def test_help_names_every_command_and_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    shown = capsys.readouterr().out
    for command in COMMANDS:
        assert re.search(rf"^  {command} +[A-Z].*", shown, re.MULTILINE)
    assert "Example:" in shown
    assert "migrated exit-codes" in shown


def test_version(migrated: Migrated) -> None:
    assert migrated("--version").stdout == f"migrated {__version__}\n"


def test_without_a_command_there_is_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 2
    assert "Usage: migrated" in capsys.readouterr().out


def test_help_imports_nothing_heavy() -> None:
    code = "import sys; from migrated.cli.main import main; main(['--help'])\n"
    code += f"print([each for each in {HEAVY!r} if each in sys.modules], file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stderr.strip() == "[]"


BAD_INPUT = [
    (["frobnicate"], 2, "frobnicate"),
    (["--frobnicate"], 2, "--frobnicate"),
    (["send"], 2, "GUEST"),
    (["send", "demo:/nowhere"], 2, "DEST"),
    (["send", "--levl", "3", "demo:/x", "y"], 2, "--level"),
    (["send", "tank:/x", "127.0.0.1"], 2, "'tank:/x' is no guest"),
    (["send", "pid:0", "127.0.0.1"], 2, "'0' is no process id"),
    (["send", "demo:/x", "host:99999"], 2, "99999"),
    (["send", "demo:/x", "host:port"], 2, "host:port"),
    (["send", "demo:/x", "127.0.0.1", "--level", "10"], 2, "--level: send.level = '10'"),
    (["send", "demo:/x", "127.0.0.1", "--codec", "rar"], 2, "rar"),
    (["send", "demo:/x", "127.0.0.1", "--bandwidth", "fast"], 2, "--bandwidth: send.bandwidth = 'fast'"),
    (["send", "demo:/x", "127.0.0.1", "--downtime", "soon"], 2, "soon"),
    (["send", "demo:/x", "127.0.0.1", "--after", "party"], 2, "--after 'party'"),
    (["send", "shm:/x", "127.0.0.1", "--pause", "a 'b"], 2, "--pause"),
    (["send", "demo:/x", "127.0.0.1", "--pid", "zwölf"], 2, "--pid"),
    (["send", "demo:/x", "127.0.0.1", "--config", "/nowhere.toml"], 2, "/nowhere.toml"),
    (["send", "demo:/nowhere", "127.0.0.1:1"], 3, "/nowhere"),
    (["send", "demo:/", "127.0.0.1:1"], 3, "/ is no plain file"),
    (["send", f"demo:{__file__}", "127.0.0.1:1"], 3, "not a whole number of 4096-byte pages"),
    (["send", "shm:/nowhere", "127.0.0.1:1"], 3, "/nowhere"),
    (["send", "shm:/", "127.0.0.1:1"], 3, "/ is no plain file"),
    (["send", f"shm:{__file__}", "127.0.0.1:1"], 3, "not a whole number of 4096-byte pages"),
    (["send", "pid:4194304", "127.0.0.1:1"], 3, "4194304"),
    (["plan", "demo:/x"], 2, "DEST"),
    (["plan", "tank:/x", "127.0.0.1"], 2, "'tank:/x' is no guest"),
    (["plan", "demo:/x", "127.0.0.1", "--seconds", "0"], 2, "--seconds"),
    (["plan", "pid:4194304", "127.0.0.1:1", "--mappings", "all"], 2, "--mappings 'all'"),
    (["plan", "demo:/nowhere", "127.0.0.1:1"], 3, "/nowhere"),
    (["capabilities", "127.0.0.1:1"], 7, "127.0.0.1:1"),
    (["capabilities", "unix:/nowhere"], 7, "/nowhere"),
    (["capabilities", "no-such-host.invalid"], 7, "no-such-host.invalid"),
    (["serve", "--guest", "nonsense"], 2, "nonsense"),
    (["serve", "--guest", "a=tank:/x"], 2, "guests.a.kind"),
    (["serve", "--listen", "a:b"], 2, "--listen"),
    (["status", "zz"], 2, "zz"),
    (["cancel", "zz"], 2, "zz"),
    (["set", "zz", "level", "3"], 2, "zz"),
    (["resolve", "zz"], 2, "zz"),
    (["resolve", "zz", "--tries", "0"], 2, "--tries"),
    (["config", "--config", "/nowhere.toml"], 2, "/nowhere.toml"),
]


def assert_told(out: str, err: str, what: str) -> None:
    """One line that says what failed, at most one that says what to do, and nothing else."""
    assert out == ""
    first, *more = err.splitlines()
    assert first.startswith("migrated: error: ")
    assert len(more) <= 1
    assert all(line.startswith("  → ") for line in more)
    assert what in err


@pytest.mark.usefixtures("surroundings")
@pytest.mark.parametrize(
    ("arguments", "code", "what"),
    BAD_INPUT,
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_bad_input_gets_one_clear_line_and_its_code(
    capfd: pytest.CaptureFixture[str], arguments: list[str], code: int, what: str
) -> None:
    assert cli.main(arguments) == code
    assert_told(*capfd.readouterr(), what)


@pytest.mark.usefixtures("surroundings")
def test_a_bad_setting_is_told_with_its_line(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "m.toml"
    file.write_text('[serve]\ncolour = "red"\n')
    assert cli.main(["serve", "--config", str(file)]) == 2
    assert_told(*capfd.readouterr(), f"{file}, line 2")


@pytest.mark.parametrize(
    ("arguments", "code", "what"),
    [
        (["send", "--levl", "3", "demo:/x", "y"], 2, "--level"),
        (["send", "shm:/nowhere", "127.0.0.1:1"], 3, "/nowhere"),
        (["serve", "--listen", "192.0.2.1:1"], 6, "192.0.2.1:1"),
        (["capabilities", "127.0.0.1:1"], 7, "127.0.0.1:1"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_so_does_a_process(migrated: Migrated, arguments: list[str], code: int, what: str) -> None:
    done = migrated(*arguments)
    assert done.returncode == code, done.stderr
    assert_told(done.stdout, done.stderr, what)


@pytest.mark.parametrize(
    ("arguments", "code", "what"), [((), 2, "--file"), (("--check", "/nowhere"), 3, "/nowhere")]
)
def test_the_demo_guest_answers_for_itself(
    migrated: Migrated, arguments: tuple[str, ...], code: int, what: str
) -> None:
    done = migrated("demo", *arguments)
    assert done.returncode == code, done.stderr
    assert what in done.stderr
    assert "Traceback" not in done.stderr


def test_a_traceback_only_on_request(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["send", "tank:/x", "y"]) == 2
    assert "Traceback" not in capsys.readouterr().err
    monkeypatch.setenv("MIGRATED_DEBUG", "1")
    assert cli.main(["send", "tank:/x", "y"]) == 2
    shown = capsys.readouterr().err
    assert "Traceback" in shown
    assert shown.splitlines()[-2] == "migrated: error: 'tank:/x' is no guest"


@pytest.mark.parametrize(
    ("error", "code", "shown"),
    [
        (GuestDiedError("it ended", "start it"), 4, "migrated: error: it ended\n  → start it\n"),
        (OutcomeUnknownError("no\nword\x1b[2J"), 20, "migrated: error: no word\\x1b[2J\n"),
        (CancelledByPersonError("cancelled"), 130, "migrated: error: cancelled\n"),
        (KeyboardInterrupt(), 130, "\n"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_every_end(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    code: int,
    shown: str,
) -> None:
    def fail(**_: object) -> None:
        raise error

    monkeypatch.setattr(cli, "app", fail)
    assert cli.main([]) == code
    assert capsys.readouterr().err == shown


def test_what_should_not_happen_is_one_line_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(**_: object) -> None:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr(cli, "app", fail)
    assert cli.main([]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert "ZeroDivisionError: division by zero" in lines[0]
    assert "MIGRATED_DEBUG=1" in lines[1]
    assert len(lines) == 2


def test_a_reader_that_has_enough(surroundings: object) -> None:
    command = f"{sys.executable} -m migrated exit-codes | head -c 1"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "c"
    assert done.stderr == ""


def test_every_reason_has_its_row() -> None:
    rows = {reason: code for code, reason, _ in table()}
    assert rows == EXIT_CODES | {"done": 0}
    assert all(text for _, _, text in table())


@pytest.mark.usefixtures("surroundings")
@pytest.mark.parametrize("command", ["exit-codes", "codecs", "config", "doctor", "status"])
def test_json_is_json(capfd: pytest.CaptureFixture[str], command: str) -> None:
    assert cli.main([command, "--json"]) == 0
    out, err = capfd.readouterr()
    assert len(out.splitlines()) == 1
    json.loads(out, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    assert err == ""


@pytest.mark.usefixtures("surroundings")
@pytest.mark.parametrize("uri", ["demo:/nowhere", "shm:/nowhere", "pid:4194304"])
def test_a_failure_in_json(capfd: pytest.CaptureFixture[str], uri: str) -> None:
    assert cli.main(["send", uri, "127.0.0.1:1", "--json"]) == 3
    out, err = capfd.readouterr()
    last = json.loads(out.splitlines()[-1])
    assert (last["event"], last["reason"], last["exit_code"]) == ("failed", "guest-not-found", 3)
    assert err.startswith(f"migrated: error: {last['what']}\n")


def test_workers_import_no_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """The installed script is a file: multiprocessing would run it in each of them."""
    main = ModuleType("__main__")
    main.__file__ = "/usr/local/bin/migrated"
    monkeypatch.setitem(sys.modules, "__main__", main)
    assert "init_main_from_path" in spawn.get_preparation_data("worker")
    cli._keep_workers_from_importing_this()
    told = spawn.get_preparation_data("worker")
    assert "init_main_from_path" not in told
    assert told["init_main_from_name"].endswith(".__main__"), "multiprocessing leaves such a name out"
