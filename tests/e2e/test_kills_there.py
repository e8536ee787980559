"""kill -9 at the destination: before it decided the guest goes on at the source, afterwards it rolls forward."""

import os
import signal

import pytest
from e2e_host import Host
from e2e_processes import kill, wait_until
from e2e_scene import at, halted

from migrated.protocol import BatchHeader, Commit, Digest, Ready, RoundDone, Running

pytestmark = pytest.mark.slow


def test_in_pre_copy(host: Host) -> None:
    """A whole round is in place there. The next daemon discards it, and takes the guest when it comes again."""
    scene = halted(host, RoundDone)
    scene.lose_daemon()
    scene.send.failure(8, "connection-lost")
    host.goes_on("a", "here")
    scene.restart().logged("discarded what migration")
    scene.stays()
    host.send(scene.guest, scene.daemon).report()
    scene.moved()


@at(Digest, Ready)
def test_while_the_guest_is_paused(host: Host, moment: type[Digest | Ready]) -> None:
    scene = halted(host, moment)
    scene.lose_daemon()
    scene.send.failure(8, "connection-lost")
    host.goes_on("a", "here")
    scene.restart().logged("discarded what migration")
    scene.stays()


def test_between_commit_and_its_decision(host: Host) -> None:
    """COMMIT never arrived. The source asks on until the daemon is back, and gets the guest back."""
    scene = halted(host, Commit)
    scene.lose_daemon()
    scene.send.event("note")
    scene.waits_here()
    scene.restart()
    scene.send.failure(11, "peer-failed", "the guest goes on here")
    scene.stays()


def test_after_it_runs_the_guest(host: Host) -> None:
    """RUNNING is lost with the daemon: the guest lives on there, and the source is told when it is back."""
    scene = halted(host, Running)
    scene.lose_daemon()
    scene.send.event("note")
    host.goes_on("a", "there", alone=False)
    scene.restart()
    scene.send.report()
    scene.moved()


def test_after_it_decided_and_before_the_guest_started(host: Host) -> None:
    """The start takes long, since the process that stands by is stopped; RUN is on disk: it rolls forward."""
    scene = halted(host, Commit)
    standby = scene.standby
    os.kill(standby.pid, signal.SIGSTOP)
    scene.go_on()
    wait_until(lambda: host.outcome("there", scene.id) == "run", "RUN is durable")
    host.kill(scene.daemon)
    kill(standby.pid)
    scene.send.event("note")
    scene.restart().logged("runs here: finished migration")
    scene.send.report()
    scene.moved()


def test_the_source_has_left_and_a_person_settles_it(host: Host) -> None:
    scene = halted(host, Running)
    scene.lose_daemon()
    scene.send.event("note")
    scene.send.signal(signal.SIGINT)
    scene.send.out.wait("Ctrl-C")
    scene.send.signal(signal.SIGINT)
    scene.send.failure(20, "outcome-unknown", f"migrated resolve {scene.id}")
    asked = scene.resolve("--tries", "1", code=20)
    assert "lost" in asked or "closed" in asked
    scene.restart()
    assert "runs guest a" in scene.resolve()
    scene.moved()


def test_a_person_says_that_the_destination_is_gone_for_good(host: Host) -> None:
    scene = halted(host, Commit)
    scene.lose_daemon()
    scene.relay.refusing = True
    scene.send.event("note")
    host.kill(scene.send)
    scene.resolve("--resume-here", code=2)
    scene.waits_here()
    scene.resolve("--resume-here", "--fenced")
    host.goes_on("a", "here")
    scene.restart()
    scene.stays()


@at(BatchHeader, RoundDone)
def test_a_worker(host: Host, moment: type[BatchHeader | RoundDone]) -> None:
    """The next migration gets others."""
    scene = halted(host, moment)
    kill(host.workers(scene.daemon)[0].pid)
    scene.go_on()
    scene.send.failure(11, "peer-failed", "worker")
    scene.stays()
    if moment is BatchHeader:
        host.send(scene.guest, scene.daemon).report()
        scene.moved()


def test_the_fork_server(host: Host) -> None:
    """The next migration gets another one."""
    guest = host.demo()
    daemon = host.serve()
    kill(host.fork_server(daemon).pid)
    host.send(guest, daemon).report()
    host.goes_on("a", "there")


def test_the_process_that_stands_by_before_ready(host: Host) -> None:
    scene = halted(host, Digest)
    kill(scene.standby.pid)
    scene.go_on()
    scene.send.failure(11, "peer-failed", "the demo guest's process")
    scene.stays()


def test_the_process_that_stands_by_after_ready(host: Host) -> None:
    """Another one is started, which takes longer."""
    scene = halted(host, Commit)
    kill(scene.standby.pid)
    scene.go_on()
    scene.send.report()
    scene.moved()


@at(BatchHeader, Digest, Ready, Commit)
def test_the_connection_is_cut(host: Host, moment: type[BatchHeader]) -> None:
    """COMMIT is asked for again, and refused: the destination never got it."""
    scene = halted(host, moment, 2 if moment is BatchHeader else 1)
    # COMMIT may also be asked for before the connection is known to be lost there, and is followed then.
    scene.relay.refusing = moment is Commit
    scene.cut()
    if moment is Commit:
        scene.written_off()
        scene.relay.refusing = False
        scene.send.failure(11, "peer-failed", "the guest goes on here")
    else:
        scene.send.failure(8, "connection-lost")
    scene.stays()


def test_the_connection_is_cut_after_the_guest_was_started(host: Host) -> None:
    scene = halted(host, Running)
    scene.cut()
    scene.send.report()
    scene.moved()
