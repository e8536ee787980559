"""A guest's console, and the heartbeat that is read from it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from migrated.bench.vm.heart import Heart
from migrated.bench.vm.machine import Console, words_against_lost_writes
from migrated.errors import GuestError


@pytest.fixture
def consoles(tmp_path: Path) -> Iterator[tuple[Console, Console]]:
    made = Console(tmp_path / "here"), Console(tmp_path / "there")
    yield made
    for each in made:
        each.close()


def say(path: Path, text: str) -> None:
    with path.open("a") as out:
        out.write(text)


def test_lines_are_taken_when_they_are_whole(consoles: tuple[Console, Console], tmp_path: Path) -> None:
    here = consoles[0]
    assert not here.look()
    say(tmp_path / "here", "filling 12 pages\r\nbeat 1\r\nbea")
    assert here.look()
    assert here.beat == 1
    say(tmp_path / "here", "t 2 up 2513 written 1024 checked 4096 gap 10\r\nbeat 3\r\n")
    assert here.look()
    assert (here.beat, here.up_ms, here.written) == (3, 2513, 1024)
    assert not here.look()


def test_answers_are_counted(consoles: tuple[Console, Console], tmp_path: Path) -> None:
    say(tmp_path / "here", "verified 512 pages\n")
    assert not consoles[0].look()
    assert consoles[0].verified == 1


@pytest.mark.parametrize(
    "line", ["WRONG page 7 word 3", "[ 18.6] Kernel panic - not syncing: Fatal exception"]
)
def test_memory_that_is_wrong(consoles: tuple[Console, Console], tmp_path: Path, line: str) -> None:
    say(tmp_path / "here", f"beat 1\n{line}\nmore\n")
    with pytest.raises(GuestError) as caught:
        consoles[0].look()
    assert caught.value.what.endswith(line)


def test_the_heart_follows_the_guest(consoles: tuple[Console, Console], tmp_path: Path) -> None:
    heart = Heart(*consoles)
    say(tmp_path / "here", "beat 1\n")
    heart.start()
    try:
        say(tmp_path / "here", "beat 2\n")
        assert not heart.wait_for_beats_there(1, 0.05), "it is still here"
        say(tmp_path / "there", "".join(f"beat {number}\n" for number in range(3, 10)))
        assert heart.wait_for_beats_there(5, 10)
        first = heart.arrived, heart.switch
        say(tmp_path / "there", "".join(f"beat {number}\n" for number in range(10, 40)))
        heart.wait_for_beats_there(30, 10)
    finally:
        heart.stop()
    assert (heart.arrived, heart.switch) == first, "the guest arrives once"
    assert 0.03 < heart.switch <= heart.longest
    assert heart.fault == ""


def test_a_guest_that_finds_its_memory_wrong_there(consoles: tuple[Console, Console], tmp_path: Path) -> None:
    heart = Heart(*consoles)
    heart.start()
    try:
        say(tmp_path / "there", "WRONG page 7\n")
        assert heart.wait_for_beats_there(5, 10), "nothing more is waited for"
    finally:
        heart.stop()
    assert "WRONG page 7" in heart.fault


@pytest.mark.parametrize(
    ("version", "accelerator", "words"),
    [
        ((7, 2, 22), "tcg", "pti=on"),
        ((8, 2, 0), "tcg", "pti=on"),
        ((9, 0, 0), "tcg", ""),
        ((7, 2), "kvm", ""),
    ],
)
def test_a_guest_whose_qemu_would_lose_writes(version: tuple[int, ...], accelerator: str, words: str) -> None:
    assert words_against_lost_writes(version, accelerator) == words
