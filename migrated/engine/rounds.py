"""One round at the source: pages of every region, packed by the workers and sent as they get ready."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from migrated.compression import worker
from migrated.compression.jobs import ToCompare, ToPack, ToSample
from migrated.compression.layout import RAW, pack_copies
from migrated.compression.policy import FAST_LINK, NONE, Auto, Choice, Rung, Why
from migrated.compression.stage import Stage
from migrated.engine.cutting import batch_sizes
from migrated.engine.events import BatchMoved, Observer
from migrated.engine.options import AUTO, AUTO_RUNGS
from migrated.engine.ports import Channel, in_thread
from migrated.engine.twins import MOST_TWINS, Pairs, Twins
from migrated.pages import PageSet, Runs, runs_of_pages
from migrated.protocol import MAX_COPIES, RAW_CODEC, BatchHeader, Copies

__all__ = ["Pusher", "RoundResult", "Tuning"]

_SAMPLE_GROUPS, _SAMPLE_GROUP_PAGES = 12, 16
"""768 KiB of the guest's pages, from places all over its memory: 25 ms of one worker for all rungs."""


_SAMPLED_PAGES = 1 << 14
"""A later round with fewer pages is over before a sample is of use."""

_TURNS = 7
"""Samples until the same pages are looked at again."""


@dataclass(slots=True)
class Tuning:
    """What a person may change while a migration runs: seconds, bytes per second, level 0 to 9.

    ``codec`` may be :data:`AUTO`, which chooses the level too, unless it is 0.
    """

    codec: str
    level: int
    bandwidth: float
    downtime: float

    @property
    def fixed(self) -> Rung | None:
        """The codec and level of every batch, level 0 means no compression; None where each has its own."""
        if self.level == 0:
            return NONE
        return None if self.codec == AUTO else Rung(self.codec, self.level)

    @property
    def shown(self) -> tuple[str, int]:
        """Codec and level for people: those of :data:`AUTO` are its own."""
        return (RAW, 0) if self.level == 0 else (self.codec, 0 if self.codec == AUTO else self.level)


@dataclass(frozen=True, slots=True)
class RoundResult:
    """What a round sent: pages with data, pages handled in all, payload and header bytes."""

    data_pages: int
    pages: int
    batches: int
    wire_bytes: int

    def __add__(self, other: "RoundResult") -> "RoundResult":
        return RoundResult(
            self.data_pages + other.data_pages,
            self.pages + other.pages,
            self.batches + other.batches,
            self.wire_bytes + other.wire_bytes,
        )


class Pusher:
    """Sends rounds. ``codecs`` are the names both sides agreed on, in the order of their wire numbers;
    ``unpacking`` tells the seconds that a byte of memory takes the ``far_workers`` of the destination.

    With ``deltas`` pages that were sent before travel as what has changed in them, as far as the stage has them; with
    ``copies`` the first round leaves pages out that seem to be what others are: ``twins``. The next one sends them
    and must not be the last, in which holes are looked for while pages are sent.
    """

    def __init__(
        self,
        channel: Channel,
        stage: Stage,
        tuning: Tuning,
        *,
        codecs: Sequence[str],
        batch_pages: int,
        page_size: int,
        observer: Observer,
        far_workers: int = 1,
        unpacking: Callable[[], float] = lambda: 0.0,
        deltas: bool = False,
        copies: bool = False,
    ) -> None:
        self.twins = Twins()
        self._channel = channel
        self._stage = stage
        self._tuning = tuning
        self._codec_ids = {RAW: RAW_CODEC} | {
            name: RAW_CODEC + 1 + place for place, name in enumerate(codecs)
        }
        self._batch_pages = batch_pages
        self._page_size = page_size
        self._observer = observer
        rungs = [rung for rung in AUTO_RUNGS if rung.codec in codecs]
        self._auto = Auto(rungs, workers=stage.workers, far_workers=far_workers)
        self._unpacking = unpacking
        self._deltas = deltas
        self._copies = copies
        self._samples = 0

    def _cut(self, dirty: Sequence[PageSet]) -> Iterator[tuple[int, Runs]]:
        sizes = batch_sizes(sum(map(len, dirty)), self._stage.workers, self._batch_pages)
        for region, pages in enumerate(dirty):
            for runs in pages.batches(sizes):
                yield region, runs

    async def push(
        self, number: int, dirty: Sequence[PageSet], *, first: bool, last: bool = False
    ) -> RoundResult:
        """Pack and send every page of ``dirty``, one set a region; returns when the last batch is sent.

        Pages whose content is what was sent before are dropped, except in the first round. On any failure
        nothing is left running here, and the connection may be torn.
        """
        results: list[RoundResult] = []
        tasks: set[asyncio.Task[None]] = set()
        if self.twins:
            await self._push_copies(number, dirty)

        async def one(region: int, runs: Runs, slot: int) -> None:
            try:
                results.append(await self._batch(number, region, runs, slot, first=first))
            finally:
                self._stage.give_slot(slot)

        async with asyncio.TaskGroup() as group:
            long = first or (not last and sum(map(len, dirty)) >= _SAMPLED_PAGES)
            for region, runs in self._cut(dirty):
                slot = await self._stage.take_slot()
                if long and self._tuning.fixed is None and self._auto.wants_sample:
                    self._auto.sampling()
                    group.create_task(self._sample(dirty))
                task = group.create_task(one(region, runs, slot))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
                await asyncio.sleep(0)  # slots may be free for a while, and others have their turn
        return sum(results, RoundResult(0, 0, 0, 0))

    async def _push_copies(self, number: int, dirty: Sequence[PageSet]) -> None:
        """Have the destination copy what is there twice; what is not, by now, becomes ``dirty``. Of what pages take
        this says nothing, so it is no part of the round's result."""
        limit = min(self._batch_pages, MAX_COPIES)

        async def one(region: int, pairs: Pairs, slot: int) -> None:
            try:
                await self._copy(number, region, pairs, dirty[region])
            finally:
                self._stage.give_slot(slot)

        async with asyncio.TaskGroup() as group:
            for region, pairs in await in_thread(self.twins.take, dirty, self._stage.terms, limit):
                # Of the arena nothing is used: it only bounds what is under way.
                group.create_task(one(region, pairs, await self._stage.take_slot()))

    async def _copy(self, number: int, region: int, pairs: Pairs, dirty: PageSet) -> None:
        compared = await self._stage.run(worker.compare, ToCompare(region, pairs.tobytes()))
        equal = np.frombuffer(compared.equal, dtype=np.bool_)
        dirty.mask[pairs[~equal, 0]] = True
        copied = pairs[equal]
        wire_bytes = 0
        if len(copied):
            runs = pack_copies(copied[:, 0], copied[:, 1])
            await self._channel.send(Copies(number, region, len(copied), runs, compared.bases))
            wire_bytes = len(runs)
        self._observer(
            BatchMoved(RAW, 0, 0, 0, 0, wire_bytes, compared.cpu_seconds, copied_pages=len(copied))
        )

    async def _sample(self, dirty: Sequence[PageSet]) -> None:
        """Have the policy know what this guest's pages cost, before it has seen much of them."""
        region, pages = max(enumerate(dirty), key=lambda each: len(each[1].mask))
        runs = _spread(pages, min(_SAMPLE_GROUPS, self._batch_pages // _SAMPLE_GROUP_PAGES), self._samples)
        self._samples += 1
        job = ToSample(region, runs.tobytes(), self._auto.to_sample)
        self._auto.sampled(await self._stage.run(worker.sample, job) if len(runs) else {})

    def _choose(self) -> Choice:
        fixed = self._tuning.fixed
        if fixed is not None:
            return Choice(fixed, Why.FIXED)
        return self._auto.choose()

    def _slow_link(self) -> bool:
        """Whether deltas and copies pay for pages that would travel raw: a delta takes both sides' workers 8 us more;
        over a link of 2 Gb/s the page takes 16 us, over 10 Gb/s 3."""
        return self._auto.link_seconds > FAST_LINK

    async def _batch(self, number: int, region: int, runs: Runs, slot: int, *, first: bool) -> RoundResult:
        choice = self._choose()
        codec, level = choice.rung.codec, choice.rung.level
        worth = codec != RAW or self._slow_link()
        packed = await self._stage.run(
            worker.pack,
            ToPack(
                region,
                runs.tobytes(),
                slot,
                codec,
                level,
                skip_unchanged=not first,
                round=number if worth and not first and self._deltas else 0,
                duplicates=worth and first and self._copies and len(self.twins) < MOST_TWINS,
            ),
        )
        self.twins.add(region, packed.duplicates)
        raw_bytes = packed.data_pages * self._page_size
        if 2 * packed.data_bytes >= raw_bytes:  # else the runs are most of it, and say nothing of the codec
            self._auto.packed(
                choice.rung,
                packed.data_bytes,
                packed.payload_bytes,
                codec_seconds=packed.codec_seconds,
                cpu_seconds=packed.cpu_seconds,
                seconds=packed.seconds,
            )
        pages = packed.data_pages + packed.zero_pages + packed.unchanged_pages
        wire_bytes = 0
        if packed.data_pages or packed.zero_pages:
            header = BatchHeader(
                round=number,
                sequence=0,
                region=region,
                codec=self._codec_ids[packed.codec],
                level=level if packed.codec != RAW else 0,
                data_pages=packed.data_pages,
                zero_pages=packed.zero_pages,
                data_runs=packed.data_runs,
                zero_runs=packed.zero_runs,
                blocks=packed.blocks,
                payload_bytes=packed.payload_bytes,
                checksum=packed.checksum,
                delta_pages=packed.delta_pages,
                delta_words=packed.delta_words,
            )
            sent = await self._channel.send_batch(header, self._stage.view(slot, packed.payload_bytes))
            wire_bytes = sent.wire_bytes
            self._auto.sent(
                choice.rung,
                wire_bytes,
                sent.seconds,
                asleep=sent.asleep,
                waited=sent.waited,
                there=self._unpacking(),
                carries=sent.carries,
            )
        self._observer(
            BatchMoved(
                packed.codec,
                packed.data_pages,
                packed.zero_pages,
                packed.unchanged_pages,
                raw_bytes,
                wire_bytes,
                packed.cpu_seconds,
                level if packed.codec != RAW else 0,
                choice.why,
                packed.delta_pages,
                raw_bytes - packed.data_bytes,
            )
        )
        return RoundResult(packed.data_pages, pages, 1 if wire_bytes else 0, wire_bytes)


def _spread(pages: PageSet, groups: int, turn: int) -> Runs:
    """Some of ``pages``, in so many groups from all over them; others in another ``turn``. Nothing as large as the
    region is made."""
    mask = pages.mask
    edges = np.linspace(int(mask.argmax()), len(mask) - int(mask[::-1].argmax()), groups + 1, dtype=np.int64)
    found = []
    for low, high in pairwise(edges):
        first = low + (high - low) * (turn % _TURNS) // _TURNS
        first += int(mask[first:high].argmax()) if high > first else 0
        if first < high and not mask[first]:  # there are none so far up
            first = low + int(mask[low:high].argmax())
        found.append(first + np.flatnonzero(mask[first : min(first + _SAMPLE_GROUP_PAGES, high)]))
    return runs_of_pages(np.concatenate(found))
