"""What a round asks of its workers, with a stage and a channel that are none."""

import asyncio
import math
from collections.abc import Callable
from typing import Any

import pytest

from migrated.compression.worker import Packed, ToPack
from migrated.engine.rounds import Pusher, Tuning
from migrated.pages import PageSet

BATCH = 64


class FakeStage:
    """Packs at once, and keeps what it was asked for."""

    workers = 1

    def __init__(self) -> None:
        self.jobs: list[ToPack] = []

    async def take_slot(self) -> int:
        return 0

    def give_slot(self, slot: int) -> None:
        pass

    def view(self, slot: int, length: int) -> memoryview:
        return memoryview(bytes(length))

    async def run(self, function: Callable[..., Any], job: ToPack) -> Packed:
        self.jobs.append(job)
        return Packed(
            data_pages=BATCH,
            zero_pages=0,
            unchanged_pages=0,
            data_runs=1,
            zero_runs=0,
            blocks=1,
            payload_bytes=100,
            checksum=0,
            codec=job.codec,
            cpu_seconds=0.0,
            codec_seconds=0.0,
            data_bytes=BATCH * 4096,
            delta_pages=0,
            delta_words=0,
        )


class FakeChannel:
    """Sends nothing before ``going`` is set."""

    def __init__(self) -> None:
        self.sent_bytes = 0
        self.going = asyncio.Event()

    async def send_batch(self, header: object, payload: memoryview) -> None:
        await self.going.wait()
        self.sent_bytes += len(payload)


async def rounds_of_jobs(number: int, codec: str, level: int, *, fast: bool) -> list[int]:
    """What the jobs of four batches are told of their round."""
    stage, channel = FakeStage(), FakeChannel()
    if fast:
        channel.going.set()
    pusher: Any = Pusher(
        channel,  # type: ignore[arg-type]
        stage,  # type: ignore[arg-type]
        Tuning(codec, level, math.inf, 0.3),
        codecs=("lz4",),
        batch_pages=BATCH,
        page_size=4096,
        observer=lambda event: None,
    )
    pushing = asyncio.ensure_future(pusher.push(number, [PageSet.full(4 * BATCH)], first=number == 1))
    while len(stage.jobs) < 4:
        await asyncio.sleep(0)
    channel.going.set()
    await pushing
    return [job.round for job in stage.jobs]


@pytest.mark.parametrize("fast", [True, False])
async def test_the_first_round_has_no_deltas(fast: bool) -> None:
    assert await rounds_of_jobs(1, "lz4", 1, fast=fast) == [0, 0, 0, 0]


@pytest.mark.parametrize("fast", [True, False])
async def test_compressed_pages_of_later_rounds_may_be_deltas(fast: bool) -> None:
    assert await rounds_of_jobs(2, "lz4", 1, fast=fast) == [2, 2, 2, 2]


async def test_raw_pages_are_whole_while_the_link_keeps_up() -> None:
    assert await rounds_of_jobs(2, "lz4", 0, fast=True) == [0, 0, 0, 0]


async def test_raw_pages_may_be_deltas_as_soon_as_batches_wait_for_the_link() -> None:
    assert await rounds_of_jobs(3, "lz4", 0, fast=False) == [0, 0, 3, 3]
