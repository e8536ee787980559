"""What this host and this user can do, found out by doing it: for ``doctor`` and for the choice of a tracker.

A version or a file in /proc says little: soft-dirty is "there" in kernels that never set a bit, and
containers forbid calls that the kernel has.
"""

import contextlib
import mmap
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from migrated.errors import MigratedError
from migrated.memory.hold import Holder
from migrated.memory.linux import pagemap, userfaultfd
from migrated.memory.linux.userfaultfd import create_userfaultfd
from migrated.memory.maps import read_maps
from migrated.memory.region import ProcessRegion
from migrated.memory.trackers.soft_dirty import ProcSoftDirty
from migrated.pages import PAGE_SIZE

__all__ = [
    "Probe",
    "probe_hash",
    "probe_pagemap_scan",
    "probe_process_vm_readv",
    "probe_ptrace",
    "probe_soft_dirty",
    "probes",
]


@dataclass(frozen=True, slots=True)
class Probe:
    """One ability: whether it works, why (or how well), and in ``hint`` what to do if it does not."""

    name: str
    works: bool
    why: str
    hint: str = ""


def probes() -> list[Probe]:
    """Every probe of this module; takes about 0.1 s and leaves nothing behind."""
    return [probe_pagemap_scan(), probe_soft_dirty(), probe_hash(), probe_ptrace(), probe_process_vm_readv()]


def probe_pagemap_scan() -> Probe:
    """Write a page of our own under asynchronous write protection, and see whether exactly it is reported."""
    name, hint = (
        "pagemap-scan",
        "needs Linux 6.7 on x86-64 with CONFIG_USERFAULTFD; --tracker hash works anywhere",
    )
    if platform.machine() != "x86_64":
        return Probe(
            name, False, f"running a call inside another process is not known for {platform.machine()}", hint
        )
    with _own_pages(4) as (memory, start), contextlib.ExitStack() as opened:
        try:
            descriptor = create_userfaultfd()
            opened.callback(os.close, descriptor)
            userfaultfd.enable_async_protection(descriptor)
            userfaultfd.register(descriptor, start, start + len(memory))
            page_map = pagemap.open_pagemap(os.getpid())
            opened.callback(os.close, page_map)
            scan = pagemap.PagemapScan()
            scan.written(page_map, start, start + len(memory))
            memory[2 * PAGE_SIZE] = 1
            found = scan.written(page_map, start, start + len(memory)).tolist()
        except OSError as error:
            return Probe(name, False, f"{error.strerror or error}", hint)
    if found != [[start + 2 * PAGE_SIZE, start + 3 * PAGE_SIZE]]:
        return Probe(name, False, "a written page was not reported, or another one was", hint)
    return Probe(name, True, "a page of our own was written and exactly it was reported")


def probe_soft_dirty() -> Probe:
    """Clear the soft-dirty bits of our own process, write a page, and see whether its bit appears."""
    name, hint = "soft-dirty", "needs a kernel with CONFIG_MEM_SOFT_DIRTY; --tracker hash works anywhere"
    with _own_pages(2) as (memory, start):
        try:
            with contextlib.closing(ProcSoftDirty(os.getpid())) as bits:
                bits.clear()
                memory[PAGE_SIZE] = 1
                found = bits.read(start, start + len(memory)).tolist()
        except MigratedError as error:
            return Probe(name, False, error.what, hint)
    if found != [False, True]:
        return Probe(name, False, "clearing the bits succeeds, but a written page gets none", hint)
    return Probe(name, True, "a page of our own was written and got its bit")


def probe_hash() -> Probe:
    """Comparing contents needs nothing from the kernel."""
    return Probe("hash", True, "needs only read access; costs a full read of memory each round")


def probe_ptrace() -> Probe:
    """Hold a child process and let it go."""
    name, hint = (
        "ptrace",
        "set kernel.yama.ptrace_scope=0, or give CAP_SYS_PTRACE (in a container: --cap-add)",
    )

    def hold(pid: int) -> str:
        with Holder(pid) as holder:
            holder.hold()
            holder.release()
            began = time.perf_counter()
            holder.hold()
            took = time.perf_counter() - began
            holder.release()
        return f"a process of the same user was held within {took * 1000:.1f} ms"

    return _try_on_child(name, hint, hold)


def probe_process_vm_readv() -> Probe:
    """Read a page of a child process."""

    def read(pid: int) -> str:
        stack = next(each for each in read_maps(pid) if each.path == "[stack]")
        with contextlib.closing(ProcessRegion(pid, [(stack.stop - PAGE_SIZE, stack.stop)])) as region:
            into = bytearray(PAGE_SIZE)
            region.read(np.array([[0, 1]], dtype=np.int64), memoryview(into))
        return "a page of a process of the same user was read"

    return _try_on_child(
        "process_vm_readv", "give CAP_SYS_PTRACE; a container's seccomp profile may forbid it", read
    )


def _try_on_child(name: str, hint: str, attempt: Callable[[int], str]) -> Probe:
    with subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", "input()"], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as child:
        try:
            return Probe(name, True, attempt(child.pid))
        except MigratedError as error:
            return Probe(name, False, error.what, hint)
        finally:
            child.kill()


@contextlib.contextmanager
def _own_pages(count: int) -> Iterator[tuple[mmap.mmap, int]]:
    with mmap.mmap(-1, count * PAGE_SIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        memory[:] = bytes(range(1, 2)) * len(memory)
        view = np.frombuffer(memory, dtype=np.uint8)
        start = int(view.ctypes.data)
        del view
        yield memory, start
