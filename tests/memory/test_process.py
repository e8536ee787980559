"""What /proc says about a process."""

import os
import subprocess
import sys
import time

import pytest

from migrated.memory.linux.process import cpu_seconds


def test_cpu_time_is_that_of_all_its_threads_without_its_children() -> None:
    subprocess.run([sys.executable, "-c", "import time\nwhile time.process_time() < 0.5: pass"], check=True)
    assert cpu_seconds(os.getpid()) == pytest.approx(time.process_time(), abs=0.1)


def test_a_process_that_is_gone_has_none() -> None:
    ended = subprocess.Popen([sys.executable, "-S", "-c", ""])
    ended.wait()
    with pytest.raises((FileNotFoundError, ProcessLookupError)):
        cpu_seconds(ended.pid)
