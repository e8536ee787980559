"""Where sockets are, who may reach them, and what becomes of those left over."""

import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from migrated.control import sockets
from migrated.errors import AccessError, ResourceError


def test_only_the_owner_reaches_a_socket(folder: Path) -> None:
    path = folder / "send-1.sock"
    with sockets.listen(path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert list(folder.iterdir()) == [path]


def test_a_socket_whose_process_was_killed_is_removed_by_who_lists(folder: Path) -> None:
    dead, alive = folder / "serve-1.sock", folder / "serve-2.sock"
    code = "import sys, time; from pathlib import Path; from migrated.control import sockets\n"
    code += "made = sockets.listen(Path(sys.argv[1])); print('ready', flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code, dead], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        with sockets.listen(alive):
            assert sockets.live_sockets() == [dead, alive]
            process.kill()
            process.wait(10)
            assert dead.exists()
            assert sockets.live_sockets() == [alive]
    assert not dead.exists()


def test_a_dead_ones_name_is_taken_over_and_a_live_ones_is_not(folder: Path) -> None:
    path = folder / "control.sock"
    sockets.listen(path).close()
    assert path.exists()
    with sockets.listen(path), pytest.raises(ResourceError, match="in use"):
        sockets.listen(path)
    assert list(folder.iterdir()) == [path]


def test_other_files_are_left_alone(folder: Path) -> None:
    (folder / "notes.sock").write_text("mine")
    assert sockets.live_sockets() == []
    assert (folder / "notes.sock").read_text() == "mine"


def test_a_path_that_is_too_long(folder: Path) -> None:
    with pytest.raises(ResourceError, match="too long"):
        sockets.listen(folder / ("x" * 120))


def test_no_folder_to_list(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(folder / "missing"))
    assert sockets.live_sockets() == []
    assert not (folder / "missing").exists()


def test_the_folder_is_made_and_closed_to_others(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.delenv("RUNTIME_DIRECTORY")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
    made = sockets.runtime_dir()
    assert made == (folder / "system" if os.getuid() == 0 else folder / "migrated")
    assert stat.S_IMODE(made.stat().st_mode) == 0o700
    made.chmod(0o777)
    assert stat.S_IMODE(sockets.runtime_dir().stat().st_mode) == 0o700


def test_somebody_elses_folder_is_refused(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    owner = folder.stat().st_uid
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    with pytest.raises(AccessError, match="belongs to user"):
        sockets.runtime_dir()


def test_a_link_is_no_folder(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    (folder / "real").mkdir()
    (folder / "link").symlink_to(folder / "real")
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(folder / "link"))
    with pytest.raises(AccessError, match="not a folder"):
        sockets.runtime_dir()


def test_root_keeps_away_from_a_daemons_folder(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.delenv("RUNTIME_DIRECTORY")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    system = folder / "system"
    assert sockets.runtime_path() == system
    system.mkdir()
    monkeypatch.setattr(Path, "stat", lambda self: os.stat_result((0o40700, 0, 0, 1, 4321, 0, 0, 0, 0, 0)))
    assert sockets.runtime_path() == folder / "migrated-root"


def test_the_users_own_and_the_systems(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.delenv("RUNTIME_DIRECTORY")
    monkeypatch.setattr(os, "geteuid", lambda: 1234)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
    paths = [folder / "migrated/send-1.sock", folder / "system/serve-1.sock"]
    for path in paths:
        path.parent.mkdir()
    with sockets.listen(paths[0]), sockets.listen(paths[1]):
        assert sockets.live_sockets() == paths
        monkeypatch.setenv("RUNTIME_DIRECTORY", str(paths[0].parent))
        assert sockets.live_sockets() == paths[:1]


def test_a_full_backlog_does_not_hang_who_lists(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockets, "_PROBE_SECONDS", 0.05)
    monkeypatch.setattr(sockets, "_BACKLOG", 0)
    path = folder / "send-1.sock"
    with sockets.listen(path), socket.socket(socket.AF_UNIX) as waiting:
        waiting.connect(str(path))
        assert sockets.live_sockets() == []
        assert path.exists()
