"""What `migrated doctor` looks at for virtual machines: this host's QEMUs, or one machine."""

import os
from collections.abc import Iterator
from pathlib import Path

from migrated.cli.findings import Check, Level
from migrated.errors import MigratedError
from migrated.guests.qemu.diagnosis import Diagnosis, diagnose
from migrated.guests.qemu.programs import Program, Running, others, programs, running
from migrated.guests.qemu.safety import Refusal
from migrated.units import format_size

__all__ = ["machine_checks", "qemu_checks"]

_KVM = Path("/dev/kvm")


def qemu_checks() -> Iterator[Check]:
    """Which QEMUs there are, what they lack, KVM, and whether those that run can be moved by this user."""
    found = programs()
    if not found:
        more = f"for other processors only: {', '.join(others())}" if others() else "not installed"
        yield Check("qemu", Level.WARN, more, "only needed to run QEMU guests on this host")
    for each in found:
        yield _program(each)
    if found:
        yield _kvm(usable=any(each.kvm for each in found))
    yield from _running(running())


def machine_checks(path: Path) -> Iterator[Check]:
    """Everything that keeps the VM whose monitor is at ``path`` from moving, at once."""
    try:
        found = diagnose(path)
    except MigratedError as error:
        yield Check("monitor", Level.FAIL, error.what, error.hint)
        return
    yield Check("machine", Level.OK, _described(found))
    for level, refusals in (
        (Level.FAIL, found.refusals),
        (Level.WARN, found.avoidable),
        (Level.WARN, found.elsewhere),
    ):
        for each in refusals:
            yield _refusal(level, each)
    if found.waits and not found.refusals:
        yield Check("to here", Level.OK, "it waits for a guest")
    elif not found.refusals:
        yield Check("from here", Level.OK, f"it can be moved; {found.tracker}")


def _program(found: Program) -> Check:
    if found.problem:
        return Check(
            "qemu",
            Level.WARN,
            f"{found.path} does not answer: {found.problem}",
            "install it again; it can't be used",
        )
    if found.lacks:
        return Check(
            "qemu",
            Level.WARN,
            f"{found.path} {found.version} lacks {', '.join(found.lacks)}: its machines can't be moved",
            "use QEMU 4.0 or newer",
        )
    return Check("qemu", Level.OK, f"{found.path} {found.version}: its machines can be moved")


def _kvm(*, usable: bool) -> Check:
    if not _KVM.exists():
        return Check(
            "kvm",
            Level.WARN,
            "not on this host: virtual machines are emulated (TCG), many times slower",
            "load kvm_intel or kvm_amd; in a cloud, take a host that allows nested virtualisation",
        )
    if not os.access(_KVM, os.R_OK | os.W_OK):
        return Check(
            "kvm", Level.WARN, f"{_KVM} may not be used by this user", "add the user to the group kvm"
        )
    if not usable:
        return Check(
            "kvm", Level.WARN, f"{_KVM} is there, and QEMU cannot use it", "see what the kernel says: dmesg"
        )
    return Check("kvm", Level.OK, f"QEMU can use {_KVM}")


def _running(found: list[Running]) -> Iterator[Check]:
    for each in found:
        where = " and ".join(f"qemu:{path}" for path in each.monitors) or "no monitor by a path"
        subject = f"process {each.pid}"
        if each.open:
            yield Check(subject, Level.OK, f"a QEMU, {where}; this user may see its writes")
        else:
            yield Check(
                subject,
                Level.WARN,
                f"a QEMU, {where}; this user may not see its writes",
                "run `migrated send` as root or as its user, or use --tracker hash",
            )


def _described(found: Diagnosis) -> str:
    machine = found.machine
    accelerator = "KVM" if machine.accelerator == "kvm" else "emulated (TCG)"
    disks = f", disks {', '.join(each.name for each in machine.disks)}" if machine.disks else ""
    return (
        f"QEMU {'.'.join(map(str, machine.version))}, {machine.machine}, {accelerator}, {machine.processors} x "
        f"{machine.processor}, {format_size(machine.memory)}{disks}; "
        f"it is {machine.status!r}"
    )


def _refusal(level: Level, found: Refusal) -> Check:
    return Check("from here" if level is Level.FAIL else "limits", level, found.what, found.hint)
