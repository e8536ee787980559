"""What a codec is.

A codec takes any buffer and knows nothing of pages. Instances live in a worker process, one per codec and
level, and may keep contexts and scratch space between calls; they are never pickled - the pool carries names.
"""

from abc import ABC, abstractmethod
from typing import ClassVar

from typing_extensions import Buffer

__all__ = ["MAX_LEVEL", "MIN_LEVEL", "Codec"]

MIN_LEVEL, MAX_LEVEL = 1, 9
"""The person's scale, as in QEMU: 1 fastest, 9 best ratio. Level 0, no compression, never gets to a codec."""


class Codec(ABC):
    """Compresses one block at a time, at one level of the person's scale."""

    name: ClassVar[str]
    """The name on the wire and on the command line: lower case, at most 16 of ``a-z 0-9 -``."""

    trusts_input: ClassVar[bool] = False
    """True if the decoder can be made to write or read out of bounds by crafted data. A destination offers
    such a codec only when its configuration names it."""

    def __init__(self, level: int) -> None:
        if not MIN_LEVEL <= level <= MAX_LEVEL:
            raise ValueError(f"codec levels go from {MIN_LEVEL} to {MAX_LEVEL}, not {level}")
        self.level = level

    @classmethod
    @abstractmethod
    def describe_level(cls, level: int) -> str:
        """What the codec makes of a level of the person's scale, as in ``zstd 3`` or ``ISA-L 1``."""

    @abstractmethod
    def compress_into(self, source: Buffer, target: memoryview) -> int:
        """Compress ``source`` to the start of ``target`` (writable bytes) and return the bytes written.

        Returns 0 if the result does not fit: the caller then sends the block raw, so a target shorter than
        the source asks for "only if it shrinks". What stands in ``target`` is then undefined.
        """

    @abstractmethod
    def decompress_into(self, source: Buffer, target: memoryview) -> None:
        """Fill ``target`` exactly from the compressed ``source``.

        Raises :class:`migrated.errors.IntegrityError` if ``source`` is damaged, or is more or less than
        ``len(target)`` bytes when decompressed; never allocates more than a small multiple of ``target``.
        """
