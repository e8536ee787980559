"""A dry run, and then the move: what was predicted, and that nothing was changed by it."""

import json
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from e2e_host import Daemon, Guest, Host, counter
from e2e_shuffler import DIFFERENT, PAGES, shuffler

from migrated.guests.demo.layout import Counter

pytestmark = pytest.mark.slow

LIMIT = ("--bandwidth", "6MB/s", "--downtime", "300ms")
"""Slow enough that on a busy host, too, the link decides."""


def planned(host: Host, guest: Guest, daemon: Daemon, *flags: str, code: int = 0) -> dict[str, Any]:
    told = host.command("plan", guest.uri, daemon.address, "--json", "--seconds", "1", *flags, code=code)
    found: dict[str, Any] = json.loads(told.splitlines()[0])
    return found


def untouched(host: Host, guest: Guest) -> None:
    """The guest runs as before, no tracker is on it, and the destination has neither memory nor a record of it."""
    host.goes_on("a", "here")
    flags = [line.split() for line in Path(f"/proc/{guest.pid}/smaps").read_text().splitlines()]
    assert not [line for line in flags if line[0] == "VmFlags:" and {"um", "uw", "ui"} & set(line)]
    assert list(host.there.iterdir()) == []
    assert host.records("here") == host.records("there") == {}


@pytest.mark.parametrize("codec", ["none", "zstd", "auto"])
def test_a_move_sends_about_what_was_predicted(host: Host, codec: str) -> None:
    guest = host.demo("a", "24MiB")
    daemon = host.serve()
    plan = planned(host, guest, daemon, *LIMIT, "--codec", codec)
    untouched(host, guest)
    (found,) = (each for each in plan["forecasts"] if each["asked"])
    assert found["codec"] == codec
    assert found["converges"]
    report = host.send(guest, daemon, *LIMIT, "--codec", codec).report()
    host.goes_on("a", "there")
    # How long it takes hangs on how busy this host is just then; `bench plan` compares that.
    assert min(found["total_seconds"], report["total_seconds"]) > 0.8 * found["wire_bytes"] / 6e6
    assert found["wire_bytes"] / 1.5 < report["wire_bytes"] < found["wire_bytes"] * 1.5
    assert plan["tracker"] == report["tracker"]


def test_a_guest_that_writes_too_fast_is_told_before_it_is_tried(host: Host) -> None:
    guest = host.demo("a", "24MiB", "--dirty-rate", "30MB/s")
    daemon = host.serve()
    plan = planned(host, guest, daemon, *LIMIT, code=14)
    assert not any(each["converges"] for each in plan["forecasts"])
    assert plan["fastest"] is None
    untouched(host, guest)


def test_what_a_person_reads_of_a_plan(host: Host) -> None:
    guest = host.demo("a")
    told = host.command("plan", guest.uri, host.serve().address, "--name", "b", "--seconds", "0.3")
    for text in ("guest   demo:", "link    127.0.0.1:", "same cores", "→   auto", "is the fastest here"):
        assert text in told
    assert "note: the destination has no guest 'b'" in told
    untouched(host, guest)


def test_hashes_find_what_a_guest_writes_as_well(host: Host) -> None:
    guest = host.demo("a", "8MiB")
    daemon = host.serve()
    before = counter(guest.path, Counter.PAGES_WRITTEN)
    plan = planned(host, guest, daemon, "--tracker", "hash", "--downtime", "2s")
    written = counter(guest.path, Counter.PAGES_WRITTEN) - before
    assert plan["tracker"] == "hash"
    assert 0 < plan["writes"][-1]["bytes"] <= 4096 * (written + 200)
    untouched(host, guest)


def test_a_plan_that_is_interrupted_leaves_nothing(host: Host) -> None:
    guest = host.demo("a")
    daemon = host.serve()
    command = ("plan", guest.uri, daemon.address, "--seconds", "600")
    running = host.other(sys.executable, "-m", "migrated", *command)
    running.err.wait("watching it write")
    running.signal(signal.SIGINT)
    assert running.end() == 130
    untouched(host, guest)


def test_what_is_there_twice_is_planned_as_copies(host: Host) -> None:
    path = host.here / "db.mem"
    source = shuffler(host, path, "idle")
    daemon = host.serve({"db": host.entry("db", "shm")})
    flags = ("--pid", str(source.pid), "--codec", "lz4", "--bandwidth", "60MB/s", "--downtime", "1s")
    told = host.command("plan", f"shm:{path}", daemon.address, "--json", "--seconds", "0.5", *flags)
    plan = json.loads(told.splitlines()[0])
    (found,) = (each for each in plan["forecasts"] if each["asked"])
    assert plan["copies_share"] == pytest.approx(1 - DIFFERENT / PAGES, abs=0.1)
    report = host.send(f"shm:{path}", daemon, *flags, "--after", "stop").report()
    assert report["copied_pages"] > 0
    assert found["wire_bytes"] / 1.3 < report["wire_bytes"] < found["wire_bytes"] * 1.3


def test_several_connections_are_measured_together(host: Host) -> None:
    guest = host.demo("a")
    daemon = host.serve()
    told = host.command("plan", guest.uri, daemon.address, "--seconds", "0.3", "--streams", "3")
    assert ", over 3 connections" in told
    plan = planned(host, guest, daemon, "--streams", "3", *LIMIT)
    assert plan["link"]["connections"] == 3
    assert plan["link"]["bytes_per_second"] < 1.5 * 6e6, "the limit holds for all together"
    untouched(host, guest)
