"""What a person reads."""

from collections.abc import Callable

from rich.console import Console

from migrated.bench.vm.drive import Status
from migrated.bench.vm.results import Measurement, Results
from migrated.bench.vm.show import line_of, tables

Make = Callable[..., Measurement]

HOST = {"cores": 2, "processor": "Abacus", "kernel": "6.18", "qemu": "7.2.22"}
SETTINGS = {
    "memory": 1 << 30,
    "fill": 512 << 20,
    "downtime": 0.3,
    "accelerator": "tcg",
    "warm": True,
    "contents": {"content-mixed-256M-00.img": {"digest": "ab", "lz4": 2.1, "zstd": 2.7}},
}


def shown(*measurements: Measurement, markdown: bool = False, wide: bool = True) -> str:
    results = Results(SETTINGS, HOST)
    results.measurements += measurements
    console = Console(width=200 if wide else 120)
    with console.capture() as captured:
        console.print(tables(results, markdown=markdown, wide=wide))
    return captured.get()


def row(text: str, mode: str) -> str:
    return next(line for line in text.splitlines() if line.strip(" |").startswith(mode))


def test_a_cell(made: Make) -> None:
    text = shown(
        made(),
        made("qemu:xbzrle", status=Status.NEVER, why="not done after 90 s"),
        made("qemu:compress", status=Status.MISSING, why="unknown capability"),
        made("migrated:zstd", 1, total_seconds=2.0, parts={"pause": 0.006, "last round": 0.05}),
        made(
            "migrated:zstd",
            2,
            total_seconds=3.0,
            parts={"pause": 0.006, "last round": 0.05},
            expected_seconds=0.07,
            stolen_seconds=0.02,
            written_rate=4e7,
        ),
    )
    assert "2 cores (Abacus), Linux 6.18, QEMU 7.2.22, tcg" in text
    assert "mixed lz4 2.1, zstd 2.7" in text
    assert "the destination takes memory that this host has had in use" in text
    assert "1 Gb/s, idle, rewrites 40 MB/s - 2 runs of each mode" in text
    assert "*" in row(text, "qemu:none")
    assert "never" in row(text, "qemu:xbzrle")
    assert "no such mode" in row(text, "qemu:compress")
    assert "2.50 (2.00-3.00)" in row(text, "migrated:zstd")
    assert "0.50" in row(text, "migrated:zstd")
    assert "downtime of migrated:zstd, ms: pause 6, last round 50; expected 70" in text
    assert "qemu:xbzrle: not done after 90 s" in text
    assert "noise of this host: a fixed piece of work took 50 ms (50-50)" in text
    assert "of its processors' time others got 0 ms a migration (0-20)" in " ".join(text.split())


def test_auto_and_the_best_fixed_choice(made: Make) -> None:
    text = shown(
        made("migrated:lz4", 1, total_seconds=2.0),
        made("migrated:lz4", 2, total_seconds=4.0),
        made("migrated:auto", 1, total_seconds=3.0),
        made("migrated:auto", 2, total_seconds=3.3),
    )
    told = "total time of migrated:auto to that of the best choice of ours, migrated:lz4: 1.05; run by run 0.82 to 1.50"
    assert told in " ".join(text.split())
    assert "best choice of ours" not in shown(made("migrated:lz4"))


def test_a_cell_that_is_not_scored(made: Make) -> None:
    text = shown(made(link="200 Mb/s", guest="mixed:40MB/s", written_rate=4e7))
    assert "200 Mb/s, mixed:40MB/s, rewrites 40 MB/s (more than the link carries: not scored)" in text
    assert "not scored" not in shown(made(link="1 Gb/s", guest="mixed:40MB/s", written_rate=4e7))


def test_a_guest_that_is_wrong_cannot_be_overlooked(made: Make) -> None:
    late = made("qemu:none", 1, status=Status.NEVER, why="not done after 90 s")
    text = shown(late, made("qemu:none", 2, intact=False, why="page 7"), wide=False)
    assert "WRONG, 1 of 2 moved" in row(text, "qemu:none")
    assert "qemu:none: WRONG: page 7" in text, (
        "why it is, below: in the table it would take the room of figures"
    )


def test_on_a_terminal_nothing_is_cut_off(made: Make) -> None:
    runs = [made("qemu:multifd-zstd", 1), made("qemu:multifd-zstd", 2, total_seconds=12.0, link_bytes=10**9)]
    text = shown(*runs, made("migrated:snappy", switch_seconds=0.123), wide=False)
    assert "…" not in text
    assert "8.50 (5.00-12.00)" in row(text, "qemu:multifd-zstd *")
    assert "intact" in row(text, "migrated:snappy")
    assert "123" in row(text, "migrated:snappy")


def test_markdown(made: Make) -> None:
    lines = shown(made(), markdown=True).splitlines()
    head = next(place for place, line in enumerate(lines) if line.startswith("| mode"))
    assert set(lines[head + 1].strip()) <= set("|-: ")


def test_progress(made: Make) -> None:
    assert line_of(made()) == (
        "1 Gb/s, idle, qemu:none, run 1: 5.00 s, downtime 100 ms, silent for 120 ms, 500 MB, 2 rounds"
    )
    assert line_of(made(status=Status.NEVER, why="slow")).endswith("run 1: never: slow")
    assert line_of(made(intact=False, why="page 7")).endswith("NOT INTACT: page 7")
