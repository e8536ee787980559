"""kill -9 at the source: the guest goes on by itself, or is settled by a person; nothing is left behind."""

import pytest
from e2e_host import SLOW, Host
from e2e_processes import kill, wait_until

from migrated.protocol import BatchHeader, Commit, Digest, Ready, RoundDone, Running

pytestmark = pytest.mark.slow


def test_the_client_in_pre_copy(host: Host) -> None:
    guest = host.demo()
    daemon = host.serve()
    send = host.send(guest, daemon, *SLOW)
    send.event("round-started", round=1)
    host.kill(send)
    host.goes_on("a", "here")
    host.clean_there()


@pytest.mark.parametrize("moment", [Digest, Ready], ids=lambda moment: str(moment.__name__))
def test_the_client_while_the_guest_is_paused(host: Host, moment: type[Digest | Ready]) -> None:
    guest = host.demo()
    daemon = host.serve()
    relay = host.relay(daemon)
    held = relay.hold(moment)
    send = host.send(guest, relay)
    held.wait()
    host.kill(send)
    host.goes_on("a", "here", alone=False)
    held.drop()
    host.goes_on("a", "here")
    host.clean_there()
    assert host.outcome("there", send.migration_id) == "aborted"


def test_the_client_after_commit_was_sent_but_did_not_arrive(host: Host) -> None:
    """Nobody but the destination knows, and it never decided: the guest waits, then goes on here."""
    guest = host.demo()
    daemon = host.serve()
    relay = host.relay(daemon)
    commit = relay.hold(Commit)
    send = host.send(guest, relay)
    commit.wait()
    host.kill(send)
    assert host.places()[0].seen.stopped
    assert host.outcome("here", send.migration_id) == "committing"
    commit.drop()
    daemon.logged("closed the connection")
    assert "goes on here" in host.command("resolve", send.migration_id)
    host.goes_on("a", "here")
    host.clean_there()


def test_the_client_after_the_destination_runs_the_guest(host: Host) -> None:
    guest = host.demo()
    daemon = host.serve()
    relay = host.relay(daemon)
    running = relay.hold(Running)
    send = host.send(guest, relay)
    running.wait()
    host.kill(send)
    here = next(each for each in host.places() if each.side == "here")
    assert here.seen.stopped
    host.goes_on("a", "there", alone=False)
    running.drop()
    assert "runs guest a" in host.command("resolve", send.migration_id)
    host.goes_on("a", "there")
    assert "completed" in host.command("resolve", send.migration_id)


@pytest.mark.parametrize("moment", [BatchHeader, RoundDone], ids=lambda moment: str(moment.__name__))
def test_a_worker(host: Host, moment: type[BatchHeader | RoundDone]) -> None:
    guest = host.demo()
    daemon = host.serve()
    relay = host.relay(daemon)
    held = relay.hold(moment)
    send = host.send(guest, relay)
    held.wait()
    kill(host.workers(send)[0].pid)
    held.release()
    send.failure(13, "worker-died", "worker")
    host.goes_on("a", "here")
    host.clean_there()


def test_the_fork_server(host: Host) -> None:
    guest = host.demo()
    daemon = host.serve()
    relay = host.relay(daemon)
    held = relay.hold(BatchHeader)
    send = host.send(guest, relay)
    held.wait()
    kill(host.fork_server(send).pid)
    held.release()
    # Workers outlive their fork server; what matters is that this ends one way or the other.
    if send.end() == 0:
        host.goes_on("a", "there")
    else:
        send.failure(13, "worker-died")
        host.goes_on("a", "here")
        host.clean_there()


def test_the_holder_in_pre_copy(host: Host) -> None:
    """Another one is started when it is needed."""
    guest = host.demo()
    daemon = host.serve()
    send = host.send(guest, daemon, *SLOW)
    send.event("round-started", round=1)
    kill(host.holder(send).pid)
    if send.end() == 0:
        host.goes_on("a", "there")
    else:
        send.failure(3, "guest", "killed")
        host.goes_on("a", "here")
        host.clean_there()


def test_the_holder_while_the_guest_is_paused(host: Host) -> None:
    """The guest ran on meanwhile, so what was sent is worth nothing."""
    guest = host.demo()
    daemon = host.serve()
    relay = host.relay(daemon)
    held = relay.hold(Digest)
    send = host.send(guest, relay)
    held.wait()
    kill(host.holder(send).pid)
    host.goes_on("a", "here", alone=False)
    held.release()
    send.failure(3, "guest", str(guest.pid), "goes on")
    host.goes_on("a", "here")
    host.clean_there()


def test_a_guest_with_commands_is_resumed_by_its_guardian(host: Host) -> None:
    path, trace = host.here / "db.mem", host.here / "trace"
    path.write_bytes(bytes(1 << 20))
    host.kept |= {path, trace}
    daemon = host.serve({"db": host.entry("db", "shm")})
    relay = host.relay(daemon)
    held = relay.hold(Digest)
    flags = [part for what in ("pause", "resume") for part in (f"--{what}", f"sh -c 'echo {what} >> {trace}'")]
    send = host.send(f"shm:{path}", relay, *flags, "--tracker", "hash")
    held.wait()
    assert trace.read_text() == "pause\n"
    host.kill(send)
    wait_until(lambda: trace.read_text() == "pause\nresume\n", "the guardian resumes it")
    held.drop()
    host.clean_there()
