"""The control messages; in which bytes they travel is :mod:`migrated.protocol.packing`'s.

A message checks itself when it is made, so one that exists is within its bounds, whoever made it; the
``ValueError`` says what is wrong. Text for people (``what``, ``hint``, ``reason``, ``sender``, ``software``)
is not refused but made harmless: one printable line, cut to ``MAX_TEXT`` characters. Reading ignores
unknown keys; a key that is missing takes the field's default, or is an error if there is none. Nothing here
knows who may send what when: that is :mod:`migrated.protocol.states`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

from migrated.protocol.records import (
    CODEC,
    MAX_VERSION,
    U32,
    U64,
    WORD,
    Record,
    check_codecs,
    check_entries,
    check_flag,
    check_match,
    check_number,
    check_printable,
    check_versions,
    check_words,
    make_harmless,
)

__all__ = [
    "COPIES",
    "MAX_BATCH_BYTES",
    "MAX_CONTROL_BODY",
    "MAX_COPIES",
    "MAX_DEVICE_STATE_CHUNK",
    "MAX_PAGE_SIZE",
    "MAX_PING_PADDING",
    "MAX_REGIONS",
    "MAX_REGION_PAGES",
    "MAX_STREAMS",
    "MESSAGES",
    "MIN_PAGE_SIZE",
    "Aborted",
    "Accept",
    "Cancel",
    "Capabilities",
    "Commit",
    "Copies",
    "DeviceState",
    "DeviceStateEnd",
    "Digest",
    "Estimate",
    "Failed",
    "Join",
    "Joined",
    "Message",
    "Offer",
    "Ping",
    "Pong",
    "Progress",
    "Query",
    "Ready",
    "Refuse",
    "RegionInfo",
    "RoundDone",
    "RoundEnd",
    "Running",
]

MAX_CONTROL_BODY = 1 << 20
"""No control message is longer; most have a smaller ``body_limit`` of their own."""

MAX_REGIONS = 256
"""Memory back ends of a virtual machine, or chosen mappings of a process: dozens at most."""

MAX_REGION_PAGES = (1 << 32) - 1
"""Runs count pages in 32 bits: 16 TiB of 4 KiB pages."""

MIN_PAGE_SIZE, MAX_PAGE_SIZE = 4096, 2 << 20
"""From the smallest page of Linux to a huge page of x86-64."""

MAX_BATCH_BYTES = 64 << 20
"""Raw bytes of a batch. The default is 4 MiB, and beyond 8 MiB nothing gets faster: a slot's size."""

MAX_DEVICE_STATE_CHUNK = 512 << 10
"""A guest's device state is 0.3 to 0.6 MB, so it travels in one or two messages."""

MAX_COPIES = 4096
"""Pages of one :class:`Copies`, each of which may be a run of its own."""

COPIES = "copies"
"""The feature of a peer that takes :class:`Copies`."""

_COPY_RUN_BYTES = 12

MAX_PING_PADDING = 120 << 10
"""What a link is measured with. Blocks of memory of 128 KiB and more are fresh each time, and cost more."""

_SMALL_BODY = 32 << 10
"""Three texts of ``MAX_TEXT`` characters of 4 bytes, and room for keys that a later version adds."""

_LARGE_BODY = 256 << 10
"""256 regions, each with a name of 128 characters of 4 bytes, and as much room again."""

MAX_STREAMS = 64
"""Connections of one migration."""

_MAX_WORKERS = 1024
_MAX_CORES = 1 << 16

_MAX_FACTS, _MAX_FACT = 32, 700
"""With 4 bytes a character, a third of what an offer may be; regions have half."""

_MIGRATION_ID = re.compile(r"[0-9a-f]{32}", re.ASCII)
_GUEST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:@+-]{0,63}", re.ASCII)


class Message(Record):
    """What the control messages have in common."""

    __slots__ = ()
    type_id: ClassVar[int]
    body_limit: ClassVar[int] = _SMALL_BODY
    """A longer body is refused before it is received."""


def _without(body: dict[str, object], **usual: object) -> dict[str, object]:
    """``body`` without what is as ``usual``: a reader takes that for granted, also one that knows no such key."""
    return {key: value for key, value in body.items() if key not in usual or value != usual[key]}


@dataclass(frozen=True, slots=True)
class RegionInfo(Record):
    """One region of a guest's memory; its index in the offer is its number in batches."""

    name: str
    size_bytes: int

    def __post_init__(self) -> None:
        check_printable("region name", self.name, 128)
        check_number("size_bytes", self.size_bytes, MIN_PAGE_SIZE, MAX_REGION_PAGES * MAX_PAGE_SIZE)


@dataclass(frozen=True, slots=True)
class Query(Message):
    """Source: what could you do? The destination answers with :class:`Capabilities`, and that was all."""

    type_id: ClassVar[int] = 1


@dataclass(frozen=True, slots=True)
class Offer(Message):
    """Source: this is what I want to migrate, and all that I can do.

    ``codecs`` maps a codec's name to the levels (0 to 9) that may be used, and ``codecs`` and ``features``
    stand in the order of preference. ``decompress_workers`` 0 leaves their number to the destination.
    ``digest_seed`` seeds the page digests and is secret between the two. ``facts`` are pairs of a word and a
    text: what the guest needs to find at the destination, for that to compare with its own. ``streams`` is how many
    connections may carry batches, this one among them.
    """

    type_id: ClassVar[int] = 2
    body_limit: ClassVar[int] = _LARGE_BODY

    min_version: int
    max_version: int
    migration_id: str
    guest: str
    kind: str
    page_size: int
    regions: tuple[RegionInfo, ...]
    codecs: dict[str, tuple[int, ...]]
    batch_pages: int
    digest_seed: int
    decompress_workers: int = 0
    verify_full: bool = False
    features: tuple[str, ...] = ()
    sender: str = ""
    facts: tuple[tuple[str, str], ...] = ()
    streams: int = 1

    def __post_init__(self) -> None:
        check_versions(self.min_version, self.max_version)
        check_match("migration_id", self.migration_id, _MIGRATION_ID, "32 hexadecimal digits")
        check_match("guest", self.guest, _GUEST, "a name of 1 to 64 letters, digits and _.:@+-")
        check_match("kind", self.kind, WORD, "a word")
        check_number("page_size", self.page_size, MIN_PAGE_SIZE, MAX_PAGE_SIZE)
        if self.page_size & (self.page_size - 1):
            raise ValueError(f"page_size is {self.page_size}, not a power of two")
        check_entries("regions", self.regions, MAX_REGIONS)
        if not self.regions:
            raise ValueError("regions is empty")
        for region in self.regions:
            if not isinstance(region, RegionInfo):
                raise ValueError("regions holds something else than regions")  # noqa: TRY004
            if region.size_bytes % self.page_size or region.size_bytes // self.page_size > MAX_REGION_PAGES:
                raise ValueError(
                    f"region {region.name}: {region.size_bytes} bytes, pages of {self.page_size}"
                )
        if len({region.name for region in self.regions}) < len(self.regions):
            raise ValueError("two regions have the same name")
        check_codecs(self.codecs)
        check_number("batch_pages", self.batch_pages, 1, MAX_BATCH_BYTES // self.page_size)
        check_number("digest_seed", self.digest_seed, 0, U64)
        check_number("decompress_workers", self.decompress_workers, 0, _MAX_WORKERS)
        check_flag("verify_full", self.verify_full)
        check_words("features", self.features, WORD)
        make_harmless(self, "sender")
        check_entries("facts", self.facts, _MAX_FACTS)
        for fact in self.facts:
            check_entries("a fact", fact, 2)
            if len(fact) != 2:
                raise ValueError("a fact is no pair")
            check_match("fact", fact[0], WORD, "a word")
            check_printable(f"fact {fact[0]}", fact[1], _MAX_FACT)
        if len({word for word, _ in self.facts}) < len(self.facts):
            raise ValueError("facts names something twice")
        check_number("streams", self.streams, 1, MAX_STREAMS)

    def to_wire(self) -> dict[str, object]:
        """The map that travels."""
        body = {**Record.to_wire(self), "regions": [region.to_wire() for region in self.regions]}
        return _without(body, facts=(), streams=1)

    @classmethod
    def from_wire(cls, body: Mapping[str, object]) -> Self:
        """The offer of a map; ``ValueError`` if it lacks a key or a value is out of bounds."""
        regions = body.get("regions")
        if not isinstance(regions, tuple) or not all(isinstance(region, dict) for region in regions):
            raise ValueError("regions is no list of maps")
        own = {**body, "regions": tuple(RegionInfo.from_wire(region) for region in regions)}
        return super(Offer, cls).from_wire(own)


@dataclass(frozen=True, slots=True)
class RoundEnd(Message):
    """Source: all batches of ``round`` are sent, ``batches`` of them with ``pages`` pages; a barrier."""

    type_id: ClassVar[int] = 4

    round: int
    batches: int
    pages: int

    def __post_init__(self) -> None:
        check_number("round", self.round, 1, U32)
        check_number("batches", self.batches, 0, U32)
        check_number("pages", self.pages, 0, U64)


@dataclass(frozen=True, slots=True)
class Copies(Message):
    """Source: these pages of a region are what others of it have been since a round before; needs :data:`COPIES`.

    ``runs`` are page, the first one that it is a copy of, and how many (u32 each, little-endian), ``pages`` of them;
    ``bases`` is the xxh3_64 over the terms of all they are copies of. None of those is sent in this round.
    """

    type_id: ClassVar[int] = 12
    body_limit: ClassVar[int] = MAX_COPIES * _COPY_RUN_BYTES + 4096

    round: int
    region: int
    pages: int
    runs: bytes
    bases: int

    def __post_init__(self) -> None:
        check_number("round", self.round, 2, U32)
        check_number("region", self.region, 0, MAX_REGIONS - 1)
        check_number("pages", self.pages, 1, MAX_COPIES)
        check_number("bases", self.bases, 0, U64)
        if not isinstance(self.runs, bytes) or not 0 < len(self.runs) <= self.pages * _COPY_RUN_BYTES:
            raise ValueError(f"runs of {self.pages} pages are not 1 to {self.pages * _COPY_RUN_BYTES} bytes")


@dataclass(frozen=True, slots=True)
class DeviceState(Message):
    """Source: the next piece of the device state."""

    type_id: ClassVar[int] = 5
    body_limit: ClassVar[int] = MAX_DEVICE_STATE_CHUNK + 4096

    data: bytes

    def __post_init__(self) -> None:
        if not isinstance(self.data, bytes) or not 0 < len(self.data) <= MAX_DEVICE_STATE_CHUNK:
            raise ValueError(f"data is not 1 to {MAX_DEVICE_STATE_CHUNK} bytes")


@dataclass(frozen=True, slots=True)
class DeviceStateEnd(Message):
    """Source: the device state is complete: ``size`` bytes in all, ``checksum`` their xxh3_64."""

    type_id: ClassVar[int] = 6

    size: int
    checksum: int

    def __post_init__(self) -> None:
        check_number("size", self.size, 0, U64)
        check_number("checksum", self.checksum, 0, U64)


@dataclass(frozen=True, slots=True)
class Digest(Message):
    """Source: the guest is paused, and this is its memory: the sum of the page terms of every region."""

    type_id: ClassVar[int] = 7

    terms: tuple[int, ...]
    was_running: bool

    def __post_init__(self) -> None:
        check_entries("terms", self.terms, MAX_REGIONS)
        for term in self.terms:
            check_number("terms", term, 0, U64)
        check_flag("was_running", self.was_running)


@dataclass(frozen=True, slots=True)
class Commit(Message):
    """Source: the guest is yours. As the first message of a connection: how did that migration end?

    ``paused_ms`` is how long the guest has been paused at the source, for whoever watches the destination.
    """

    type_id: ClassVar[int] = 8

    migration_id: str
    paused_ms: int = 0

    def __post_init__(self) -> None:
        check_match("migration_id", self.migration_id, _MIGRATION_ID, "32 hexadecimal digits")
        check_number("paused_ms", self.paused_ms, 0, U64)


@dataclass(frozen=True, slots=True)
class Cancel(Message):
    """Source: stop; the guest stays here. ``code`` is a word for the reason: ``cancelled`` if a person said so."""

    type_id: ClassVar[int] = 9

    reason: str = ""
    code: str = "cancelled"

    def __post_init__(self) -> None:
        check_match("code", self.code, WORD, "a word")
        make_harmless(self, "reason")


@dataclass(frozen=True, slots=True)
class Estimate(Message):
    """Source: what it knows before a round, for whoever watches the destination; nothing depends on it.

    Bytes of memory still to be sent and what they take on the wire, bytes dirtied and bytes sent per second,
    and the milliseconds that the guest would stand still if it were paused now.
    """

    type_id: ClassVar[int] = 10

    remaining_bytes: int
    remaining_wire_bytes: int
    dirty_bytes_per_second: int
    wire_bytes_per_second: int
    expected_downtime_ms: int

    def __post_init__(self) -> None:
        for name in self.__slots__:
            check_number(name, getattr(self, name), 0, U64)


@dataclass(frozen=True, slots=True)
class Join(Message):
    """Source, as the first message of a connection: it is to carry batches of that migration, too.

    ``digest_seed`` is that of its offer, which nobody else knows.
    """

    type_id: ClassVar[int] = 11

    migration_id: str
    digest_seed: int

    def __post_init__(self) -> None:
        check_match("migration_id", self.migration_id, _MIGRATION_ID, "32 hexadecimal digits")
        check_number("digest_seed", self.digest_seed, 0, U64)


@dataclass(frozen=True, slots=True)
class Capabilities(Message):
    """Destination: what it can do. ``guests`` are names with their kinds, as in ``web (shm)``.

    ``streams`` is how many connections a migration may have, ``cores`` how many processors it has, 0 if it does not
    say; ``host`` a word that is the same for all that
    run on one host, until that starts anew: a source that finds its own shares its processors with it.
    """

    type_id: ClassVar[int] = 33
    body_limit: ClassVar[int] = _LARGE_BODY

    software: str
    min_version: int
    max_version: int
    codecs: dict[str, tuple[int, ...]]
    features: tuple[str, ...]
    guests: tuple[str, ...]
    max_region_bytes: int
    batch_pages_max: int
    decompress_workers: int
    cores: int = 0
    host: str = ""
    streams: int = 1

    def __post_init__(self) -> None:
        make_harmless(self, "software")
        check_versions(self.min_version, self.max_version)
        check_codecs(self.codecs)
        check_words("features", self.features, WORD)
        check_entries("guests", self.guests, 256)
        for guest in self.guests:
            check_printable("guests", guest, 128)
        check_number("max_region_bytes", self.max_region_bytes, 1, U64)
        check_number("batch_pages_max", self.batch_pages_max, 1, MAX_BATCH_BYTES // MIN_PAGE_SIZE)
        check_number("decompress_workers", self.decompress_workers, 1, _MAX_WORKERS)
        check_number("cores", self.cores, 0, _MAX_CORES)
        if self.host:
            check_match("host", self.host, WORD, "a word")
        check_number("streams", self.streams, 1, MAX_STREAMS)

    def to_wire(self) -> dict[str, object]:
        """The map that travels."""
        return _without(Record.to_wire(self), cores=0, host="", streams=1)


@dataclass(frozen=True, slots=True)
class Accept(Message):
    """Destination: send it, within these bounds. ``codecs`` keeps the source's order; batches count in it.
    ``streams`` is how many connections the source may send them over."""

    type_id: ClassVar[int] = 34

    version: int
    codecs: tuple[str, ...]
    batch_pages: int
    decompress_workers: int
    features: tuple[str, ...] = ()
    streams: int = 1

    def __post_init__(self) -> None:
        check_number("version", self.version, 1, MAX_VERSION)
        check_words("codecs", self.codecs, CODEC)
        check_number("batch_pages", self.batch_pages, 1, MAX_BATCH_BYTES // MIN_PAGE_SIZE)
        check_number("decompress_workers", self.decompress_workers, 1, _MAX_WORKERS)
        check_words("features", self.features, WORD)
        check_number("streams", self.streams, 1, MAX_STREAMS)

    def to_wire(self) -> dict[str, object]:
        """The map that travels."""
        return _without(Record.to_wire(self), streams=1)


@dataclass(frozen=True, slots=True)
class Refuse(Message):
    """Destination: no. ``code`` is a stable word, ``what`` says why, ``hint`` what to do about it."""

    type_id: ClassVar[int] = 35

    code: str
    what: str
    hint: str = ""

    def __post_init__(self) -> None:
        check_match("code", self.code, WORD, "a word")
        make_harmless(self, "what")
        make_harmless(self, "hint")


@dataclass(frozen=True, slots=True)
class Progress(Message):
    """Destination: batches and raw bytes that were applied since the start, and what a byte of memory takes its
    workers by now, on the clock: picoseconds of one of them, divided by how many there are."""

    type_id: ClassVar[int] = 36

    batches: int
    raw_bytes: int
    unpack_picoseconds: int = 0

    def __post_init__(self) -> None:
        check_number("batches", self.batches, 0, U32)
        check_number("raw_bytes", self.raw_bytes, 0, U64)
        check_number("unpack_picoseconds", self.unpack_picoseconds, 0, U32)


@dataclass(frozen=True, slots=True)
class RoundDone(Message):
    """Destination: every page of ``round`` is in its place."""

    type_id: ClassVar[int] = 37

    round: int

    def __post_init__(self) -> None:
        check_number("round", self.round, 1, U32)


@dataclass(frozen=True, slots=True)
class Ready(Message):
    """Destination: the digest is equal, all is loaded and prepared, the guest is paused: commit or cancel."""

    type_id: ClassVar[int] = 38


@dataclass(frozen=True, slots=True)
class Running(Message):
    """Destination: RUN is durable and the guest was resumed here. Give up yours."""

    type_id: ClassVar[int] = 39


@dataclass(frozen=True, slots=True)
class Aborted(Message):
    """Destination: ABORTED is durable; the guest never ran here and never will by this migration."""

    type_id: ClassVar[int] = 40

    reason: str = ""

    def __post_init__(self) -> None:
        make_harmless(self, "reason")


@dataclass(frozen=True, slots=True)
class Failed(Message):
    """Destination: it failed before RUN. ``code`` is the ``reason`` word of its error."""

    type_id: ClassVar[int] = 41

    code: str
    what: str
    hint: str = ""

    def __post_init__(self) -> None:
        check_match("code", self.code, WORD, "a word")
        make_harmless(self, "what")
        make_harmless(self, "hint")


@dataclass(frozen=True, slots=True)
class Joined(Message):
    """Destination: this connection may carry batches of the migration, too."""

    type_id: ClassVar[int] = 42


@dataclass(frozen=True, slots=True)
class Ping(Message):
    """Either: are you there? Bytes of ``padding`` tell by the time that they take what the link carries."""

    type_id: ClassVar[int] = 65
    body_limit: ClassVar[int] = MAX_PING_PADDING + 4096

    padding: bytes = b""

    def __post_init__(self) -> None:
        if not isinstance(self.padding, bytes) or len(self.padding) > MAX_PING_PADDING:
            raise ValueError(f"padding is not up to {MAX_PING_PADDING} bytes")

    def to_wire(self) -> dict[str, object]:
        """The map that travels."""
        return {"padding": self.padding} if self.padding else {}


@dataclass(frozen=True, slots=True)
class Pong(Message):
    """Either: I am."""

    type_id: ClassVar[int] = 66


MESSAGES: dict[int, type[Message]] = {
    cls.type_id: cls
    for cls in (
        *(Query, Offer, RoundEnd, Copies, DeviceState, DeviceStateEnd, Digest, Commit, Cancel, Estimate),
        Join,
        *(Capabilities, Accept, Refuse, Progress, RoundDone, Ready, Running, Aborted, Failed, Joined),
        *(Ping, Pong),
    )
}
"""Every message by its type on the wire."""
