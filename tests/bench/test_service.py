"""`migrated send` as a process: its report, its failures, an end that is forced."""

import sys
from pathlib import Path

import pytest

from migrated.bench.hosts import loopback
from migrated.bench.service import SendFailedError, send

HOST = loopback().source


def program(text: str) -> tuple[str, ...]:
    return (sys.executable, "-c", text)


def test_the_report_is_the_last_line(tmp_path: Path) -> None:
    code = 'import sys; print(\'{"event": "round"}\'); print(\'{"event": "report", "words": "%s"}\' % sys.argv[3])'
    report, events = send(tmp_path, HOST, "qemu:/x", program=program(code))
    assert report == {"event": "report", "words": "qemu:/x"}
    assert len(events) == 2


def test_a_failure_says_why(tmp_path: Path) -> None:
    code = 'import sys; print(\'{"event": "failed", "reason": "stalled", "what": "too fast"}\'); sys.exit(14)'
    with pytest.raises(SendFailedError, match="too fast") as caught:
        send(tmp_path, HOST, "qemu:/x", program=program(code))
    assert (caught.value.code, caught.value.why) == (14, "stalled")


def test_one_that_crashes_is_quoted(tmp_path: Path) -> None:
    with pytest.raises(SendFailedError, match="ZeroDivisionError") as caught:
        send(tmp_path, HOST, "qemu:/x", program=program("1 / 0"))
    assert caught.value.why == ""


def test_after_all_patience_it_is_cancelled_though_ctrl_c_is_ignored(tmp_path: Path) -> None:
    """As it is in whatever a bench starts that itself runs in the background of a script."""
    code = """
import signal, sys
def stop(*_):
    print('{"event": "failed", "reason": "cancelled", "what": "cancelled"}', flush=True)
    sys.exit(130)
signal.signal(signal.SIGINT, signal.SIG_IGN)
signal.signal(signal.SIGTERM, stop)
signal.pause()
"""
    with pytest.raises(SendFailedError) as caught:
        send(tmp_path, HOST, "qemu:/x", program=program(code), patience=3.0)
    assert caught.value.why == "cancelled"
