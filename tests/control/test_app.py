"""The HTTP application: answers, errors as JSON, who may ask and who may change."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer, make_mocked_request

from migrated.control.app import MAX_BODY, make_app
from tests.control.conftest import ENDED, FIRST, SECOND, Migrations, metrics

Client = TestClient[web.Request, web.Application]


@pytest.fixture
async def client(migrations: Migrations) -> AsyncIterator[Client]:
    async with TestClient(TestServer(make_app(migrations, metrics))) as made:
        yield made


async def fault(response: Any, status: int, reason: str) -> str:
    assert response.status == status
    assert response.content_type == "application/json"
    body = await response.json()
    assert set(body) == {"reason", "what", "hint", "exit_code"}
    assert body["reason"] == reason
    return f"{body['what']}; {body['hint']}"


async def test_all_migrations_in_strict_json(client: Client) -> None:
    response = await client.get("/v1/migrations")
    assert response.status == 200
    text = await response.text()
    rows = json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))["migrations"]
    assert [row["guest"] for row in rows] == ["one", "two", "three"]
    assert rows[0]["expected_downtime"] is None
    assert response.headers["Cache-Control"] == "no-store"
    assert response.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize("migration_id", [FIRST, "3f2a", "3f2"])
async def test_one_migration_by_a_unique_beginning(client: Client, migration_id: str) -> None:
    response = await client.get(f"/v1/migrations/{migration_id}")
    assert (await response.json())["migration_id"] == FIRST


async def test_no_such_migration(client: Client) -> None:
    assert "'zz'" in await fault(await client.get("/v1/migrations/zz"), 404, "usage")


async def test_a_beginning_of_two(client: Client, migrations: Migrations) -> None:
    text = await fault(await client.delete("/v1/migrations/3f"), 409, "usage")
    assert FIRST[:12] in text
    assert SECOND[:12] in text
    assert migrations.cancelled == []


async def test_cancel(client: Client, migrations: Migrations) -> None:
    response = await client.delete("/v1/migrations/3f7")
    assert response.status == 202
    assert migrations.cancelled == [SECOND]


async def test_a_guest_is_not_forgotten_over_tcp(client: Client, migrations: Migrations) -> None:
    """Every user of this host can reach a port; a guest's memory goes with it."""
    text = await fault(await client.delete(f"/v1/undecided/{FIRST}"), 403, "permission")
    assert "--forget" in text
    assert migrations.forgotten == []


async def test_what_is_decided_is_not_cancelled(client: Client) -> None:
    assert "it is over (completed)" in await fault(
        await client.delete(f"/v1/migrations/{ENDED}"), 409, "usage"
    )


async def test_change(client: Client, migrations: Migrations) -> None:
    response = await client.patch("/v1/migrations/3f2a", json={"level": 3})
    assert (await response.json())["migration_id"] == FIRST
    assert migrations.changed == [(FIRST, "level", "3")]


async def test_a_change_that_is_refused(client: Client) -> None:
    response = await client.patch("/v1/migrations/3f2a", json={"colour": "red"})
    assert "colour" in await fault(response, 400, "usage")


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"{}", b'{"level": null}', b'{"level": true}', b"\xff\xfe", b"[" * 3000]
)
async def test_a_body_that_is_no_change(client: Client, migrations: Migrations, body: bytes) -> None:
    await fault(await client.patch("/v1/migrations/3f2a", data=body), 400, "usage")
    assert migrations.changed == []


async def test_a_body_that_is_too_large(client: Client) -> None:
    body = json.dumps({"level": "3" * MAX_BODY})
    await fault(await client.patch("/v1/migrations/3f2a", data=body), 413, "usage")


async def test_a_body_that_does_not_come(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("migrated.control.app._SECONDS", 0.05)
    never = asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        yield b"{"
        await never.wait()

    response = await client.patch("/v1/migrations/3f2a", data=body())
    await fault(response, 408, "usage")
    never.set()


async def test_paths_and_methods_that_there_are_not(client: Client) -> None:
    await fault(await client.get("/v1/nothing"), 404, "usage")
    response = await client.post("/v1/migrations/3f2a")
    await fault(response, 405, "usage")
    assert "DELETE" in response.headers["Allow"]


async def test_health_follows_the_stop(client: Client, migrations: Migrations) -> None:
    assert (await client.get("/healthz")).status == 200
    migrations.stopping = True
    assert (await client.get("/healthz")).status == 503


async def test_metrics_get_the_accept_header(client: Client) -> None:
    response = await client.get("/metrics", headers={"Accept": "application/openmetrics-text"})
    assert await response.text() == "asked for application/openmetrics-text"
    assert response.headers["Content-Type"].startswith("text/plain; version=")


async def test_what_should_not_happen_is_no_traceback(
    client: Client, migrations: Migrations, caplog: pytest.LogCaptureFixture
) -> None:
    del migrations.rows
    text = await fault(await client.get("/v1/migrations"), 500, "internal")
    assert "AttributeError" not in text
    assert "AttributeError" in caplog.text


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.0.0.1:4441", "[::1]:4441", "10.1.2.3:80", "localhost", "LOCALHOST:1"]
)
async def test_hosts_that_no_stranger_can_name(client: Client, host: str) -> None:
    assert (await client.get("/v1/info", headers={"Host": host})).status == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:4441", "127.0.0.1.evil.example", "", "localhost.evil"]
)
async def test_a_name_that_was_pointed_here(client: Client, host: str) -> None:
    response = await client.get("/v1/info", headers={"Host": host})
    assert response.status in (400, 421)


async def test_own_and_configured_names(migrations: Migrations) -> None:
    async with TestClient(TestServer(make_app(migrations, metrics, names=["db.example"]))) as client:
        for host in ("db.example:1", socket.gethostname()):
            assert (await client.get("/v1/info", headers={"Host": host})).status == 200


class Transport(asyncio.Transport):
    """Says of itself what it was made with."""

    def __init__(self, **extra: Any) -> None:
        super().__init__(extra)

    def is_closing(self) -> bool:
        return False


@pytest.mark.parametrize(
    ("peer", "status"),
    [
        (("127.0.0.1", 1), 202),
        (("127.8.8.8", 1), 202),
        (("::1", 1, 0, 0), 202),
        (("::ffff:127.0.0.1", 1, 0, 0), 202),
        (("192.0.2.7", 1), 403),
        (("::ffff:192.0.2.7", 1, 0, 0), 403),
        (("fe80::1%eth0", 1, 0, 0), 403),
        (None, 403),
    ],
)
async def test_only_this_host_changes_something(migrations: Migrations, peer: object, status: int) -> None:
    request = make_mocked_request(
        "DELETE", f"/v1/migrations/{FIRST}", headers={"Host": "192.0.2.1"}, transport=Transport(peername=peer)
    )
    app = make_app(migrations, metrics)
    app.freeze()
    response = await app._handle(request)
    assert response.status == status
    assert migrations.cancelled == ([FIRST] if status == 202 else [])
