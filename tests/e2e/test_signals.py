"""Ctrl-C and its like: before the decision the guest goes on here, after it nobody takes it back alone."""

import signal

import pytest
from e2e_host import SLOW, Host

from migrated.protocol import Commit, Digest, Running

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_cancels(host: Host, number: signal.Signals) -> None:
    guest = host.demo()
    daemon = host.serve()
    send = host.send(guest, daemon, *SLOW)
    send.event("round-started", round=1)
    send.signal(number)
    name = "Ctrl-C" if number == signal.SIGINT else number.name
    send.failure(130, "cancelled", f"cancelled by {name}", "the guest goes on here")
    host.goes_on("a", "here")
    host.clean_there()


def test_a_second_one_does_too_at_once(host: Host) -> None:
    guest = host.demo()
    daemon = host.serve()
    send = host.send(guest, daemon, *SLOW)
    send.event("round-started", round=1)
    send.signal(signal.SIGINT)
    send.event("note")
    send.signal(signal.SIGINT)
    assert send.end(10) == 130
    assert "Traceback" not in send.err.text
    host.goes_on("a", "here")
    host.clean_there()


def test_while_the_guest_is_paused(host: Host) -> None:
    guest = host.demo()
    daemon = host.serve()
    relay = host.relay(daemon)
    digest = relay.hold(Digest)
    send = host.send(guest, relay)
    digest.wait()
    send.signal(signal.SIGINT)
    send.failure(130, "cancelled", "the guest goes on here")
    host.goes_on("a", "here", alone=False)
    digest.drop()
    host.goes_on("a", "here")
    host.clean_there()


def test_before_there_is_a_connection(host: Host) -> None:
    guest = host.demo()
    daemon = host.serve()
    relay = host.relay(daemon)
    relay.target = 9
    send = host.send(guest, relay)
    send.failure(8, "connection-lost")
    host.goes_on("a", "here")


def test_after_commit_the_first_asks_on(host: Host) -> None:
    guest = host.demo()
    daemon = host.serve()
    relay = host.relay(daemon)
    running = relay.hold(Running)
    send = host.send(guest, relay)
    running.wait()
    send.signal(signal.SIGINT)
    assert "migrated resolve" in send.event("note")["text"]
    running.release()
    send.report()
    host.goes_on("a", "there")


def test_after_commit_the_second_leaves_it_paused(host: Host) -> None:
    guest = host.demo()
    daemon = host.serve()
    relay = host.relay(daemon)
    commit = relay.hold(Commit)
    send = host.send(guest, relay)
    commit.wait()
    send.signal(signal.SIGINT)
    send.event("note")
    send.signal(signal.SIGINT)
    told = send.failure(20, "outcome-unknown", f"migrated resolve {send.migration_id}")
    assert "the guest stays paused here" in told
    (place,) = [each for each in host.places() if each.side == "here"]
    assert place.seen.stopped
    commit.drop()
    daemon.logged("closed the connection")
    assert "aborted" in host.command("resolve", send.migration_id)
    host.goes_on("a", "here")
    host.clean_there()
