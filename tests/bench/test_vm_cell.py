"""One real cell, as a person measures it, only smaller: QEMU's own migration and ours between two hosts."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.root,
    pytest.mark.needs("qemu-system-x86_64", "gcc", "apt-get", "ip", "tc"),
    pytest.mark.timeout(420),
]

WORDS = ["--guest=mixed:4MB/s", "--link=1gbit", "--memory=160MiB", "--fill=32MiB", "--patience=60s"]
MODES = ["--mode=qemu:none", "--mode=migrated:lz4"]


def bench(*words: object) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "migrated", "bench", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=400, check=False)


def test_one_cell(tmp_path: Path) -> None:
    file = tmp_path / "results.jsonl"
    done = bench("vm", *WORDS, *MODES, "--runs=1", f"--output={file}", "--downtime=1s", "--json")
    assert done.returncode == 0, done.stderr
    assert "[2/2] 1 Gb/s, mixed:4MB/s, migrated:lz4, run 1: " in done.stderr
    (cell,) = json.loads(done.stdout)["cells"]
    assert cell["best_qemu_mode"] == "qemu:none"
    qemu, ours = cell["modes"]
    for mode in (qemu, ours):
        assert (mode["runs"], mode["completed"], mode["intact"]) == (1, 1, True), mode
        assert 0 < mode["total"]["median"] <= mode["arrived"]["median"]
        assert 0 < mode["switch"]["median"] <= mode["gap"]["median"]
        assert mode["link_bytes"]["median"] > 8 << 20
    assert ours["ratios"]["link_bytes"] < 0.9, "files compress"
    assert sum(ours["downtime_parts"].values()) == pytest.approx(ours["downtime"]["median"], abs=1e-3)
    assert 2e6 < cell["written_rate"]["median"] < 6e6

    expected = [json.loads(line)["expected_seconds"] for line in file.read_text().splitlines()[1:]]
    assert expected[0] == 0
    assert 0 < expected[1] <= 1

    again = bench("vm", *WORDS, *MODES, "--runs=1", f"--output={file}", "--downtime=1s", "--resume")
    assert again.returncode == 0, again.stderr
    assert again.stderr == "", "nothing is measured again"
    assert "migrated:lz4" in again.stdout
    other = bench("vm", *WORDS, *MODES, "--runs=1", f"--output={file}", "--downtime=2s", "--cold", "--resume")
    assert other.returncode == 2
    assert "downtime was 1.0 and is 2.0" in other.stderr
    assert "warm was True and is False" in other.stderr


def leftovers(pid: int) -> set[str]:
    """Hosts of the benchmark with that process id, and folders with a machine that was kept."""
    spaces = subprocess.run(["ip", "netns"], capture_output=True, text=True, check=True).stdout.splitlines()
    hosts = {name for line in spaces if (name := line.split()[0]).startswith(f"mig{pid % 100000}")}
    return hosts | {str(path.parent) for path in Path("/dev/shm").glob("migrated-bench-*/devices")}


def test_one_that_is_ended_leaves_nothing_but_its_results(tmp_path: Path) -> None:
    file, before = tmp_path / "results.jsonl", leftovers(-1)
    words = ["vm", *WORDS, "--mode=qemu:none", "--runs=2", f"--output={file}"]
    command = [sys.executable, "-m", "migrated", "bench", *words]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as running:
        assert running.stderr is not None
        assert "[1/2]" in running.stderr.readline()
        started = leftovers(running.pid) - before
        running.terminate()
        assert running.wait(timeout=60) == 130
        assert "--resume goes on" in running.stderr.read()
    assert len(started) >= 3
    assert not started & leftovers(running.pid)
    assert len(file.read_text().splitlines()) == 2

    done = bench(*words, "--resume")
    assert done.returncode == 0, done.stderr
    assert "[2/2]" in done.stderr
    assert "[1/2]" not in done.stderr


def test_a_mode_that_this_qemu_lacks_is_a_result() -> None:
    done = bench("vm", *WORDS, "--mode=qemu:compress,compress-level=nonsense", "--runs=1")
    assert done.returncode == 0, done.stderr
    assert "this QEMU has no such mode" in done.stdout
