"""Anything becomes one bounded line of strict JSON."""

import enum
import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from migrated.telemetry.plain import as_json


class Word(enum.StrEnum):
    A = "a"


def strict(text: str) -> Any:
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    return json.loads(text, parse_constant=refuse)


@pytest.mark.parametrize(
    ("value", "read"),
    [
        ({"a": 1, "b": [1.5, None, True]}, {"a": 1, "b": [1.5, None, True]}),
        ({"bandwidth": math.inf, "x": math.nan}, {"bandwidth": None, "x": None}),
        ({1: (1, 2)}, {"1": [1, 2]}),
        (Path("/a"), "/a"),
        (Word.A, "a"),
        ("\udcff\n", "?\n"),
        (b"\x00", "b'\\x00'"),
    ],
)
def test_what_it_reads_back_as(value: object, read: object) -> None:
    assert strict(as_json(value)) == read


def test_it_is_bounded() -> None:
    assert len(as_json("x" * 2_000_000)) == 4096 + 2
    assert len(strict(as_json(list(range(10_000))))) == 256
    knot: list[Any] = []
    knot.append(knot)
    assert len(as_json(knot)) < 1000


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner),
    max_leaves=12,
)


@settings(deadline=None)
@given(anything)
def test_any_value_is_one_line(value: object) -> None:
    text = as_json(value)
    assert "\n" not in text
    strict(text)
    text.encode()
