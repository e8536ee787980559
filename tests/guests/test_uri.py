"""Guests as text."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrated.errors import GuestNotFoundError, UsageError
from migrated.guests.base import GuestOptions
from migrated.guests.source import guest_name
from migrated.guests.target import make_target
from migrated.guests.uri import GuestUri, open_source, parse


def test_the_three_kinds() -> None:
    assert parse("demo:/dev/shm/a") == GuestUri("demo", "/dev/shm/a")
    assert parse("pid:0042") == GuestUri("pid", "42")
    assert str(parse("shm:/a:b")) == "shm:/a:b"


def test_paths_are_made_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert parse("shm:a.mem").target == str(tmp_path / "a.mem")


@pytest.mark.parametrize(
    "text", ["", "demo", "demo:", "vm:/a", "pid:", "pid:-1", "pid:0", "pid:9999999", "pid:²", "shm:a\0b"]
)
def test_what_is_no_guest_is_refused_with_examples(text: str) -> None:
    with pytest.raises(UsageError, match="demo:/dev/shm"):
        parse(text)


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        found = parse(text)
    except UsageError:
        return
    assert parse(str(found)) == found


@given(st.text())
def test_names_are_fit_for_a_configuration(text: str) -> None:
    name = guest_name(text)
    assert 1 <= len(name) <= 64
    assert set(name) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-")


def test_options_of_another_kind_are_refused() -> None:
    with pytest.raises(UsageError, match="shm: guests"):
        open_source("pid:1", GuestOptions(pids=(3,)))


def test_no_process_no_guest() -> None:
    with pytest.raises(GuestNotFoundError):
        open_source("pid:4194304")


def test_an_unknown_kind_of_target_is_refused(entry: type) -> None:
    with pytest.raises(UsageError, match="no kind 'vm'"):
        make_target("g", entry("vm", Path("/a")))
