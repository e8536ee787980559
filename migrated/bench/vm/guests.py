"""The guests that are measured, by what a person types: ``idle``, ``redis``, ``text:20MB/s``."""

import math
from dataclasses import dataclass

from migrated.bench.vm.content import Content, build_content
from migrated.errors import UsageError
from migrated.units import parse_rate

__all__ = ["KINDS", "Guest", "parse_guest"]

_CONTENT_BYTES = 256 << 20
"""Of an image; memory that is larger gets it again, with every byte changed by the same bits."""

_SETS = 2000
"""Values a second that a busy store replaces: what redis-benchmark does to a redis in a VM without KVM, half of it
writes. Eight in ten go to a fifth of the table."""


@dataclass(frozen=True)
class _Kind:
    content: str
    words: str
    writes: bool
    help: str


KINDS = {
    "idle": _Kind("mixed", "", False, "as mixed, and nothing is written"),
    "mixed": _Kind("mixed", "", True, "programs, texts and data of this host"),
    "text": _Kind("text", "", True, "texts of this host"),
    "random": _Kind("", "noise=100", True, "nothing that compresses"),
    "redis": _Kind("mixed", f"table=50 sets={_SETS}", False, "half of it a table whose values are replaced"),
}
"""What a guest's memory holds, and whether a rate of writing can be asked for."""


@dataclass(frozen=True)
class Guest:
    """``kind`` of :data:`KINDS`; ``rate`` bytes a second of its memory are written anew, with more of the same."""

    kind: str
    rate: float = 0.0

    def __str__(self) -> str:
        return f"{self.kind}:{self.rate / 1e6:g}MB/s" if self.rate else self.kind

    @property
    def words(self) -> str:
        """For the kernel's command line."""
        kind = KINDS[self.kind]
        content = " content=/dev/vda" if kind.content else ""
        return f"rate={self.rate:.0f} check=0 {kind.words}{content}"

    @property
    def content(self) -> str:
        """The name of what fills its memory, for :func:`build_content`; empty: it does that on its own."""
        return KINDS[self.kind].content

    def disk(self) -> Content | None:
        """The disk with its content, built if need be."""
        return build_content(self.content, _CONTENT_BYTES) if self.content else None


def parse_guest(text: str) -> Guest:
    """``KIND`` or ``KIND:RATE``; ``mixed`` without a rate is ``idle``. UsageError: there is no such guest."""
    kind, colon, rate = text.partition(":")
    if kind not in KINDS:
        raise UsageError(f"there is no guest {text!r}", f"there are {', '.join(KINDS)}, as in mixed:40MB/s")
    if colon and not KINDS[kind].writes:
        raise UsageError(f"{kind} writes at no rate of yours", "give one to text, mixed or random")
    bytes_a_second = parse_rate(rate) if colon else 0.0
    if math.isinf(bytes_a_second):
        bytes_a_second = 0.0  # "0", which units read as no limit
    return Guest("idle", 0.0) if kind == "mixed" and not bytes_a_second else Guest(kind, bytes_a_second)
