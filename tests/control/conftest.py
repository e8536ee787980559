"""A directory of migrations that are none, and a folder for sockets with a short path."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from migrated.control.directory import Row
from migrated.engine.progress import Progress
from migrated.errors import UsageError

FIRST, SECOND, ENDED = "3f2a" + "0" * 28, "3f7b" + "0" * 28, "aaaa" + "0" * 28


class Migrations:
    """Three migrations: two under way, one decided. Notes what it is asked for."""

    def __init__(self) -> None:
        self.rows = [
            Progress(
                migration_id=FIRST, role="source", guest="one", expected_downtime=float("inf")
            ).as_dict(),
            Progress(migration_id=SECOND, role="source", guest="two").as_dict(),
            Progress(migration_id=ENDED, role="source", guest="three", state="completed").as_dict(),
        ]
        self.cancelled: list[str] = []
        self.changed: list[tuple[str, str, str]] = []
        self.forgotten: list[str] = []
        self.stopping = False

    def list(self) -> list[Row]:
        return self.rows

    def cancel(self, migration_id: str) -> bool:
        if migration_id == ENDED:
            return False
        self.cancelled.append(migration_id)
        return True

    def change(self, migration_id: str, key: str, value: str) -> None:
        if key != "level":
            raise UsageError(f"{key!r} can't be changed while it runs", "level can")
        self.changed.append((migration_id, key, value))

    async def forget(self, migration_id: str) -> Row:
        self.forgotten.append(migration_id)
        return {"migration_id": migration_id, "outcome": "aborted", "guest": "one"}

    def info(self) -> dict[str, Any]:
        return {"software": "test", "role": "source", "pid": 1, "stopping": self.stopping}


def metrics(accept: str) -> tuple[bytes, str]:
    return f"asked for {accept}".encode(), "text/plain; version=0.0.4; charset=utf-8"


@pytest.fixture
def migrations() -> Migrations:
    return Migrations()


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The runtime folder of this test. A socket's path has at most 107 characters, so it is not below tmp_path."""
    with tempfile.TemporaryDirectory(prefix="m", dir="/tmp") as made:
        monkeypatch.setenv("RUNTIME_DIRECTORY", made)
        monkeypatch.setattr("migrated.control.sockets._SYSTEM", Path(made) / "system")  # without the variable
        yield Path(made)
