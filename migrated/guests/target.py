"""A guest that may arrive here, made from what this host's configuration says of it."""

from migrated.errors import UsageError
from migrated.guests.base import TargetEntry, TargetGuest

__all__ = ["make_target"]


def make_target(name: str, entry: TargetEntry) -> TargetGuest:
    """The guest ``name``; nothing is made or changed before :meth:`TargetGuest.prepare`."""
    match entry.kind:
        case "demo":
            from migrated.guests.demo.target import DemoTarget

            return DemoTarget(name, entry)
        case "shm":
            from migrated.guests.shm import ShmTarget

            return ShmTarget(name, entry)
        case "pid":
            from migrated.guests.process import ProcessTarget

            return ProcessTarget(name, entry)
        case "qemu":
            from migrated.guests.qemu.target import QemuTarget

            return QemuTarget(name, entry)
        case kind:
            raise UsageError(f"guest {name}: there is no kind {kind!r}", "kinds are demo, shm, pid and qemu")
