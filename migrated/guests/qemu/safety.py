"""Which virtual machines can be moved, and which destinations fit: pure functions of what QEMU told."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from migrated.guests.qemu.inspect import Disk, Machine
from migrated.units import format_size

__all__ = ["Refusal", "differences", "facts_of", "refusals", "target_refusals"]

_MOVABLE = ("running", "paused", "prelaunch")
_ENDED = ("none", "completed", "failed", "cancelled")
_ROOM = 600
"""Characters of a fact; an offer takes 700."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A reason not to move the VM, and the way out."""

    what: str
    hint: str


def refusals(machine: Machine, *, hashes: bool) -> list[Refusal]:
    """Why ``machine`` can't leave this host. ``hashes``: pages are compared, whoever wrote them."""
    found = []
    if machine.migration not in _ENDED:
        found.append(
            Refusal(f"QEMU is already in a migration ({machine.migration})", "let it end, or cancel it first")
        )
    elif machine.status == "postmigrate":
        found.append(
            Refusal(
                "the VM was moved already, and may run elsewhere (its state is 'postmigrate')",
                "make sure that it runs nowhere else; only then `cont` it, and move it again",
            )
        )
    elif machine.status not in _MOVABLE:
        found.append(
            Refusal(
                f"the VM's state is {machine.status!r}", f"it can be moved when it is {' or '.join(_MOVABLE)}"
            )
        )
    found += memory_refusals(machine)
    if machine.passed_through:
        found.append(
            Refusal(
                f"a device of the host was passed through: {', '.join(machine.passed_through)}",
                "unplug it first: what it writes is not seen, and its state can't be taken along",
            )
        )
    if machine.foreign_writers and not hashes:
        found.append(
            Refusal(
                f"another process writes to the VM's memory: {', '.join(machine.foreign_writers)}",
                "use --tracker hash, or a device that QEMU itself emulates",
            )
        )
    direct = [each.name for each in machine.disks if each.direct]
    if direct and not hashes:
        found.append(
            Refusal(
                f"disk {', '.join(direct)} is read into memory past the page tables (cache.direct=on)",
                "use --tracker hash, or start the VM with cache=writeback",
            )
        )
    return found


def memory_refusals(machine: Machine) -> list[Refusal]:
    """What is wrong with how the VM has its memory, for either side."""
    how = "start it with -object memory-backend-file,id=ram,size=...,share=on,mem-path=/dev/shm/FILE"
    found = []
    for each in machine.backends:
        if not each.path:
            found.append(Refusal(f"memory {each.name} is in no file", f"{how} -machine memory-backend=ram"))
        elif not each.share:
            found.append(Refusal(f"memory {each.name} is private to QEMU (share=off)", how))
    total = sum(each.size for each in machine.backends)
    if not found and total != machine.memory:
        found.append(
            Refusal(
                f"the VM has {format_size(machine.memory)} of memory, "
                f"its memory files have {format_size(total)}",
                f"{how}; memory that is not the VM's RAM (ivshmem, nvdimm) can't be moved yet",
            )
        )
    return found


def target_refusals(machine: Machine) -> list[Refusal]:
    """Why the VM that is to take another one in can't."""
    found = memory_refusals(machine)
    if machine.status != "inmigrate" or machine.migration != "none":
        found.append(
            Refusal(
                f"it does not wait for a migration: it is {machine.status!r}, its migration {machine.migration!r}",
                "start it anew with -incoming defer",
            )
        )
    return found


def facts_of(machine: Machine) -> dict[str, str]:
    """What the other side has to compare: words and short texts."""
    facts = {
        "qemu": ".".join(map(str, machine.version)),
        "machine": machine.machine,
        "accelerator": machine.accelerator,
        "processor": machine.processor,
        "processors": str(machine.processors),
        "page-sizes": " ".join(f"{each.name}={each.page_size}" for each in machine.backends),
        "memory": " ".join(f"{each.name}={each.size}" for each in machine.backends),
        **_split("processor-features", [f"{word}={bits:x}" for word, bits in machine.features.items()], " "),
        **_split("devices", machine.devices, ", "),
        **_split("plugged", machine.plugged, ", "),
        **_split("pci", machine.pci, " "),
        **_split("disks", [f"{each.name}={each.identity}" for each in _written(machine)], " "),
    }
    return {word: text for word, text in facts.items() if text}


def differences(source: Mapping[str, str], here: Machine) -> list[str]:
    """What differs between the source's facts and the VM that waits here, a sentence each; [] if it fits.

    A word that only one side knows is left out: the other is older. QEMUs of two versions name a machine's own devices
    in different ways, and the newer one may have more features of a processor: there only what is plugged is compared,
    and that no feature is missing.
    """
    ours = facts_of(here)
    found = []
    version = _version(source.get("qemu", ours["qemu"]))
    if version > here.version:
        found.append(f"QEMU {source['qemu']} at the source, the older {ours['qemu']} here")
    same = version[:2] == here.version[:2]
    found += _feature_differences(source, here, exact=same)
    for word, name in _COMPARED.items():
        if word == ("plugged" if same else "devices"):
            continue
        theirs, own = _joined(source, word), _joined(ours, word)
        if theirs and own and theirs != own:
            only = _short(theirs, own, _between(word)), _short(own, theirs, _between(word))
            found.append(f"{name} {only[0]} at the source, {only[1]} here")
    found += _disk_differences(dict(_pairs(source)), here)
    return found


_COMPARED = {
    "machine": "machine type",
    "accelerator": "accelerator",
    "processor": "processor",
    "processors": "number of processors",
    "memory": "memory",
    "page-sizes": "page sizes of the memory",
    "devices": "devices",
    "plugged": "devices",
    "pci": "PCI devices",
}


def _written(machine: Machine) -> list[Disk]:
    return [each for each in machine.disks if each.writable]


def _pairs(facts: Mapping[str, str]) -> list[tuple[str, str]]:
    return [
        (name, identity)
        for each in _joined(facts, "disks").split(" ")
        for name, _, identity in [each.partition("=")]
        if name
    ]


def _feature_differences(source: Mapping[str, str], here: Machine, *, exact: bool) -> list[str]:
    pairs = [each.partition("=") for each in _joined(source, "processor-features").split()]
    theirs = {word: int(bits, 16) for word, _, bits in pairs if re.fullmatch("[0-9a-f]+", bits)}
    if not theirs or not here.features:
        return []
    lacking = {word: bits & ~here.features.get(word, 0) for word, bits in theirs.items()}
    more = {word: bits & ~theirs.get(word, 0) for word, bits in here.features.items()}
    found = []
    if any(lacking.values()):
        found.append(f"features of the processor {_bits(lacking)} at the source, not here")
    if exact and any(more.values()):
        found.append(f"features of the processor {_bits(more)} here, not at the source")
    return found


def _bits(words: Mapping[str, int]) -> str:
    return " ".join(f"{word}={bits:x}" for word, bits in words.items() if bits)


def _disk_differences(theirs: Mapping[str, str], here: Machine) -> list[str]:
    found = []
    ours = {each.name: each for each in _written(here)}
    for name, identity in theirs.items():
        own = ours.get(name)
        if own is None:
            found.append(f"a writable disk {name} at the source, none of that name here")
        elif own.identity != identity or identity.startswith("unknown:"):
            local = " (a local file there)" if identity.startswith("local:") else ""
            found.append(f"disk {name} is {own.file} here, which is not the source's storage{local}")
    return found


def _split(word: str, items: "list[str] | tuple[str, ...]", between: str) -> dict[str, str]:
    """As many facts as it takes: ``word``, ``word-2``, ..."""
    pieces = [""]
    for each in items:
        if len(pieces[-1]) + len(each) + len(between) > _ROOM and pieces[-1]:
            pieces.append("")
        pieces[-1] += (between if pieces[-1] else "") + each[:_ROOM]
    return {word if place == 1 else f"{word}-{place}": text for place, text in enumerate(pieces, 1)}


def _joined(facts: Mapping[str, str], word: str) -> str:
    pieces = [facts[word]] if word in facts else []
    while f"{word}-{len(pieces) + 1}" in facts and pieces:
        pieces.append(facts[f"{word}-{len(pieces) + 1}"])
    return _between(word).join(pieces)


def _between(word: str) -> str:
    return ", " if word in ("devices", "plugged") else " "


def _short(text: str, other: str, between: str) -> str:
    """A list without what the other one has, too."""
    others = other.split(between)
    left = [each for each in text.split(between) if each not in others]
    return between.join(left) or "fewer"


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(each) for each in re.findall(r"\d+", text)[:3])
