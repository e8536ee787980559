"""What a round asks of its workers, with a stage and a channel that are none."""

import asyncio
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from migrated.compression.jobs import Packed, ToPack
from migrated.engine.ports import Sent
from migrated.engine.rounds import Pusher, Tuning, _spread
from migrated.pages import PageSet, pages_of_runs

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
            payload_bytes=BATCH * 4096,
            checksum=0,
            codec=job.codec,
            cpu_seconds=0.0,
            codec_seconds=0.0,
            delta_seconds=0.0,
            seconds=0.0,
            data_bytes=BATCH * 4096,
            delta_pages=0,
            delta_words=0,
        )


class FakeChannel:
    """Takes ``seconds`` of a clock for each byte."""

    def __init__(self, seconds: float) -> None:
        self.turn = asyncio.Lock()
        self.seconds = seconds

    async def send_batch(self, header: object, payload: memoryview) -> Sent:
        async with self.turn:
            seconds = self.seconds * len(payload)
            return Sent(len(payload), seconds, asleep=seconds, waited=False)


class Pushing:
    """A pusher whose connection takes so long for a byte, as do the destination's workers ``there``."""

    def __init__(
        self, codec: str, level: int, seconds: float = 1e-9, there: float = 1e-12, *, deltas: bool = True
    ) -> None:
        self.stage, self.channel = FakeStage(), FakeChannel(seconds)
        self.pusher = Pusher(
            self.channel,  # type: ignore[arg-type]
            self.stage,  # type: ignore[arg-type]
            Tuning(codec, level, math.inf, 0.3),
            codecs=("lz4",),
            batch_pages=BATCH,
            page_size=4096,
            observer=lambda event: None,
            unpacking=lambda: there,
            deltas=deltas,
        )

    async def push(self, number: int, batches: int = 8) -> set[int]:
        """What the jobs of a round are told of their round."""
        self.stage.jobs.clear()
        await self.pusher.push(number, [PageSet.full(batches * BATCH)], first=number == 1)
        assert len(self.stage.jobs) == batches
        return {job.round for job in self.stage.jobs}


@pytest.mark.parametrize("seconds", [0.0, 8e-9])
async def test_compressed_pages_may_be_deltas_from_the_second_round_on(seconds: float) -> None:
    pushing = Pushing("lz4", 1, seconds)
    assert [await pushing.push(number) for number in (1, 2, 3)] == [{0}, {2}, {3}]


async def test_a_destination_that_takes_no_deltas_gets_none() -> None:
    pushing = Pushing("lz4", 1, 8e-9, deltas=False)
    assert [await pushing.push(number) for number in (1, 2, 3)] == [{0}, {0}, {0}]


@pytest.mark.parametrize(
    ("seconds", "there", "deltas"),
    [
        (8e-9, 1e-12, True),  # 1 Gb/s
        (8e-8, 1e-12, True),
        (0.8e-9, 1e-12, False),  # 10 Gb/s
        (8e-9, 8e-9, False),  # the destination's workers are what is slow
    ],
)
async def test_raw_pages_may_be_deltas_where_the_link_is_slow(
    seconds: float, there: float, deltas: bool
) -> None:
    pushing = Pushing("lz4", 0, seconds, there)
    assert await pushing.push(1, 20) == {0}
    assert await pushing.push(2) == {2 if deltas else 0}


async def test_raw_pages_follow_a_link_that_changes() -> None:
    pushing = Pushing("lz4", 0, 8e-9)
    await pushing.push(1)
    pushing.channel.seconds = 0.4e-9
    await pushing.push(2, 200)
    assert await pushing.push(3) == {0}
    pushing.channel.seconds = 8e-9
    await pushing.push(4, 200)
    assert await pushing.push(5) == {5}


def test_a_sample_is_from_all_over_and_another_one_the_next_time() -> None:
    pages = PageSet(100_000)
    pages.mask[::3] = True
    first, second = (pages_of_runs(_spread(pages, 12, turn)) for turn in (0, 1))
    for found in (first, second):
        assert pages.mask[found].all()
        assert len(found) >= 12 * 5
        assert np.unique(found // (100_000 // 12 + 1)).size >= 11
    assert not set(first) & set(second)
    assert len(_spread(PageSet(1000), 12, 0)) == 0
    assert len(pages_of_runs(_spread(PageSet.full(5), 12, 3))) <= 5
