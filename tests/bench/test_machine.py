"""The test guest on a real QEMU: it proves what it holds, and one that was kept goes on as the one that booted."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from migrated.bench.hosts import loopback, memory_folder
from migrated.bench.vm.content import build_content
from migrated.bench.vm.image import build
from migrated.bench.vm.machine import Machine, Spec
from migrated.bench.vm.snapshot import Snapshot
from migrated.errors import GuestError

pytestmark = [pytest.mark.slow, pytest.mark.needs("qemu-system-x86_64", "gcc", "apt-get")]

HOST = loopback().source
PAGE = 4096


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="vm-bench-", dir=memory_folder()) as name:
        yield Path(name)


@pytest.fixture(scope="module")
def content() -> Path:
    return build_content("mixed", 4 << 20).path


def spec(words: str, content: Path | None) -> Spec:
    return Spec(160 << 20, 1, build(), f"fill=16M check=0 {words}", content)


@pytest.mark.parametrize(
    "words",
    [
        pytest.param("content=/dev/vda rate=8M", id="content"),
        pytest.param("content=/dev/vda table=50 sets=2000", id="table"),
        pytest.param("noise=100 rate=8M", id="noise"),
    ],
)
def test_a_guest_proves_its_memory_also_when_it_was_kept(folder: Path, content: Path, words: str) -> None:
    snapshot = Snapshot(folder, HOST, spec(words, content if "content" in words else None))
    with snapshot.start(folder, "again", HOST) as machine:
        machine.wait_for_beats(1)
        first = machine.console.beat
        assert first > 100, "it went on counting"
        machine.wait_for_beats(50)
        assert machine.console.beat >= first + 50
        machine.verify()
        written = machine.console.written
        machine.wait_for_beats(20)
        assert (machine.console.written > written) == ("rate" in words)
    snapshot.close()
    assert list(folder.iterdir()) == []


def test_one_wrong_byte_is_found(folder: Path, content: Path) -> None:
    with Machine(folder, "a", HOST, spec("content=/dev/vda", content)) as machine:
        machine.wait_for_beats(5)
        machine.verify()
        page = content.read_bytes()[7 * PAGE : 8 * PAGE]
        memory = machine.memory.read_bytes()
        place = memory.find(page)
        assert place % PAGE == 0
        with machine.memory.open("r+b") as file:
            os.pwrite(file.fileno(), bytes([page[100] ^ 1]), place + 100)
        with pytest.raises(GuestError, match="WRONG page"):
            machine.verify()


def test_a_guest_that_is_gone_is_not_intact(folder: Path, content: Path) -> None:
    with Machine(folder, "a", HOST, spec("content=/dev/vda", content)) as machine:
        machine.wait_for_beats(5)
        machine.monitor.quit()
        with pytest.raises(GuestError, match=r"takes no words|QEMU ended"):
            machine.verify()


def test_a_qemu_that_does_not_start_says_why(folder: Path) -> None:
    with pytest.raises(GuestError, match=r"QEMU did not start: .*accelerator"):
        Machine(folder, "a", HOST, Spec(160 << 20, 1, build(), "", accelerator="steam"))
    assert list(folder.iterdir()) == []
