"""Reading settings: precedence, and what a mistake gets."""

import math
from pathlib import Path

import pytest

from migrated.config import Settings, find_file, load
from migrated.errors import AccessError, ConfigError
from migrated.net.address import Address


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch, tmp_path):
    """No settings of the person who runs the tests."""
    import os

    for name in os.environ:
        if name.upper().startswith("MIGRATED_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "none"))


@pytest.fixture
def file(tmp_path) -> Path:
    return tmp_path / "m.toml"


def fails(text: str, file: Path) -> ConfigError:
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(file)
    assert type(caught.value) is ConfigError
    return caught.value


class TestPrecedence:
    def test_nothing_gives_the_defaults(self):
        if find_file() is None:
            assert load() == Settings()

    def test_flags_over_environment_over_file(self, file, monkeypatch):
        file.write_text('[send]\nlevel = 2\nmax_rounds = 7\ncodec = "lz4"\n[log]\nlevel = "debug"\n')
        monkeypatch.setenv("MIGRATED_SEND__LEVEL", "3")
        monkeypatch.setenv("MIGRATED_SEND__MAX_ROUNDS", "8")
        settings = load(file, {"send": {"level": 4, "codec": None}})
        assert (settings.send.level, settings.send.max_rounds, settings.send.codec) == (4, 8, "lz4")
        assert settings.log.level == "debug"
        assert settings.send.downtime == Settings().send.downtime

    def test_every_kind_of_value_from_the_environment(self, monkeypatch):
        for name, value in {
            "SEND__DOWNTIME": "50ms",
            "SEND__BANDWIDTH": "1gbit",
            "SEND__BATCH_SIZE": "1M",
            "SEND__ALLOW_SECCOMP": "true",
            "SERVE__LISTEN": "[::]:99",
            "SERVE__CODECS": "lz4, zstd",
            "GUESTS__DB__KIND": "shm",
            "GUESTS__DB__PATH": "/dev/shm/db",
            "GUESTS__DB__RESUME": "sh -c 'echo go'",
        }.items():
            monkeypatch.setenv("MIGRATED_" + name, value)
        settings = load()
        assert (settings.send.downtime, settings.send.bandwidth) == (0.05, 125e6)
        assert (settings.send.batch_size, settings.send.allow_seccomp) == (1 << 20, True)
        assert settings.serve.listen == Address("::", 99)
        assert settings.serve.codecs == ("lz4", "zstd")
        assert settings.guests["db"].path == Path("/dev/shm/db")
        assert settings.guests["db"].resume == ("sh", "-c", "echo go")

    def test_a_guest_of_the_file_is_changed_in_part(self, file, monkeypatch):
        file.write_text('[guests.db]\nkind = "shm"\npath = "/a"\nresume = ["go"]\n')
        monkeypatch.setenv("MIGRATED_GUESTS__DB__PATH", "/b")
        entry = load(file).guests["db"]
        assert (str(entry.path), entry.resume) == ("/b", ("go",))

    def test_zero_and_unlimited_are_the_same_bandwidth(self, file):
        for text in ("unlimited", "0"):
            file.write_text(f'[send]\nbandwidth = "{text}"\n')
            assert load(file).send.bandwidth == math.inf

    def test_variables_that_are_no_settings_are_left_alone(self, monkeypatch):
        monkeypatch.setenv("MIGRATED_GUEST", "x")
        load()


class TestFile:
    def test_the_one_that_is_named_then_the_variable_then_the_persons_own(self, tmp_path, monkeypatch):
        one, two = tmp_path / "one.toml", tmp_path / "two.toml"
        own = tmp_path / "home" / "migrated" / "migrated.toml"
        own.parent.mkdir(parents=True)
        for each in (one, two, own):
            each.touch()
        monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
        assert find_file() == own
        monkeypatch.setenv("MIGRATED_CONFIG", str(two))
        assert find_file() == two
        assert find_file(one) == one

    def test_a_named_file_must_be_there(self, tmp_path, monkeypatch):
        with pytest.raises(ConfigError, match=r"none\.toml.*--config"):
            load(tmp_path / "none.toml")
        monkeypatch.setenv("MIGRATED_CONFIG", str(tmp_path / "none.toml"))
        with pytest.raises(ConfigError, match="MIGRATED_CONFIG"):
            load()

    def test_not_toml(self, file):
        assert "m.toml is not TOML: " in str(fails("[send]\nlevel =\n", file))
        assert "line 2" in str(fails("[send]\nlevel =\n", file))

    def test_not_text(self, file):
        file.write_bytes(b"\xff\xfe")
        with pytest.raises(ConfigError, match="UTF-8"):
            load(file)

    def test_a_folder(self, tmp_path):
        with pytest.raises(ConfigError, match="director"):
            load(tmp_path)

    def test_not_readable(self, file, monkeypatch):
        def refuse(*args: object, **kwargs: object) -> str:
            raise PermissionError

        file.touch()
        monkeypatch.setattr(Path, "read_text", refuse)
        with pytest.raises(AccessError, match=r"m\.toml"):
            load(file)


class TestMistakes:
    """Each names the key, where it stands, and what is allowed."""

    @pytest.mark.parametrize(
        ("text", "line", "key", "allowed"),
        [
            ("[send]\n\nlevel = 11", 3, "send.level = 11", "0 (no compression), or 1 (fastest)"),
            ("[send]\nlevel = true", 2, "send.level = True", "a number is wanted"),
            ('[send]\nlevel = "high"', 2, "send.level = 'high'", "0 (no compression)"),
            ("[send]\nlevel = 1.5", 2, "send.level = 1.5", "0 (no compression)"),
            ("[send]\ndowntime = 300", 2, "send.downtime = 300", "the unit is missing"),
            ('[send]\ndowntime = "300"', 2, "send.downtime = '300'", "as in 300ms"),
            ('[send]\ndowntime = "0"', 2, "send.downtime = '0'", "as in 300ms"),
            ('[send]\nbandwidth = "fast"', 2, "cannot read 'fast' as a rate", "unlimited"),
            ('[send]\nbandwidth = "7kbit"', 2, "send.bandwidth = '7kbit'", "1kB/s or more"),
            ("[send]\nbandwidth = 100", 2, "send.bandwidth = 100", "the unit is missing"),
            ('[send]\nbatch_size = "1MB5"', 2, "send.batch_size", "64KiB to 16MiB"),
            ('[send]\nbatch_size = "100000"', 2, "send.batch_size", "pages of 4096"),
            ('[send]\ncodec = "lz5"', 2, "send.codec = 'lz5'", "installed are lz4, "),
            ('[send]\non_stall = "hope"', 2, "send.on_stall = 'hope'", "fail, throttle or switch"),
            ("[send]\nallow_seccomp = 1", 2, "send.allow_seccomp = 1", "true or false"),
            ('[serve]\nlisten = "4440"\ncontrol = ":1"', 3, "serve.control = ':1'", "host:port"),
            ('[serve]\ncodecs = [\n"lz4",\n"lz5"]', 2, "serve.codecs = ['lz4', 'lz5']", "no codec 'lz5'"),
            ('[serve]\nlisten = {host = "x"}', 2, "serve.listen", "unix:/path"),
            ("[serve]\ncodecs = 7", 2, "serve.codecs = 7", "list of names"),
            (
                "[serve]\nmax_connections = 4",
                1,
                "serve is not allowed: max_connections (4)",
                "more than max_migrations (4)",
            ),
            ('[host]\nstate_dir = "here"', 2, "host.state_dir", "not absolute"),
            ('[guests.db]\nkind = "vm"\npath = "/x"', 2, "guests.db.kind = 'vm'", "demo, shm, pid or qemu"),
            ('[guests.db]\nkind = "shm"\npath = "x"', 3, "guests.db.path = ", "absolute path"),
            ('[guests.db]\nkind = "shm"', 1, "guests.db.path is missing", "an absolute path"),
            ('[guests."a/b"]\nkind = "shm"\npath = "/x"', 1, "guests.a/b", "at most 64"),
            ('[guests.send]\nkind = "pid"\npath = "/x"\nresume = "p"', 1, "guests.send", "for the kind shm"),
            ("\nsend = 3", 2, "send = 3", "a table"),
            ("[guests]\nsend = 3", 2, "guests.send = 3", "tables [guests.NAME]"),
        ],
    )
    def test_a_bad_value(self, text, line, key, allowed, file):
        error = str(fails(text, file))
        assert f"m.toml, line {line}: " in error
        assert key in error
        assert allowed in error
        assert "\n" not in error

    @pytest.mark.parametrize(
        ("text", "line", "key", "hint"),
        [
            ("[send]\n\nlevle = 1", 3, "send.levle", "did you mean send.level? [send] has codec, level"),
            ("level = 1", 1, "level", "did you mean send.level or log.level?"),
            ("[sned]\nlevel = 1", 1, "sned", "did you mean send? the sections are host, send"),
            ("[serve]\ncodec = 1", 2, "serve.codec", "did you mean send.codec?"),
            (
                '[guests.db]\nkind = "shm"\npath = "/x"\npause = "p"',
                4,
                "guests.db.pause",
                "has kind, path, resume",
            ),
            ('[guests.db]\nkind = "shm"\npth = "/x"', 3, "guests.db.pth", "did you mean guests.db.path?"),
            ("[send]\ncolour = 1", 2, "send.colour", "[send] has codec, level"),
        ],
    )
    def test_an_unknown_key(self, text, line, key, hint, file):
        error = fails(text, file)
        assert f"m.toml, line {line}: there is no setting {key}" in error.what
        assert hint in error.hint

    def test_several_are_counted(self, file):
        assert "(and 2 more)" in str(fails("[send]\nlevel = 11\nmax_rounds = 0\ndowntime = 1", file))

    def test_long_values_are_cut(self, file):
        assert "x" * 60 not in str(fails(f'[send]\ncodec = "{"x" * 1000}"', file))

    def test_in_the_environment(self, monkeypatch):
        monkeypatch.setenv("MIGRATED_SEND__LEVEL", "11")
        with pytest.raises(ConfigError, match=r"environment, MIGRATED_SEND__LEVEL: send\.level = '11'"):
            load()

    @pytest.mark.parametrize(
        ("name", "hint"), [("SEND__LEVLE", "send.level"), ("SNED__LEVEL", "send"), ("LOG__COLOUR", "format")]
    )
    def test_an_unknown_variable(self, name, hint, monkeypatch):
        monkeypatch.setenv("MIGRATED_" + name, "1")
        with pytest.raises(ConfigError, match=f"MIGRATED_{name}") as caught:
            load()
        assert hint in caught.value.hint

    def test_a_section_as_a_variable(self, monkeypatch):
        monkeypatch.setenv("MIGRATED_LOG", "debug")
        with pytest.raises(ConfigError, match="MIGRATED_SECTION__KEY"):
            load()

    def test_a_flag_is_to_blame_before_the_file(self, file):
        file.write_text("[send]\nmax_rounds = 3\n")
        with pytest.raises(ConfigError, match=r"on the command line, --max-rounds: send\.max_rounds = 0"):
            load(file, {"send": {"max_rounds": 0}})

    def test_a_file_is_to_blame_for_a_bad_value_under_a_good_flag_of_another_name(self, file):
        file.write_text("[send]\nmax_rounds = 0\n")
        with pytest.raises(ConfigError, match=r"m\.toml, line 2: send\.max_rounds"):
            load(file, {"send": {"level": 3}})
