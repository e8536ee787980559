"""A dry run: what moving a guest would take, codec by codec.

The guest is opened as for a move, tracked and read; it is never paused. The destination is asked what it can do, and
answers pings; nothing of it changes.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass

from migrated.client import capabilities, worker_counts
from migrated.compression import registry
from migrated.compression.policy import NONE, Rung
from migrated.compression.stage import usable_cores
from migrated.config import SendSettings
from migrated.config.model import NO_CODEC
from migrated.engine.costs import Hosts
from migrated.engine.forecast import Forecast, Job, predict
from migrated.engine.options import AUTO, AUTO_RUNGS, OnStall, Verify, usable_streams
from migrated.engine.rehearsal import Rehearsal
from migrated.engine.survey import Survey, survey
from migrated.engine.twins import may_copy
from migrated.errors import MigratedError, RefusedError
from migrated.guests.base import SourceGuest
from migrated.net.address import Address
from migrated.net.channel import SocketChannel
from migrated.net.endpoints import dial
from migrated.net.link import MeasuredLink, measure_link
from migrated.net.streams import streams_for
from migrated.net.this_host import this_host
from migrated.pages import PAGE_SIZE
from migrated.protocol import COPIES, DELTA, Capabilities

__all__ = ["Plan", "Row", "make_plan"]

_LINK_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Row:
    """How it would go with one codec. ``rung`` None is :data:`AUTO`; ``asked`` says that this is what the settings
    ask for."""

    rung: Rung | None
    asked: bool
    forecast: Forecast


@dataclass(frozen=True, slots=True)
class Plan:
    """All that was measured, and what it means. ``rows`` begin with no compression and end with :data:`AUTO`;
    ``notes`` are what would keep the guest from being moved at all."""

    guest: SourceGuest
    survey: Survey
    link: MeasuredLink
    hosts: Hosts
    send: SendSettings
    rows: tuple[Row, ...]
    notes: tuple[str, ...]

    @property
    def asked(self) -> Row:
        """What `migrated send` would do."""
        return next(row for row in self.rows if row.asked)

    @property
    def best(self) -> Row | None:
        """The fastest that converges; of equals the first. None if none does."""
        possible = [row for row in self.rows if row.forecast.converges]
        return min(possible, key=lambda row: row.forecast.total_seconds, default=None)


async def make_plan(
    guest: SourceGuest,
    address: Address,
    send: SendSettings,
    *,
    name: str,
    seconds: float,
    say: Callable[[str], None] = lambda _text: None,
) -> Plan:
    """Measure link and guest, the latter for ``seconds``, and predict. Whoever opened the guest closes it.

    Raises what asking the destination raises, RefusedError if it does not take the codec, and what tracking and
    reading the guest raises.
    """
    far = await capabilities(address, send)
    shared = registry.offered((send.codec,) if send.level and send.codec not in (AUTO, NO_CODEC) else ())
    usable = {name: levels for name, levels in shared.items() if set(levels) <= set(far.codecs.get(name, ()))}
    asked = _asked(send, usable)
    say(f"measuring the link to {address} ...")
    workers, far_workers = worker_counts(send)
    link = await _measure(address, send, usable_streams(far.streams, workers))
    cores = usable_cores()
    say("trying out what the guest's pages cost, and watching it write ...")
    async with Rehearsal(
        guest.regions,
        _rungs(asked, usable),
        workers=workers,
        far_workers=min(far_workers, cores),
        batch_pages=min(send.batch_size // PAGE_SIZE, far.batch_pages_max),
        delta_cache=send.delta_cache if DELTA in far.features else 0,
    ) as tried:
        copies = COPIES in far.features and may_copy(guest.tracker, send.max_rounds)
        found = await survey(guest, tried, seconds=seconds, copies=copies)
    hosts = Hosts(
        link=min(link.bytes_per_second, send.bandwidth),
        round_trip=link.round_trip,
        workers=workers,
        cores=cores,
        speed=found.speed,
        far_workers=min(far_workers, far.cores or far_workers),
        far_cores=far.cores,
        shared=bool(far.host) and far.host == this_host(),
    )
    job = _job(guest, found, send, min(send.batch_size // PAGE_SIZE, far.batch_pages_max))
    rungs = [NONE, *(Rung(codec, 1) for codec in usable)]
    if asked is not None and asked not in rungs:
        rungs.append(asked)
    rows = tuple(Row(rung, rung == asked, predict(job, hosts, rung)) for rung in (*rungs, None))
    return Plan(guest, found, link, hosts, send, rows, tuple(_notes(guest, far, name)))


def _asked(send: SendSettings, usable: Mapping[str, tuple[int, ...]]) -> Rung | None:
    """What the settings ask for; None for :data:`AUTO`."""
    if send.level == 0 or send.codec == NO_CODEC:
        return NONE
    if send.codec == AUTO:
        return None
    if send.codec not in usable:
        raise RefusedError(
            f"the destination does not take codec {send.codec}",
            f"it takes {', '.join(usable) or 'none'}; choose with --codec",
            "codec",
        )
    return Rung(send.codec, send.level)


def _rungs(asked: Rung | None, usable: Mapping[str, tuple[int, ...]]) -> Iterator[Rung]:
    """All that is tried out: each codec's fastest level, what was asked for, and what auto chooses from."""
    yield from (rung for rung in AUTO_RUNGS if rung.codec in usable)
    yield from (Rung(codec, 1) for codec in usable)
    if asked is not None:
        yield asked


async def _measure(address: Address, send: SendSettings, most: int) -> MeasuredLink:
    """Over as many connections as the migration would have, ``most`` at most."""
    async with AsyncExitStack() as ends:

        async def connect() -> SocketChannel:
            made = await dial(address, connect_timeout=send.connect_timeout, idle_timeout=send.idle_timeout)
            ends.push_async_callback(made.close)
            return made

        channels = [first := await connect()]
        first.set_rate(send.bandwidth)
        for _ in range(min(most, send.streams or streams_for(first.round_trip)) - 1):
            with suppress(MigratedError):  # a migration does without those that can't be had, too
                channels.append(more := await connect())
                more.help(first)
        return await measure_link(*channels, seconds=_LINK_SECONDS)


def _job(guest: SourceGuest, found: Survey, send: SendSettings, batch_pages: int) -> Job:
    return Job(
        pages=found.pages,
        batch_pages=batch_pages,
        memory=found.memory,
        written=found.written,
        writing=found.writing,
        exact=found.exact,
        looking=found.looking,
        scan_seconds=found.scan_seconds,
        setup_seconds=found.setup_seconds,
        switch_seconds=guest.switch_seconds,
        downtime_limit=send.downtime,
        max_rounds=send.max_rounds,
        on_stall=OnStall(send.on_stall),
        verify=Verify(send.verify) is Verify.FULL,
    )


def _notes(guest: SourceGuest, far: Capabilities, name: str) -> Iterator[str]:
    """Why the destination would refuse the guest."""
    kinds = dict(each.removesuffix(")").rsplit(" (", 1) for each in far.guests if " (" in each)
    if name not in kinds:
        known = ", ".join(far.guests) or "none"
        yield f"the destination has no guest {name!r}, and would refuse it; it has {known}"
    elif kinds[name] != guest.kind:
        yield f"guest {name!r} is {kinds[name]}: at the destination, {guest.kind}: here; it would be refused"
    for region in guest.regions:
        if region.size > far.max_region_bytes:
            yield f"region {region.name} is larger than the destination takes; it would be refused"
