"""Which tracker is chosen, and what the probes say."""

from typing import Any

import pytest

from migrated.errors import GuestDiedError, ResourceError, UnsafeGuestError, UsageError
from migrated.memory.region import ProcessRegion, Region
from migrated.memory.trackers import choose as module
from migrated.memory.trackers.base import TrackTarget
from migrated.memory.trackers.choose import TRACKER_NAMES, choose
from migrated.memory.trackers.probes import Probe, probes
from migrated.pages import PAGE_SIZE


class Memory:
    """The 16 pages of a guest, as target and as region."""

    def __init__(self, guest: Any) -> None:
        guest.ask("memory = private(16)")
        start = guest.ask("address_of(memory)")
        self.guest = guest
        self.targets = [TrackTarget(guest.pid, start, start + 16 * PAGE_SIZE, 0, 0)]
        self.regions: list[Region] = [ProcessRegion(guest.pid, [(start, start + 16 * PAGE_SIZE)])]


@pytest.fixture
def memory(guest: Any) -> Memory:
    return Memory(guest)


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Sets what the probes find: ``kernel(scan, soft)``."""

    def has(scan: bool, soft: bool) -> None:
        monkeypatch.setattr(
            module, "probe_pagemap_scan", lambda: Probe("pagemap-scan", scan, "too old", "update")
        )
        monkeypatch.setattr(
            module, "probe_soft_dirty", lambda: Probe("soft-dirty", soft, "built without", "rebuild")
        )

    return has


@pytest.mark.parametrize(
    ("scan", "soft", "expected"),
    [(False, True, "soft-dirty"), (False, False, "hash")],
    ids=["soft-dirty", "hash"],
)
def test_auto_takes_the_next_best(memory: Memory, kernel: Any, scan: bool, soft: bool, expected: str) -> None:
    kernel(scan, soft)
    tracker, why = choose("auto", memory.targets, memory.regions)
    with tracker:
        assert tracker.name == expected
    assert "too old" in why


@pytest.mark.skipif(not probes()[0].works, reason=f"no PAGEMAP_SCAN tracking here: {probes()[0].why}")
def test_auto_takes_the_best(memory: Memory) -> None:
    tracker, why = choose("auto", memory.targets, memory.regions)
    with tracker:
        assert (tracker.name, tracker.exact, why) == ("pagemap-scan", True, "pagemap-scan: exact")
        tracker.arm()
        memory.guest.ask("touch(memory, 3)")
        assert tracker.collect()[0].runs().tolist() == [[3, 1]]


@pytest.mark.parametrize("name", ["pagemap-scan", "soft-dirty"])
def test_by_name_is_used_or_refused(memory: Memory, kernel: Any, name: str) -> None:
    kernel(False, False)
    with pytest.raises(ResourceError, match=f"tracker {name} does not work on this host"):
        choose(name, memory.targets, memory.regions)
    with pytest.raises(UsageError, match="--pid"):
        choose(name, [], memory.regions)


def test_auto_goes_round_a_filter(memory: Memory, monkeypatch: pytest.MonkeyPatch, kernel: Any) -> None:
    kernel(True, False)

    def refuse(tracker: Any) -> None:
        raise UnsafeGuestError("seccomp")

    monkeypatch.setattr(module.PagemapScanTracker, "open", refuse)
    tracker, why = choose("auto", memory.targets, memory.regions)
    assert tracker.name == "hash"
    assert "pagemap-scan can't be used: seccomp" in why


def test_hash_without_a_pid(memory: Memory) -> None:
    memory.guest.ask("touch(memory, 2, 9)")
    tracker, why = choose("auto", [], memory.regions)
    assert (tracker.name, tracker.exact) == ("hash", False)
    assert "nobody is named" in why
    tracker.arm()
    for found in (tracker.collect(), tracker.collect(), tracker.last()):
        assert [each.runs().tolist() for each in found] == [[[2, 1], [9, 1]]]


def test_guest_that_ended_is_no_reason_for_another_tracker(memory: Memory) -> None:
    memory.guest.close()
    with pytest.raises(GuestDiedError):
        choose("auto", memory.targets, memory.regions)


def test_unknown_name(memory: Memory) -> None:
    with pytest.raises(UsageError, match="magic"):
        choose("magic", memory.targets, memory.regions)


def test_probes_say_why_and_what_to_do() -> None:
    found = {each.name: each for each in probes()}
    assert set(found) == {*TRACKER_NAMES[1:], "ptrace", "process_vm_readv"}
    for each in found.values():
        assert each.why
        assert each.works or each.hint
    assert found["hash"].works
