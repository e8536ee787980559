"""Machines whose memory is on huge pages. Sets some aside for it, and gives them back."""

import asyncio
import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from qemu_sides import Sides
from qemu_vm import Shape, Vm, entry

from migrated.errors import RefusedError

pytestmark = [
    pytest.mark.slow,
    pytest.mark.root,
    pytest.mark.needs("qemu-system-x86_64", "gcc", "apt-get", "mount"),
]

SHAPE = Shape(memory=80, fill="8M", rate="4M")
PAGES = 2 * SHAPE.memory // 2
"""Two machines on pages of 2 MiB."""
SET_ASIDE = Path("/proc/sys/vm/nr_hugepages")


@pytest.fixture(scope="module")
def huge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder on huge pages that has room for two machines."""
    folder = tmp_path_factory.mktemp("huge")
    before = int(SET_ASIDE.read_text())
    with contextlib.ExitStack() as undo:
        undo.callback(SET_ASIDE.write_text, f"{before}\n")
        SET_ASIDE.write_text(f"{before + PAGES}\n")
        if int(SET_ASIDE.read_text()) < before + PAGES:
            pytest.skip(f"kernel: no {PAGES} huge pages could be set aside on this host")
        mount = ["mount", "-t", "hugetlbfs", "-o", "pagesize=2M", "none", str(folder)]
        subprocess.run(mount, check=True)
        undo.callback(subprocess.run, ["umount", str(folder)], check=True)
        yield folder


def machine(sides: Sides, memory_folder: Path | None) -> Vm:
    vm = sides.stable.copy(sides.folder, "a", SHAPE, memory_folder)
    sides.vms.append(vm)
    return vm


def other(sides: Sides, here: Vm, memory_folder: Path | None) -> Vm:
    vm = Vm(sides.folder, "b", SHAPE, here.image, here.disk, memory_folder)
    sides.vms.append(vm)
    return vm


async def test_one_on_huge_pages_moves(sides: Sides, huge: Path) -> None:
    """Its writes are seen, each as a whole huge page; what of it did not change does not travel."""
    here = machine(sides, huge)
    there = other(sides, here, huge)
    await sides.serve(a=entry(there, command=True))
    report = await sides.move(here, "a", verify="full")
    assert report.tracker == "pagemap-scan"
    assert report.unchanged_pages > 0
    there.find()
    await asyncio.to_thread(there.goes_on, here.last_beat())
    await asyncio.to_thread(there.checks_all)


@pytest.mark.parametrize("source_is", [True, False])
async def test_huge_pages_on_one_side_only_are_refused(sides: Sides, huge: Path, source_is: bool) -> None:
    here = machine(sides, huge if source_is else None)
    there = other(sides, here, None if source_is else huge)
    await sides.serve(a=entry(there, command=True))
    sizes = ["m0=2097152", "m0=4096"]
    source, target = sizes if source_is else reversed(sizes)
    with pytest.raises(RefusedError, match=f"page sizes of the memory {source} at the source, {target} here"):
        await sides.move(here, "a")
    await asyncio.to_thread(here.goes_on)
    await asyncio.to_thread(here.checks_all)
