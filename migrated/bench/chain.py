"""The stages of a page's way one after the other, and nothing else: the best that a migration without a codec could be.

For every two cores a process here reads, looks for zeros, hashes and sends, and one there receives, checks, hashes and
writes, over TCP on loopback and in step with each other by nothing but the connection. What a migration takes beyond
that is what its own work costs: sharing pages out, codecs, slots, order, progress.
"""

import os
import socket
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np

from migrated.bench.warm import fill_with_zeros
from migrated.compression import fork_server
from migrated.compression.digest import checksum, nonzero_pages, page_terms
from migrated.compression.stage import usable_cores
from migrated.memory.linux.heap import kept_buffer
from migrated.memory.region import FileRegion
from migrated.pages import PAGE_SIZE

__all__ = ["chain_rate"]

_BATCH_PAGES = 256
"""1 MiB, which stays in the cache on its way through a process: faster than 4 MiB."""

_LONGEST_SECONDS = 120.0


def chain_rate(source: Path, folder: Path) -> float:
    """Bytes of the memory file ``source`` a second, copied to a file in ``folder`` that is removed again.

    The pages that are written are ones that this host has already: as many are in use until then.
    """
    size = source.stat().st_size
    pairs = max(1, usable_cores() // 2)
    target, ballast = folder / "chained", folder / "chained-ballast"
    context = fork_server.context()
    ends: list[tuple[Connection, BaseProcess]] = []
    try:
        fill_with_zeros(ballast, size)
        with target.open("wb") as out:
            out.truncate(size)
        for number in range(pairs):
            there = _start(context, _receive, target, ballast)
            ends.append(there)
            here = _start(context, _send, source, _told(there[0]), number, pairs)
            ends.append(here)
            _told(here[0])
        began = time.monotonic()
        for ours, _ in ends[1::2]:
            ours.send("go")
        for ours, _ in ends[::2]:
            _told(ours)
        return size / (time.monotonic() - began)
    finally:
        for ours, process in ends:
            process.kill()
            process.join()
            ours.close()
        for path in (target, ballast):
            path.unlink(missing_ok=True)


def _start(
    context: ForkServerContext, work: Callable[..., None], *args: object
) -> tuple[Connection, BaseProcess]:
    """A process that does ``work``, and what it is told and says by."""
    ours, theirs = context.Pipe()
    with theirs:  # only its own end tells that it has ended
        process = context.Process(target=work, args=(*args, theirs), daemon=True)
        process.start()
    return ours, process


def _told(pipe: Connection) -> object:
    """What the process at the other end says; EOFError if it ended, TimeoutError if it says nothing."""
    if not pipe.poll(_LONGEST_SECONDS):
        raise TimeoutError("a process of the benchmark says nothing")
    return pipe.recv()


def _send(source: Path, address: object, first: int, step: int, pipe: Connection) -> None:
    region, buffer = FileRegion(source), kept_buffer(_BATCH_PAGES * PAGE_SIZE)
    with socket.create_connection(address) as out:  # type: ignore[arg-type]
        pipe.send("ready")
        pipe.recv()
        for start in range(first * _BATCH_PAGES, region.pages, step * _BATCH_PAGES):
            count = min(_BATCH_PAGES, region.pages - start)
            data = buffer[: count * PAGE_SIZE]
            region.read(np.array([[start, count]]), data)
            nonzero_pages(np.frombuffer(data, dtype=np.uint64).reshape(count, -1))
            page_terms(data, PAGE_SIZE, np.arange(start, start + count), 0, 1)
            checksum(data)
            out.sendall(start.to_bytes(8, "little") + count.to_bytes(8, "little"))
            out.sendall(data)


def _receive(target: Path, ballast: Path, pipe: Connection) -> None:
    region, buffer = FileRegion(target, writable=True), kept_buffer(_BATCH_PAGES * PAGE_SIZE)
    header = memoryview(bytearray(16))
    with socket.create_server(("127.0.0.1", 0)) as server:
        pipe.send(server.getsockname())
        into, _ = server.accept()
    with into:
        while into.recv_into(header, 16, socket.MSG_WAITALL) == len(header):
            start, count = int.from_bytes(header[:8], "little"), int.from_bytes(header[8:], "little")
            data = buffer[: count * PAGE_SIZE]
            into.recv_into(data, len(data), socket.MSG_WAITALL)
            checksum(data)
            page_terms(data, PAGE_SIZE, np.arange(start, start + count), 0, 1)
            os.truncate(ballast, max(0, ballast.stat().st_size - len(data)))
            region.write(np.array([[start, count]]), data)
    pipe.send("done")
