"""Several connections: they all carry pages, and whatever is lost with one of them, nothing of the guest is."""

import urllib.request

import pytest
from e2e_host import Host
from e2e_processes import wait_until
from e2e_scene import NEVER_DONE, Scene

from migrated.protocol import BatchHeader, Digest, Joined

pytestmark = pytest.mark.slow

SLOWLY = ("--codec", "none", "--batch-size", "64KiB", "--bandwidth", "8MB/s")
"""A guest of 16 MiB takes two seconds: time enough for every connection."""


def a_scene(host: Host, *flags: str, size: str = "16MiB", **serve: object) -> Scene:
    return Scene(host, host.demo("a", size), host.serve(**serve), *flags)


def spread_out(host: Host) -> Scene:
    """On its way over three connections, each of which carries pages."""
    scene = a_scene(host, "--streams", "3", *NEVER_DONE, size="8MiB").begin(None, 0)
    scene.send.event("connected", connections=3)
    return scene


@pytest.mark.parametrize(("asked", "taken", "most"), [(4, 4, 8), (4, 2, 2), (1, 1, 8)])
def test_it_moves_over_as_many_as_both_allow(host: Host, asked: int, taken: int, most: int) -> None:
    scene = a_scene(host, "--streams", str(asked), *SLOWLY, max_streams=most).begin(None, 0)
    report = scene.send.report()
    scene.moved()
    assert report["connections"] == taken
    assert scene.relay.connections == taken
    # Together they keep within the limit.
    assert report["total_seconds"] > 0.8 * report["wire_bytes"] / 8e6
    shown = host.command("status", report["migration_id"])
    assert ("connections" in shown) == (taken > 1)


def test_the_client_is_killed(host: Host) -> None:
    scene = spread_out(host)
    host.kill(scene.send)
    scene.stays()


def test_the_daemon_is_killed(host: Host) -> None:
    scene = spread_out(host)
    scene.send.event("started")
    host.kill(scene.daemon)
    scene.send.failure(8, "connection-lost", "connection")
    scene.restart()
    scene.stays()


def test_it_is_cancelled_at_the_destination(host: Host) -> None:
    """What it says over the first connection is the reason, and not that the others end."""
    scene = spread_out(host)
    url = f"http://127.0.0.1:{scene.daemon.control}/v1/migrations/{scene.id}"
    urllib.request.urlopen(urllib.request.Request(url, method="DELETE"), timeout=10).close()
    scene.send.failure(11, "peer-failed", "cancelled at the destination")
    scene.stays()


def test_it_is_cancelled_at_the_source(host: Host) -> None:
    scene = spread_out(host)
    host.command("cancel", scene.id)
    scene.send.failure(130, "cancelled")
    scene.stays()
    scene.daemon.logged("the source cancelled")


def test_they_leave_room_for_questions(host: Host) -> None:
    scene = a_scene(host, "--streams", "4", *NEVER_DONE, size="8MiB", max_migrations=1, max_connections=3)
    scene.begin(None, 0)
    assert "a (demo)" in host.command("capabilities", f"127.0.0.1:{scene.daemon.port}")
    scene.send.event("connected", connections=2)
    wait_until(lambda: "2 of 4 connections are in use" in scene.send.out.text, "a note", 10.0)
    host.command("cancel", scene.id)
    scene.send.failure(130, "cancelled")
    scene.stays()


def test_one_that_is_cut_before_it_joined_is_done_without(host: Host) -> None:
    scene = a_scene(host, "--streams", "3", *SLOWLY).begin(Joined, 1)
    scene.cut(alone=True)
    report = scene.send.report()
    scene.moved()
    assert report["connections"] == 2
    assert "2 of 3 connections are in use" in scene.send.out.text


@pytest.mark.parametrize("nth", [4, 5, 6])
def test_one_that_is_cut_while_it_carries_pages(host: Host, nth: int) -> None:
    """Whichever it is: some of the pages are lost with it."""
    scene = a_scene(host, "--streams", "3", *NEVER_DONE).begin(BatchHeader, nth)
    wait_until(lambda: 'connections": 3' in scene.send.out.text, "all connections", 10.0)
    scene.cut(alone=True)
    scene.send.failure(8, "connection-lost", "connection")
    scene.stays()


def test_all_of_them_are_cut_while_the_guest_is_paused(host: Host) -> None:
    scene = a_scene(host, "--streams", "3", *SLOWLY).begin(Digest, 1)
    scene.cut()
    scene.send.failure(8, "connection-lost", "connection")
    scene.stays()
