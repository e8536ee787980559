"""What counts as a change of the mappings behind a tracked interval."""

import pytest

from migrated.errors import GuestError
from migrated.memory.maps import Mapping, parse_maps
from migrated.memory.trackers.base import TrackTarget
from migrated.memory.trackers.watch import MappingWatch

TARGET = TrackTarget(pid=7, start=0x2000, stop=0x6000, region_index=0, first_page=0)
AT_FIRST = "00001000-00008000 rw-s 00001000 00:01 5 /ram"


def look(first: str, then: str) -> None:
    answers = iter([first, then])

    def read(pid: int, start: int, stop: int) -> list[Mapping]:
        assert pid == TARGET.pid
        return parse_maps(next(answers), start, stop)

    MappingWatch([TARGET], read).check()


@pytest.mark.parametrize(
    "then",
    [
        AT_FIRST,
        "00002000-00006000 rw-s 00002000 00:01 5 /ram",
        "00001000-00003000 rw-s 00001000 00:01 5 /ram\n00003000-00009000 r--s 00003000 00:01 5 /ram",
        "00001000-00008000 rw-s 00001000 00:01 5 /ram (deleted)",
    ],
    ids=["same", "cut to the interval", "split", "unlinked"],
)
def test_no_change(then: str) -> None:
    look(AT_FIRST, then)


@pytest.mark.parametrize(
    "then",
    [
        "00001000-00008000 rw-s 00002000 00:01 5 /ram",
        "00001000-00008000 rw-s 00001000 00:01 6 /ram",
        "00001000-00008000 rw-s 00001000 00:02 5 /ram",
        "00001000-00008000 rw-p 00001000 00:01 5 /ram",
        "00001000-00008000 rw-p 00000000 00:00 0",
        "00001000-00003000 rw-s 00001000 00:01 5 /ram\n00003000-00009000 rw-s 00004000 00:01 5 /ram",
    ],
    ids=["offset", "inode", "device", "private", "anonymous", "part moved"],
)
def test_other_memory(then: str) -> None:
    with pytest.raises(GuestError, match="mapped other memory"):
        look(AT_FIRST, then)


@pytest.mark.parametrize(
    "then",
    [
        "00007000-00008000 rw-s 00001000 00:01 5 /ram",
        "00001000-00005000 rw-s 00001000 00:01 5 /ram",
        "00003000-00008000 rw-s 00003000 00:01 5 /ram",
        "00001000-00003000 rw-s 00001000 00:01 5 /ram\n00004000-00009000 rw-s 00004000 00:01 5 /ram",
    ],
    ids=["all", "end", "start", "middle"],
)
def test_unmapped(then: str) -> None:
    with pytest.raises(GuestError, match="has no memory"):
        look(AT_FIRST, then)


def test_neighbouring_anonymous_mappings_are_one() -> None:
    look(
        "00001000-00008000 rw-p 00000000 00:00 0",
        "00001000-00004000 rw-p 00000000 00:00 0\n00004000-00008000 r--p 00000000 00:00 0 [anon: name]",
    )
