"""The logic of the soft-dirty tracker, against a fake: no kernel that has the bit is needed.

The real bit is tried too where there is one.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from migrated.errors import GuestError, MigratedError
from migrated.memory.hold import Holder
from migrated.memory.trackers.base import TrackTarget
from migrated.memory.trackers.probes import probe_soft_dirty
from migrated.memory.trackers.soft_dirty import SoftDirtyTracker
from migrated.pages import PAGE_SIZE

PID, PAGES = 7, 16


class FakeGuest:
    """A process of 16 pages at address 0 and its holder; writes only when nobody holds it."""

    def __init__(self) -> None:
        self.bits = np.ones(PAGES, dtype=np.bool_)  # a fresh mapping is dirty all over
        self.held = False
        self.frozen = False
        self.throttled = 0.0
        self.log: list[str] = []
        self.closed = False

    def write(self, *pages: int) -> None:
        assert not self.held
        self.bits[list(pages)] = True

    def clear(self) -> None:
        self.log.append("clear" if self.held else "clear unheld")
        self.bits[:] = False

    def read(self, start: int, stop: int) -> NDArray[np.bool_]:
        self.log.append("read" if self.held else "read unheld")
        return self.bits[start // PAGE_SIZE : stop // PAGE_SIZE].copy()

    def close(self) -> None:
        self.closed = True

    def hold(self) -> None:
        self.held, self.throttled = True, 0.0
        self.log.append("hold")

    def release(self) -> None:
        self.held, self.throttled = False, 0.0
        self.log.append("release")

    def throttle(self, fraction: float) -> None:
        self.throttled = fraction

    def check(self) -> None:
        self.log.append("check")


class FakeWatch:
    changed = False

    def __init__(self, targets: Any) -> None:
        pass

    def check(self) -> None:
        if self.changed:
            raise GuestError("mapped anew")


@pytest.fixture
def fake() -> FakeGuest:
    return FakeGuest()


@pytest.fixture
def tracker(fake: FakeGuest) -> Iterator[SoftDirtyTracker]:
    targets = [
        TrackTarget(PID, 0, 8 * PAGE_SIZE, 1, 2),
        TrackTarget(PID, 8 * PAGE_SIZE, 16 * PAGE_SIZE, 0, 0),
    ]
    tracker = SoftDirtyTracker(
        targets,
        [8, 10],
        holders={PID: fake},
        source=lambda pid: fake,
        watch=FakeWatch,  # type: ignore[dict-item]
    )
    with tracker:
        tracker.arm()
        fake.log.clear()
        yield tracker
    assert fake.closed


def collected(tracker: SoftDirtyTracker) -> list[list[int]]:
    return [np.flatnonzero(each.mask).tolist() for each in tracker.collect()]


def test_what_was_written(fake: FakeGuest, tracker: SoftDirtyTracker) -> None:
    assert collected(tracker) == [[], []]
    fake.write(0, 7, 8, 15)
    assert collected(tracker) == [[0, 7], [2, 9]]
    assert collected(tracker) == [[], []]


def test_held_from_before_reading_until_after_clearing(fake: FakeGuest, tracker: SoftDirtyTracker) -> None:
    tracker.collect()
    assert fake.log == ["hold", "read", "read", "clear", "check", "release"]
    assert not fake.held


def test_a_paused_guest_stays_paused(fake: FakeGuest, tracker: SoftDirtyTracker) -> None:
    fake.held = True
    tracker.last()
    assert fake.log == ["read", "read", "clear", "check"]
    assert fake.held


def test_a_throttle_goes_on(fake: FakeGuest, tracker: SoftDirtyTracker) -> None:
    fake.throttled = 0.4
    tracker.collect()
    assert fake.throttled == 0.4


def test_released_when_something_fails(
    fake: FakeGuest, tracker: SoftDirtyTracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeWatch, "changed", True)
    with pytest.raises(GuestError):
        tracker.collect()
    assert not fake.held


def test_used_before_arming(fake: FakeGuest) -> None:
    with pytest.raises(MigratedError, match="not armed"):
        SoftDirtyTracker([], []).collect()


@pytest.mark.skipif(
    not probe_soft_dirty().works, reason=f"kernel: no soft-dirty bit here: {probe_soft_dirty().why}"
)
def test_real_bits(guest: Any) -> None:
    guest.ask("memory = private(64)")
    start = guest.ask("address_of(memory)")
    guest.ask("touch(memory, *range(64))")
    with (
        Holder(guest.pid) as holder,
        SoftDirtyTracker(
            [TrackTarget(guest.pid, start, start + 64 * PAGE_SIZE, 0, 0)], [64], holders={guest.pid: holder}
        ) as tracker,
    ):
        tracker.arm()
        guest.ask("touch(memory, 3, 60)")
        assert collected(tracker) == [[3, 60]]
