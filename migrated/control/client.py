"""Asking a process of this host, over its Unix socket."""

import asyncio
import errno
import json
from pathlib import Path
from typing import Any

import aiohttp

from migrated import errors
from migrated.control import sockets
from migrated.control.directory import Row
from migrated.errors import AccessError, MigratedError, ProtocolError, UnreachableError, UsageError

__all__ = ["ControlClient", "Found", "everything", "only"]

_SECONDS = 5.0
_MAX_ANSWER = 16 << 20

_BY_REASON = {
    found.reason: found
    for found in vars(errors).values()
    if isinstance(found, type) and issubclass(found, MigratedError)
}


class Found:
    """A migration, and who told of it."""

    def __init__(self, client: "ControlClient", row: Row) -> None:
        self.client = client
        self.row = row

    @property
    def migration_id(self) -> str:
        """In full."""
        return str(self.row["migration_id"])


class ControlClient:
    """One process, by its socket. Every call makes a connection and takes seconds at most.

    Raises what the process answers, or UnreachableError, AccessError, ProtocolError.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    async def list(self) -> list[Found]:
        """All migrations that it knows."""
        answer = await self._ask("GET", "/v1/migrations")
        return [Found(self, row) for row in answer["migrations"]]

    async def get(self, migration_id: str) -> Row:
        """One migration, by a full or short id."""
        return await self._ask("GET", f"/v1/migrations/{migration_id}")

    async def cancel(self, migration_id: str) -> None:
        """Cancel it; UsageError if it is decided already. Returns when that is begun, not when it is done."""
        await self._ask("DELETE", f"/v1/migrations/{migration_id}")

    async def change(self, migration_id: str, changes: dict[str, str]) -> Row:
        """Change settings of it, and return how it stands."""
        return await self._ask("PATCH", f"/v1/migrations/{migration_id}", changes)

    async def forget(self, migration_id: str) -> Row:
        """Have a daemon never run a guest that was to run there; UsageError says why not."""
        return await self._ask("DELETE", f"/v1/undecided/{migration_id}")

    async def info(self) -> Row:
        """Who it is."""
        return await self._ask("GET", "/v1/info")

    async def _ask(self, method: str, path: str, body: dict[str, str] | None = None) -> Row:
        connector = aiohttp.UnixConnector(path=str(self.path))
        timeout = aiohttp.ClientTimeout(total=_SECONDS)
        try:
            async with (
                aiohttp.ClientSession(connector=connector, timeout=timeout) as session,
                session.request(method, f"http://localhost{path}", json=body) as response,
            ):
                text = await _read(response.content)
                status = response.status
        except TimeoutError as error:
            raise UnreachableError(
                f"no answer at {self.path} within {_SECONDS:.0f} s", "is it stopped?"
            ) from error
        except (aiohttp.ClientError, OSError) as error:
            if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM):
                raise AccessError(
                    f"not allowed to use {self.path}", "ask as the user who runs it, or root"
                ) from error
            raise UnreachableError(f"nobody answers at {self.path}", "it may just have ended") from error
        return _answer(text, status)


async def _read(content: aiohttp.StreamReader) -> bytes:
    parts: list[bytes] = []
    size = 0
    async for part in content.iter_any():
        size += len(part)
        if size > _MAX_ANSWER:
            raise ProtocolError(f"an answer of the control plane is larger than {_MAX_ANSWER} bytes")
        parts.append(part)
    return b"".join(parts)


def _answer(text: bytes, status: int) -> Row:
    try:
        answer: Any = json.loads(text)
    except ValueError as error:
        raise ProtocolError(f"an answer of the control plane is not JSON (HTTP {status})") from error
    if not isinstance(answer, dict):
        raise ProtocolError(f"an answer of the control plane is no object (HTTP {status})")
    if status >= 400:
        kind = _BY_REASON.get(str(answer.get("reason")), MigratedError)
        raise kind(str(answer.get("what", f"HTTP {status}")), str(answer.get("hint", "")))
    return answer


async def everything() -> list[Found]:
    """The migrations of all processes that this user can reach; one that ends meanwhile is left out."""
    clients = [ControlClient(path) for path in await asyncio.to_thread(sockets.live_sockets)]
    answers = await asyncio.gather(*(client.list() for client in clients), return_exceptions=True)
    found: list[Found] = []
    for answer in answers:
        if isinstance(answer, list):
            found += answer
        elif not isinstance(answer, UnreachableError | AccessError):
            raise answer
    return found


def only(found: list[Found], migration_id: str) -> Found:
    """The one that ``migration_id``, in full or short, means; UsageError if none or several.

    Where both ends of a migration are on this host, it is the source's: there more can be done.
    """
    matches = [each for each in found if each.migration_id == migration_id]
    matches = matches or [
        each for each in found if migration_id and each.migration_id.startswith(migration_id)
    ]
    ids = sorted({each.migration_id for each in matches})
    if not ids:
        known = ", ".join(sorted({each.migration_id[:8] for each in found})) or "none"
        raise UsageError(
            f"no migration {migration_id!r} is known to a process of this host", f"known are: {known}"
        )
    if len(ids) > 1:
        raise UsageError(f"{migration_id!r} could be {', '.join(ids)}", "write more of the id")
    return next((each for each in matches if each.row.get("role") != "destination"), matches[0])
