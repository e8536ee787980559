import dataclasses
import tracemalloc

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrated.errors import ProtocolError
from migrated.protocol import messages as module
from migrated.protocol.frames import BATCH_TYPE
from migrated.protocol.messages import (
    MAX_CONTROL_BODY,
    MAX_DEVICE_STATE_CHUNK,
    MAX_PING_PADDING,
    MAX_REGIONS,
    MESSAGES,
    Aborted,
    Accept,
    Cancel,
    Capabilities,
    Commit,
    Copies,
    DeviceState,
    DeviceStateEnd,
    Digest,
    Estimate,
    Failed,
    Join,
    Joined,
    Message,
    Offer,
    Ping,
    Pong,
    Progress,
    Query,
    Ready,
    Refuse,
    RegionInfo,
    RoundDone,
    RoundEnd,
    Running,
)
from migrated.protocol.packing import pack, unpack
from migrated.protocol.records import MAX_TEXT

U32 = st.integers(0, (1 << 32) - 1)
U64 = st.integers(0, (1 << 64) - 1)
COUNT = st.integers(1, (1 << 32) - 1)
TEXT = st.text(max_size=50)
NAME = st.from_regex(r"[a-z0-9]{1,16}", fullmatch=True)
NAMES = st.lists(NAME, max_size=5, unique=True).map(tuple)
LEVELS = st.lists(st.integers(0, 9), min_size=1, max_size=10, unique=True).map(tuple)
CODECS = st.dictionaries(NAME, LEVELS, max_size=5)
MIGRATION = st.from_regex(r"[0-9a-f]{32}", fullmatch=True)
VERSIONS = st.tuples(st.integers(1, 65535), st.integers(1, 65535)).map(sorted)
REGIONS = st.lists(
    st.builds(RegionInfo, name=NAME, size_bytes=st.integers(1, 1 << 30).map(lambda pages: pages * 4096)),
    min_size=1,
    max_size=5,
    unique_by=lambda region: region.name,
).map(tuple)
FACTS = st.dictionaries(
    NAME, st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=50), max_size=4
).map(lambda facts: tuple(facts.items()))

OFFERS = VERSIONS.flatmap(
    lambda versions: st.builds(
        Offer,
        min_version=st.just(versions[0]),
        max_version=st.just(versions[1]),
        migration_id=MIGRATION,
        guest=NAME,
        kind=NAME,
        page_size=st.just(4096),
        regions=REGIONS,
        codecs=CODECS,
        batch_pages=st.integers(1, 512),
        digest_seed=U64,
        decompress_workers=st.integers(0, 64),
        verify_full=st.booleans(),
        features=NAMES,
        sender=TEXT,
        facts=FACTS,
        streams=st.integers(1, 64),
    )
)
CAPABILITIES = VERSIONS.flatmap(
    lambda versions: st.builds(
        Capabilities,
        software=TEXT,
        min_version=st.just(versions[0]),
        max_version=st.just(versions[1]),
        codecs=CODECS,
        features=NAMES,
        guests=st.lists(NAME, max_size=5).map(tuple),
        max_region_bytes=st.integers(1, (1 << 64) - 1),
        batch_pages_max=st.integers(1, 512),
        decompress_workers=st.integers(1, 64),
        cores=st.integers(0, 64),
        host=st.just("") | NAME,
        streams=st.integers(1, 64),
    )
)
STRATEGIES: dict[type[Message], st.SearchStrategy[Message]] = {
    Query: st.just(Query()),
    Offer: OFFERS,
    RoundEnd: st.builds(RoundEnd, round=COUNT, batches=U32, pages=U64),
    Copies: st.builds(
        Copies,
        round=st.integers(2, 100),
        region=st.integers(0, 255),
        pages=st.integers(9, 4096),
        runs=st.binary(min_size=1, max_size=100),
        bases=U64,
    ),
    DeviceState: st.builds(DeviceState, data=st.binary(min_size=1, max_size=100)),
    DeviceStateEnd: st.builds(DeviceStateEnd, size=U64, checksum=U64),
    Estimate: st.builds(
        Estimate,
        remaining_bytes=U64,
        remaining_wire_bytes=U64,
        dirty_bytes_per_second=U64,
        wire_bytes_per_second=U64,
        expected_downtime_ms=U64,
    ),
    Digest: st.builds(Digest, terms=st.lists(U64, max_size=5).map(tuple), was_running=st.booleans()),
    Commit: st.builds(Commit, migration_id=MIGRATION),
    Cancel: st.builds(Cancel, reason=TEXT),
    Capabilities: CAPABILITIES,
    Accept: st.builds(
        Accept,
        version=st.integers(1, 65535),
        codecs=NAMES,
        batch_pages=st.integers(1, 512),
        decompress_workers=st.integers(1, 64),
        features=NAMES,
        streams=st.integers(1, 64),
    ),
    Join: st.builds(Join, migration_id=MIGRATION, digest_seed=U64),
    Joined: st.just(Joined()),
    Refuse: st.builds(Refuse, code=NAME, what=TEXT, hint=TEXT),
    Progress: st.builds(Progress, batches=U32, raw_bytes=U64),
    RoundDone: st.builds(RoundDone, round=COUNT),
    Ready: st.just(Ready()),
    Running: st.just(Running()),
    Aborted: st.builds(Aborted, reason=TEXT),
    Failed: st.builds(Failed, code=NAME, what=TEXT, hint=TEXT),
    Ping: st.builds(Ping, padding=st.binary(max_size=100)),
    Pong: st.just(Pong()),
}

FIELD_NAMES = sorted(
    {field.name for cls in MESSAGES.values() for field in dataclasses.fields(cls)} | {"name"}
)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.floats()
    | TEXT
    | st.binary(max_size=50),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(FIELD_NAMES) | TEXT, inner, max_size=4)
    ),
    max_leaves=10,
)


def test_every_message_has_a_type_and_a_strategy() -> None:
    assert set(STRATEGIES) == set(MESSAGES.values())
    assert set(MESSAGES.values()) == {
        getattr(module, name)
        for name in module.__all__
        if isinstance(getattr(module, name), type)
        and issubclass(getattr(module, name), Message)
        and getattr(module, name) is not Message
    }
    assert len(MESSAGES) == len(set(STRATEGIES))
    assert 0 not in MESSAGES
    assert BATCH_TYPE not in MESSAGES
    assert all(0 < number < 256 and cls.body_limit <= MAX_CONTROL_BODY for number, cls in MESSAGES.items())


@given(st.data())
def test_messages_round_trip(data: st.DataObject) -> None:
    for cls, strategy in STRATEGIES.items():
        message = data.draw(strategy)
        assert unpack(cls, pack(message)) == message


@given(st.data())
def test_unknown_keys_are_ignored(data: st.DataObject) -> None:
    cls = data.draw(st.sampled_from(sorted(STRATEGIES, key=lambda each: each.__name__)))
    message = data.draw(STRATEGIES[cls])
    later = {"of-a-later-version": data.draw(VALUES), **message.to_wire()}
    assert unpack(cls, msgpack.packb(later)) == message


def test_unknown_keys_of_a_region_are_ignored(offer: Offer) -> None:
    body = offer.to_wire()
    body["regions"] = [{**region.to_wire(), "numa_node": 1} for region in offer.regions]
    assert unpack(Offer, msgpack.packb(body)) == offer


def test_optional_keys_may_be_missing(offer: Offer) -> None:
    body = offer.to_wire()
    assert "facts" not in body  # as an older release wrote it
    for name in ("decompress_workers", "verify_full", "features", "sender"):
        del body[name]
    assert unpack(Offer, msgpack.packb(body)) == dataclasses.replace(
        offer, decompress_workers=0, verify_full=False, features=(), sender=""
    )


def test_keys_that_came_later_are_written_only_where_they_say_something(
    messages: dict[type[Message], Message],
) -> None:
    old = messages[Capabilities]
    assert {"cores", "host"}.isdisjoint(old.to_wire())
    new = dataclasses.replace(old, cores=4, host="0a")  # type: ignore[call-arg]
    assert new.to_wire().items() >= {"cores": 4, "host": "0a"}.items()
    assert all("streams" not in messages[cls].to_wire() for cls in (Offer, Accept, Capabilities))
    more = dataclasses.replace(messages[Accept], streams=4)  # type: ignore[call-arg]
    assert more.to_wire()["streams"] == 4
    assert Ping().to_wire() == {}
    assert Ping(b"x").to_wire() == {"padding": b"x"}


def test_missing_key_is_named(messages: dict[type[Message], Message]) -> None:
    for cls, message in messages.items():
        for field in dataclasses.fields(message):  # type: ignore[arg-type]
            if field.default is dataclasses.MISSING:
                body = message.to_wire()
                del body[field.name]
                with pytest.raises(ProtocolError, match=rf"{cls.__name__} cannot be read.*{field.name}"):
                    unpack(cls, msgpack.packb(body))


@given(st.sampled_from(sorted(MESSAGES)), st.dictionaries(st.sampled_from(FIELD_NAMES), VALUES) | VALUES)
def test_any_msgpack_is_read_or_refused(number: int, content: object) -> None:
    try:
        message = unpack(MESSAGES[number], msgpack.packb(content))
    except ProtocolError:
        return
    assert unpack(MESSAGES[number], pack(message)) == message


@given(st.data())
def test_one_wrong_value_is_read_or_refused(data: st.DataObject) -> None:
    cls = data.draw(st.sampled_from(sorted(STRATEGIES, key=lambda each: each.__name__)))
    body = data.draw(STRATEGIES[cls]).to_wire()
    if body:
        body[data.draw(st.sampled_from(sorted(body)))] = data.draw(VALUES)
    try:
        message = unpack(cls, msgpack.packb(body))
    except ProtocolError:
        return
    assert unpack(cls, pack(message)) == message


@given(st.sampled_from(sorted(MESSAGES)), st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(number: int, body: bytes) -> None:
    try:
        unpack(MESSAGES[number], body)
    except ProtocolError:
        return


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"\x81\xa1k\xdb\xff\xff\xff\xff", id="string of 4 GiB"),
        pytest.param(b"\x81\xa1k\xc6\xff\xff\xff\xff", id="bytes of 4 GiB"),
        pytest.param(b"\x81\xa1k\xdd\xff\xff\xff\xff", id="list of 2**32"),
        pytest.param(b"\x81\xa1k\xdf\xff\xff\xff\xff", id="map of 2**32"),
        pytest.param(b"\x81\xa1k\xc9\xff\xff\xff\xff\x01", id="extension of 4 GiB"),
        pytest.param(b"\x81\xa1k" + b"\x91" * 30000, id="deep lists"),
        pytest.param(b"\x81\xa1k" + b"\x81\xa1k" * 10000 + b"\xc0", id="deep maps"),
        pytest.param(b"\x81\xa1k\xdc\x04\x01" + b"\x80" * 1025, id="list of 1025"),
        pytest.param(b"\x81\xa6reason" + b"\x91" * 500 + b"\xc0", id="nested value of a known key"),
        pytest.param(b"\x81\x01\x01", id="number as key"),
        pytest.param(b"\x81\xa1k\xd6\xff\x00\x00\x00\x00", id="timestamp"),
        pytest.param(b"\x80\x80", id="something behind"),
        pytest.param(b"\x90", id="no map"),
        pytest.param(b"", id="nothing"),
        pytest.param(b"\x81\xa1\xff\x01", id="no UTF-8"),
    ],
)
def test_hostile_body_is_refused_without_allocating(body: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(ProtocolError, match="cannot be read"):
            unpack(Cancel, body)  # which has no key that could be missing
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1 << 20


def test_a_body_of_the_longest_allowed_takes_bounded_memory() -> None:
    inner = msgpack.packb([{}] * 1000)
    body = b"\xdc" + (200).to_bytes(2, "big") + inner * 200
    whole = b"\x82\xa8features\x90\xa1k" + body
    assert len(whole) <= Offer.body_limit
    tracemalloc.start()
    try:
        with pytest.raises(ProtocolError):
            unpack(Offer, whole)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 32 << 20


@pytest.mark.parametrize(
    "change",
    [
        {"min_version": 0},
        {"min_version": 3, "max_version": 2},
        {"max_version": 1 << 16},
        {"migration_id": "0" * 31},
        {"migration_id": "X" * 32},
        {"migration_id": "0" * 32 + "\n"},
        {"guest": "../etc"},
        {"guest": ""},
        {"kind": "Demo kind"},
        {"page_size": 4097},
        {"page_size": 2048},
        {"page_size": 4 << 20},
        {"regions": ()},
        {"regions": tuple(RegionInfo(str(number), 4096) for number in range(MAX_REGIONS + 1))},
        {"regions": (RegionInfo("same", 4096), RegionInfo("same", 8192))},
        {"regions": (RegionInfo("odd", 4097),)},
        {"regions": (RegionInfo("endless", 4096 << 32),)},
        {"regions": ({"name": "no region"},)},
        {"codecs": {"lz4": ()}},
        {"codecs": {"lz4": (10,)}},
        {"codecs": {"lz4": (1, 1)}},
        {"codecs": {"LZ 4": (1,)}},
        {"codecs": {f"c{number}": (1,) for number in range(33)}},
        {"codecs": ["lz4"]},
        {"batch_pages": 0},
        {"batch_pages": 16385},
        {"batch_pages": True},
        {"digest_seed": -1},
        {"digest_seed": 1 << 64},
        {"decompress_workers": 1025},
        {"verify_full": 1},
        {"features": ("delta", "delta")},
        {"features": ["delta"]},
        {"sender": b"bytes"},
        {"facts": (("cpu", "x"), ("cpu", "y"))},
        {"facts": (("cpu",),)},
        {"facts": (("cpu", "x", "y"),)},
        {"facts": (("Not A Word", "x"),)},
        {"facts": (("cpu", "x" * 701),)},
        {"facts": (("cpu", ""),)},
        {"facts": (("cpu", 1),)},
        {"facts": tuple((f"fact-{number}", "x") for number in range(33))},
        {"facts": {"cpu": "x"}},
    ],
)
def test_offer_refuses_what_is_out_of_bounds(offer: Offer, change: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        dataclasses.replace(offer, **change)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "make",
    [
        lambda: RoundEnd(round=0, batches=1, pages=1),
        lambda: RoundEnd(round=1, batches=-1, pages=1),
        lambda: RoundDone(round=0),
        lambda: DeviceState(data=b""),
        lambda: DeviceState(data=bytes(MAX_DEVICE_STATE_CHUNK + 1)),
        lambda: DeviceState(data="text"),
        lambda: Ping(padding=bytes(MAX_PING_PADDING + 1)),
        lambda: Ping(padding="text"),
        lambda: Digest(terms=(1 << 64,), was_running=True),
        lambda: Digest(terms=(0,) * (MAX_REGIONS + 1), was_running=True),
        lambda: Digest(terms=(), was_running=None),
        lambda: Commit(migration_id=""),
        lambda: Accept(version=0, codecs=(), batch_pages=1, decompress_workers=1),
        lambda: Accept(version=1, codecs=("lz4", "lz4"), batch_pages=1, decompress_workers=1),
        lambda: Accept(version=1, codecs=(), batch_pages=1, decompress_workers=0),
        lambda: Refuse(code="Not A Word", what="x"),
        lambda: Failed(code="", what="x"),
        lambda: RegionInfo("", 4096),
        lambda: RegionInfo("bad\x1bname", 4096),
        lambda: RegionInfo("x", 0),
        lambda: RegionInfo("x", 4096.0),
    ],
)
def test_messages_check_themselves(make: object) -> None:
    with pytest.raises(ValueError):
        make()  # type: ignore[operator]


def test_texts_for_people_are_made_harmless() -> None:
    failed = Failed(code="resources", what="line one\nline two \x1b[31mred\udcff", hint="x" * (MAX_TEXT + 1))
    assert failed.what == "line one line two ?[31mred?"
    assert len(failed.hint) == MAX_TEXT
    assert failed.hint.endswith("...")


def test_largest_messages_fit_their_bodies(offer: Offer) -> None:
    regions = tuple(RegionInfo("\U0001f9ea" * 125 + f"{number:03}", 1 << 43) for number in range(MAX_REGIONS))
    widest = "\U0001f9ea" * MAX_TEXT
    facts = tuple((f"fact-{number:027}", "\U0001f9ea" * 700) for number in range(32))
    largest: tuple[Message, ...] = (
        dataclasses.replace(offer, regions=regions, sender=widest, facts=facts),
        DeviceState(bytes(MAX_DEVICE_STATE_CHUNK)),
        Ping(bytes(MAX_PING_PADDING)),
        Digest(terms=((1 << 64) - 1,) * MAX_REGIONS, was_running=True),
        Failed("code", widest, widest),
        Capabilities(
            widest,
            1,
            1,
            {},
            (),
            tuple("\U0001f9ea" * 128 for _ in range(256)),
            (1 << 64) - 1,
            16384,
            1024,
            1 << 16,
            "f" * 32,
        ),
    )
    for message in largest:
        assert unpack(type(message), pack(message)) == message


def test_body_that_is_too_long_is_not_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Cancel, "body_limit", 10)
    with pytest.raises(ValueError, match="10 are allowed"):
        pack(Cancel(reason="long"))
