"""One round at the source: pages of every region, packed by the workers and sent as they get ready."""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from migrated.compression import worker
from migrated.compression.layout import RAW
from migrated.compression.stage import Stage
from migrated.engine.events import BatchMoved, Observer
from migrated.engine.ports import Channel
from migrated.pages import PageSet, Runs
from migrated.protocol import RAW_CODEC, BatchHeader

__all__ = ["Pusher", "RoundResult", "Tuning"]

_SHARE = 4
"""Batches a worker gets of a round, at least: small ones in a short round, so that all workers finish together."""

_SMALLEST_BATCH = 64
"""Pages. Below one block (256 KiB) the cost of a task outweighs what is won by spreading it."""


@dataclass(slots=True)
class Tuning:
    """What a person may change while a migration runs: seconds, bytes per second, level 0 to 9."""

    codec: str
    level: int
    bandwidth: float
    downtime: float

    @property
    def packing(self) -> tuple[str, int]:
        """The codec and level for the next batch; level 0 means no compression."""
        return (RAW, 0) if self.level == 0 else (self.codec, self.level)


@dataclass(frozen=True, slots=True)
class RoundResult:
    """What a round sent: pages with data, pages handled in all, payload and header bytes."""

    data_pages: int
    pages: int
    batches: int
    wire_bytes: int


class Pusher:
    """Sends rounds. ``codecs`` are the names both sides agreed on, in the order of their wire numbers."""

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
    ) -> None:
        self._channel = channel
        self._stage = stage
        self._tuning = tuning
        self._codec_ids = {RAW: RAW_CODEC} | {
            name: RAW_CODEC + 1 + place for place, name in enumerate(codecs)
        }
        self._batch_pages = batch_pages
        self._page_size = page_size
        self._observer = observer
        self._sequence = 0
        self._turn = asyncio.Lock()

    def _cut(self, dirty: Sequence[PageSet]) -> Iterator[tuple[int, Runs]]:
        share = sum(map(len, dirty)) // (self._stage.workers * _SHARE)
        limit = min(self._batch_pages, max(_SMALLEST_BATCH, share))
        for region, pages in enumerate(dirty):
            for runs in pages.batches(limit):
                yield region, runs

    async def push(self, number: int, dirty: Sequence[PageSet], *, first: bool) -> RoundResult:
        """Pack and send every page of ``dirty``, one set a region; returns when the last batch is sent.

        Pages whose content is what was sent before are dropped, except in the first round. On any failure
        nothing is left running here, and the connection may be torn.
        """
        results: list[RoundResult] = []
        tasks: set[asyncio.Task[None]] = set()

        async def one(region: int, runs: Runs, slot: int) -> None:
            try:
                results.append(await self._batch(number, region, runs, slot, first=first))
            finally:
                self._stage.give_slot(slot)

        async with asyncio.TaskGroup() as group:
            for region, runs in self._cut(dirty):
                slot = await self._stage.take_slot()
                task = group.create_task(one(region, runs, slot))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
                await asyncio.sleep(0)  # slots may be free for a while, and others have their turn
        return RoundResult(
            sum(each.data_pages for each in results),
            sum(each.pages for each in results),
            sum(each.batches for each in results),
            sum(each.wire_bytes for each in results),
        )

    async def _batch(self, number: int, region: int, runs: Runs, slot: int, *, first: bool) -> RoundResult:
        codec, level = self._tuning.packing
        packed = await self._stage.run(
            worker.pack, worker.ToPack(region, runs.tobytes(), slot, codec, level, skip_unchanged=not first)
        )
        pages = packed.data_pages + packed.zero_pages + packed.unchanged_pages
        wire_bytes = 0
        if packed.data_pages or packed.zero_pages:
            async with self._turn:
                self._sequence += 1
                header = BatchHeader(
                    round=number,
                    sequence=self._sequence,
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
                )
                before = self._channel.sent_bytes
                await self._channel.send_batch(header, self._stage.view(slot, packed.payload_bytes))
                wire_bytes = self._channel.sent_bytes - before
        self._observer(
            BatchMoved(
                packed.codec,
                packed.data_pages,
                packed.zero_pages,
                packed.unchanged_pages,
                packed.data_pages * self._page_size,
                wire_bytes,
                packed.cpu_seconds,
            )
        )
        return RoundResult(packed.data_pages, pages, 1 if wire_bytes else 0, wire_bytes)
