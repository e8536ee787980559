"""`migrated doctor`: every finding that is not fine says what to do."""

import json
from pathlib import Path

import pytest

from migrated.cli import checks
from migrated.cli import main as cli
from migrated.cli.checks import run_checks
from migrated.cli.findings import Check, Level
from migrated.compression import registry
from migrated.config import HostSettings, Settings


def found(settings: Settings | None = None) -> dict[str, Check]:
    return {each.subject: each for each in run_checks(settings or Settings())}


@pytest.mark.usefixtures("surroundings")
def test_what_is_not_fine_says_what_to_do(tmp_path: Path) -> None:
    seen = found()
    assert {"python", "codecs", "tracker hash", "tracker pagemap-scan", "/dev/shm", "state folder"} <= set(
        seen
    )
    assert all(each.found for each in seen.values())
    assert all(each.hint for each in seen.values() if each.level is not Level.OK)


@pytest.mark.usefixtures("surroundings")
def test_nothing_is_made(surroundings: Path, tmp_path: Path) -> None:
    surroundings.rmdir()
    assert (
        found(Settings(host=HostSettings(state_dir=str(tmp_path / "s"))))["control sockets"].level is Level.OK
    )
    assert not surroundings.exists()
    assert not (tmp_path / "s").exists()
    surroundings.mkdir()


@pytest.mark.usefixtures("surroundings")
def test_yama(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "_PROC", tmp_path)
    (tmp_path / "sys/kernel/yama").mkdir(parents=True)
    (tmp_path / "self").mkdir()
    (tmp_path / "sys/kernel/yama/ptrace_scope").write_text("1\n")
    (tmp_path / "self/status").write_text("CapEff:\t0000000000000000\n")
    seen = {each.subject: each for each in checks._permissions()}
    assert seen["yama"].level is Level.WARN
    assert "ptrace_scope=0" in seen["yama"].hint
    assert "CAP_SYS_PTRACE and CAP_KILL" in seen["capabilities"].found
    (tmp_path / "self/status").write_text("CapEff:\t000001ffffffffff\n")
    assert {each.level for each in checks._permissions()} == {Level.OK}


def test_the_file_system_of_a_path_that_is_not_there_yet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "_PROC", tmp_path)
    (tmp_path / "self").mkdir()
    (tmp_path / "self/mounts").write_text(f"/ / ext4 rw 0 0\nx {tmp_path} tmpfs rw 0 0\n")
    assert checks._file_system(tmp_path / "no/such/folder") == "tmpfs"
    assert checks._file_system(Path("/no/such")) == "ext4"
    (state,) = [
        each
        for each in checks._folders(Settings(host=HostSettings(state_dir=str(tmp_path / "s"))))
        if each.subject == "state folder"
    ]
    assert state.level is Level.WARN


@pytest.mark.usefixtures("surroundings")
def test_a_host_that_can_move_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(registry, "names", lambda: ())
    monkeypatch.setattr(registry, "problems", dict)
    assert cli.main(["doctor", "--json"]) == 6
    captured = capsys.readouterr()
    levels = {each["subject"]: each["level"] for each in json.loads(captured.out)["checks"]}
    assert levels["codecs"] == "fail"
    assert "nothing can be moved" in captured.err
