"""Ctrl-C and its like: before the decision the guest goes on here, after it nobody takes it back alone."""

import signal
import socket
import threading

import pytest
from e2e_host import Host
from e2e_processes import PATIENCE
from e2e_scene import halted, on_its_way

from migrated.protocol import Commit, Digest, Running

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_cancels(host: Host, number: signal.Signals) -> None:
    scene = on_its_way(host)
    scene.send.signal(number)
    name = "Ctrl-C" if number == signal.SIGINT else number.name
    scene.send.failure(130, "cancelled", f"cancelled by {name}", "the guest goes on here")
    scene.stays()


def test_a_second_one_does_too_at_once(host: Host) -> None:
    scene = on_its_way(host)
    scene.send.signal(signal.SIGINT)
    scene.send.event("note")
    scene.send.signal(signal.SIGINT)
    assert scene.send.end(10) == 130
    assert "Traceback" not in scene.send.err.text
    scene.stays()


def test_while_the_guest_is_paused(host: Host) -> None:
    scene = halted(host, Digest)
    scene.send.signal(signal.SIGINT)
    scene.send.failure(130, "cancelled", "the guest goes on here")
    scene.runs_here()
    scene.cut()
    scene.stays()


def test_before_anybody_answered(host: Host) -> None:
    guest = host.demo()
    host.started()
    greeted = threading.Event()

    def listen(connection: socket.socket) -> None:
        connection.recv(8)
        greeted.set()

    send = host.send(guest, host.impostor(listen))
    assert greeted.wait(PATIENCE)
    send.signal(signal.SIGINT)
    send.failure(130, "cancelled", "cancelled by Ctrl-C")
    host.goes_on("a", "here")


def test_after_commit_the_first_asks_on(host: Host) -> None:
    scene = halted(host, Running)
    scene.send.signal(signal.SIGINT)
    assert "migrated resolve" in scene.send.event("note")["text"]
    scene.go_on()
    scene.send.report()
    scene.moved()


def test_after_commit_the_second_leaves_it_paused(host: Host) -> None:
    scene = halted(host, Commit)
    scene.send.signal(signal.SIGINT)
    scene.send.event("note")
    scene.send.signal(signal.SIGINT)
    told = scene.send.failure(20, "outcome-unknown", f"migrated resolve {scene.id}")
    assert "the guest stays paused here" in told
    scene.waits_here()
    scene.cut()
    scene.daemon.logged("closed the connection")
    assert "aborted" in scene.resolve()
    scene.stays()
