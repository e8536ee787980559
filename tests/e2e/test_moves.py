"""Guests that move, one after the other and side by side."""

import itertools
import json
import os
import signal

import pytest
from e2e_host import Host
from e2e_processes import wait_until

pytestmark = pytest.mark.slow


def test_a_demo_guest_moves_to_and_fro_with_each_codec(host: Host) -> None:
    """The memory that it left behind at a host is what it comes back into."""
    guest = host.demo("a", "16MiB", "--punch")
    daemon = host.serve({"a": host.entry("a"), "back": host.entry("a") | {"path": str(guest.path)}})
    history = host.root / "state-there/history.jsonl"
    ways = itertools.cycle([("a", guest.uri, "there"), ("back", f"demo:{host.there}/a.mem", "here")])
    for codec, (name, uri, side) in zip(("none", "zlib", "lz4", "snappy", "zstd"), ways, strict=False):
        report = host.send(uri, daemon, "--name", name, "--codec", codec).report()
        assert report["codec"] == ("raw" if codec == "none" else codec)
        assert report["moved"]
        assert report["total_bytes"] == 16 << 20
        host.goes_on("a", side)
        wait_until(
            lambda digest=report["digest"]: digest in history.read_text(), "the daemon's history has it"
        )
    host.kept.add(host.here / "a.mem.log")


def test_what_a_person_reads(host: Host) -> None:
    guest = host.demo()
    daemon = host.serve()
    told = host.command("send", guest.uri, daemon.address)
    assert told.endswith("\n"), "more than its report was said"
    assert "state: pre-copy\n" in told
    assert "Migration status: completed\n" in told
    facts = dict(line.split(":", 1) for line in told.splitlines() if ":" in line)
    assert facts["total ram"].strip() == "4096 kbytes (4 MiB)"
    host.goes_on("a", "there")
    rows = json.loads(host.command("status", "--json"))["migrations"]
    assert {(row["role"], row["state"]) for row in rows} == {
        ("source", "completed"),
        ("destination", "completed"),
    }


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
