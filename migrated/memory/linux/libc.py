"""The C library with ``errno`` kept per call, and errno turned into an ``OSError``."""

import ctypes
import os

__all__ = ["LIBC", "raise_errno"]

LIBC = ctypes.CDLL(None, use_errno=True)


def raise_errno(what: str) -> None:
    """Raise the ``OSError`` subclass of the last failed call; ``what`` names the operation."""
    number = ctypes.get_errno()
    raise OSError(number, f"{what}: {os.strerror(number)}")
