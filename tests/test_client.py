"""What a person may change while a migration runs."""

import math
from typing import Any

import pytest

from migrated.client import Outgoing
from migrated.config import SendSettings, Settings
from migrated.errors import UsageError
from migrated.net.address import Address


def outgoing(**send: Any) -> Outgoing:
    settings = Settings(send=SendSettings(**send))
    return Outgoing(None, Address("there"), settings, name="web", observer=lambda _event: None)  # type: ignore[arg-type]


class Shares:
    """A sender that has agreed on codecs."""

    def __init__(self, *codecs: str) -> None:
        self.codecs = codecs

    def retuned(self) -> None:
        pass


def test_settings_are_changed_as_they_are_typed() -> None:
    migration = outgoing(codec="zstd")
    migration.change("bandwidth", "10MB/s")
    migration.change("downtime", "2s")
    migration.change("level", "9")
    tuning = migration.tuning
    assert (tuning.bandwidth, tuning.downtime, tuning.level) == (10e6, 2.0, 9)
    migration.change("bandwidth", "unlimited")
    assert tuning.bandwidth == math.inf


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("level", ""),
        ("level", "10"),
        ("level", "-1"),
        ("level", "x"),
        ("bandwidth", "fast"),
        ("bandwidth", "999B/s"),
        ("downtime", "0s"),
        ("downtime", "1h"),
        ("guest", "x"),
    ],
)
def test_what_cannot_be_is_refused_and_changes_nothing(key: str, value: str) -> None:
    migration = outgoing()
    before = repr(migration.tuning)
    with pytest.raises(UsageError):
        migration.change(key, value)
    assert repr(migration.tuning) == before


@pytest.mark.parametrize("codec", ["none", "zstd"])
def test_a_level_needs_a_codec_that_both_sides_share(codec: str) -> None:
    """It began without compression, so whether the destination takes the codec was never asked."""
    migration = outgoing(codec=codec, level=0)
    migration._sender = Shares("lz4")  # type: ignore[assignment]
    with pytest.raises(UsageError, match="do not share"):
        migration.change("level", "1")
    assert migration.tuning.packing == ("raw", 0)
    migration.change("codec", "lz4")
    migration.change("level", "1")
    assert migration.tuning.packing == ("lz4", 1)
    migration.change("level", "0")
    assert migration.tuning.packing == ("raw", 0)
