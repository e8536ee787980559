"""What a host says of its processors' time."""

from migrated.bench.noise import busy_seconds, probe, stolen_seconds


def test_work_is_counted_as_busy_and_never_as_stolen_back() -> None:
    busy, stolen = busy_seconds(), stolen_seconds()
    while busy_seconds() - busy < 0.1:
        assert probe() > 0
    assert stolen_seconds() >= stolen >= 0
