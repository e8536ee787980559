"""`migrated doctor` on QEMUs: those installed, those that run, and one machine with all that keeps it here."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from migrated.cli import main as cli
from migrated.cli import qemu_checks
from migrated.cli.findings import Level
from migrated.errors import GuestError
from migrated.guests.qemu import programs
from migrated.guests.qemu.diagnosis import Diagnosis
from migrated.guests.qemu.programs import Program, Running
from migrated.guests.qemu.safety import Refusal

CAPABILITIES = ["x-ignore-shared", "late-block-activate", "xbzrle"]


def fake_qemu(folder: Path, name: str, capabilities: list[str], version: tuple[int, int, int]) -> None:
    """A program that answers like a QEMU that was asked everything at once."""
    major, minor, micro = version
    answers: list[dict[str, Any]] = [
        {"QMP": {"version": {}, "capabilities": []}},
        {"id": "qmp_capabilities", "return": {}},
        {"id": "query-version", "return": {"qemu": {"major": major, "minor": minor, "micro": micro}}},
        {
            "id": "query-migrate-capabilities",
            "return": [{"capability": each, "state": False} for each in capabilities],
        },
        {"id": "query-kvm", "return": {"enabled": False, "present": True}},
        {"event": "SHUTDOWN"},
    ]
    text = "\n".join(map(json.dumps, answers))
    program = folder / name
    program.write_text(f"#!/bin/sh\ncat > /dev/null\ncat <<'END'\n{text}\nEND\n")
    program.chmod(0o755)


@pytest.fixture
def only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is all there is to run, besides what `sh` takes."""
    monkeypatch.setattr(programs, "_HIDDEN", ())
    monkeypatch.setattr(programs.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(programs.os, "get_exec_path", lambda: [str(tmp_path)])
    return tmp_path


def test_a_folder_of_the_path_may_be_closed(only: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unreachable = only / ("x" * 300)  # for root, too
    monkeypatch.setattr(programs.os, "get_exec_path", lambda: [str(unreachable), "", str(only)])
    fake_qemu(only, "qemu-kvm", CAPABILITIES, (10, 0, 2))
    assert [each.path for each in programs.programs()] == [only / "qemu-kvm"]


def test_installed_ones_are_asked(only: Path) -> None:
    fake_qemu(only, "qemu-system-x86_64", CAPABILITIES, (10, 0, 2))
    fake_qemu(only, "qemu-kvm", CAPABILITIES[2:], (3, 1, 0))
    fake_qemu(only, "qemu-system-arm", CAPABILITIES, (7, 2, 0))
    new, old = programs.programs()
    assert (new.version, new.lacks, new.problem) == ("10.0.2", (), "")
    assert (old.version, old.lacks) == ("3.1.0", ("x-ignore-shared", "late-block-activate"))
    assert programs.others() == ["qemu-system-arm"]
    seen = list(qemu_checks.qemu_checks())
    assert [each.level for each in seen[:2]] == [Level.OK, Level.WARN]
    assert "can't be moved" in seen[1].found


def test_one_that_does_not_answer_says_why(only: Path) -> None:
    program = only / "qemu-system-x86_64"
    program.write_text("#!/bin/sh\necho 'libfoo.so is missing' >&2\nexit 127\n")
    program.chmod(0o755)
    (found,) = programs.programs()
    assert found.problem == "libfoo.so is missing"
    assert "libfoo.so is missing" in next(qemu_checks.qemu_checks()).found


@pytest.mark.usefixtures("only")
def test_none_is_no_failure() -> None:
    found = next(qemu_checks.qemu_checks())
    assert (found.level, found.found) == (Level.WARN, "not installed")


def test_monitors_are_read_from_the_command_line() -> None:
    words = "-qmp unix:/run/a.qmp,server=on,wait=off -chardev socket,id=mon0,path=/run/b.qmp,server=on "
    words += "-mon chardev=mon0,mode=control -chardev socket,id=c,path=/run/serial -qmp tcp:localhost:4444"
    assert programs._monitors(words.split()) == ("/run/a.qmp", "/run/b.qmp")


def test_those_that_run_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    me = tmp_path / str(os.getpid())
    me.mkdir()
    (me / "cmdline").write_bytes(b"qemu-system-x86_64\0-qmp\0unix:/run/vm.qmp,server=on\0")
    monkeypatch.setattr(programs, "_PROC", tmp_path)
    monkeypatch.setattr(programs.process, "comm", lambda _pid: "qemu-system-x86")
    assert programs.running() == [Running(os.getpid(), ("/run/vm.qmp",), open=False)]
    (me / "mem").write_bytes(b"")
    assert programs.running()[0].open
    (me / "cmdline").write_bytes(b"")  # it ended
    assert programs.running() == []


def test_who_may_not_be_held_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qemu_checks, "programs", lambda: [Program(Path("/bin/qemu"), "9.0.0", kvm=True)])
    monkeypatch.setattr(qemu_checks, "running", lambda: [Running(7, ("/run/vm.qmp",), open=False)])
    *_, last = qemu_checks.qemu_checks()
    assert (last.subject, last.level) == ("process 7", Level.WARN)
    assert "qemu:/run/vm.qmp" in last.found
    assert "--tracker hash" in last.hint


def diagnosis(machine: Any, **found: Any) -> Any:
    return lambda _path: Diagnosis(machine, **found)


class Machine:
    version, machine, accelerator, processors = (7, 2, 0), "q35", "tcg", 2
    processor, memory, status, disks = "qemu64", 1 << 30, "running", ()


def test_all_that_keeps_a_machine_here_is_told_at_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    refusals = [Refusal("memory a is in no file", "do this"), Refusal("vfio", "do that")]
    found = diagnosis(Machine, refusals=refusals, avoidable=[Refusal("cache.direct=on", "hash")])
    monkeypatch.setattr(qemu_checks, "diagnose", found)
    assert cli.main(["doctor", "qemu:/run/vm.qmp", "--json"]) == GuestError.exit_code
    captured = capsys.readouterr()
    checks = json.loads(captured.out)["checks"]
    assert [each["level"] for each in checks] == ["ok", "fail", "fail", "warn"]
    assert [each["hint"] for each in checks[1:]] == ["do this", "do that", "hash"]
    assert "cannot be moved as it is" in captured.err


def test_a_machine_that_can_move(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(qemu_checks, "diagnose", diagnosis(Machine, tracker="pagemap-scan: exact"))
    assert cli.main(["doctor", "qemu:/run/vm.qmp"]) == 0
    assert "it can be moved; pagemap-scan: exact" in capsys.readouterr().out


def test_a_machine_that_waits(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(qemu_checks, "diagnose", diagnosis(Machine, waits=True))
    assert cli.main(["doctor", "qemu:/run/vm.qmp"]) == 0
    assert "it waits for a guest" in capsys.readouterr().out


def test_a_guest_of_another_kind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor", f"pid:{os.getpid()}"]) == GuestError.exit_code
    assert cli.main(["doctor", f"shm:{tmp_path / 'none'}"]) == GuestError.exit_code
    assert "there is no memory file" in capsys.readouterr().out
    assert cli.main(["doctor", "nonsense"]) == 2
