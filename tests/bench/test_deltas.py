"""What deltas bring: one small real run of each kind of writer, and the table."""

import pytest

from migrated.bench import deltas
from migrated.bench.deltas import WRITERS, measure, table


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("_PAGES", 1024), ("_HOT", 256), ("_ROUNDS", 4)):
        monkeypatch.setattr(deltas, name, value)


@pytest.mark.parametrize("writer", WRITERS)
def test_sparse_writers_send_less_and_others_the_same(writer: str) -> None:
    found = measure(writer, "lz4", 1)
    if writer in ("whole pages", "shifted pages"):
        assert found.deltas.delta_share == 0
        assert found.deltas.wire_bytes == found.whole.wire_bytes
    else:
        assert found.deltas.delta_share > 0.6  # the second of four rounds finds nothing yet
        assert found.deltas.wire_bytes < 0.6 * found.whole.wire_bytes
    assert found.whole.looking_us < found.deltas.looking_us < found.deltas.source_us


def test_the_table_has_a_row_for_each() -> None:
    found = measure("8 bytes", "raw", 1)
    assert table([found, found]).row_count == 2
