"""Migration capabilities: what is turned on and off, by what QEMUs of several versions had answered."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import pytest

from migrated.guests.qemu.monitor import Monitor
from migrated.guests.qemu.settings import IGNORE_SHARED, LATE_ACTIVATE, adopt, missing

RECORDED = json.loads((Path(__file__).parent / "recorded/capabilities.json").read_text())


class FakeMonitor:
    """Keeps capabilities, and refuses those that it does not have, as QEMU does."""

    def __init__(self, states: Mapping[str, bool]) -> None:
        self.states = dict(states)

    def capabilities(self) -> dict[str, bool]:
        return dict(self.states)

    def set_capabilities(self, wanted: Mapping[str, bool]) -> None:
        assert set(wanted) <= set(self.states), "QEMU refuses what it does not know"
        self.states.update(wanted)


def adopted(fake: FakeMonitor, *needed: str) -> dict[str, bool]:
    return adopt(cast("Monitor", fake), needed)


@pytest.mark.parametrize("version", RECORDED)
def test_what_is_needed_is_on_and_goes_back(version: str) -> None:
    fake = FakeMonitor(RECORDED[version])
    assert missing(cast("Monitor", fake), [IGNORE_SHARED, LATE_ACTIVATE]) == []
    before = adopted(fake, IGNORE_SHARED, LATE_ACTIVATE)
    assert {name for name, state in fake.states.items() if state} == {IGNORE_SHARED, LATE_ACTIVATE, "events"}
    fake.set_capabilities(before)
    assert fake.states == RECORDED[version]


@pytest.mark.parametrize("version", RECORDED)
def test_what_hinders_is_off_meanwhile(version: str) -> None:
    everything: dict[str, Any] = dict.fromkeys(RECORDED[version], True)
    fake = FakeMonitor(everything)
    before = adopted(fake, IGNORE_SHARED)
    on = {name for name, state in fake.states.items() if state}
    assert {IGNORE_SHARED, LATE_ACTIVATE, "events"} <= on
    assert not on & {
        "multifd",
        "postcopy-ram",
        "pause-before-switchover",
        "return-path",
        "xbzrle",
        "mapped-ram",
    }
    fake.set_capabilities(before)
    assert fake.states == everything


def test_one_that_tells_no_events_is_waited_for_by_asking() -> None:
    states = {name: state for name, state in RECORDED["7.2"].items() if name != "events"}
    fake = FakeMonitor(states)
    assert adopted(fake, IGNORE_SHARED) == {IGNORE_SHARED: False}


def test_what_it_lacks_is_named() -> None:
    fake = FakeMonitor({"xbzrle": False})
    assert missing(cast("Monitor", fake), [IGNORE_SHARED, LATE_ACTIVATE]) == [IGNORE_SHARED, LATE_ACTIVATE]
