"""What a person does with a migration while it runs."""

import signal
import urllib.request

import pytest
from e2e_host import Host
from e2e_scene import Scene, halted, on_its_way

from migrated.protocol import BatchHeader

pytestmark = pytest.mark.slow


def test_settings_change_in_the_middle(host: Host) -> None:
    """That it ends soon shows that the new bandwidth is in force: at the old one it takes a minute."""
    scene = on_its_way(host)
    known = scene.id
    assert "pre-copy" in host.command("status", known)
    host.command("set", known[:8], "codec", "lz4")
    host.command("set", known[:8], "level", "5")
    host.command("set", known[:8], "downtime", "2s")
    refused = host.command("set", known[:8], "codec", "nosuch", code=2)
    assert "lz4" in refused
    host.command("set", known[:8], "bandwidth", "unlimited")
    report = scene.send.report()
    assert (report["codec"], report["level"]) == ("lz4", 5)
    scene.moved()


def test_a_person_cancels_at_the_source(host: Host) -> None:
    scene = on_its_way(host)
    host.command("cancel", scene.id[:8])
    scene.send.failure(130, "cancelled", "the guest goes on here")
    scene.daemon.logged("the source cancelled")
    scene.stays()
    assert "cancelled" in host.command("status", scene.id)
    assert "no migration" in host.command("cancel", "0123abcd", code=2)


def test_a_person_cancels_at_the_destination(host: Host) -> None:
    scene = on_its_way(host)
    url = f"http://127.0.0.1:{scene.daemon.control}/v1/migrations/{scene.id}"
    urllib.request.urlopen(urllib.request.Request(url, method="DELETE"), timeout=10).close()
    scene.send.failure(11, "peer-failed", "cancelled at the destination")
    scene.stays()
    host.send(scene.guest, scene.daemon).report()
    scene.moved()


def test_a_daemon_that_stops_lets_a_migration_finish(host: Host) -> None:
    other = host.demo("b")
    scene = halted(host, BatchHeader)
    scene.daemon.signal(signal.SIGTERM)
    scene.daemon.logged("stopping, nothing new is taken")
    host.send(other, scene.daemon).failure(10, "refused", "this destination is stopping")
    scene.go_on()
    scene.send.report()
    assert scene.daemon.end() == 0
    scene.moved()
    host.goes_on("b", "here")


def given_up(scene: Scene) -> None:
    """By a daemon that was told to stop."""
    scene.send.failure(11, "peer-failed")
    assert scene.daemon.end() == 0
    scene.stays()


def test_a_daemon_that_is_told_twice_gives_up_what_is_not_decided(host: Host) -> None:
    scene = on_its_way(host)
    scene.daemon.signal(signal.SIGTERM)
    scene.daemon.logged("a second signal cancels")
    scene.daemon.signal(signal.SIGTERM)
    given_up(scene)


def test_a_daemon_without_patience_gives_up_by_itself(host: Host) -> None:
    scene = on_its_way(host, drain_timeout="200ms")
    scene.daemon.signal(signal.SIGTERM)
    given_up(scene)
