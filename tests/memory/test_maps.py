"""/proc/PID/maps, and the search for writers of a file."""

import mmap
import os
from pathlib import Path
from typing import Any

import pytest

from migrated.errors import AccessError, GuestDiedError
from migrated.memory import maps
from migrated.memory.maps import find_writers, mappings_of_file, parse_maps, read_maps

TEXT = """\
5581d1e5a000-5581d1e5b000 r--p 00001000 fd:00 26723                      /usr/bin/python3 odd name (deleted)
7f52e4ed9000-7f52e52d9000 rw-s 00000000 00:19 1234                       /dev/shm/ram
7ffc1fd53000-7ffc1fd74000 rw-p 00000000 00:00 0                          [stack]
7ffc1fdd0000-7ffc1fdd2000 r-xp 00000000 00:00 0                          [vdso]
ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0
"""


class TestParse:
    def test_fields(self) -> None:
        python, ram, stack, vdso, last = parse_maps(TEXT)
        assert (python.start, python.stop, python.offset) == (0x5581D1E5A000, 0x5581D1E5B000, 0x1000)
        assert python.path == "/usr/bin/python3 odd name"
        assert (python.device, python.inode) == (os.makedev(0xFD, 0), 26723)
        assert (ram.shared, ram.writable, ram.anonymous, ram.size) == (True, True, False, 1 << 22)
        assert (stack.anonymous, stack.special, vdso.special) == (True, False, True)
        assert (last.readable, last.path) == (False, "")

    def test_only_what_has_such_addresses(self) -> None:
        """Bounds as of the second line: its first byte, its last, the one before and the one behind it."""
        start, stop = 0x7F52E4ED9000, 0x7F52E52D9000

        def names(low: int, high: int) -> list[str]:
            return [each.path for each in parse_maps(TEXT, low, high)]

        assert names(start, start + 1) == names(stop - 1, stop) == ["/dev/shm/ram"]
        assert names(start - 1, start) == names(stop, stop + 1) == []
        assert names(stop - 1, 0x7FFC1FDD0001) == ["/dev/shm/ram", "[stack]", "[vdso]"]
        assert names(0, start) == ["/usr/bin/python3 odd name"]

    def test_own(self) -> None:
        assert any(each.path == "[stack]" for each in read_maps(os.getpid()))

    def test_nonsense(self) -> None:
        with pytest.raises(ValueError, match="not a line"):
            parse_maps("hello")

    def test_ended(self) -> None:
        with pytest.raises(GuestDiedError):
            read_maps(2**22 + 1)

    def test_forbidden(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def deny(pid: int) -> str:
            raise PermissionError

        monkeypatch.setattr(maps, "_raw_maps_text", deny)
        with pytest.raises(AccessError, match="not allowed"):
            read_maps(1)


class TestWriters:
    def found(self, path: str, pid: int) -> str:
        return next((each.how for each in find_writers(path).writers if each.pid == pid), "")

    def test_mapping(self, guest: Any, shared_file: str) -> None:
        assert self.found(shared_file, guest.pid) == ""
        guest.ask(f"memory = shared({shared_file!r})")
        start = guest.ask("address_of(memory)")
        assert self.found(shared_file, guest.pid) == f"mapping {start:#x}-{start + 1024 * 4096:#x}"
        (mapping,) = mappings_of_file(guest.pid, shared_file)
        assert (mapping.start, mapping.size) == (start, 1024 * 4096)

    def test_descriptor(self, guest: Any, shared_file: str) -> None:
        descriptor = guest.ask(f"os.open({shared_file!r}, os.O_RDWR)")
        assert self.found(shared_file, guest.pid) == f"descriptor {descriptor}"
        guest.ask(f"os.close({descriptor})")
        guest.ask(f"os.open({shared_file!r}, os.O_RDONLY)")
        assert self.found(shared_file, guest.pid) == ""

    def test_reading_and_private_mappings_write_nothing(self, guest: Any, shared_file: str) -> None:
        guest.ask(f"file = open({shared_file!r}, 'rb')")
        guest.ask("one = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)")
        guest.ask("two = mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE)")
        assert self.found(shared_file, guest.pid) == ""

    def test_known_pids_are_left_out_and_descriptors_do_as_paths(self, shared_file: str) -> None:
        with Path(shared_file).open("r+b") as file, mmap.mmap(file.fileno(), 0):
            assert os.getpid() in [each.pid for each in find_writers(file.fileno()).writers]
            assert os.getpid() not in [
                each.pid for each in find_writers(shared_file, ignore=[os.getpid()]).writers
            ]

    def test_comm(self, guest: Any, shared_file: str) -> None:
        guest.ask("libc.prctl(15, b'odd (name)', 0, 0, 0)")
        guest.ask(f"os.open({shared_file!r}, os.O_WRONLY)")
        assert [each.comm for each in find_writers(shared_file).writers] == ["odd (name)"]
