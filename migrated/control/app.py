"""The HTTP application: JSON over a :class:`~migrated.control.directory.Directory`, and /metrics."""

import asyncio
import ipaddress
import json
import logging
import socket
from collections.abc import Callable, Collection
from json import JSONDecodeError

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler, Middleware

from migrated.control.directory import Directory, Row, matching
from migrated.engine.events import State
from migrated.errors import AccessError, MigratedError, UsageError
from migrated.telemetry.plain import as_json

__all__ = ["MAX_BODY", "Metrics", "make_app"]

Metrics = Callable[[str], tuple[bytes, str]]
"""Takes a scrape's Accept header and gives the answer and its content type; may be called from any thread."""

MAX_BODY = 4096
"""Bytes of a request's body: a PATCH has four short settings."""

_SECONDS = 10.0
"""What one request may take, its body included."""

_MAX_CHANGES = 8
_READING = frozenset({hdrs.METH_GET, hdrs.METH_HEAD})

_log = logging.getLogger(__name__)


class _Answer(Exception):  # noqa: N818  a way out of a handler, not a fault of ours
    """An error with the HTTP status that fits it."""

    def __init__(self, status: int, error: MigratedError) -> None:
        super().__init__(status, error)
        self.status = status
        self.error = error


def make_app(directory: Directory, metrics: Metrics, *, names: Collection[str] = ()) -> web.Application:
    """The application. ``names``: what the Host header may also be called on TCP, beside IP addresses."""
    known = frozenset(name.lower() for name in (*names, "localhost", socket.gethostname()))
    app = web.Application(client_max_size=MAX_BODY, middlewares=[_errors, _guard(known)])
    api = _Api(directory, metrics)
    app.router.add_get("/v1/migrations", api.list)
    app.router.add_get("/v1/migrations/{id}", api.get)
    app.router.add_delete("/v1/migrations/{id}", api.cancel)
    app.router.add_patch("/v1/migrations/{id}", api.change)
    app.router.add_delete("/v1/undecided/{id}", api.forget)
    app.router.add_get("/v1/info", api.info)
    app.router.add_get("/metrics", api.metrics)
    app.router.add_get("/healthz", api.health)
    app.on_response_prepare.append(_headers)
    return app


async def _headers(request: web.Request, response: web.StreamResponse) -> None:  # noqa: ARG001
    response.headers[hdrs.CACHE_CONTROL] = "no-store"
    response.headers["X-Content-Type-Options"] = "nosniff"


def _json(body: object, status: int = 200) -> web.Response:
    return web.Response(text=as_json(body) + "\n", status=status, content_type="application/json")


def _fault(status: int, error: MigratedError) -> web.Response:
    body = {"reason": error.reason, "what": error.what, "hint": error.hint, "exit_code": error.exit_code}
    return _json(body, status)


@web.middleware
async def _errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Whatever goes wrong is JSON, in time, and no traceback."""
    try:
        async with asyncio.timeout(_SECONDS):
            return await handler(request)
    except _Answer as error:
        return _fault(error.status, error.error)
    except web.HTTPRequestEntityTooLarge:
        return _fault(413, UsageError(f"the request's body is larger than {MAX_BODY} bytes"))
    except web.HTTPException as error:
        answer = _fault(error.status, UsageError(f"{request.method} {request.path[:80]}: {error.reason}"))
        if hdrs.ALLOW in error.headers:
            answer.headers[hdrs.ALLOW] = error.headers[hdrs.ALLOW]
        return answer
    except TimeoutError:
        return _fault(408, UsageError(f"the request took longer than {_SECONDS:.0f} s"))
    except UsageError as error:
        return _fault(400, error)
    except MigratedError as error:
        return _fault(500, error)
    except Exception:
        _log.exception("%s %s", request.method, request.path)
        return _fault(
            500, MigratedError("something that should not happen", "see the log, and please report it")
        )


def _guard(names: frozenset[str]) -> Middleware:
    """Who may ask, and who may change; see the package's docstring."""

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        peer = _tcp_peer(request)
        if peer is not None and not _known(request.host, names):
            error = AccessError(
                f"this is not {request.host[:80]!r}", "use the host's IP address, its own name or localhost"
            )
            raise _Answer(421, error)
        if peer is not None and request.method not in _READING and not peer.is_loopback:
            error = AccessError(
                "changes are taken from this host only", "run `migrated cancel` or `set` there"
            )
            raise _Answer(403, error)
        return await handler(request)

    return guard


def _known(host: str, names: frozenset[str]) -> bool:
    name = host if host.endswith("]") else host.rsplit(":", 1)[0]
    return _ip(name.strip("[]")) is not None or name.lower() in names


def _ip(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        found = ipaddress.ip_address(text)
    except ValueError:
        return None
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return mapped or found


def _tcp_peer(request: web.Request) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The peer's address; None on a Unix socket. A connection of unknown kind counts as a stranger's."""
    transport = request.transport
    sock = transport.get_extra_info("socket") if transport is not None else None
    if sock is not None and sock.family == socket.AF_UNIX:
        return None
    peer = transport.get_extra_info("peername") if transport is not None else None
    address = _ip(str(peer[0]).partition("%")[0]) if isinstance(peer, tuple) and peer else None
    return address or ipaddress.IPv4Address("0.0.0.0")  # noqa: S104  nobody's address


class _Api:
    def __init__(self, directory: Directory, metrics: Metrics) -> None:
        self._directory = directory
        self._metrics = metrics

    def _find(self, request: web.Request) -> Row:
        wanted = request.match_info["id"]
        found = matching(self._directory.list(), wanted)
        if not found:
            raise _Answer(404, UsageError(f"no migration {wanted[:40]!r} here", "see `migrated status`"))
        if len(found) > 1:
            ids = ", ".join(row["migration_id"][:12] for row in found[:5])
            raise _Answer(409, UsageError(f"{wanted[:40]!r} could be {ids}", "write more of the id"))
        return found[0]

    async def list(self, request: web.Request) -> web.Response:  # noqa: ARG002
        return _json({"migrations": self._directory.list()})

    async def get(self, request: web.Request) -> web.Response:
        return _json(self._find(request))

    async def cancel(self, request: web.Request) -> web.Response:
        row = self._find(request)
        migration_id, state = row["migration_id"], State(row["state"])
        if not self._directory.cancel(migration_id):
            why = f"it is over ({state})" if state.final else "it is decided"
            raise _Answer(
                409,
                UsageError(
                    f"migration {migration_id[:8]} can't be cancelled any more: {why}",
                    f"see `migrated status {migration_id[:8]}`",
                ),
            )
        return _json({"migration_id": migration_id, "cancelled": True}, 202)

    async def change(self, request: web.Request) -> web.Response:
        migration_id = self._find(request)["migration_id"]
        changes = await _changes(request)
        for key, value in changes.items():
            self._directory.change(migration_id, key, value)
        return _json(matching(self._directory.list(), migration_id)[0])

    async def forget(self, request: web.Request) -> web.Response:
        if _tcp_peer(request) is not None:  # every user of this host can reach a TCP port
            error = AccessError(
                "a guest is forgotten over the Unix socket only", "run `migrated resolve ID --forget` here"
            )
            raise _Answer(403, error)
        return _json(await self._directory.forget(request.match_info["id"]))

    async def info(self, request: web.Request) -> web.Response:  # noqa: ARG002
        return _json(self._directory.info())

    async def metrics(self, request: web.Request) -> web.Response:
        body, content_type = self._metrics(request.headers.get(hdrs.ACCEPT, ""))
        return web.Response(body=body, headers={hdrs.CONTENT_TYPE: content_type})

    async def health(self, request: web.Request) -> web.Response:  # noqa: ARG002
        stopping = bool(self._directory.info()["stopping"])
        return _json({"status": "stopping" if stopping else "ok"}, 503 if stopping else 200)


async def _changes(request: web.Request) -> dict[str, str]:
    try:
        body = json.loads(await request.text())
    except (JSONDecodeError, UnicodeDecodeError, LookupError, RecursionError) as error:
        raise UsageError("the body is not JSON", 'send an object, as in {"bandwidth": "1gbit"}') from error
    if not isinstance(body, dict) or not 0 < len(body) <= _MAX_CHANGES:
        raise UsageError("the body is no object of settings", 'send an object, as in {"bandwidth": "1gbit"}')
    if any(isinstance(value, bool) or not isinstance(value, str | int | float) for value in body.values()):
        raise UsageError("a setting is text or a number", 'as in {"bandwidth": "1gbit"}')
    return {key: str(value) for key, value in body.items()}
