"""The ways to migrate, and what is set for each."""

import pytest

from migrated.bench.vm import modes
from migrated.bench.vm.modes import QEMU_MODES, Mode, default_modes, our_codecs, parse_mode
from migrated.cli.main import app
from migrated.errors import UsageError


@pytest.mark.parametrize("mode", default_modes(), ids=str)
def test_each_is_read_as_it_is_written(mode: Mode) -> None:
    assert parse_mode(str(mode)) == mode


def test_all_that_are_asked_for_are_there() -> None:
    names = [str(each) for each in default_modes()]
    assert names[:5] == [
        f"qemu:{name}" for name in ("none", "compress", "multifd-zlib", "multifd-zstd", "xbzrle")
    ]
    assert {f"migrated:{name}" for name in ("off", "zlib", "lz4", "snappy", "zstd")} <= set(names)


def test_compress_is_as_its_document_says() -> None:
    assert QEMU_MODES["compress"].parameters == {
        "compress-level": 1,
        "compress-threads": 8,
        "decompress-threads": 2,
    }


def test_options_of_qemu_are_its_parameters() -> None:
    mode = parse_mode("qemu:multifd-zstd,multifd-channels=4,multifd-compression=none").qemu
    assert mode.capabilities == ("multifd",)
    assert mode.parameters == {
        "multifd-compression": "none",
        "multifd-zstd-level": 1,
        "multifd-channels": 4,
    }


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("migrated:off", ["--level=0"]),
        ("migrated:lz4", ["--codec=lz4", "--level=1"]),
        ("migrated:zstd,level=3", ["--codec=zstd", "--level=3"]),
        ("migrated:off,batch-size=1MiB", ["--level=0", "--batch-size=1MiB"]),
    ],
)
def test_ours_are_words_of_send(text: str, words: list[str]) -> None:
    assert parse_mode(text).words == words


def test_words_of_send_are_its_options() -> None:
    (send,) = (each.callback for each in app.registered_commands if each.name == "send")
    assert send is not None
    for mode in default_modes():
        for word in mode.words if not mode.is_qemu else []:
            assert word[2:].partition("=")[0] in send.__annotations__


def test_a_codec_that_trusts_its_input_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    known = modes.registry.info("lz4")
    monkeypatch.setattr(modes.registry, "problems", dict)
    monkeypatch.setattr(modes.registry, "names", lambda: ("lz4", "risky"))
    trusting = type(known)("risky", trusts_input=True, levels={}, distribution="")
    monkeypatch.setattr(modes.registry, "info", {"lz4": known, "risky": trusting}.__getitem__)
    assert [name for name in our_codecs() if name != "auto"] == ["off", "lz4"]


@pytest.mark.parametrize("text", ["", "qemu", "qemu:zstd", "xen:none", "migrated:rar", "migrated:zstd,level"])
def test_what_is_no_mode(text: str) -> None:
    with pytest.raises(UsageError):
        parse_mode(text)
