"""What a guest's memory is filled with, so that it compresses as memory of real guests does: files of this host.

Most of a server's memory is its page cache - programs, libraries, texts, data - and heaps that hold much the same. An
image is such files one after the other, each from a page of its own, in an order that depends on nothing but
their names. Two hosts differ in their files, so results name the image by its digest and its ratios.

Measured here at blocks of 256 KiB: programs and libraries lz4 1.86, zstd 2.43; texts 3.49, 5.02; anything else 1.72,
1.96. The mix gives 2.1 and 2.7; a running Debian guest had 1.96 to 2.5, and 2.5 to 3.4.
"""

import contextlib
import os
import random
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xxhash

from migrated.bench.vm.image import cache_folder
from migrated.compression import registry
from migrated.errors import ResourceError

__all__ = ["KINDS", "Content", "build_content"]

KINDS: dict[str, dict[str, int]] = {
    "mixed": {"programs": 60, "texts": 25, "data": 15},
    "text": {"texts": 100},
}
"""The contents, and what percentage of each kind of file is in them."""

_FOLDER = "/usr"
_SMALLEST, _LARGEST = 4096, 4 << 20
"""Bytes. No file makes up much of the image, and hardly any page is mostly padding."""
_PAGE = 4096
_SEED = 1
_LOOK = 1 << 14
_ASCII, _STRANGE = 127, 0.05
_BLOCK = 256 << 10
_SAMPLES = 128
"""Blocks that ratios are measured on: 32 MiB."""


@dataclass(frozen=True)
class Content:
    """An image: a multiple of 1 MiB, no page of it twice. ``ratios`` by codec, level 1, blocks of 256 KiB."""

    path: Path
    digest: str
    ratios: dict[str, float]


def build_content(name: str, size: int, cache: Path | None = None) -> Content:
    """The content ``name`` of :data:`KINDS`, with ``size`` bytes in whole MiB, built unless it is in ``cache``.

    Where the files of a kind are used up they come again, each byte of them changed by the same bits: that
    compresses as before, and no page is there twice. ResourceError if this host has no file of a kind.
    """
    cache = cache or cache_folder()
    key = xxhash.xxh3_64_hexdigest(Path(__file__).read_bytes())[:8]
    path = cache / f"content-{name}-{size >> 20}M-{key}.img"
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=cache, prefix="content-", delete=False) as out:
            made = Path(out.name)
            try:
                _write(out.fileno(), name, size)
                made.chmod(0o644)
                made.rename(path)
            finally:
                made.unlink(missing_ok=True)
    return _describe(path)


def _write(out: int, name: str, size: int) -> None:
    """Files, always of the kind that is furthest behind its share."""
    shares = KINDS[name]
    sources = {kind: _files(kind) for kind in shares}
    given = dict.fromkeys(shares, 0)
    left = size
    while left:
        kind = min(shares, key=lambda each: given[each] / shares[each])
        try:
            piece = next(sources[kind])[:left]
        except StopIteration:
            raise ResourceError(
                f"no files of the kind {kind!r} are in {_FOLDER}",
                "memory of guests is filled with files of this host: install some packages",
            ) from None
        os.write(out, piece)
        given[kind] += len(piece)
        left -= len(piece)


def _files(kind: str) -> Iterator[bytes]:
    """The files of ``kind``, in whole pages, without end unless there are none."""
    paths = sorted(_walk())
    random.Random(_SEED).shuffle(paths)
    turn, found = 0, True
    while found:
        found = False
        for path in paths:
            data = _read(path, kind)
            if data:
                found = True
                data += bytes(-len(data) % _PAGE)
                yield (np.frombuffer(data, np.uint8) ^ np.uint8(turn % 256)).tobytes() if turn else data
        turn += 1


def _walk() -> Iterator[str]:
    """Files that anybody may read."""
    for parent, _, names in os.walk(_FOLDER):
        for name in names:
            path = f"{parent}/{name}"
            with contextlib.suppress(OSError):
                found = os.lstat(path)
                readable = stat.S_ISREG(found.st_mode) and found.st_mode & stat.S_IROTH
                if readable and _SMALLEST <= found.st_size <= _LARGEST:
                    yield path


def _read(path: str, kind: str) -> bytes:
    """All of the file if it is of ``kind``, else nothing."""
    with contextlib.suppress(OSError), open(path, "rb") as file:  # noqa: PTH123  some 10^5 of them
        head = file.read(_LOOK)
        if _kind(head) == kind:
            return head + file.read()
    return b""


def _kind(head: bytes) -> str:
    if head[:4] == b"\x7fELF":
        return "programs"
    # A text has no zero bytes, and few that are not ASCII.
    strange = np.count_nonzero(np.frombuffer(head, np.uint8) > _ASCII)
    return "texts" if b"\0" not in head and strange < len(head) * _STRANGE else "data"


def _describe(path: Path) -> Content:
    with path.open("rb") as file:
        digest = xxhash.xxh3_64()
        while piece := file.read(1 << 20):
            digest.update(piece)
        blocks = [memoryview(_at(file.fileno(), place)) for place in _places(path.stat().st_size)]
    room = memoryview(bytearray(_BLOCK - 1))
    ratios = {}
    for name in ("lz4", "zstd"):
        codec = registry.create(name, 1)
        packed = sum(codec.compress_into(block, room) or _BLOCK for block in blocks)
        ratios[name] = round(len(blocks) * _BLOCK / packed, 2)
    return Content(path, digest.hexdigest(), ratios)


def _places(size: int) -> range:
    blocks = size // _BLOCK
    return range(0, blocks * _BLOCK, max(1, blocks // _SAMPLES) * _BLOCK)


def _at(file: int, place: int) -> bytes:
    return os.pread(file, _BLOCK, place)
