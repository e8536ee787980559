"""A benchmark's picture says what its table says."""

import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path

import pytest

from migrated.bench.vm.drive import Status
from migrated.bench.vm.plot import draw
from migrated.bench.vm.results import Measurement
from migrated.bench.vm.summary import summarise
from migrated.errors import ResourceError, UsageError

Make = Callable[..., Measurement]


def texts(file: Path) -> list[str]:
    return ["".join(each.itertext()) for each in ET.parse(file).iter("{http://www.w3.org/2000/svg}text")]


def test_each_mode_has_a_bar_or_says_why_not(tmp_path: Path, made: Make) -> None:
    cells = summarise(
        [
            made("qemu:none", 1),
            made("qemu:none", 2, total_seconds=12.0),
            made("qemu:compress", 1, status=Status.NEVER),
            made("migrated:zstd", 1, total_seconds=3.25, gap_seconds=0.078, link_bytes=123_000_000),
            made("migrated:zstd", 1, guest="mixed:40MB/s"),
        ]
    )
    file = tmp_path / "results.svg"
    draw(cells, file)
    shown = [each.strip() for each in texts(file)]
    assert shown.count("migrated:zstd") == 2
    assert shown.count("never") == 3
    assert {"1 Gb/s, idle: 2 runs of each", "1 Gb/s, mixed:40MB/s: 1 run of each"} <= set(shown)
    assert {"8.5", "3.2", "78", "123", "total time, s", "on the link, MB"} <= set(shown)


def test_the_same_results_are_the_same_file(tmp_path: Path, made: Make) -> None:
    cells = summarise([made("qemu:none", 1), made("migrated:lz4", 1)])
    draw(cells, tmp_path / "one.svg")
    draw(cells, tmp_path / "two.svg")
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()


def test_what_cannot_be_drawn(tmp_path: Path, made: Make) -> None:
    cells = summarise([made("qemu:none", 1)])
    with pytest.raises(UsageError, match="no picture's name"):
        draw(cells, tmp_path / "results.txt")
    with pytest.raises(ResourceError, match="cannot write"):
        draw(cells, tmp_path / "nowhere" / "results.png")
