"""Measurements made up for tests."""

from collections.abc import Callable
from typing import Any

import pytest

from migrated.bench.vm.drive import Status
from migrated.bench.vm.results import Measurement

Make = Callable[..., Measurement]


@pytest.fixture
def made() -> Make:
    """A measurement with round figures; each may be given otherwise."""

    def make(mode: str = "qemu:none", run: int = 1, **more: Any) -> Measurement:
        facts: dict[str, Any] = {
            "link": "1 Gb/s",
            "guest": "idle",
            "status": Status.COMPLETED,
            "total_seconds": 5.0,
            "downtime_seconds": 0.1,
            "rounds": 2,
            "link_bytes": 500_000_000,
            "arrived_seconds": 6.0,
            "gap_seconds": 0.12,
            "switch_seconds": 0.11,
            "intact": True,
            "probe_seconds": 0.05,
            "elapsed_seconds": 10.0,
        }
        return Measurement(mode=mode, run=run, **(facts | more))

    return make
