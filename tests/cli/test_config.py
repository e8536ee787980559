"""`migrated config`: what it prints reads back as the same settings, and says where each comes from."""

import json
from pathlib import Path

import pytest

from migrated.cli import main as cli
from migrated.cli.config import as_toml
from migrated.config import Settings, load

ODD = """
[send]
codec = "lz4"
batch_size = "1028KiB"
bandwidth = "123456789B/s"
downtime = "1234567us"
on_stall = "throttle"

[serve]
listen = "[::1]:5000"
codecs = ["zstd", "lz4"]
max_region = 12345678912
drain_timeout = "0s"

[guests."a.b"]
kind = "shm"
path = "/dev/shm/ä \\"x\\".mem"
resume = ["systemctl", "start", "d b"]
"""


@pytest.mark.usefixtures("surroundings")
@pytest.mark.parametrize("text", ["", ODD])
def test_what_is_printed_reads_back(tmp_path: Path, text: str) -> None:
    given, printed = tmp_path / "given.toml", tmp_path / "printed.toml"
    given.write_text(text)
    settings = load(given)
    printed.write_text(as_toml(settings))
    assert load(printed) == settings


def test_every_setting_is_printed() -> None:
    printed = as_toml(Settings())
    for section, field in Settings.model_fields.items():
        if section != "guests":
            assert f"[{section}]" in printed
            for key in field.default.__class__.model_fields:
                assert f"\n{key} = " in printed


@pytest.mark.usefixtures("surroundings")
def test_where_each_comes_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "m.toml"
    file.write_text(ODD)
    monkeypatch.setenv("MIGRATED_SEND__LEVEL", "3")
    assert cli.main(["config", "--config", str(file)]) == 0
    shown = capsys.readouterr().out.replace("[log]\nlevel", "[log]\nlog.level")
    lines = {line.split(" = ")[0]: line for line in shown.splitlines() if " = " in line}
    assert lines["level"].endswith("# environment, MIGRATED_SEND__LEVEL")
    assert lines["codec"].endswith(f"# {file}, line 3")
    assert lines["resume"].endswith(f"# {file}, line 18")
    assert lines["verify"].endswith("# default")
    assert cli.main(["config", "--config", str(file), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["send"]["level"] == {"value": 3, "from": "environment, MIGRATED_SEND__LEVEL"}
    assert shown['guests."a.b"']["resume"]["value"] == ["systemctl", "start", "d b"]
