"""kill -9 at the source: the guest goes on by itself, or is settled by a person; nothing is left behind."""

import pytest
from e2e_host import Host
from e2e_processes import kill, wait_until
from e2e_scene import at, halted, on_its_way

from migrated.protocol import BatchHeader, Commit, Digest, Ready, RoundDone, Running

pytestmark = pytest.mark.slow


def test_the_client_in_pre_copy(host: Host) -> None:
    scene = on_its_way(host)
    host.kill(scene.send)
    scene.stays()
    assert sorted(path.name.split("-")[0] for path in host.run.iterdir()) == ["send", "serve"]
    host.command("status")
    assert [path.name.split("-")[0] for path in host.run.iterdir()] == ["serve"]


@at(Digest, Ready)
def test_the_client_while_the_guest_is_paused(host: Host, moment: type[Digest | Ready]) -> None:
    scene = halted(host, moment)
    host.kill(scene.send)
    scene.runs_here()
    scene.cut()
    scene.stays()


def test_the_client_after_commit_was_sent_but_did_not_arrive(host: Host) -> None:
    """Nobody but the destination knows, and it never decided: the guest waits, then goes on here."""
    scene = halted(host, Commit)
    host.kill(scene.send)
    scene.waits_here()
    assert host.outcome("here", scene.id) == "committing"
    scene.cut()
    scene.daemon.logged("closed the connection")
    assert "goes on here" in scene.resolve()
    scene.stays()


def test_the_client_after_the_destination_runs_the_guest(host: Host) -> None:
    scene = halted(host, Running)
    host.kill(scene.send)
    scene.waits_here()
    host.goes_on("a", "there", alone=False)
    scene.cut()
    assert "runs guest a" in scene.resolve()
    scene.moved()
    assert "completed" in scene.resolve()


@at(BatchHeader, RoundDone)
def test_a_worker(host: Host, moment: type[BatchHeader | RoundDone]) -> None:
    scene = halted(host, moment)
    kill(host.workers(scene.send)[0].pid)
    scene.go_on()
    scene.send.failure(13, "worker-died", "worker")
    scene.stays()


def test_the_fork_server(host: Host) -> None:
    """Workers outlive their fork server; what matters is that this ends one way or the other."""
    scene = halted(host, BatchHeader)
    kill(host.fork_server(scene.send).pid)
    scene.go_on()
    scene.moved_or_stays(13, "worker-died")


def test_the_holder_in_pre_copy(host: Host) -> None:
    """Another one is started when it is needed."""
    scene = halted(host, BatchHeader)
    kill(host.holder(scene.send).pid)
    scene.go_on()
    scene.moved_or_stays(3, "guest", "killed")


def test_the_holder_while_the_guest_is_paused(host: Host) -> None:
    """The guest ran on meanwhile, so what was sent is worth nothing."""
    scene = halted(host, Digest)
    kill(host.holder(scene.send).pid)
    scene.runs_here()
    scene.go_on()
    scene.send.failure(3, "guest", str(scene.guest.pid), "goes on")
    scene.stays()


def test_a_guest_with_commands_is_resumed_by_its_guardian(host: Host) -> None:
    path, trace = host.here / "db.mem", host.here / "trace"
    path.write_bytes(bytes(1 << 20))
    host.kept |= {path, trace}
    relay = host.relay(host.serve({"db": host.entry("db", "shm")}))
    held = relay.hold(Digest)
    flags = [
        part for what in ("pause", "resume") for part in (f"--{what}", f"sh -c 'echo {what} >> {trace}'")
    ]
    send = host.send(f"shm:{path}", relay, *flags, "--tracker", "hash")
    held.wait()
    assert trace.read_text() == "pause\n"
    host.kill(send)
    wait_until(lambda: trace.read_text() == "pause\nresume\n", "the guardian resumes it")
    held.drop()
    host.clean_there()
