"""Device state: after a digest that is equal, whole, and before the destination is ready."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from migrated.errors import GuestError, IntegrityError, PeerFailedError
from migrated.protocol import MAX_DEVICE_STATE_CHUNK, DeviceState, DeviceStateEnd

PIECES = [b"screen" * 1000, b"disk", b"clock"]


def equip(
    sides: Any,
    state: Callable[[], Iterator[bytes]] = lambda: iter(PIECES),
    facts: dict[str, str] | None = None,
) -> list[bytes]:
    """Give both guests device state; returns the list that the target's will be in."""
    got: list[bytes] = []

    def load(piece: bytes) -> None:
        sides.target.calls.append("load")
        got.append(piece)

    sides.source.device_state = state
    sides.source.facts = facts or {}
    sides.target.has_device_state = True
    sides.target.load_device_state = load
    return got


async def test_it_arrives_before_the_destination_is_ready(sides: Any) -> None:
    got = equip(sides)
    report = await sides.move(sides.sender())
    assert b"".join(got) == b"".join(PIECES)
    assert sides.target.calls == ["load"] * len(got) + ["make_ready", "start True"]
    assert set(report.downtime_parts) == {"pause", "last scan", "last round", "device state", "start"}
    assert sum(report.downtime_parts.values()) == pytest.approx(report.downtime_seconds)


async def test_none_of_it_is_loaded_on_memory_that_differs(sides: Any) -> None:
    got = equip(sides)
    sender = sides.sender()

    def damage(event: object) -> None:
        sides.far_events.append(event)
        if "STOP_AND_COPY" in str(event):
            sides.receiver._stage.terms[0][0] += 1

    sides.observe_far = damage
    with pytest.raises(PeerFailedError, match="differs from the source's"):
        await sides.move(sender)
    assert got == []
    assert sides.target.calls == ["discard"]
    assert not sides.source.paused


async def test_a_guest_that_cannot_give_it_goes_on(sides: Any) -> None:
    def state() -> Iterator[bytes]:
        yield PIECES[0]
        raise GuestError("a device cannot be saved")

    equip(sides, state)
    with pytest.raises(GuestError, match="a device cannot be saved"):
        await sides.move(sides.sender())
    assert sides.source.calls[-1] == "resume"
    assert "make_ready" not in sides.target.calls
    assert sides.target.calls[-1] == "discard"


async def test_a_target_that_cannot_load_it_is_discarded(sides: Any) -> None:
    equip(sides)

    def refuse(piece: bytes) -> None:
        raise GuestError("no such device")

    sides.target.load_device_state = refuse
    with pytest.raises(PeerFailedError, match="no such device"):
        await sides.move(sides.sender())
    assert sides.target.calls == ["discard"]
    assert not sides.source.paused


@pytest.mark.parametrize(
    "change",
    [
        lambda end: DeviceStateEnd(end.size + 1, end.checksum),
        lambda end: DeviceStateEnd(end.size, end.checksum ^ 1),
    ],
)
async def test_it_must_be_whole(sides: Any, change: Callable[[DeviceStateEnd], DeviceStateEnd]) -> None:
    equip(sides)
    channel = sides.ends[0]
    send = channel.send

    async def altered(message: object) -> None:
        await send(change(message) if isinstance(message, DeviceStateEnd) else message)

    channel.send = altered
    with pytest.raises(PeerFailedError, match="is not what the source sent") as caught:
        await sides.move(sides.sender())
    assert caught.value.code == IntegrityError.reason
    assert "make_ready" not in sides.target.calls


async def test_a_target_without_devices_takes_none(sides: Any) -> None:
    equip(sides)
    sides.target.has_device_state = False
    with pytest.raises(PeerFailedError):
        await sides.move(sides.sender())
    assert "load" not in sides.target.calls
    assert "start True" not in sides.target.calls


async def test_it_is_not_taken_before_the_digest(sides: Any) -> None:
    got = equip(sides)
    channel = sides.ends[0]
    send = channel.send
    sent = []

    async def early(message: object) -> None:
        if not sent:
            sent.append(message)
        elif len(sent) == 1:
            sent.append(message)
            await send(DeviceState(b"early"))
        await send(message)

    channel.send = early
    with pytest.raises(PeerFailedError, match="where none was due"):
        await sides.move(sides.sender())
    assert got == []


async def test_facts_travel_with_the_offer(sides: Any) -> None:
    equip(sides, facts={"machine": "pc-q35-7.2", "cpu": "qemu64"})
    await sides.move(sides.sender())
    assert dict(sides.receiver._offer.facts) == {"machine": "pc-q35-7.2", "cpu": "qemu64"}


async def test_it_is_sent_as_it_comes(sides: Any) -> None:
    """The second piece exists only when the first has been loaded."""
    loaded = threading.Event()

    def state() -> Iterator[bytes]:
        yield PIECES[0]
        assert loaded.wait(20.0), "the first piece was kept back"
        yield PIECES[1]

    got = equip(sides, state)
    load = sides.target.load_device_state
    sides.target.load_device_state = lambda piece: (load(piece), loaded.set())
    await sides.move(sides.sender())
    assert got == PIECES[:2]


async def test_what_gathered_goes_in_few_messages(sides: Any) -> None:
    pieces = [bytes([number]) * (100 << 10) for number in range(20)]
    got = equip(sides, lambda: iter(pieces))
    await sides.move(sides.sender())
    assert b"".join(got) == b"".join(pieces)
    assert max(map(len, got)) <= MAX_DEVICE_STATE_CHUNK
    assert len(got) <= 10
