"""Addresses as people type them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrated.errors import UsageError
from migrated.net.address import DEFAULT_PORT, Address, parse_address

HOSTS = st.from_regex(r"[a-z0-9][a-z0-9.-]{0,30}", fullmatch=True)
PORTS = st.integers(0, 65535)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("there", Address("there")),
        ("there:1", Address("there", 1)),
        ("10.0.0.1:65535", Address("10.0.0.1", 65535)),
        ("[::1]", Address("::1")),
        ("[fe80::1%eth0]:80", Address("fe80::1%eth0", 80)),
        ("::1", Address("::1")),
        ("unix:/run/m.sock", Address(path="/run/m.sock")),
        ("unix:m:1", Address(path="m:1")),
    ],
)
def test_every_form_is_read(text: str, address: Address) -> None:
    assert parse_address(text) == address


def test_the_port_that_is_not_said_is_the_default() -> None:
    assert parse_address("there").port == DEFAULT_PORT
    assert parse_address("there", 17).port == 17


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        ":1",
        "there:",
        "there:x",
        "there:-1",
        "there:65536",
        "[::1",
        "[::1]1",
        "[::1]:",
        "[]",
        "unix:",
    ],
)
def test_what_is_no_address_is_refused_with_the_text_and_what_is_allowed(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_address(text)
    assert repr(text) in caught.value.what
    assert caught.value.hint


@given(HOSTS | st.ip_addresses(v=6).map(str), PORTS)
def test_what_is_shown_can_be_typed(host: str, port: int) -> None:
    assert parse_address(str(Address(host, port))) == Address(host, port)


@given(st.text(max_size=30))
def test_no_text_makes_it_fail_otherwise(text: str) -> None:
    try:
        address = parse_address(text)
    except UsageError:
        return
    assert address.path or address.host
    assert 0 <= address.port <= 65535
