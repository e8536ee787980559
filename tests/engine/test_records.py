"""The durable records."""

import dataclasses
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from migrated.engine.records import Outcome, Record, Records
from migrated.errors import MigratedError, ResourceError

ID = "ab" * 16
DAY = 86400.0


@pytest.fixture
def records(tmp_path: Path) -> Records:
    return Records(tmp_path / "state" / "incoming")


def same(read: Record | None, written: Record) -> bool:
    return read is not None and dataclasses.replace(read, written=0.0) == written


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25, deadline=None)
@given(st.sampled_from(Outcome), st.text(), st.dictionaries(st.text(), JSON, max_size=4))
def test_what_is_written_is_read(
    records: Records, outcome: Outcome, guest: str, details: dict[str, Any]
) -> None:
    record = Record(ID, outcome, guest, details)
    records.write(record)
    assert same(records.read(ID), record)
    assert same(Records(records.folder).read(ID), record)


def test_nothing_is_known_of_what_was_never_written(records: Records) -> None:
    assert records.read(ID) is None
    assert list(records.all()) == []
    assert not records.folder.exists()


@pytest.mark.parametrize("wrong", ["", "../x", "a/b", "a.json", ".", "a\0b", "a b"])
def test_an_id_never_becomes_a_path(records: Records, wrong: str) -> None:
    assert records.read(wrong) is None
    with pytest.raises(ValueError, match="not a migration id"):
        records.write(Record(wrong, Outcome.RUN, "web"))
    assert not records.folder.exists()


def test_others_cannot_look_into_the_folder(records: Records) -> None:
    records.write(Record(ID, Outcome.RUN, "web"))
    assert records.folder.stat().st_mode & 0o777 == 0o700


def test_a_record_is_on_disk_before_it_has_its_name_and_its_name_before_write_returns(
    records: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    records.write(Record(ID, Outcome.RECEIVING, "web"))
    steps: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def fsynced(fd: int) -> None:
        steps.append("fsync " + Path(f"/proc/self/fd/{fd}").readlink().name)
        fsync(fd)

    def replaced(self: Path, target: Path) -> Path:
        steps.append(f"replace {target.name}")
        assert same(records.read(ID), Record(ID, Outcome.RECEIVING, "web"))
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", fsynced)
    monkeypatch.setattr(Path, "replace", replaced)
    records.write(Record(ID, Outcome.RUN, "web"))
    assert steps == [f"fsync {ID}.new", f"replace {ID}.json", "fsync incoming"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_record_and_nothing_else(
    records: Records, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    records.write(Record(ID, Outcome.RECEIVING, "web"))

    def full(*_args: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os if call == "fsync" else Path, call, full)
        with pytest.raises(ResourceError, match="No space left") as caught:
            records.write(Record(ID, Outcome.RUN, "web"))
    assert str(records.folder) in caught.value.what
    assert caught.value.hint
    assert same(records.read(ID), Record(ID, Outcome.RECEIVING, "web"))
    assert [each.name for each in records.folder.iterdir()] == [f"{ID}.json"]


def test_what_a_crash_left_half_written_is_not_a_record(records: Records) -> None:
    records.write(Record(ID, Outcome.RECEIVING, "web"))
    (records.folder / f"{ID}.new").write_text('{"migration_id"')
    assert [each.outcome for each in records.all()] == [Outcome.RECEIVING]
    records.write(Record(ID, Outcome.RUN, "web"))
    assert same(records.read(ID), Record(ID, Outcome.RUN, "web"))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "{}",
        '{"migration_id": 1, "outcome": "maybe", "guest": "g", "details": {}, "written": 1}',
    ],
)
def test_a_record_that_cannot_be_read_is_never_taken_for_none(records: Records, text: str) -> None:
    """It decides where a guest runs."""
    records.write(Record(ID, Outcome.RUN, "web"))
    (records.folder / f"{ID}.json").write_text(text)
    with pytest.raises(MigratedError, match=ID):
        records.read(ID)
    with pytest.raises(MigratedError, match=ID):
        list(records.all())


def clock(monkeypatch: pytest.MonkeyPatch, now: float) -> None:
    monkeypatch.setattr("migrated.engine.records.time.time", lambda: now)


def test_all_come_in_the_order_of_their_writing(records: Records, monkeypatch: pytest.MonkeyPatch) -> None:
    for now, name in ((3.0, "c"), (1.0, "a"), (2.0, "b")):
        clock(monkeypatch, now)
        records.write(Record(name, Outcome.RUN, "web"))
    assert [(each.migration_id, each.written) for each in records.all()] == [
        ("a", 1.0),
        ("b", 2.0),
        ("c", 3.0),
    ]


def test_only_what_is_decided_and_old_is_forgotten(records: Records, monkeypatch: pytest.MonkeyPatch) -> None:
    for when, now in (("old", 0.0), ("new", 50 * DAY)):
        clock(monkeypatch, now)
        for outcome in Outcome:
            records.write(Record(when + outcome.value, outcome, "web"))
    records.forget_old(91 * DAY)
    left = {each.migration_id for each in records.all()}
    kept = {"oldfreezing", "oldcommitting", "oldreceiving", "oldrun"}
    assert left == kept | {"new" + outcome.value for outcome in Outcome}


def test_of_those_that_were_aborted_the_last_are_kept(
    records: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("migrated.engine.records._MOST_ABORTED", 2)
    for now, name in enumerate("abc"):
        clock(monkeypatch, float(now))
        records.write(Record(name, Outcome.ABORTED, "web"))
        records.write(Record(name * 2, Outcome.RUNNING, "web"))
    records.forget_old(DAY)
    assert {each.migration_id for each in records.all()} == {"b", "c", "aa", "bb", "cc"}
