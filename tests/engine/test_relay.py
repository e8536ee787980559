"""What one side's error says at the other."""

import errno
import os
from pathlib import Path

import pytest

from migrated.engine.relay import relayed
from migrated.errors import GuestError, IntegrityError, MigratedError, ResourceError
from migrated.guests import memory_file
from migrated.memory.region import FileRegion
from migrated.pages import PageSet


def test_a_full_disk_there_is_not_to_be_freed_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_arguments: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = tmp_path / "memory"
    path.write_bytes(bytes(4096))
    region = FileRegion(path, writable=True)
    monkeypatch.setattr(os, "pwritev", full)
    with pytest.raises(ResourceError) as caught:
        region.write(PageSet.full(1).runs(), memoryview(bytes(4096)))
    region.close()
    assert caught.value.hint == "free memory or disk space on this host"
    what, hint = relayed(caught.value, "the destination")
    assert "No space left" in what
    assert hint == "at the destination: free memory or disk space"


def test_a_lack_of_memory_there_is_not_one_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_file, "_is_memory", lambda _folder: True)
    monkeypatch.setattr(memory_file, "free_bytes", lambda: 4096)
    with pytest.raises(ResourceError) as caught:
        memory_file.check_room(Path("/"), 1 << 30)
    what, hint = relayed(caught.value, "the destination")
    assert what.endswith("4 KiB free in its memory")
    assert hint.startswith("at the destination: ")


@pytest.mark.parametrize(
    "error",
    [
        MigratedError("it stopped"),
        GuestError("it runs", "end it first"),
        IntegrityError("the digests differ", "the guest goes on at the source"),
        ResourceError("no room"),
    ],
)
def test_what_holds_for_both_is_left_as_it_is(error: MigratedError) -> None:
    assert relayed(error, "the source") == (error.what, error.hint)
