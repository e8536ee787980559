"""The command as a process, in surroundings of its own."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

Done = subprocess.CompletedProcess[str]
Migrated = Callable[..., Done]


@pytest.fixture
def surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Settings, state and sockets of this test only; the folder for sockets (its path must be short)."""
    for name in [name for name in os.environ if name.startswith("MIGRATED_")]:
        if name != "MIGRATED_REQUIRE":
            monkeypatch.delenv(name)
    monkeypatch.setenv("MIGRATED_HOST__STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("COLUMNS", "100")
    with tempfile.TemporaryDirectory(prefix="m", dir="/tmp") as made:
        monkeypatch.setenv("RUNTIME_DIRECTORY", made)
        yield Path(made)


@pytest.fixture
def migrated(surroundings: Path) -> Migrated:
    """Run ``migrated`` with these arguments to its end."""

    def run(*arguments: object, stdin: str = "") -> Done:
        command = [sys.executable, "-m", "migrated", *map(str, arguments)]
        return subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=60, check=False)

    return run
