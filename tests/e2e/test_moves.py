"""Guests that move, one after the other and side by side."""

import os
import signal

import pytest
from e2e_host import Host

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("codec", ["none", "zlib", "lz4", "snappy", "zstd"])
def test_a_demo_guest_moves_with_each_codec(host: Host, codec: str) -> None:
    guest = host.demo("a", "16MiB", "--punch")
    daemon = host.serve()
    report = host.send(guest, daemon, "--codec", codec).report()
    assert report["codec"] == ("raw" if codec == "none" else codec)
    assert report["moved"]
    assert report["total_bytes"] == 16 << 20
    host.goes_on("a", "there")
    daemon.logged("completed")
    assert report["digest"] in (host.root / "state-there/history.jsonl").read_text()


def test_all_memory_is_compared_if_asked_for(host: Host) -> None:
    guest = host.demo()
    host.send(guest, host.serve(), "--verify", "full", "--tracker", "hash").report()
    host.goes_on("a", "there")


def test_a_paused_guest_stays_paused(host: Host) -> None:
    guest = host.demo()
    daemon = host.serve()
    os.kill(guest.pid, signal.SIGSTOP)
    host.send(guest, daemon).report()
    host.arrived.add("a")
    (place,) = host.places()
    assert place.side == "there"
    assert place.seen.stopped
    os.kill(place.seen.pid, signal.SIGCONT)
    host.goes_on("a", "there")


def test_two_guests_move_at_once(host: Host) -> None:
    guests = [host.demo(name) for name in "ab"]
    daemon = host.serve({name: host.entry(name) for name in "ab"})
    sends = [host.send(guest, daemon) for guest in guests]
    for send in sends:
        send.report()
    for name in "ab":
        host.goes_on(name, "there")


def test_a_guest_comes_back(host: Host) -> None:
    """The destination's memory file stays behind at the first host, and is taken for the way back."""
    guest = host.demo()
    back = host.entry("a") | {"path": str(guest.path)}
    daemon = host.serve({"a": host.entry("a"), "back": back})
    host.send(guest, daemon).report()
    host.goes_on("a", "there")
    host.send(f"demo:{host.there / 'a.mem'}", daemon, "--name", "back").report()
    host.kept.add(host.here / "a.mem.log")
    host.goes_on("a", "here")
