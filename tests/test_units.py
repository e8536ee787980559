import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrated.errors import UsageError
from migrated.units import format_duration, format_rate, format_size, parse_duration, parse_rate, parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("4096", 4096),
        ("0", 0),
        ("64MiB", 64 << 20),
        ("512M", 512 << 20),
        ("512 MB", 512 << 20),
        ("1g", 1 << 30),
        ("1.5G", 3 << 29),
        (" 2 tib ", 2 << 40),
        ("10kb", 10 << 10),
        ("3B", 3),
        (".5k", 512),
    ],
)
def test_sizes_count_in_1024s(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("1gbit", 125e6),
        ("100Mbit/s", 12.5e6),
        ("941 Mb/s", 941e6 / 8),
        ("10Gbps", 1.25e9),
        ("50MB/s", 50e6),
        ("50MiB/s", 50 * 2**20),
        ("8Kibit", 1024.0),
        ("1000 B/s", 1000.0),
        ("unlimited", math.inf),
        ("Unlimited", math.inf),
        ("0", math.inf),
        ("0 b/s", math.inf),
    ],
)
def test_rates_tell_bits_from_bytes(text: str, rate: float) -> None:
    assert parse_rate(text) == rate


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("300ms", 0.3),
        ("2s", 2.0),
        ("1m", 60.0),
        ("1min", 60.0),
        ("1.5h", 5400.0),
        ("250us", 250e-6),
        ("0", 0.0),
        ("1m30s", 90.0),
        ("1 h 5 m", 3900.0),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds, rel=1e-12)


@pytest.mark.parametrize(
    "text", ["", "x", "-1", "1x", "1 2", "1e9", "²", "inf", "1MiBB", "1" * 100, "5 EiB", "5000000P"]
)
def test_bad_size_names_text_and_examples(text: str) -> None:
    with pytest.raises(UsageError, match="as a size") as caught:
        parse_size(text)
    assert repr(text)[:20] in str(caught.value)
    assert "64MiB" in caught.value.hint


@pytest.mark.parametrize("text", ["", "100", "10M", "1 gbyte", "ib", "5ib/s", "-1gbit", "fast", "1gbit/m"])
def test_bad_rate_names_text_and_examples(text: str) -> None:
    with pytest.raises(UsageError, match="as a rate") as caught:
        parse_rate(text)
    assert repr(text) in str(caught.value)
    assert "100Mbit/s" in caught.value.hint


@pytest.mark.parametrize("text", ["", "5", "5 d", "-1s", "1s1m", "1m1m", "1m x", "s"])
def test_bad_duration_names_text_and_examples(text: str) -> None:
    with pytest.raises(UsageError, match="as a duration") as caught:
        parse_duration(text)
    assert repr(text) in str(caught.value)
    assert "300ms" in caught.value.hint


def test_formats_read_well() -> None:
    assert [format_size(n) for n in (0, 100, 1023, 1024, 4096, 512 << 20, 3 << 29, (1 << 30) - 1)] == [
        "0 B", "100 B", "1023 B", "1 KiB", "4 KiB", "512 MiB", "1.5 GiB", "1 GiB",
    ]  # fmt: skip
    assert [format_rate(r) for r in (0, 125, 117.625e6, 125e6, math.inf)] == [
        "0 b/s", "1 kb/s", "941 Mb/s", "1 Gb/s", "unlimited",
    ]  # fmt: skip
    assert [format_duration(s) for s in (0, 84e-5, 0.012, 0.9999, 2.35, 60, 90, 3600, 11100, math.inf)] == [
        "0 us", "840 us", "12 ms", "1 s", "2.35 s", "1 m 0 s", "1 m 30 s", "1 h 0 m", "3 h 5 m", "for ever",
    ]  # fmt: skip


@given(st.integers(0, 1 << 60))
def test_size_survives_its_text(size: int) -> None:
    assert parse_size(format_size(size)) == pytest.approx(size, rel=0.006)


@given(st.floats(1, 1e14))
def test_rate_survives_its_text(rate: float) -> None:
    assert parse_rate(format_rate(rate)) == pytest.approx(rate, rel=0.006)


@given(st.floats(1e-4, 1e7))
def test_duration_survives_its_text(seconds: float) -> None:
    assert parse_duration(format_duration(seconds)) == pytest.approx(seconds, rel=0.01)


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    for parse in (parse_size, parse_rate, parse_duration):
        try:
            assert parse(text) >= 0
        except UsageError:
            continue
