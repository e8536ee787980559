"""One side's errors in words for a person at the other: "this host" and "free memory" must not mean the wrong one."""

from migrated.errors import AccessError, MigratedError, ResourceError

__all__ = ["relayed"]

_HERE = ((" on this host", ""), ("this host's", "its"))


def relayed(error: MigratedError, side: str) -> tuple[str, str]:
    """What failed and what to do about it, of an error that arose at ``side``: "the destination" or "the source".

    Who reads the text knows whose it is; the hint says so where what is to be done must be done there: about memory,
    disks, permissions. Other hints are written for either side.
    """
    what, hint = error.what, error.hint
    for here, there in _HERE:
        what, hint = what.replace(here, there), hint.replace(here, there)
    if hint and isinstance(error, AccessError | ResourceError):
        hint = f"at {side}: {hint}"
    return what, hint
