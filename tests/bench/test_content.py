"""What guests' memory is filled with."""

import os
from pathlib import Path

import pytest

from migrated.bench.vm import content
from migrated.bench.vm.content import build_content
from migrated.errors import ResourceError

MIB = 1 << 20


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A host with a program, texts, data, and files that are not for everybody."""
    usr = tmp_path / "usr"
    usr.mkdir()
    (usr / "program").write_bytes(b"\x7fELF" + bytes(range(1, 200)) * 200)
    (usr / "text").write_text("".join(f"line {number} of a text\n" for number in range(3000)))
    (usr / "data").write_bytes(bytes(5000) + os.urandom(30_000))
    (usr / "short").write_text("too short")
    (usr / "secret").write_bytes(b"SECRET" * 2000)
    (usr / "secret").chmod(0o600)
    (usr / "link").symlink_to("/etc/passwd")
    monkeypatch.setattr(content, "_FOLDER", str(usr))
    return tmp_path


def test_the_mix(host: Path) -> None:
    made = build_content("mixed", 4 * MIB, host / "cache")
    data = made.path.read_bytes()
    assert len(data) == 4 * MIB
    assert b"SECRET" not in data
    assert made.ratios["lz4"] > 1
    assert set(made.ratios) == {"lz4", "zstd"}


def test_no_page_is_there_twice(host: Path) -> None:
    """Or a codec of a whole guest would find in it what real memory does not have."""
    data = build_content("text", 4 * MIB, host / "cache").path.read_bytes()
    pages = [data[start : start + 4096] for start in range(0, len(data), 4096)]
    assert len(set(pages)) == len(pages)


def test_it_is_the_same_each_time_and_kept(host: Path) -> None:
    first = build_content("mixed", 2 * MIB, host / "cache")
    assert build_content("mixed", 2 * MIB, host / "other").digest == first.digest
    inode = first.path.stat().st_ino
    assert build_content("mixed", 2 * MIB, host / "cache").path.stat().st_ino == inode
    assert list((host / "cache").iterdir()) == [first.path]


def test_a_host_without_files_of_a_kind(host: Path) -> None:
    (host / "usr/text").unlink()
    with pytest.raises(ResourceError, match="texts"):
        build_content("mixed", 2 * MIB, host / "cache")
    assert list((host / "cache").iterdir()) == []
