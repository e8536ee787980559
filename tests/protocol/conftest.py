"""One valid message of every kind, and the limits of a small migration."""

import pytest

from migrated.protocol import (
    Aborted,
    Accept,
    BatchHeader,
    BatchLimits,
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

MIGRATION = "0123456789abcdef0123456789abcdef"


@pytest.fixture(scope="session")
def offer() -> Offer:
    return Offer(
        min_version=1,
        max_version=1,
        migration_id=MIGRATION,
        guest="web",
        kind="demo",
        page_size=4096,
        regions=(RegionInfo("memory", 1 << 20), RegionInfo("more", 4096)),
        codecs={"zstd": (1, 2, 3), "lz4": (1,)},
        batch_pages=64,
        digest_seed=(1 << 64) - 1,
        decompress_workers=2,
        verify_full=True,
        features=("delta",),
        sender="migrated 0.1.0",
    )


@pytest.fixture(scope="session")
def accept() -> Accept:
    return Accept(
        version=1, codecs=("zstd", "lz4"), batch_pages=64, decompress_workers=2, features=("delta",)
    )


@pytest.fixture(scope="session")
def messages(offer: Offer, accept: Accept) -> dict[type[Message], Message]:
    examples: tuple[Message, ...] = (
        Query(),
        offer,
        RoundEnd(round=1, batches=3, pages=200),
        Copies(round=2, region=0, pages=3, runs=bytes(range(12)), bases=77),
        DeviceState(data=b"\x00\x01\xff"),
        DeviceStateEnd(size=3, checksum=77),
        Estimate(1, 2, 3, 4, 5),
        Join(migration_id=MIGRATION, digest_seed=(1 << 64) - 1),
        Digest(terms=((1 << 64) - 1, 0), was_running=True),
        Commit(migration_id=MIGRATION),
        Cancel(reason="a person asked"),
        Capabilities("migrated 0.1.0", 1, 1, {"lz4": (1, 9)}, ("delta",), ("web (demo)",), 1 << 40, 512, 2),
        accept,
        Refuse(code="codec", what="no common codec", hint="install one"),
        Progress(batches=2, raw_bytes=1 << 33, unpack_picoseconds=1500),
        RoundDone(round=1),
        Ready(),
        Running(),
        Aborted(reason="the digest differs"),
        Failed(code="resources", what="no memory", hint="free some"),
        Joined(),
        Ping(),
        Pong(),
    )
    return {type(message): message for message in examples}


@pytest.fixture(scope="session")
def limits() -> BatchLimits:
    return BatchLimits(batch_pages=64, page_size=4096, region_pages=(256, 1), codecs=2)


@pytest.fixture(scope="session")
def header() -> BatchHeader:
    return BatchHeader(
        round=1,
        sequence=1,
        region=0,
        codec=2,
        level=1,
        data_pages=3,
        zero_pages=60,
        data_runs=2,
        zero_runs=1,
        blocks=1,
        payload_bytes=3 * 8 + 4 + 7,
        checksum=0x0123456789ABCDEF,
    )
