"""What arrived is put in its place by the workers, while the reader goes on."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

from migrated.compression import worker
from migrated.compression.jobs import ToCopy, ToUnpack, Unpacked
from migrated.compression.layout import RAW
from migrated.compression.policy import running_mean
from migrated.compression.stage import Stage
from migrated.engine.events import BatchMoved, Observer
from migrated.errors import MigratedError
from migrated.protocol import RAW_CODEC, BatchHeader, Copies, data_size

__all__ = ["Placing"]

_FRESH = 0.2
"""Weight of a batch in the running mean of what one takes."""

_TELLING_BYTES = 1 << 20
"""A smaller batch says more of the task that it is than of its pages."""


class Placing:
    """Puts batches and copies in place. ``codecs`` are the names both sides agreed on, in the order of their wire
    numbers.

    What goes wrong is told to ``fail``, since the reader may be waiting for a source that waits for us; behind each
    batch ``placed`` is awaited.
    """

    def __init__(
        self,
        stage: Stage,
        *,
        codecs: Sequence[str],
        page_size: int,
        observer: Observer,
        fail: Callable[[MigratedError], None],
        placed: Callable[[], Awaitable[None]],
    ) -> None:
        self.batches = 0
        self.raw_bytes = 0
        self.round_pages = 0
        self.round_bytes = 0
        self.unpacking = 0.0
        """Seconds that a byte of memory takes all workers together; 0 while it is not known."""
        self._stage = stage
        self._codecs = {RAW_CODEC: RAW} | {RAW_CODEC + 1 + place: name for place, name in enumerate(codecs)}
        self._page_size = page_size
        self._observe = observer
        self._tell_failure = fail
        self._placed = placed
        self._pending: set[asyncio.Task[None]] = set()

    def batch(self, header: BatchHeader, slot: int) -> None:
        """Put the pages in place whose payload lies in ``slot``, which is free afterwards."""
        self._beside(self._batch(header, slot))

    def copies(self, message: Copies, slot: int) -> None:
        """Copy pages; of ``slot`` nothing is used, it bounds what is under way."""
        self._beside(self._copy(message, slot))

    async def drain(self) -> None:
        """Wait until all is in place, or has failed."""
        while self._pending:
            await asyncio.wait(set(self._pending))

    def next_round(self) -> None:
        """What is counted by round begins anew."""
        self.round_pages = self.round_bytes = 0

    def _beside(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._pending.add(task)
        task.add_done_callback(self._pending.discard)

    async def _batch(self, header: BatchHeader, slot: int) -> None:
        codec = self._codecs[header.codec]
        job = ToUnpack(
            region=header.region,
            slot=slot,
            payload_bytes=header.payload_bytes,
            checksum=header.checksum,
            codec=codec,
            level=max(1, header.level),
            data_pages=header.data_pages,
            zero_pages=header.zero_pages,
            data_runs=header.data_runs,
            zero_runs=header.zero_runs,
            blocks=header.blocks,
            delta_pages=header.delta_pages,
            delta_words=header.delta_words,
        )
        done = await self._run(worker.unpack, job, slot)
        if done is None:
            return
        raw_bytes = header.data_pages * self._page_size
        data_bytes = data_size(header.data_pages, header.delta_pages, header.delta_words, self._page_size)
        self.raw_bytes += raw_bytes
        self.batches += 1
        if raw_bytes >= _TELLING_BYTES:
            took = done.seconds / raw_bytes / self._stage.workers
            self.unpacking = running_mean(self.unpacking, took, _FRESH)
        self.round_pages += header.data_pages
        self.round_bytes += header.payload_bytes
        self._observe(
            BatchMoved(
                codec,
                header.data_pages,
                header.zero_pages,
                0,
                raw_bytes,
                header.payload_bytes,
                done.cpu_seconds,
                header.level,
                delta_pages=header.delta_pages,
                saved_bytes=raw_bytes - data_bytes,
            )
        )
        await self._placed()

    async def _copy(self, message: Copies, slot: int) -> None:
        job = ToCopy(message.region, message.runs, message.pages, message.bases)
        done = await self._run(worker.copy, job, slot)
        if done is None:
            return
        self._observe(
            BatchMoved(RAW, 0, 0, 0, 0, len(message.runs), done.cpu_seconds, copied_pages=message.pages)
        )

    async def _run(
        self, function: Callable[..., Unpacked], job: ToUnpack | ToCopy, slot: int
    ) -> Unpacked | None:
        """A worker's answer; None if the migration has failed with this. The slot is free either way."""
        try:
            return await self._stage.run(function, job)
        except Exception as error:
            self._fail(error)
            return None
        finally:
            self._stage.give_slot(slot)

    def _fail(self, error: Exception) -> None:
        known = error if isinstance(error, MigratedError) else MigratedError(f"a worker failed: {error!r}")
        self._tell_failure(known)
