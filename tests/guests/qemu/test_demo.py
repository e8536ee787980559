"""`make demo-vm`, as a person runs it, only smaller."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.slow
@pytest.mark.needs("qemu-system-x86_64", "gcc", "apt-get")
def test_the_demonstration_moves_its_machine() -> None:
    """With processes of their own for both sides - and, as root, a link between two hosts."""
    command = [sys.executable, ROOT / "deploy/demo_vm.py", "--memory=128M", "--fill=24M", "--moves=2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=150, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    shown = " ".join(done.stdout.split())
    assert "The VM moved 2 times, and every byte of its memory proved right." in shown
    assert shown.count("longest time between two lines") == 2
