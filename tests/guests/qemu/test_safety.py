"""What is refused, and what differs: decided on what a real QEMU 7.2 had answered."""

import copy
import dataclasses
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from migrated.guests.qemu.inspect import Machine, block_name, inspect
from migrated.guests.qemu.safety import differences, facts_of, refusals, target_refusals
from migrated.protocol import Offer, RegionInfo

RECORDED = Path(__file__).parent / "recorded"
Answers = dict[str, Any]


def machine(name: str = "movable-7.2", change: Callable[[Answers], None] = lambda _: None) -> Machine:
    """The recorded machine, asked anew; ``change`` alters what it answers."""
    recorded = json.loads((RECORDED / f"{name}.json").read_text())
    answers = recorded["answers"]
    for each in answers['["query-cpus-fast", null]']:
        each["thread-id"] = os.getpid()  # that of the recording is gone
    change(answers)

    def ask(command: str, arguments: Mapping[str, Any] | None) -> Any:
        return copy.deepcopy(answers[json.dumps([command, arguments])])

    found = inspect(recorded["greeting"], ask)
    assert {each.identity for each in found.disks} == {f"unknown:{each.file}" for each in found.disks}
    same = tuple(dataclasses.replace(each, identity="local:here:1:2") for each in found.disks)
    return dataclasses.replace(found, disks=same)


def said(found: list[Any]) -> str:
    assert all(each.hint for each in found), "a refusal without a way out"
    return "; ".join(each.what for each in found)


def test_a_machine_is_read() -> None:
    found = machine()
    assert found.version == (7, 2, 22)
    assert (found.machine, found.accelerator, found.processor) == ("pc-q35-7.2", "tcg", "qemu64-x86_64-cpu")
    assert (found.processors, found.memory) == (2, 64 << 20)
    assert [(each.name, each.path, each.size, each.share) for each in found.backends] == [
        ("m0", "/dev/shm/rec0.mem", 32 << 20, True),
        ("m1", "/dev/shm/rec1.mem", 32 << 20, True),
    ]
    (disk,) = found.disks
    assert (disk.name, disk.writable, disk.direct) == ("disk0", True, False)
    assert "virtio-blk-pci x1" in found.devices
    assert "00:01.0=1af4:1001" in found.pci
    assert (found.status, found.migration) == ("prelaunch", "none")


def test_one_that_is_in_order_is_not_refused() -> None:
    assert refusals(machine(), hashes=False) == []


def test_memory_in_no_file_is_refused() -> None:
    found = refusals(machine("awkward-7.2"), hashes=True)
    assert "is in no file" in said(found)
    assert "memory-backend-file" in found[0].hint


def test_a_disk_past_the_page_tables_is_refused_unless_hashed() -> None:
    assert "cache.direct=on" in said(refusals(machine("awkward-7.2"), hashes=False))
    assert "cache.direct=on" not in said(refusals(machine("awkward-7.2"), hashes=True))


def set_answer(command: str, arguments: Any, **values: Any) -> Callable[[Answers], None]:
    return lambda answers: answers[json.dumps([command, arguments])].update(values)


def replaced(command: str, arguments: Any, value: Any) -> Callable[[Answers], None]:
    return lambda answers: answers.__setitem__(json.dumps([command, arguments]), value)


def private(answers: Answers) -> None:
    answers['["query-memdev", null]'][0]["share"] = False


def passed_through(answers: Answers) -> None:
    answers['["qom-list", {"path": "/machine/peripheral"}]'].append(
        {"name": "gpu", "type": "child<vfio-pci>"}
    )


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (private, "is private to QEMU"),
        (
            set_answer("query-memory-size-summary", None, **{"plugged-memory": 1 << 30}),
            "its memory files have",
        ),
        (set_answer("query-status", None, status="io-error"), "state is 'io-error'"),
        (set_answer("query-status", None, status="inmigrate"), "state is 'inmigrate'"),
        (set_answer("query-status", None, status="postmigrate"), "was moved already"),
        (set_answer("query-migrate", None, status="active"), "already in a migration"),
        (passed_through, "passed through: vfio-pci"),
        (
            replaced(
                "human-monitor-command",
                {"command-line": "info network"},
                "net0: index=0,type=nic,model=virtio-net-pci\r\n \\ n: index=0,type=vhost-user\r\n",
            ),
            "another process writes",
        ),
    ],
)
def test_what_is_unsafe_is_refused(change: Callable[[Answers], None], what: str) -> None:
    assert what in said(refusals(machine(change=change), hashes=False))


def test_passing_through_is_never_safe() -> None:
    assert refusals(machine(change=passed_through), hashes=True)


def test_a_destination_must_wait() -> None:
    assert "does not wait" in said(target_refusals(machine()))
    waits = set_answer("query-status", None, status="inmigrate")
    assert target_refusals(machine(change=waits)) == []


def test_a_machine_fits_itself() -> None:
    assert differences(facts_of(machine()), machine()) == []


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"machine": "pc-q35-8.0"}, "machine type pc-q35-8.0 at the source, pc-q35-7.2 here"),
        ({"accelerator": "kvm"}, "accelerator kvm at the source, tcg here"),
        ({"processor": "host-x86_64-cpu"}, "processor host-x86_64-cpu at the source"),
        (
            {"features": {"1.0.EDX": 1 << 31}},
            "features of the processor 1.0.EDX=80000000 at the source, not here",
        ),
        ({"features": {"1.0.EDX": 1}}, "features of the processor 80000001.0.ECX="),
        ({"processors": 4}, "number of processors 4 at the source, 2 here"),
        ({"version": (8, 0, 0)}, "QEMU 8.0.0 at the source, the older 7.2.22 here"),
        ({"devices": ("e1000 x1",)}, "devices e1000 x1 at the source"),
        ({"pci": ("00:02.0=1af4:1001",)}, "PCI devices 00:02.0=1af4:1001 at the source"),
    ],
)
def test_what_differs_is_named_on_both_sides(change: dict[str, Any], what: str) -> None:
    source = dataclasses.replace(machine(), **change)
    found = differences(facts_of(source), machine())
    assert any(each.startswith(what) for each in found), found


def test_qemu_10_takes_a_machine_of_7() -> None:
    """And not the other way round; both answers are recorded."""
    old, new = machine("movable-7.2"), machine("movable-10.0")
    assert new.version == (10, 0, 2)
    assert refusals(new, hashes=False) == []
    assert old.devices != new.devices
    assert differences(facts_of(old), new) == []
    assert differences(facts_of(new), old)[0] == "QEMU 10.0.2 at the source, the older 7.2.22 here"


def test_memory_of_other_sizes_and_pages_is_named() -> None:
    ours = machine()
    larger = tuple(dataclasses.replace(each, size=64 << 20, page_size=2 << 20) for each in ours.backends)
    found = differences(facts_of(dataclasses.replace(ours, backends=larger)), ours)
    assert len(found) == 2
    assert "m0=67108864 m1=67108864 at the source, m0=33554432 m1=33554432 here" in found[0]


def test_a_newer_qemu_takes_a_machine_of_an_older_one() -> None:
    """It calls the machine's own devices by other names, and knows more features."""
    ours = machine()
    less = {word: bits & ~1 for word, bits in ours.features.items()}
    source = dataclasses.replace(
        ours, version=(6, 1, 0), devices=("old-clock x1", *ours.plugged), features=less
    )
    assert differences(facts_of(source), ours) == []
    plugged = dataclasses.replace(source, plugged=("e1000 x1",))
    assert differences(facts_of(plugged), ours) == ["devices e1000 x1 at the source, virtio-blk-pci x1 here"]
    more = dataclasses.replace(source, features=ours.features | {"7.0.EBX": 1 << 31})
    assert "7.0.EBX=80000000 at the source, not here" in differences(facts_of(more), ours)[0]


def test_a_disk_must_be_the_very_same_storage() -> None:
    ours = machine()
    (disk,) = ours.disks
    for identity in ("local:elsewhere:1:2", "unknown:/x"):
        source = dataclasses.replace(ours, disks=(dataclasses.replace(disk, identity=identity),))
        (found,) = differences(facts_of(source), ours)
        assert "disk disk0 is " in found
        assert "not the source's storage" in found
    renamed = dataclasses.replace(ours, disks=(dataclasses.replace(disk, name="other"),))
    assert "none of that name here" in differences(facts_of(renamed), ours)[0]
    read_only = dataclasses.replace(
        ours, disks=(dataclasses.replace(disk, writable=False, identity="local:x"),)
    )
    assert differences(facts_of(read_only), ours) == []


def test_an_older_source_that_tells_nothing_is_compared_by_what_it_tells() -> None:
    assert differences({}, machine()) == []
    assert differences({"unheard-of": "x"}, machine()) == []


def test_many_devices_fit_into_an_offer() -> None:
    many = dataclasses.replace(
        machine(),
        devices=tuple(f"some-device-with-a-long-name-{number} x1" for number in range(100)),
        pci=tuple(f"00:{number:02x}.0=1af4:1001" for number in range(200)),
    )
    facts = facts_of(many)
    offer = Offer(
        1, 1, "0" * 32, "vm", "qemu", 4096, (RegionInfo("m0", 4096),), {}, 1, 0, facts=tuple(facts.items())
    )
    assert differences(dict(offer.facts), many) == []
    fewer = dataclasses.replace(many, devices=many.devices[1:])
    (found,) = differences(facts, fewer)
    assert found == "devices some-device-with-a-long-name-0 x1 at the source, fewer here"


@pytest.mark.parametrize(
    ("file", "text", "name"),
    [
        ("dm/uuid", "mpath-36001405\n", "mpath-36001405"),
        ("wwid", "nvme.1234 56\n", "nvme.1234_56"),
        ("device/wwid", "naa.6001405\n", "naa.6001405"),
        ("device/model", "cheap\n", ""),
    ],
)
def test_a_volume_is_known_by_the_name_that_all_hosts_use(
    tmp_path: Path, file: str, text: str, name: str
) -> None:
    path = tmp_path / "dev/block/253:4" / file
    path.parent.mkdir(parents=True)
    path.write_text(text)
    assert block_name(os.makedev(253, 4), tmp_path) == name
