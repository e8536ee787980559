"""What a thread is known to have slept."""

import time
from pathlib import Path

import pytest

from migrated.net import this_thread
from migrated.net.this_thread import awake_seconds

SECONDS = 0.02


def test_work_is_no_sleep() -> None:
    before, ran = awake_seconds(), time.thread_time()
    while time.thread_time() - ran < SECONDS:
        pass
    assert awake_seconds() - before >= SECONDS


def test_sleep_is_told_from_waiting_for_a_core() -> None:
    began, before = time.monotonic(), awake_seconds()
    time.sleep(SECONDS)
    busy = awake_seconds() - before
    assert 0 <= busy <= time.monotonic() - began - SECONDS


@pytest.mark.parametrize("content", [None, b"", b"1\n", b"what it is\n"])
def test_a_kernel_that_does_not_tell(
    content: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = tmp_path / "schedstat"
    if content is not None:
        told.write_bytes(content)
    monkeypatch.setattr(this_thread, "_SCHEDULED", told)
    before = time.thread_time()
    assert before <= awake_seconds() <= time.thread_time()
