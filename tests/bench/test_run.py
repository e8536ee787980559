"""The run as a whole: its order, its estimate, what it refuses; and the commands."""

import json
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from migrated.bench.vm import run as module
from migrated.bench.vm.drive import Status
from migrated.bench.vm.modes import parse_mode
from migrated.bench.vm.plan import Step, cells_of, steps
from migrated.bench.vm.results import Measurement, Results, key_of
from migrated.bench.vm.run import Machinery, check_host, run, seconds_left
from migrated.cli import main as cli
from migrated.errors import AccessError, ResourceError

Make = Callable[..., Measurement]

MODES = [parse_mode("qemu:none"), parse_mode("migrated:lz4")]


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch, made: Make) -> list[str]:
    """A run without machines: what happened, in order."""
    happened: list[str] = []

    @contextmanager
    def link(rate: str) -> Any:
        happened.append(f"link {rate}")
        yield SimpleNamespace(source=None, destination=None)

    @contextmanager
    def service(*_: object) -> Any:
        yield None

    def measure(_: object, step: Step) -> Measurement:
        link_, guest, mode, number = key_of(step)
        happened.append(f"{mode} {number}")
        return made(mode, number, link=link_, guest=guest)

    monkeypatch.setattr(module, "build", lambda: None)
    monkeypatch.setattr(module, "qemu_version", lambda: (9, 0))
    monkeypatch.setattr(module.Guest, "disk", lambda _: None)
    monkeypatch.setattr(module, "Snapshot", lambda *_: happened.append("boot"))
    monkeypatch.setattr(module, "link", link)
    monkeypatch.setattr(module, "Service", service)
    monkeypatch.setattr(module, "measure", measure)
    return happened


def test_a_guest_boots_once_for_all_links(stage: list[str]) -> None:
    told: list[tuple[int, int]] = []
    todo = list(steps(cells_of(["1gbit", "200mbit"], ["idle"]), MODES, 1))
    run(Machinery(), todo, Results({}, {}), lambda _, done, count, __: told.append((done, count)))
    assert stage == [
        *("boot", "link 1000000000bit", "qemu:none 1", "migrated:lz4 1"),
        *("link 200000000bit", "qemu:none 1", "migrated:lz4 1"),
    ]
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_what_was_measured_before_is_not_measured_again(stage: list[str], made: Make) -> None:
    results = Results({}, {})
    results.add(made("qemu:none", 1))
    results.add(made("qemu:none", 2))
    run(Machinery(), list(steps(cells_of(["1gbit"], ["idle"]), MODES, 2)), results, lambda *_: None)
    assert stage == ["boot", "link 1000000000bit", "migrated:lz4 1", "migrated:lz4 2"]


def test_when_all_is_there_nothing_boots(stage: list[str], made: Make) -> None:
    results = Results({}, {})
    results.add(made("qemu:none", 1))
    run(Machinery(), list(steps(cells_of(["1gbit"], ["idle"]), MODES[:1], 1)), results, lambda *_: None)
    assert stage == []


def test_a_mode_that_never_ends_does_not_hold_up_the_rest(
    stage: list[str], made: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure(_: object, step: Step) -> Measurement:
        stage.append(f"{step.mode} {step.run}")
        return made(str(step.mode), step.run, status=Status.NEVER if step.mode.is_qemu else Status.COMPLETED)

    monkeypatch.setattr(module, "measure", measure)
    run(Machinery(), list(steps(cells_of(["1gbit"], ["idle"]), MODES, 4)), Results({}, {}), lambda *_: None)
    assert [each for each in stage if each.startswith("qemu")] == ["qemu:none 1", "qemu:none 2"]
    assert sum(each.startswith("migrated") for each in stage) == 4


def test_what_is_left_is_judged_by_the_like(made: Make) -> None:
    done = [
        made("qemu:none", 1, elapsed_seconds=10.0),
        made("qemu:none", 2, elapsed_seconds=20.0),
        made("migrated:lz4", 1, elapsed_seconds=6.0),
    ]
    left = list(steps(cells_of(["1gbit"], ["idle"]), MODES, 1))
    assert seconds_left(done, left) == 15.0 + 6.0
    elsewhere = list(steps(cells_of(["200mbit"], ["idle"]), MODES[:1], 1))
    assert seconds_left(done, elsewhere) == 12.0
    assert seconds_left([], left) > 0


def test_without_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(AccessError, match="root"):
        check_host()


def test_without_qemu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ResourceError, match="qemu-system-x86_64") as caught:
        check_host()
    assert "apt-get install" in caught.value.hint


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["--set", "vast"], "standard"),
        (["--resume"], "--output"),
        (["--guest", "busy"], "busy"),
        (["--mode", "qemu:zstd"], "multifd-zstd"),
        (["--link", "fast"], "fast"),
        (["--memory", "128MiB", "--fill", "120MiB"], "128MiB"),
        (["--runs", "0"], "--runs"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_bad_words(arguments: list[str], what: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", "vm", *arguments]) == 2
    shown = capsys.readouterr()
    assert what in shown.err
    assert shown.out == ""


def test_results_are_shown_again(tmp_path: Path, made: Make, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "results.jsonl"
    Results.create(file, {"memory": 1 << 30}, {"cores": 2}).add(made("qemu:none"))
    assert cli.main(["bench", "show", str(file)]) == 0
    assert "qemu:none *" in capsys.readouterr().out
    assert cli.main(["bench", "show", str(file), "--markdown"]) == 0
    assert "| qemu:none *" in capsys.readouterr().out
    assert cli.main(["bench", "show", str(file), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["cells"][0]["best_qemu_mode"] == "qemu:none"


def test_the_parts_of_the_engine(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from migrated.bench import engine

    monkeypatch.setattr(engine, "PARTS", {"throughput": lambda runs: {"MB/s": [100.0, 300.0, 200.0][:runs]}})
    assert cli.main(["bench", "engine", "--only", "throughput", "--runs", "3"]) == 0
    assert "MB/s 200.0 100.0 300.0 3" in " ".join(capsys.readouterr().out.split())
    assert cli.main(["bench", "engine", "--only", "speed"]) == 2
    assert "there are throughput" in capsys.readouterr().err
