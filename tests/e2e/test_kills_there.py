"""kill -9 at the destination: before it decided the guest goes on at the source, afterwards it rolls forward."""

import os
import signal

import pytest
from e2e_host import SLOW, Daemon, Host
from e2e_processes import kill, wait_until
from e2e_relay import Relay

from migrated.protocol import BatchHeader, Commit, Digest, Ready, RoundDone, Running

pytestmark = pytest.mark.slow


def restart(host: Host, relay: Relay) -> Daemon:
    daemon = host.restart()
    relay.target = daemon.port
    return daemon


def test_in_pre_copy(host: Host) -> None:
    guest = host.demo()
    daemon = host.serve()
    send = host.send(guest, daemon, *SLOW)
    send.event("round-finished", round=1)
    host.kill(daemon)
    send.failure(8, "connection-lost")
    host.goes_on("a", "here")
    again = host.restart()
    again.logged("discarded what migration")
    host.clean_there()
    assert host.outcome("there", send.migration_id) == "aborted"
    host.send(guest, again).report()
    host.goes_on("a", "there")


@pytest.mark.parametrize("moment", [Digest, Ready], ids=lambda moment: str(moment.__name__))
def test_while_the_guest_is_paused(host: Host, moment: type[Digest | Ready]) -> None:
    guest = host.demo()
    daemon = host.serve()
    relay = host.relay(daemon)
    held = relay.hold(moment)
    send = host.send(guest, relay)
    held.wait()
    host.kill(daemon)
    held.drop()
    send.failure(8, "connection-lost")
    host.goes_on("a", "here")
    restart(host, relay).logged("discarded what migration")
    host.clean_there()


def test_between_commit_and_its_decision(host: Host) -> None:
    """COMMIT never arrived. The source asks on until the daemon is back, and gets the guest back."""
    guest = host.demo()
    daemon = host.serve()
    relay = host.relay(daemon)
    commit = relay.hold(Commit)
    send = host.send(guest, relay)
    commit.wait()
    host.kill(daemon)
    commit.drop()
    send.event("note")
    assert host.places()[0].seen.stopped
    restart(host, relay)
    send.failure(11, "peer-failed", "the guest goes on here")
    host.goes_on("a", "here")
    host.clean_there()


def test_after_it_runs_the_guest(host: Host) -> None:
    """RUNNING is lost with the daemon: the guest lives on there, and the source is told when it is back."""
    guest = host.demo()
    daemon = host.serve()
    relay = host.relay(daemon)
    running = relay.hold(Running)
    send = host.send(guest, relay)
    running.wait()
    host.kill(daemon)
    running.drop()
    send.event("note")
    host.goes_on("a", "there", alone=False)
    restart(host, relay)
    send.report()
    host.goes_on("a", "there")


def test_after_it_decided_and_before_the_guest_started(host: Host) -> None:
    """The start takes long, since the process that stands by is stopped; RUN is on disk: it rolls forward."""
    guest = host.demo()
    daemon = host.serve()
    relay = host.relay(daemon)
    commit = relay.hold(Commit)
    send = host.send(guest, relay)
    commit.wait()
    standby = next(each for each in host.places() if each.side == "there")
    os.kill(standby.seen.pid, signal.SIGSTOP)
    commit.release()
    daemon.logged("commit")
    wait_until(lambda: host.outcome("there", send.migration_id) == "run", "RUN is durable")
    host.kill(daemon)
    kill(standby.seen.pid)
    send.event("note")
    again = restart(host, relay)
    again.logged("runs here: finished migration")
    send.report()
    host.goes_on("a", "there")


def test_the_source_has_left_and_a_person_settles_it(host: Host) -> None:
    guest = host.demo()
    daemon = host.serve()
    relay = host.relay(daemon)
    running = relay.hold(Running)
    send = host.send(guest, relay)
    running.wait()
    host.kill(daemon)
    running.drop()
    send.event("note")
    send.signal(signal.SIGINT)
    send.out.wait("Ctrl-C")
    send.signal(signal.SIGINT)
    told = send.failure(20, "outcome-unknown")
    assert f"migrated resolve {send.migration_id}" in told
    asked = host.command("resolve", send.migration_id, "--tries", "1", code=8)
    assert "lost" in asked or "closed" in asked
    restart(host, relay)
    assert "runs guest a" in host.command("resolve", send.migration_id)
    host.goes_on("a", "there")


def test_a_person_says_that_the_destination_is_gone_for_good(host: Host) -> None:
    guest = host.demo()
    daemon = host.serve()
    relay = host.relay(daemon)
    commit = relay.hold(Commit)
    send = host.send(guest, relay)
    commit.wait()
    host.kill(daemon)
    commit.drop()
    relay.refusing = True
    send.event("note")
    host.kill(send)
    host.command("resolve", send.migration_id, "--resume-here", code=2)
    assert host.places()[0].seen.stopped
    host.command("resolve", send.migration_id, "--resume-here", "--fenced")
    host.goes_on("a", "here")
    restart(host, relay)
    host.clean_there()


@pytest.mark.parametrize("moment", [BatchHeader, RoundDone], ids=lambda moment: str(moment.__name__))
def test_a_worker(host: Host, moment: type[BatchHeader | RoundDone]) -> None:
    guest = host.demo()
    daemon = host.serve()
    relay = host.relay(daemon)
    held = relay.hold(moment)
    send = host.send(guest, relay)
    held.wait()
    kill(host.workers(daemon)[0].pid)
    held.release()
    send.failure(11, "peer-failed", "worker")
    host.goes_on("a", "here")
    host.clean_there()
    if moment is BatchHeader:
        host.send(guest, daemon).report()
        host.goes_on("a", "there")


def test_the_fork_server(host: Host) -> None:
    """The next migration gets another one."""
    guest = host.demo()
    daemon = host.serve()
    kill(host.fork_server(daemon).pid)
    host.send(guest, daemon).report()
    host.goes_on("a", "there")


def test_the_process_that_stands_by_before_ready(host: Host) -> None:
    """Whether it was loaded already or not decides who ends well; either is one place and nothing left."""
    guest = host.demo()
    daemon = host.serve()
    relay = host.relay(daemon)
    held = relay.hold(Digest)
    send = host.send(guest, relay)
    held.wait()
    kill(next(each.seen.pid for each in host.places() if each.side == "there"))
    held.release()
    if send.end() == 0:
        host.goes_on("a", "there")
    else:
        send.failure(11, "peer-failed", "demo guest's process ended")
        host.goes_on("a", "here")
        host.clean_there()


def test_the_process_that_stands_by_after_ready(host: Host) -> None:
    """Another one is started, which takes longer."""
    guest = host.demo()
    daemon = host.serve()
    relay = host.relay(daemon)
    held = relay.hold(Commit)
    send = host.send(guest, relay)
    held.wait()
    kill(next(each.seen.pid for each in host.places() if each.side == "there"))
    held.release()
    send.report()
    host.goes_on("a", "there")


@pytest.mark.parametrize("moment", [BatchHeader, Digest, Ready, Commit, Running], ids=lambda kind: str(kind.__name__))
def test_the_connection_is_cut(host: Host, moment: type[BatchHeader]) -> None:
    guest = host.demo()
    daemon = host.serve()
    relay = host.relay(daemon)
    held = relay.hold(moment, 2 if moment is BatchHeader else 1)
    send = host.send(guest, relay)
    held.wait()
    held.drop()
    if moment is Running:
        send.report()
        host.goes_on("a", "there")
        return
    if moment is Commit:
        send.failure(11, "peer-failed", "the guest goes on here")
    else:
        send.failure(8, "connection-lost")
    host.goes_on("a", "here")
    host.clean_there()
