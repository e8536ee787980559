"""What a virtual machine is, as its QEMU tells: memory, processor, devices, disks, and what it does just now."""

import contextlib
import os
import re
import stat
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from migrated.errors import GuestDiedError

__all__ = ["Ask", "Backend", "Disk", "Machine", "block_name", "inspect"]

Ask = Callable[[str, Mapping[str, Any] | None], Any]
"""Runs a QMP command; :meth:`migrated.guests.qemu.qmp.Qmp.execute`."""

_FILE_BACKEND = "memory-backend-file"
_FOREIGN_WRITERS = ("vhost-user", "vhost-vdpa")
_PASSED_THROUGH = "vfio-"


@dataclass(frozen=True, slots=True)
class Backend:
    """A memory backend. ``path`` is empty for one that is no file; ``page_size`` that of the file, in bytes."""

    name: str
    path: str
    size: int
    share: bool
    page_size: int


@dataclass(frozen=True, slots=True)
class Disk:
    """A disk with a medium. ``identity`` tells whether another QEMU's disk is the very same storage."""

    name: str
    file: str
    driver: str
    writable: bool
    direct: bool
    identity: str


@dataclass(frozen=True, slots=True)
class Machine:
    """A virtual machine as it was when asked. ``status`` is QEMU's word, ``migration`` its migration's.

    ``memory`` is the RAM that the guest has, in bytes, plugged modules included; ``features`` are the processor's, bits
    by CPUID word; ``devices`` are type names with their number, ``plugged`` those that the command line or a monitor
    asked for; ``pci`` are addresses with ids.
    """

    pid: int
    version: tuple[int, int, int]
    status: str
    migration: str
    machine: str
    accelerator: str
    processor: str
    features: Mapping[str, int]
    processors: int
    memory: int
    backends: tuple[Backend, ...]
    disks: tuple[Disk, ...]
    devices: tuple[str, ...]
    plugged: tuple[str, ...]
    pci: tuple[str, ...]
    foreign_writers: tuple[str, ...]
    passed_through: tuple[str, ...]


def inspect(greeting: Mapping[str, Any], ask: Ask) -> Machine:
    """Ask for everything; some 30 commands, 10 ms. Changes nothing.

    ``greeting`` is that of :class:`migrated.guests.qemu.qmp.Qmp`.
    """
    version = greeting["version"]["qemu"]
    processors = ask("query-cpus-fast", None)
    pid = _process_of(int(processors[0]["thread-id"]))
    summary = ask("query-memory-size-summary", None)
    first = str(processors[0]["qom-path"])
    plugged = _devices(ask, "/machine/peripheral", "/machine/peripheral-anon")
    devices = plugged + _devices(ask, "/machine/unattached")
    return Machine(
        pid=pid,
        version=(int(version["major"]), int(version["minor"]), int(version["micro"])),
        status=str(ask("query-status", None)["status"]),
        migration=str(ask("query-migrate", None).get("status", "none")),
        machine=str(_property(ask, "/machine", "type")).removesuffix("-machine"),
        accelerator="kvm" if ask("query-kvm", None)["enabled"] else "tcg",
        processor=str(_property(ask, first, "type")),
        features=_features(ask, first),
        processors=len(processors),
        memory=int(summary["base-memory"]) + int(summary.get("plugged-memory", 0)),
        backends=tuple(_backends(ask)),
        disks=tuple(_disks(ask, pid)),
        devices=_counted(devices),
        plugged=_counted(plugged),
        pci=tuple(_pci(ask("query-pci", None))),
        foreign_writers=tuple(each for each in devices if each.startswith(_FOREIGN_WRITERS))
        + tuple(_networks(ask)),
        passed_through=tuple(each for each in devices if each.startswith(_PASSED_THROUGH)),
    )


def _property(ask: Ask, path: str, name: str) -> Any:
    return ask("qom-get", {"path": path, "property": name})


def _process_of(thread: int) -> int:
    try:
        text = Path(f"/proc/{thread}/status").read_text()
    except OSError as error:
        raise GuestDiedError(
            f"there is no thread {thread}, which QEMU names as its own",
            "run in the process namespace of QEMU",
        ) from error
    match = re.search(r"^Tgid:\s+(\d+)", text, re.MULTILINE)
    assert match is not None
    return int(match[1])


def _backends(ask: Ask) -> list[Backend]:
    kinds = {each["name"]: each["type"] for each in ask("qom-list", {"path": "/objects"})}
    found = []
    for each in ask("query-memdev", None):
        name = str(each.get("id", ""))
        path = ""
        if kinds.get(name) == f"child<{_FILE_BACKEND}>":
            path = str(_property(ask, f"/objects/{name}", "mem-path"))
        # Before 6.1 QEMU did not tell whether it is shared.
        share = bool(each["share"]) if "share" in each else bool(_property(ask, f"/objects/{name}", "share"))
        found.append(Backend(name or "?", path, int(each["size"]), share, _page_size(path)))
    return sorted(found, key=lambda each: each.name)


def _page_size(path: str) -> int:
    with contextlib.suppress(OSError):
        if path:
            return os.statvfs(path).f_bsize
    return 0


def _features(ask: Ask, processor: str) -> dict[str, int]:
    with contextlib.suppress(Exception):  # not every architecture has it
        return {
            f"{each['cpuid-input-eax']:x}.{each.get('cpuid-input-ecx', 0):x}.{each['cpuid-register']}": int(
                each["features"]
            )
            for each in _property(ask, processor, "feature-words")
            if each["features"]  # which words there are differs by version
        }
    return {}


def _counted(kinds: Sequence[str]) -> tuple[str, ...]:
    return tuple(f"{kind} x{count}" for kind, count in sorted(Counter(kinds).items()))


def _devices(ask: Ask, *folders: str) -> list[str]:
    found = []
    for folder in folders:
        for each in ask("qom-list", {"path": folder}):
            kind = re.fullmatch(r"child<(.*)>", each["type"])
            if kind and (not folder.endswith("unattached") or each["name"].startswith("device[")):
                found.append(kind[1])
    return found


def _pci(buses: Sequence[Mapping[str, Any]]) -> list[str]:
    found = []
    for bus in buses:
        for each in bus["devices"]:
            ids = each["id"]
            place = f"{bus['bus']:02x}:{each['slot']:02x}.{each['function']}"
            found.append(f"{place}={ids['vendor']:04x}:{ids['device']:04x}")
            bridge = each.get("pci_bridge", {})
            if "devices" in bridge:
                found += _pci([{"bus": bridge["bus"]["number"], "devices": bridge["devices"]}])
    return found


def _networks(ask: Ask) -> list[str]:
    """Network back ends that write to the guest's memory from a process of their own."""
    text = str(ask("human-monitor-command", {"command-line": "info network"}))
    return [
        line.strip() for line in text.splitlines() if any(f"type={kind}" in line for kind in _FOREIGN_WRITERS)
    ]


def _disks(ask: Ask, pid: int) -> list[Disk]:
    found = []
    for each in ask("query-block", None):
        medium = each.get("inserted")
        if medium is None:
            continue
        name = each.get("device") or each.get("qdev") or medium.get("node-name") or "?"
        file = str(medium["file"])
        found.append(
            Disk(
                name=str(name),
                file=file,
                driver=str(medium["drv"]),
                writable=not medium["ro"],
                direct=bool(medium["cache"]["direct"]),
                identity=_identity(file, pid),
            )
        )
    return found


_SHARED_FILE_SYSTEMS = {
    "nfs",
    "nfs4",
    "cifs",
    "smb3",
    "ceph",
    "gfs2",
    "ocfs2",
    "lustre",
    "fuse.glusterfs",
    "gpfs",
}


def _identity(file: str, pid: int) -> str:
    """The same text on two hosts, or for two QEMUs on one, only if it is the same storage."""
    if re.match(r"json:|[a-z0-9+]{2,}:", file):
        return f"net:{file}"  # nbd://, rbd:, iscsi://: reached from everywhere by the same name
    path = Path(f"/proc/{pid}/cwd") / file
    try:
        status = path.stat()
        name = block_name(status.st_rdev) if stat.S_ISBLK(status.st_mode) else ""
        if name:
            return f"block:{name}"
        kind = _file_system(status.st_dev)
    except OSError:
        return f"unknown:{file}"
    if kind in _SHARED_FILE_SYSTEMS:
        return f"{kind}:{status.st_ino}:{Path(file).name}"
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"local:{boot}:{status.st_rdev or status.st_dev}:{status.st_ino}"


def block_name(device: int, sysfs: Path = Path("/sys")) -> str:
    """The name by which every host knows a disk or volume of a storage network; empty if it has none."""
    folder = sysfs / "dev/block" / f"{os.major(device)}:{os.minor(device)}"
    for file in ("dm/uuid", "wwid", "device/wwid"):
        with contextlib.suppress(OSError):
            name = (folder / file).read_text().strip()
            if name:
                return re.sub(r"\s+", "_", name)
    return ""


def _file_system(device: int) -> str:
    wanted = f"{os.major(device)}:{os.minor(device)}"
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split()
        if fields[2] == wanted:
            return fields[fields.index("-") + 1]
    return ""
