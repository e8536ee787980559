"""A dry run's own decisions; what it measures with real guests is in tests/e2e/test_plans.py."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from migrated.compression.policy import NONE, Rung
from migrated.config import SendSettings
from migrated.engine.options import AUTO_RUNGS
from migrated.errors import RefusedError
from migrated.planning import _asked, _notes, _rungs
from migrated.protocol import Capabilities

LEVELS = tuple(range(1, 10))
USABLE = {"lz4": LEVELS, "zstd": LEVELS}
FAR = Capabilities("migrated", 1, 1, USABLE, (), ("web (demo)", "odd (name) (shm)"), 1 << 30, 1024, 2)


def guest(kind: str = "demo", size: int = 1 << 20) -> Any:
    return SimpleNamespace(kind=kind, regions=(SimpleNamespace(name="memory", size=size),))


@pytest.mark.parametrize(
    ("settings", "rung"),
    [
        ({}, None),
        ({"codec": "zstd"}, Rung("zstd", 1)),
        ({"codec": "zstd", "level": 9}, Rung("zstd", 9)),
        ({"codec": "none"}, NONE),
        ({"level": 0}, NONE),
        ({"codec": "zstd", "level": 0}, NONE),
        ({"level": 5}, None),
    ],
)
def test_what_send_would_do(settings: dict[str, Any], rung: Rung | None) -> None:
    assert _asked(SendSettings(**settings), USABLE) == rung


def test_a_codec_that_the_destination_lacks_is_refused_as_by_send() -> None:
    with pytest.raises(RefusedError, match="does not take codec snappy"):
        _asked(SendSettings(codec="snappy"), USABLE)


def test_what_is_tried_out() -> None:
    tried = set(_rungs(Rung("lz4", 9), USABLE | {"quicklz": LEVELS}))
    assert tried >= {Rung("lz4", 1), Rung("lz4", 9), Rung("quicklz", 1)}
    assert tried >= {rung for rung in AUTO_RUNGS if rung.codec in USABLE}
    assert {rung.codec for rung in tried} == {"lz4", "zstd", "quicklz"}
    assert list(_rungs(None, {})) == []


def test_what_would_be_refused_is_noted() -> None:
    assert list(_notes(guest(), FAR, "web")) == []
    assert list(_notes(guest("shm"), FAR, "odd (name)")) == []
    (unknown,) = _notes(guest(), FAR, "db")
    assert "no guest 'db'" in unknown
    assert "web (demo)" in unknown
    (other,) = _notes(guest("shm"), FAR, "web")
    assert "demo: at the destination, shm: here" in other
    (large,) = _notes(guest(size=2 << 30), FAR, "web")
    assert "larger than the destination takes" in large
    assert "it has none" in next(_notes(guest(), replace(FAR, guests=()), "web"))
