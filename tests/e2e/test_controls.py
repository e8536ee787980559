"""What a person does with a migration while it runs."""

import json
import urllib.request

import pytest
from e2e_host import SLOW, Host

pytestmark = pytest.mark.slow


def test_settings_change_in_the_middle(host: Host) -> None:
    guest = host.demo()
    daemon = host.serve()
    send = host.send(guest, daemon, "--bandwidth", "300KB/s")
    send.event("round-started", round=1)
    known = send.migration_id
    shown = host.command("status", known)
    assert "pre-copy" in shown
    rows = json.loads(host.command("status", "--json").splitlines()[0])
    assert known in json.dumps(rows)
    host.command("set", known[:8], "codec", "lz4")
    host.command("set", known[:8], "level", "5")
    host.command("set", known[:8], "downtime", "2s")
    refused = host.command("set", known[:8], "codec", "nosuch", code=2)
    assert "lz4" in refused
    host.command("set", known[:8], "bandwidth", "unlimited")
    report = send.report()
    assert (report["codec"], report["level"]) == ("lz4", 5)
    assert report["total_seconds"] < 10
    host.goes_on("a", "there")
    assert known[:8] in host.command("status")


def test_a_person_cancels_at_the_source(host: Host) -> None:
    guest = host.demo()
    daemon = host.serve()
    send = host.send(guest, daemon, *SLOW)
    send.event("round-started", round=1)
    host.command("cancel", send.migration_id[:8])
    send.failure(130, "cancelled", "the guest goes on here")
    daemon.logged("the source cancelled")
    host.goes_on("a", "here")
    host.clean_there()
    assert host.outcome("there", send.migration_id) == "aborted"
    assert "no migration" in host.command("cancel", "0123abcd", code=2)


def test_a_person_cancels_at_the_destination(host: Host) -> None:
    guest = host.demo()
    daemon = host.serve()
    send = host.send(guest, daemon, *SLOW)
    send.event("round-started", round=1)
    url = f"http://127.0.0.1:{daemon.control}/v1/migrations/{send.migration_id}"
    urllib.request.urlopen(urllib.request.Request(url, method="DELETE"), timeout=10).close()
    send.failure(11, "peer-failed", "cancelled at the destination")
    host.goes_on("a", "here")
    host.clean_there()
    host.send(guest, daemon).report()
    host.goes_on("a", "there")


def test_a_daemon_that_stops_lets_a_migration_finish(host: Host) -> None:
    guest, other = host.demo("a"), host.demo("b")
    daemon = host.serve({name: host.entry(name) for name in "ab"})
    send = host.send(guest, daemon, *SLOW)
    send.event("round-started", round=1)
    daemon.signal(15)
    daemon.logged("stopping, nothing new is taken")
    host.send(other, daemon).failure(10, "refused", "this destination is stopping")
    send.report()
    assert daemon.end() == 0
    host.goes_on("a", "there")
    host.goes_on("b", "here")


def test_a_daemon_that_is_told_twice_gives_up_what_is_not_decided(host: Host) -> None:
    guest = host.demo()
    daemon = host.serve()
    send = host.send(guest, daemon, "--codec", "none", "--bandwidth", "300KB/s")
    send.event("round-started", round=1)
    daemon.signal(15)
    daemon.logged("a second signal cancels")
    daemon.signal(15)
    send.failure(11, "peer-failed")
    assert daemon.end() == 0
    host.goes_on("a", "here")
    host.clean_there()
    assert host.outcome("there", send.migration_id) == "aborted"


def test_a_daemon_without_patience_gives_up_by_itself(host: Host) -> None:
    guest = host.demo()
    daemon = host.serve(drain_timeout="200ms")
    send = host.send(guest, daemon, "--codec", "none", "--bandwidth", "300KB/s")
    send.event("round-started", round=1)
    daemon.signal(15)
    send.failure(11, "peer-failed")
    assert daemon.end() == 0
    host.goes_on("a", "here")
    host.clean_there()
