"""The table of metrics, and that the README has it."""

import re
from pathlib import Path

import pytest

from migrated.telemetry.catalogue import METRICS
from migrated.telemetry.table import BEGIN, END, render, renew

README = Path(__file__).parent.parent.parent / "README.md"


def test_the_readme_has_the_table_of_today() -> None:
    text = README.read_text(encoding="utf-8")
    assert text.count(BEGIN) == text.count(END) == 1, f"README.md lacks the lines {BEGIN} and {END}"
    assert text == renew(text), "run: python -m migrated.telemetry.table README.md"


def test_one_row_a_metric() -> None:
    rows = render().splitlines()[2:]
    assert [re.match(r"\| `(\w+)` \|", row)[1] for row in rows] == [each.name for each in METRICS]  # type: ignore[index]
    assert all(row.count("|") == 5 for row in rows)


def test_renewing_replaces_only_the_table() -> None:
    fresh = renew(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    assert fresh == f"before\n{BEGIN}\n{render()}{END}\nafter\n"
    assert renew(fresh) == fresh


@pytest.mark.parametrize("text", ["", BEGIN, END, END + BEGIN, BEGIN + END + END])
def test_without_its_markers_a_document_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no one pair"):
        renew(text)
