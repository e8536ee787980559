import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrated.errors import ProtocolError
from migrated.protocol.batch import BatchLimits
from migrated.protocol.messages import Accept, Offer, Refuse, RegionInfo
from migrated.protocol.negotiate import MIN_VERSION, VERSION, Support, limits_of, negotiate

SUPPORT = Support(
    software="migrated 0.1.0",
    codecs={"lz4": tuple(range(1, 10)), "zstd": tuple(range(1, 10)), "zlib": (1,)},
    max_region_bytes=1 << 30,
    batch_pages_max=512,
    decompress_workers=2,
    decompress_workers_max=8,
    features=("delta", "other"),
    guests=("web (demo)",),
)


def accepted(offer: Offer, support: Support = SUPPORT) -> Accept:
    answer = negotiate(offer, support)
    assert isinstance(answer, Accept), answer
    return answer


def refused(offer: Offer, support: Support = SUPPORT) -> Refuse:
    answer = negotiate(offer, support)
    assert isinstance(answer, Refuse), answer
    assert answer.what
    assert answer.hint
    return answer


def test_both_use_what_both_can(offer: Offer) -> None:
    assert accepted(offer) == Accept(
        version=1, codecs=("zstd", "lz4"), batch_pages=64, decompress_workers=2, features=("delta",)
    )


@pytest.mark.parametrize(
    ("source", "destination", "version"),
    [((1, 2), (1, 2), 2), ((1, 1), (1, 2), 1), ((1, 2), (1, 1), 1), ((2, 3), (1, 2), 2), ((4, 5), (5, 6), 5)],
)
def test_a_peer_one_version_older_is_served(
    offer: Offer, source: tuple[int, int], destination: tuple[int, int], version: int
) -> None:
    offer = dataclasses.replace(offer, min_version=source[0], max_version=source[1])
    support = dataclasses.replace(SUPPORT, min_version=destination[0], max_version=destination[1])
    accept = accepted(offer, support)
    assert accept.version == version
    assert limits_of(offer, accept).batch_pages == 64


@pytest.mark.parametrize(
    ("source", "destination", "older"), [((1, 1), (2, 3), "source"), ((3, 4), (1, 2), "destination")]
)
def test_versions_apart_are_refused_with_what_to_upgrade(
    offer: Offer, source: tuple[int, int], destination: tuple[int, int], older: str
) -> None:
    offer = dataclasses.replace(offer, min_version=source[0], max_version=source[1])
    support = dataclasses.replace(SUPPORT, min_version=destination[0], max_version=destination[1])
    refuse = refused(offer, support)
    assert refuse.code == "version"
    assert refuse.hint == f"upgrade the {older}"
    assert f"{source[0]} to {source[1]}" in refuse.what
    assert f"{destination[0]} to {destination[1]}" in refuse.what


def test_this_release_serves_the_version_before_its_own() -> None:
    assert max(1, VERSION - 1) == MIN_VERSION


def test_page_size_that_is_not_known_is_refused(offer: Offer) -> None:
    refuse = refused(dataclasses.replace(offer, page_size=65536, regions=(RegionInfo("m", 1 << 20),)))
    assert refuse.code == "page-size"
    assert "4096" in refuse.hint


def test_region_beyond_the_limit_is_refused_by_name(offer: Offer) -> None:
    refuse = refused(offer, dataclasses.replace(SUPPORT, max_region_bytes=8192))
    assert refuse.code == "region-too-large"
    assert "memory" in refuse.what
    assert "8192" in refuse.hint


def test_no_common_codec_is_refused_with_those_that_are_known(offer: Offer) -> None:
    refuse = refused(dataclasses.replace(offer, codecs={"brotli": (1,)}))
    assert refuse.code == "codec"
    assert "brotli" in refuse.what
    assert "lz4, zstd, zlib" in refuse.hint
    assert "no codec" in refused(offer, dataclasses.replace(SUPPORT, codecs={})).hint


def test_codec_counts_only_with_all_of_its_levels(offer: Offer) -> None:
    offer = dataclasses.replace(offer, codecs={"zlib": (1, 2), "lz4": (9,)})
    assert accepted(offer).codecs == ("lz4",)


def test_offer_without_codecs_is_raw(offer: Offer) -> None:
    assert accepted(dataclasses.replace(offer, codecs={})).codecs == ()


def test_batches_shrink_to_what_the_destination_takes(offer: Offer) -> None:
    assert accepted(offer, dataclasses.replace(SUPPORT, batch_pages_max=16)).batch_pages == 16


@pytest.mark.parametrize(("asked", "granted"), [(0, 2), (1, 1), (5, 5), (100, 8)])
def test_destination_bounds_its_workers(offer: Offer, asked: int, granted: int) -> None:
    assert accepted(dataclasses.replace(offer, decompress_workers=asked)).decompress_workers == granted


@pytest.mark.parametrize(("asked", "granted"), [(1, 1), (3, 3), (64, 4)])
def test_destination_bounds_its_connections(offer: Offer, asked: int, granted: int) -> None:
    support = dataclasses.replace(SUPPORT, streams=4)
    assert accepted(dataclasses.replace(offer, streams=asked), support).streams == granted
    assert accepted(dataclasses.replace(offer, streams=asked)).streams == 1
    assert support.capabilities().streams == 4


def test_limits_follow_from_offer_and_accept(offer: Offer, accept: Accept) -> None:
    assert limits_of(offer, accept) == BatchLimits(
        batch_pages=64, page_size=4096, region_pages=(256, 1), codecs=2, deltas=True
    )
    assert not limits_of(offer, dataclasses.replace(accept, features=())).deltas


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"version": 2}, "version 2"),
        ({"codecs": ("lz4", "brotli")}, "codecs that were not offered"),
        ({"features": ("teleport",)}, "features that were not offered"),
        ({"batch_pages": 65}, "65 pages a batch"),
        ({"streams": 2}, "2 connections"),
    ],
)
def test_accept_beyond_the_offer_is_the_destinations_fault(
    offer: Offer, accept: Accept, change: dict[str, object], why: str
) -> None:
    with pytest.raises(ProtocolError, match=why):
        limits_of(offer, dataclasses.replace(accept, **change))  # type: ignore[arg-type]


def test_capabilities_tell_the_support() -> None:
    capabilities = SUPPORT.capabilities()
    assert capabilities.codecs == SUPPORT.codecs
    assert capabilities.guests == ("web (demo)",)
    assert (capabilities.min_version, capabilities.max_version) == (MIN_VERSION, VERSION)
    assert capabilities.decompress_workers == 2


NAMES = st.sampled_from(["lz4", "zstd", "zlib", "brotli"])
LEVELS = st.lists(st.integers(0, 9), min_size=1, unique=True).map(tuple)


@given(
    source=st.tuples(st.integers(1, 5), st.integers(1, 5)).map(sorted),
    destination=st.tuples(st.integers(1, 5), st.integers(1, 5)).map(sorted),
    offered=st.dictionaries(NAMES, LEVELS),
    known=st.dictionaries(NAMES, LEVELS),
    pages=st.tuples(st.integers(1, 4096), st.integers(1, 4096)),
    workers=st.integers(0, 20),
)
def test_any_answer_is_one_that_the_source_can_use(
    offer: Offer,
    source: list[int],
    destination: list[int],
    offered: dict[str, tuple[int, ...]],
    known: dict[str, tuple[int, ...]],
    pages: tuple[int, int],
    workers: int,
) -> None:
    offer = dataclasses.replace(
        offer,
        min_version=source[0],
        max_version=source[1],
        codecs=offered,
        batch_pages=pages[0],
        decompress_workers=workers,
    )
    support = dataclasses.replace(
        SUPPORT,
        min_version=destination[0],
        max_version=destination[1],
        codecs=known,
        batch_pages_max=pages[1],
    )
    answer = negotiate(offer, support)
    common = set(range(source[0], source[1] + 1)) & set(range(destination[0], destination[1] + 1))
    if isinstance(answer, Refuse):
        assert answer.code == ("codec" if common else "version")
        return
    assert answer.version == max(common)
    assert limits_of(offer, answer).codecs == len(answer.codecs)
    assert list(answer.codecs) == [name for name in offered if name in answer.codecs]
    assert 1 <= answer.decompress_workers <= support.decompress_workers_max
