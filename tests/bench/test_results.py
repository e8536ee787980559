"""The file of results: written line by line, read again, gone on with."""

from collections.abc import Callable
from pathlib import Path

import pytest

from migrated.bench.vm.drive import Status
from migrated.bench.vm.modes import parse_mode
from migrated.bench.vm.plan import Step, cells_of
from migrated.bench.vm.results import Measurement, Results
from migrated.errors import AccessError, UsageError

SETTINGS = {"memory": 1 << 30, "downtime": 0.3}
HOST = {"cores": 2, "qemu": "7.2.22"}

Make = Callable[..., Measurement]


def step(mode: str = "qemu:none", run: int = 1, link: str = "1gbit") -> Step:
    return Step(cells_of([link], ["idle"])[0], parse_mode(mode), run)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "bench.jsonl"


def test_what_is_added_is_read_again(file: Path, made: Make) -> None:
    results = Results.create(file, SETTINGS, HOST)
    for each in (made(parts={"pause": 0.01}), made(run=2, status=Status.NEVER, why="slow")):
        results.add(each)
    again = Results.read(file)
    assert again.measurements == results.measurements
    assert (again.settings, again.host) == (SETTINGS, HOST)


def test_a_file_is_never_overwritten(file: Path) -> None:
    Results.create(file, SETTINGS, HOST)
    with pytest.raises(UsageError, match="--resume"):
        Results.create(file, SETTINGS, HOST)


def test_a_run_that_was_killed_goes_on(file: Path, made: Make) -> None:
    results = Results.create(file, SETTINGS, HOST)
    results.add(made())
    with file.open("a") as out:
        out.write('{"link": "1 Gb/s", "gue')
    again = Results.resume(file, SETTINGS, HOST)
    assert again.measurements == [made()]
    again.add(made(run=2))
    assert Results.read(file).measurements == [made(), made(run=2)]


def test_what_failed_is_tried_again(file: Path, made: Make) -> None:
    results = Results.create(file, SETTINGS, HOST)
    results.add(made(status=Status.FAILED))
    results.add(made(run=2, status=Status.NEVER))
    again = Results.resume(file, SETTINGS, HOST)
    assert not again.done(step())
    assert again.done(step(run=2))
    again.add(made())
    assert Results.read(file).measurements == [made(run=2, status=Status.NEVER), made()], "the later counts"


def test_to_resume_what_there_is_not_is_to_begin(file: Path) -> None:
    assert Results.resume(file, SETTINGS, HOST).measurements == []
    assert file.exists()


@pytest.mark.parametrize(
    ("settings", "host", "what"),
    [
        (SETTINGS | {"downtime": 0.2}, HOST, "downtime was 0.3 and is 0.2"),
        (SETTINGS, HOST | {"cores": 4}, "cores"),
    ],
)
def test_figures_of_other_settings_are_not_mixed(
    file: Path, settings: dict[str, object], host: dict[str, object], what: str
) -> None:
    Results.create(file, SETTINGS, HOST)
    with pytest.raises(UsageError, match=what):
        Results.resume(file, settings, host)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hello\n",
        "{}\n",
        '{"bench": "vm", "format": 99}\n',
        '{"bench": "vm", "format": 1, "settings": {}, "host": {}}\n{}\n',
    ],
)
def test_another_file_is_refused(file: Path, text: str) -> None:
    file.write_text(text)
    with pytest.raises(UsageError, match="no results"):
        Results.read(file)


def test_a_bad_line_in_the_middle_is_no_torn_line(file: Path, made: Make) -> None:
    results = Results.create(file, SETTINGS, HOST)
    with file.open("a") as out:
        out.write('{"link": "1 G\n')
    results.add(made())
    with pytest.raises(UsageError):
        Results.read(file)


def test_a_file_that_is_not_there(file: Path) -> None:
    with pytest.raises(AccessError):
        Results.read(file)


def test_what_was_measured_is_done(made: Make) -> None:
    results = Results(SETTINGS, HOST)
    results.add(made())
    assert results.done(step())
    assert not results.done(step(run=2))
    assert not results.done(step("qemu:xbzrle"))
    assert not results.done(step(link="200mbit"))


def test_what_never_ends_is_tried_twice(made: Make) -> None:
    results = Results(SETTINGS, HOST)
    results.add(made(run=1, status=Status.NEVER))
    assert not results.done(step(run=2))
    results.add(made(run=2, status=Status.FAILED))
    assert results.done(step(run=3))
    assert not results.done(step(run=3, link="200mbit"))


def test_a_mode_that_a_qemu_lacks_is_tried_once(made: Make) -> None:
    results = Results(SETTINGS, HOST)
    results.add(made(status=Status.MISSING))
    assert results.done(step(run=2))
