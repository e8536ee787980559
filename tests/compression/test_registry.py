import subprocess
import sys
from importlib.metadata import Distribution, EntryPoint
from pathlib import Path

import pytest

from migrated.compression import registry
from migrated.compression.codec import Codec
from migrated.compression.registry import GROUP, Registry
from migrated.errors import ResourceError, UsageError

MODULE = "plugin_for_the_registry_test"

SOURCE = """
from migrated.compression.codec import Codec

class Store(Codec):
    name = "store"

    @classmethod
    def describe_level(cls, level):
        return f"as it is, {level} times"

    def compress_into(self, source, target):
        return 0

    def decompress_into(self, source, target):
        target[:] = source

class Trusting(Store):
    name = "trusting"
    trusts_input = True

class Incomplete(Codec):
    name = "incomplete"

class Moody(Store):
    name = "moody"

    def __init__(self, level):
        raise OSError("not today")

class Silent(Store):
    name = "silent"

    @classmethod
    def describe_level(cls, level):
        raise KeyError(level)

no_class = 7
"""


@pytest.fixture
def plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a plugin's module and a distribution's metadata, on the path."""
    (tmp_path / f"{MODULE}.py").write_text(SOURCE)
    metadata = tmp_path / "some_codecs-2.5.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: some-codecs\nVersion: 2.5\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, MODULE, raising=False)
    return metadata


def entries(metadata: Path, **values: str) -> list[EntryPoint]:
    text = "".join(f"{name} = {value}\n" for name, value in values.items())
    (metadata / "entry_points.txt").write_text(f"[{GROUP}]\n{text}")
    return list(Distribution.at(metadata).entry_points)


def test_our_codecs_are_installed() -> None:
    assert {"lz4", "snappy", "zlib", "zstd"} <= set(registry.names())
    assert not registry.problems()
    for name in ("lz4", "snappy", "zlib", "zstd"):
        codec = registry.info(name)
        assert codec.name == name
        assert not codec.trusts_input
        assert list(codec.levels) == list(range(1, 10))
        assert codec.distribution.startswith("migrated ")
        assert registry.offered()[name] == tuple(range(1, 10))


def test_create_makes_the_codec_of_that_name_and_level() -> None:
    codec = registry.create("zstd", 3)
    assert (codec.name, codec.level) == ("zstd", 3)
    assert registry.create("zstd", 3) is not codec


def test_names_import_no_codec() -> None:
    program = (
        "import sys; from migrated.compression import registry; registry.names();"
        "print([m for m in sys.modules if m.split('.')[0] in"
        " ('migrated_codecs', 'zstandard', 'lz4', 'snappy', 'cramjam', 'isal')])"
        "; registry.create('zstd', 1); print('lz4' in sys.modules, 'zstandard' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.split("\n")[:2] == ["[]", "False True"]


def test_unknown_name_lists_the_known() -> None:
    with pytest.raises(UsageError) as caught:
        registry.create("lzma", 1)
    assert "lzma" in caught.value.what
    assert all(name in caught.value.hint for name in ("lz4", "snappy", "zlib", "zstd"))


@pytest.mark.parametrize("level", [0, 10, -1])
def test_a_level_outside_the_scale_is_a_usage_error(level: int) -> None:
    with pytest.raises(UsageError, match="1 to 9"):
        registry.create("lz4", level)


def test_a_plugin_is_a_codec_like_ours(plugins: Path) -> None:
    mine = Registry(entries(plugins, store=f"{MODULE}:Store"))
    assert mine.names() == ("store",)
    assert isinstance(mine.create("store", 4), Codec)
    assert mine.info("store").distribution == "some-codecs 2.5"
    assert mine.info("store").levels[4] == "as it is, 4 times"
    assert mine.offered() == {"store": tuple(range(1, 10))}


def test_a_codec_that_trusts_its_input_is_offered_only_by_name(plugins: Path) -> None:
    mine = Registry(entries(plugins, store=f"{MODULE}:Store", trusting=f"{MODULE}:Trusting"))
    assert mine.info("trusting").trusts_input
    assert list(mine.offered()) == ["store"]
    assert list(mine.offered({"store"})) == ["store"]
    assert list(mine.offered({"trusting"})) == ["store", "trusting"]
    assert isinstance(mine.create("trusting", 1), Codec), "a source may use it, if the destination offers it"


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("absent", "there_is_no_such_module:Codec", "there_is_no_such_module"),
        ("nameless", f"{MODULE}:Nobody", "Nobody"),
        ("number", f"{MODULE}:no_class", "no codec"),
        ("foreign", "collections:OrderedDict", "no codec"),
        ("incomplete", f"{MODULE}:Incomplete", "complete"),
        ("alias", f"{MODULE}:Store", "store"),
        ("silent", f"{MODULE}:Silent", "levels"),
    ],
)
def test_a_broken_plugin_says_whose_it_is_and_leaves_the_others(
    plugins: Path, caplog: pytest.LogCaptureFixture, name: str, value: str, why: str
) -> None:
    mine = Registry(entries(plugins, store=f"{MODULE}:Store", **{name: value}))
    for _ in range(2):
        with pytest.raises(ResourceError) as caught:
            mine.info(name)
        assert name in caught.value.what
        assert "some-codecs 2.5" in caught.value.what
        assert why in caught.value.what
        assert "some-codecs" in caught.value.hint
    assert name in mine.names()
    assert list(mine.offered()) == ["store"]
    assert "some-codecs 2.5" in caplog.text
    assert list(mine.problems()) == [name]
    with pytest.raises(ResourceError):
        mine.offered({name})


def test_a_codec_that_cannot_be_made_is_the_plugins_fault(plugins: Path) -> None:
    mine = Registry(entries(plugins, moody=f"{MODULE}:Moody"))
    with pytest.raises(ResourceError, match=r"some-codecs 2\.5.*not today"):
        mine.create("moody", 1)


def test_a_misspelt_permission_is_not_passed_over(plugins: Path) -> None:
    with pytest.raises(UsageError, match="trustin"):
        Registry(entries(plugins, trusting=f"{MODULE}:Trusting")).offered({"trustin"})


def test_two_distributions_cannot_give_one_name(plugins: Path) -> None:
    other = plugins.parent / "more_codecs-1.0.dist-info"
    other.mkdir()
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: more-codecs\nVersion: 1.0\n")
    both = [*entries(plugins, store=f"{MODULE}:Store"), *entries(other, store=f"{MODULE}:Store")]
    with pytest.raises(ResourceError, match=r"more-codecs 1\.0 and some-codecs 2\.5"):
        Registry(both).create("store", 1)
