"""A word by which two programs find out that they run on the same host, and so share its processors."""

import hashlib
from pathlib import Path

__all__ = ["this_host"]

_BOOT = Path("/proc/sys/kernel/random/boot_id")


def this_host() -> str:
    """The same for all that run on this host, in whatever container, until it starts anew; empty if not known.

    It says nothing else of the host: what the kernel calls this start is hashed.
    """
    try:
        boot = _BOOT.read_bytes().strip()
    except OSError:
        return ""
    return hashlib.blake2s(boot, digest_size=8, person=b"migrated").hexdigest()
