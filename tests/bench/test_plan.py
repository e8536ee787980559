"""Cells, guests and the order of measurements."""

import math

import pytest

from migrated.bench.vm.guests import Guest, parse_guest
from migrated.bench.vm.modes import parse_mode
from migrated.bench.vm.plan import SETS, Cell, LinkRate, cells_of, steps
from migrated.errors import UsageError


@pytest.mark.parametrize(
    ("text", "guest"),
    [
        ("idle", Guest("idle")),
        ("redis", Guest("redis")),
        ("mixed", Guest("idle")),
        ("mixed:0MB/s", Guest("idle")),
        ("mixed:40MB/s", Guest("mixed", 40e6)),
        ("text:0MB/s", Guest("text")),
        ("random:80Mbit/s", Guest("random", 10e6)),
    ],
)
def test_a_guest_by_its_text(text: str, guest: Guest) -> None:
    assert parse_guest(text) == guest
    assert parse_guest(str(guest)) == guest


@pytest.mark.parametrize("text", ["", "busy", "idle:1MB/s", "redis:1MB/s", "mixed:fast", "mixed:40"])
def test_what_is_no_guest(text: str) -> None:
    with pytest.raises(UsageError):
        parse_guest(text)


def test_the_words_of_a_guest_say_what_it_writes() -> None:
    assert "rate=40000000 " in parse_guest("mixed:40MB/s").words
    assert "content=/dev/vda" in parse_guest("mixed:40MB/s").words
    assert "content" not in parse_guest("random:1MB/s").words
    assert "rate=0 " in parse_guest("idle").words


def test_a_link_by_its_text() -> None:
    assert LinkRate.parse("1gbit").tc == "1000000000bit"
    for text in ("200mbit", "1gbit", "unlimited"):
        assert LinkRate.parse(str(LinkRate.parse(text))) == LinkRate.parse(text)
    assert str(LinkRate.parse("200mbit")) == "200 Mb/s"
    assert LinkRate.parse("unlimited").tc == "unlimited"
    assert math.isinf(LinkRate.parse("unlimited").rate)


def test_cells_of_a_guest_come_together_and_once() -> None:
    cells = cells_of(["1gbit", "200mbit"], ["idle", "mixed", "redis"])
    assert [(str(each.guest), str(each.link)) for each in cells] == [
        ("idle", "1 Gb/s"),
        ("idle", "200 Mb/s"),
        ("redis", "1 Gb/s"),
        ("redis", "200 Mb/s"),
    ]


def test_a_cell_counts_if_the_link_carries_what_is_written() -> None:
    guest = parse_guest("mixed:40MB/s")
    assert not Cell(LinkRate.parse("200mbit"), guest).scored
    assert Cell(LinkRate.parse("1gbit"), guest).scored
    assert Cell(LinkRate.parse("unlimited"), guest).scored


@pytest.mark.parametrize("name", SETS)
def test_the_sets_can_be_read(name: str) -> None:
    assert cells_of(*SETS[name])


def test_the_score_is_what_the_figures_are_asked_for() -> None:
    cells = {(str(each.link), str(each.guest)) for each in cells_of(*SETS["score"])}
    guests = ("idle", "redis", "mixed:40MB/s")
    assert cells == {(link, guest) for link in ("1 Gb/s", "200 Mb/s") for guest in guests}


def test_modes_take_turns_and_none_is_always_first() -> None:
    modes = [parse_mode("qemu:none"), parse_mode("migrated:lz4"), parse_mode("migrated:off")]
    cells = cells_of(["1gbit", "200mbit"], ["idle"])
    made = list(steps(cells, modes, 3))
    assert len(made) == len(set(made)) == 18
    order = [modes.index(each.mode) for each in made if each.cell == cells[0]]
    assert order == [0, 1, 2, 1, 2, 0, 2, 0, 1]
    assert [each.run for each in made[:9]] == [1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert {each.cell for each in made[:9]} == {cells[0]}
