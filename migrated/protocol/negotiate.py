"""What both sides will use: a pure function of the source's offer and the destination's support.

Versions are ranges; the highest that both speak is used. A release speaks its own version and the one before,
so hosts can be upgraded one after the other. Whether the destination knows the guest, and has the memory for
it, is not decided here: the daemon knows.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from migrated.errors import ProtocolError
from migrated.protocol.batch import DELTA, BatchLimits
from migrated.protocol.messages import Accept, Capabilities, Offer, Refuse

__all__ = ["MIN_VERSION", "VERSION", "Support", "limits_of", "negotiate"]

VERSION = 1
"""What the messages mean. It rises when an older peer would misunderstand, not for a new optional key."""

MIN_VERSION = 1
"""The oldest that this release serves: the version before its own, once there is one."""


@dataclass(frozen=True, slots=True)
class Support:
    """What this destination can do.

    ``codecs`` maps names to levels. ``decompress_workers`` is the number if the source leaves it open, and
    ``decompress_workers_max`` the bound if it does not. ``streams`` bounds the connections of a migration. ``guests``
    are names with kinds, for people to read.
    """

    software: str
    codecs: Mapping[str, tuple[int, ...]]
    max_region_bytes: int
    batch_pages_max: int
    decompress_workers: int
    decompress_workers_max: int
    streams: int = 1
    page_sizes: tuple[int, ...] = (4096,)
    features: tuple[str, ...] = ()
    guests: tuple[str, ...] = ()
    min_version: int = MIN_VERSION
    max_version: int = VERSION

    def capabilities(self) -> Capabilities:
        """The same, as the answer to a query."""
        return Capabilities(
            software=self.software,
            min_version=self.min_version,
            max_version=self.max_version,
            codecs=dict(self.codecs),
            features=self.features,
            guests=self.guests,
            max_region_bytes=self.max_region_bytes,
            batch_pages_max=self.batch_pages_max,
            decompress_workers=self.decompress_workers,
            streams=self.streams,
        )


def negotiate(offer: Offer, support: Support) -> Accept | Refuse:
    """What ``support`` answers to ``offer``.

    A codec is usable if the destination knows it with every level that was offered; an offer without codecs
    is one to send raw. Features that only one side has are left out. The codes of a refusal are ``version``,
    ``page-size``, ``region-too-large`` and ``codec``.
    """
    version = min(offer.max_version, support.max_version)
    if version < max(offer.min_version, support.min_version):
        older = "source" if offer.max_version < support.min_version else "destination"
        return Refuse(
            "version",
            f"the source speaks versions {offer.min_version} to {offer.max_version}, "
            f"the destination {support.min_version} to {support.max_version}",
            f"upgrade the {older}",
        )
    if offer.page_size not in support.page_sizes:
        return Refuse(
            "page-size",
            f"the source's pages have {offer.page_size} bytes",
            f"the destination takes {_listed(support.page_sizes)}",
        )
    for region in offer.regions:
        if region.size_bytes > support.max_region_bytes:
            return Refuse(
                "region-too-large",
                f"region {region.name} has {region.size_bytes} bytes",
                f"if it is meant to fit, raise the destination's limit of {support.max_region_bytes} bytes",
            )
    codecs = tuple(
        name for name, levels in offer.codecs.items() if set(levels) <= set(support.codecs.get(name, ()))
    )
    if offer.codecs and not codecs:
        return Refuse(
            "codec",
            f"the source compresses with {_listed(offer.codecs)} only",
            f"the destination knows {_listed(support.codecs) or 'no codec'}; level 0 sends without",
        )
    workers = min(offer.decompress_workers, support.decompress_workers_max) or support.decompress_workers
    return Accept(
        version=version,
        codecs=codecs,
        batch_pages=min(offer.batch_pages, support.batch_pages_max),
        decompress_workers=workers,
        features=tuple(name for name in offer.features if name in support.features),
        streams=min(offer.streams, support.streams),
    )


def limits_of(offer: Offer, accept: Accept) -> BatchLimits:
    """The limits that follow from the two, for :meth:`migrated.protocol.Connection.agree`.

    Raises :class:`migrated.errors.ProtocolError` if the accept goes beyond the offer, for the source's sake.
    """
    if not offer.min_version <= accept.version <= offer.max_version:
        raise ProtocolError(f"the destination accepted version {accept.version}, which was not offered")
    for what, taken, offered in (
        ("codecs", accept.codecs, tuple(offer.codecs)),
        ("features", accept.features, offer.features),
    ):
        if not set(taken) <= set(offered):
            raise ProtocolError(f"the destination accepted {what} that were not offered: {_listed(taken)}")
    if accept.batch_pages > offer.batch_pages:
        raise ProtocolError(
            f"the destination accepted {accept.batch_pages} pages a batch, {offer.batch_pages} were offered"
        )
    if accept.streams > offer.streams:
        raise ProtocolError(
            f"the destination accepted {accept.streams} connections, {offer.streams} were offered"
        )
    return BatchLimits(
        batch_pages=accept.batch_pages,
        page_size=offer.page_size,
        region_pages=tuple(region.size_bytes // offer.page_size for region in offer.regions),
        codecs=len(accept.codecs),
        deltas=DELTA in accept.features,
    )


def _listed(names: Mapping[str, object] | tuple[object, ...]) -> str:
    return ", ".join(str(name) for name in names)
