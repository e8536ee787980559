"""The script of README for two hosts with a real link between them, with a smaller region."""

import subprocess
import sys
from pathlib import Path

import pytest

DEPLOY = Path(__file__).parents[2] / "deploy"


@pytest.mark.slow
@pytest.mark.root
@pytest.mark.needs("netns", "ip", "tc")
@pytest.mark.parametrize("words", [(), ("--level=0",), ("--tracker=hash", "--verify=full")])
def test_a_region_that_is_written_and_punched_moves_over_a_link(words: tuple[str, ...]) -> None:
    command = [sys.executable, DEPLOY / "two_hosts.py", "--size=128MiB", "--used=50", "--dirty-rate=10MB/s"]
    done = subprocess.run(
        [*command, "--", "--downtime=5s", *words], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "memory files      equal" in done.stdout
