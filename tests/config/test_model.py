"""What settings are when code makes them, and the annotated file that shows them all."""

import itertools
import math
import pickle
import re
import tomllib
from pathlib import Path

import pytest
from pydantic import ValidationError

from migrated.config import GuestEntry, HostSettings, SendSettings, ServeSettings, Settings, load

FILE = Path(__file__).parent.parent.parent / "config" / "migrated.toml"


def test_the_annotated_file_holds_the_defaults():
    assert load(FILE) == Settings()


def test_the_annotated_file_holds_every_setting_and_says_something_of_it():
    written = tomllib.loads(FILE.read_text())
    assert set(written) == set(Settings.model_fields)
    for section, field in Settings.model_fields.items():
        if section != "guests":
            assert list(written[section]) == list(field.annotation.model_fields)
    lines = FILE.read_text().splitlines()
    for above, line in itertools.pairwise(lines):
        assert above.startswith("#") or not re.match(r"\w+ = ", line), f"nothing is said of {line}"


def test_the_example_guests_are_valid_and_show_every_key(tmp_path):
    shown = FILE.read_text().partition("\n# [guests.")[2]
    text = re.sub(r"^# ?", "", "# [guests." + shown.partition("\n[guests]")[0], flags=re.MULTILINE)
    file = tmp_path / "guests.toml"
    file.write_text(text)
    guests = load(file).guests
    assert {entry.kind for entry in guests.values()} == {"demo", "shm", "pid", "qemu"}
    assert {key for entry in guests.values() for key in entry.model_fields_set} == set(
        GuestEntry.model_fields
    )


def test_settings_cannot_be_changed_and_travel_to_workers():
    settings = Settings(send=SendSettings(level=3, downtime=0.1))
    with pytest.raises(ValidationError, match="frozen"):
        settings.send.level = 4
    assert pickle.loads(pickle.dumps(settings)) == settings != Settings()


def test_code_gives_base_units():
    assert SendSettings(downtime=0.05).downtime == 0.05
    assert SendSettings(bandwidth=125e6).bandwidth == 125e6
    assert SendSettings().bandwidth == math.inf


def test_the_state_folder_is_named_by_setting_then_systemd_then_user(monkeypatch):
    monkeypatch.setenv("STATE_DIRECTORY", "/var/lib/a:/var/lib/b")
    assert HostSettings(state_dir="/s").state_path == Path("/s")
    assert HostSettings().state_path == Path("/var/lib/a")
    monkeypatch.delenv("STATE_DIRECTORY")
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert HostSettings().state_path == Path("/var/lib/migrated")
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_STATE_HOME", "/x")
    assert HostSettings().state_path == Path("/x/migrated")
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", "/home/me")
    assert HostSettings().state_path == Path("/home/me/.local/state/migrated")


def test_both_ports_are_local_until_told_otherwise():
    assert {ServeSettings().listen.host, ServeSettings().control.host} == {"127.0.0.1"}
