"""What a host says of its processors' time."""

from migrated.bench.noise import busy_seconds, probe, stolen_seconds


def test_work_counts_as_busy_and_what_was_stolen_never_gets_less() -> None:
    busy, stolen = busy_seconds(), stolen_seconds()
    while busy_seconds() - busy < 0.1:
        assert probe() > 0
    assert stolen_seconds() >= stolen >= 0
