"""Migrations that ended, one JSON object a line, oldest first, in a file that cannot grow without end.

When ``history.jsonl`` is full it becomes ``history.jsonl.1``, in place of the one before: between one and two
times the limit is kept. Several processes may add at once. History is a convenience, unlike the records of
:mod:`migrated.engine.records`: what cannot be written is logged and lost, and no migration fails for it.
"""

import contextlib
import fcntl
import json
import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from migrated.errors import AccessError, ResourceError
from migrated.telemetry.plain import as_json

__all__ = ["History"]

_LIMIT = 1000
"""Entries a file. At about 1 KiB each, a full one is read in some milliseconds."""

_logger = logging.getLogger(__name__)


class History:
    """The history in ``folder``, which is made when it is first written to. All calls block; use a thread.

    An entry is a map of what JSON can say, with the migration's id under ``migration_id``.
    """

    def __init__(self, folder: Path, *, limit: int = _LIMIT) -> None:
        self.path = folder / "history.jsonl"
        self._old = folder / "history.jsonl.1"
        self._limit = limit

    def add(self, entry: Mapping[str, Any]) -> bool:
        """Append ``entry``, durably. Never raises; False if it could not be written, which is logged.

        Long texts are cut, and a number that is not finite becomes null.
        """
        try:
            line = as_json(dict(entry)).encode() + b"\n"
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._append(line)
        except Exception as error:  # whatever it is, the migration has ended well without it
            _logger.warning("cannot add migration %s to %s: %s", entry.get("migration_id"), self.path, error)
            return False
        return True

    def recent(self, count: int) -> list[dict[str, Any]]:
        """The last ``count`` entries, newest first. Raises AccessError or ResourceError."""
        return self._entries()[::-1][: max(0, count)]

    def find(self, migration_id: str) -> dict[str, Any] | None:
        """The newest entry of this migration, or None. Raises as :meth:`recent`."""
        newest_first = reversed(self._entries())
        return next((each for each in newest_first if each.get("migration_id") == migration_id), None)

    @contextlib.contextmanager
    def _locked(self, flags: int, how: int) -> Iterator[int]:
        """The current file's descriptor, locked; of the new one, if another process rotates it meanwhile."""
        while True:
            descriptor = os.open(self.path, flags | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(descriptor, how)
                if self._is_current(descriptor):
                    yield descriptor
                    return
            finally:
                os.close(descriptor)

    def _is_current(self, descriptor: int) -> bool:
        try:
            return os.path.samestat(os.fstat(descriptor), self.path.stat())
        except FileNotFoundError:
            return False

    def _append(self, line: bytes) -> None:
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT
        with self._locked(flags, fcntl.LOCK_EX) as descriptor:
            if _content(descriptor).count(b"\n") < self._limit:
                _write(descriptor, line)
                self._sync_folder()
                return
            self.path.replace(self._old)
        with self._locked(flags, fcntl.LOCK_EX) as descriptor:
            _write(descriptor, line)
            self._sync_folder()

    def _sync_folder(self) -> None:
        folder = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _entries(self) -> list[dict[str, Any]]:
        try:
            try:
                with self._locked(os.O_RDONLY, fcntl.LOCK_SH) as descriptor:
                    # Under the lock nobody rotates, so no entry is met twice or missed.
                    lines = self._old_lines() + _content(descriptor).splitlines()
            except FileNotFoundError:
                lines = self._old_lines()
        except PermissionError as error:
            raise AccessError(
                f"cannot read the history {self.path}: {error.strerror}", "run as the user of migrated serve"
            ) from error
        except OSError as error:
            raise ResourceError(f"cannot read the history {self.path}: {error.strerror}") from error
        return [entry for entry in map(_parsed, lines) if entry is not None]

    def _old_lines(self) -> list[bytes]:
        try:
            return self._old.read_bytes().splitlines()
        except FileNotFoundError:
            return []


def _content(descriptor: int) -> bytes:
    size = os.fstat(descriptor).st_size
    return os.pread(descriptor, size, 0)


def _write(descriptor: int, line: bytes) -> None:
    """Append ``line`` and fsync. On failure the file is as before, unless even that is refused."""
    size = os.fstat(descriptor).st_size
    if size and os.pread(descriptor, 1, size - 1) != b"\n":
        line = b"\n" + line  # a crash tore the last line; it must not take this one with it
    try:
        written = os.write(descriptor, line)
        if written < len(line):
            os.write(descriptor, line[written:])  # says why, if the disk is full
        os.fsync(descriptor)
    except OSError:
        with contextlib.suppress(OSError):
            os.ftruncate(descriptor, size)
        raise


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return entry if isinstance(entry, dict) else None
