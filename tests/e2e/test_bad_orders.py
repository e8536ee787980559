"""Orders that cannot be carried out: one line that says what and what to do, the exit code, and nothing left."""

import contextlib
import os
import resource
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from e2e_host import Host, a_host
from e2e_processes import kill, wait_until
from e2e_scene import Scene, halted, on_its_way

from migrated.protocol import BatchHeader, Digest
from migrated.protocol.frames import FRAME, PREAMBLE

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def _bystander() -> Iterator[Host]:
    with a_host() as host:
        host.demo("a", "1MiB")
        host.started()
        yield host


@pytest.fixture
def bystander(_bystander: Host) -> Iterator[Host]:
    """A host on which nothing but guest ``a`` runs, which nobody takes: after each test it is as it was."""
    host = _bystander
    yield host
    host.goes_on("a", "here")
    wait_until(lambda: len(host.processes()) == 1, "no process but the guest")
    assert list(host.run.iterdir()) == []


def test_nobody_listens(bystander: Host) -> None:
    guest = bystander.guests["a"]
    bystander.send(guest, "127.0.0.1:9").failure(7, "unreachable", "127.0.0.1:9", "migrated serve")


def test_nobody_answers(bystander: Host) -> None:
    """A host that drops packets: here, one whose queue is full already."""
    with contextlib.ExitStack() as sockets:
        deaf = sockets.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(3):
            full = sockets.enter_context(socket.socket())
            full.setblocking(False)
            full.connect_ex(deaf.getsockname())
        send = bystander.send(
            bystander.guests["a"],
            f"127.0.0.1:{deaf.getsockname()[1]}",
            env={"MIGRATED_SEND__CONNECT_TIMEOUT": "500ms"},
        )
        send.failure(7, "unreachable", "no answer")


def _http(connection: socket.socket) -> None:
    connection.recv(8)
    connection.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")


def _noise(connection: socket.socket) -> None:
    connection.sendall(os.urandom(4096))


def _closes(connection: socket.socket) -> None:
    connection.shutdown(socket.SHUT_RDWR)


def _silent(connection: socket.socket) -> None:
    pass


def _greets_and_closes(connection: socket.socket) -> None:
    connection.sendall(PREAMBLE)
    connection.recv(1000)
    connection.shutdown(socket.SHUT_RDWR)


def _huge_frame(connection: socket.socket) -> None:
    connection.sendall(PREAMBLE + FRAME.pack(34, 0, 0, 0xFFFFFFF0))
    connection.recv(1000)


def _newer_wire_format(connection: socket.socket) -> None:
    connection.sendall(b"MIGRATE\x09")
    connection.recv(1000)


def _a_batch(connection: socket.socket) -> None:
    connection.sendall(PREAMBLE + FRAME.pack(3, 0, 0, 5000) + bytes(5000))
    connection.recv(1000)


@pytest.mark.parametrize(
    ("talk", "code", "reason"),
    [
        (_http, 9, "protocol"),
        (_noise, 9, "protocol"),
        (_huge_frame, 9, "protocol"),
        (_newer_wire_format, 9, "protocol"),
        (_a_batch, 9, "protocol"),
        (_closes, 8, "connection-lost"),
        (_greets_and_closes, 8, "connection-lost"),
        (_silent, 8, "connection-lost"),
    ],
)
def test_no_destination_but_something_else(
    bystander: Host, talk: Callable[[socket.socket], Any], code: int, reason: str
) -> None:
    impostor = bystander.impostor(talk)
    send = bystander.send(bystander.guests["a"], impostor, env={"MIGRATED_SEND__IDLE_TIMEOUT": "1s"})
    send.failure(code, reason)
    if talk is _http:
        asked = bystander.command("capabilities", f"127.0.0.1:{impostor.port}", code=9)
        assert "migrated: error" in asked


def test_refusals(host: Host) -> None:
    """What else may be refused, and for what reason, is tried in test_bad_sources."""
    guest = host.demo()
    guests = {
        "a": host.entry("a"),
        "nowhere": host.entry("nowhere") | {"path": f"{host.there}/no/folder/a.mem"},
        "taken": host.entry("taken"),
    }
    foreign = host.there / "taken.mem"
    foreign.write_text("somebody's letters")
    daemon = host.serve(guests, codecs=["lz4", "zlib"])
    host.send(guest, daemon, "--name", "unknown").failure(10, "refused", "'unknown'", "guests.unknown")
    host.send(guest, daemon, "--name", "nowhere").failure(10, "refused", "no/folder")
    host.send(guest, daemon, "--name", "taken").failure(10, "refused", "left alone")
    host.send(guest, daemon, "--codec", "zstd").failure(10, "refused", "zstd", "lz4")
    assert foreign.read_text() == "somebody's letters"
    foreign.unlink()
    host.goes_on("a", "here")
    host.clean_there()
    report = host.send(guest, daemon, "--codec", "zstd", "--level", "0").report()
    assert report["codec"] == "raw"
    host.goes_on("a", "there")


def test_a_guest_that_is_under_way_already(host: Host) -> None:
    guest = host.demo()
    daemon = host.serve({"a": host.entry("a"), "b": host.entry("b")}, max_migrations=1)
    relay = host.relay(daemon)
    batch = relay.hold(BatchHeader)
    first = host.send(guest, relay)
    batch.wait()
    second = host.demo("b", "1MiB")
    host.started()
    host.send(second, daemon, "--name", "a").failure(10, "refused", "being received already")
    host.send(second, daemon).failure(10, "refused", "max_migrations")
    batch.release()
    first.report()
    host.goes_on("a", "there")
    host.goes_on("b", "here")


def test_a_guest_that_is_sent_twice_moves_once(host: Host) -> None:
    guest = host.demo()
    daemon = host.serve({"a": host.entry("a"), "b": host.entry("b")})
    relay = host.relay(daemon)
    digest = relay.hold(Digest)
    first = host.send(guest, relay)
    digest.wait()
    host.send(guest, daemon, "--name", "b").failure(5, "permission", f"process {guest.pid}")
    digest.release()
    first.report()
    host.goes_on("a", "there")


def test_a_guest_that_runs_there_already(host: Host) -> None:
    guest = host.demo()
    daemon = host.serve({"a": host.entry("a") | {"path": str(host.here / "a.mem")}})
    host.send(guest, daemon).failure(10, "refused", "in use")
    host.goes_on("a", "here")


def test_ports_that_are_taken(host: Host) -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy:
        taken = f"127.0.0.1:{busy.getsockname()[1]}"
        for flag in ("--listen", "--control"):
            daemon = host.serve(flags=(flag, taken), wait=False)
            assert daemon.end() == 6, daemon.shown()
            assert taken in daemon.err.text
            assert flag in daemon.err.text
            assert "Traceback" not in daemon.err.text


AS_NOBODY = """
import ctypes, os, shutil, sys
import migrated.cli.main, migrated.cli.sending, migrated.cli.history, migrated.control.server, uvloop
import migrated.guests.demo.source, migrated.guests.process, migrated.guests.shm, encodings.idna
# Everything is imported: the user may not be able to read our interpreter's own directories.
os.setgroups([]); os.setgid(65534); os.setuid(65534)
ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # PR_SET_DUMPABLE, lost by setuid
sys.executable = shutil.which("python3", path="/usr/bin:/bin")
sys.exit(migrated.cli.main.main(sys.argv[1:]))
"""


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become another user")
def test_somebody_elses_guest(host: Host) -> None:
    """The guest's user is root, the person is nobody."""
    if shutil.which("python3", path="/usr/bin:/bin") is None:
        pytest.skip("no interpreter that every user can run")
    guest = host.demo()
    daemon = host.serve()
    for folder in (host.root, host.here):
        folder.chmod(0o711)
    (host.root / "here.toml").chmod(0o644)
    run = host.root / "run-nobody"
    run.mkdir()
    os.chown(run, 65534, 65534)
    mine = {"RUNTIME_DIRECTORY": str(run), "MIGRATED_HOST__STATE_DIR": str(run / "state")}
    as_nobody: dict[str, Any] = {"program": ("-c", AS_NOBODY), "env": mine}
    told = host.send(guest, daemon, **as_nobody).failure(5, "permission")
    assert str(guest.path) in told
    guest.path.chmod(0o666)
    told = host.send(guest, daemon, **as_nobody).failure(5, "permission")
    assert f"process {guest.pid}" in told
    host.send(f"pid:{guest.pid}", daemon, **as_nobody).failure(5, "permission", f"process {guest.pid}")
    host.goes_on("a", "here")


@pytest.fixture
def small(host: Host) -> Any:
    """A file system of 24 MiB."""
    folder = host.root / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", folder], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip(f"kernel: cannot mount a file system: {mounted.stderr.decode()}")
    yield folder
    for daemon in host.daemons:
        host.kill(daemon)
    for each in host.processes():
        if str(folder) in each.command:
            kill(each.pid)
    wait_until(
        lambda: subprocess.run(["umount", folder], check=False, capture_output=True).returncode == 0,
        "unmounted",
    )


@pytest.mark.root
def test_no_room_at_first_and_in_the_middle(host: Host, small: Path) -> None:
    guest = host.demo("a", "16MiB", "--mix", "random=100")
    daemon = host.serve({"a": host.entry("a") | {"path": str(small / "a.mem")}})
    filler = small / "filler"
    filler.write_bytes(bytes(12 << 20))
    host.send(guest, daemon).failure(10, "refused", "16 MiB", str(small))
    assert sorted(small.iterdir()) == [filler]
    filler.unlink()
    relay = host.relay(daemon)
    batch = relay.hold(BatchHeader, 2)
    send = host.send(guest, relay)
    batch.wait()
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(1 << 16)):
            pass
    batch.release()
    told = send.failure(11, "peer-failed")
    assert "space" in told
    wait_until(lambda: sorted(small.iterdir()) == [filler], "nothing but the filler is left")
    host.goes_on("a", "here")
    filler.unlink()
    host.send(guest, daemon).report()
    wait_until(lambda: [each.side for each in host.places()] == [], "it left")
    assert len([each for each in host.processes() if f"{small}/a.mem" in each.command]) == 1


@pytest.mark.parametrize("limit", ["8MiB", "2MiB"])
def test_files_may_not_grow(host: Host, limit: str) -> None:
    """A limit on the size of files: below the guest's memory, and below the buffers of the workers."""
    most = int(limit.removesuffix("MiB")) << 20
    guest = host.demo("a", "16MiB" if limit == "8MiB" else "1MiB")
    daemon = host.serve(before=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (most, most)))
    assert host.send(guest, daemon).end() in (10, 11)
    text = host.sends[-1].err.text
    assert "Traceback" not in text
    assert "internal" not in host.sends[-1].out.text.splitlines()[-1], host.sends[-1].shown()
    host.goes_on("a", "here")
    host.clean_there()


def test_a_state_folder_that_cannot_be_written(host: Host) -> None:
    """At the destination nothing is taken that cannot be recorded; at the source nothing is committed."""
    guest = host.demo()
    daemon = host.serve()
    blocked = host.root / "state-there" / "incoming"
    blocked.rmdir()
    blocked.write_text("a file where a folder is to be")
    told = host.send(guest, daemon).failure(10, "refused")
    assert str(blocked) in told
    blocked.unlink()
    mine = host.root / "state-here" / "outgoing"
    mine.parent.mkdir(exist_ok=True)
    mine.write_text("a file where a folder is to be")
    told = host.send(guest, daemon).failure(6, "resources")
    assert str(mine) in told
    mine.unlink()
    host.goes_on("a", "here")
    host.clean_there()
    host.send(guest, daemon).report()
    host.goes_on("a", "there")


def died(scene: Scene) -> None:
    """The end of the guest is what is told, and nothing of it stays there."""
    scene.send.failure(4, "guest-died", str(scene.guest.pid))
    scene.left_nothing()


def test_a_guest_that_dies_in_the_middle(host: Host) -> None:
    scene = on_its_way(host)
    scene.guest.run.kill()
    host.damaged.add(scene.guest.path)
    died(scene)


def test_a_guest_that_dies_while_it_is_paused(host: Host) -> None:
    scene = halted(host, Digest)
    scene.guest.run.kill()
    host.damaged.add(scene.guest.path)
    scene.go_on()
    died(scene)
