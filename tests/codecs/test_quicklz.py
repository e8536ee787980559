"""The example of a codec from outside: installed apart, found by its entry point, used."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

PLUGIN = Path(__file__).parents[2] / "codecs" / "migrated-codec-quicklz"

pytestmark = [pytest.mark.slow, pytest.mark.needs("cc")]

_PROGRAM = """
import os
from migrated.compression import registry
from migrated.errors import IntegrityError

assert "quicklz" in registry.names()
info = registry.info("quicklz")
assert info.trusts_input
assert info.distribution == "migrated-codec-quicklz 0.1.0", info
assert "quicklz" not in registry.offered()
assert "zstd" in registry.offered({"quicklz"})
assert registry.offered({"quicklz"})["quicklz"] == tuple(range(1, 10))

codec = registry.create("quicklz", 1)
text = b"live migration of memory in use\\n" * 2000
for raw in (b"x", bytes(4096), os.urandom(4096), text, text + os.urandom(100_000) + bytes(100_000)):
    target = memoryview(bytearray(len(raw) + 400))
    size = codec.compress_into(memoryview(raw), target)
    assert size > 0
    assert codec.compress_into(raw, target[: size - 1]) == 0
    assert codec.compress_into(raw, target[:size]) == size
    back = bytearray(len(raw))
    codec.decompress_into(target[:size], memoryview(back))
    assert back == raw
    lying = bytearray(target[:size])
    lying[0] ^= 0x0C
    for block, room in (
        (target[:size], len(raw) + 1),
        (target[:size], len(raw) - 1),
        (target[: size - 1], len(raw)),
        (target[:2], len(raw)),
        (b"", len(raw)),
        (lying, len(raw)),
    ):
        try:
            codec.decompress_into(block, memoryview(bytearray(room)))
        except IntegrityError:
            continue
        raise AssertionError("damage was not noticed")
assert codec.compress_into(text, memoryview(bytearray(len(text)))) < len(text) // 20
print("quicklz works")
"""


def _pip_install(target: Path, *what: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(target), *what],
        capture_output=True,
        text=True,
        check=False,
        timeout=170,
    )
    if done.returncode:
        pytest.skip(f"pip cannot install {what[-1]} here: {done.stderr.strip()[-300:]}")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the plugin and pyquicklz, beside which the environment of the tests stays as it is."""
    target = tmp_path_factory.mktemp("quicklz")
    # With the build back end of the environment where there is one, as `make test` has it.
    apart = [] if importlib.util.find_spec("hatchling") is None else ["--no-build-isolation"]
    _pip_install(target, *apart, str(PLUGIN))
    if importlib.util.find_spec("quicklz") is None:
        _pip_install(target, "pyquicklz==1.4.1")
    return target


@pytest.mark.timeout(400)
def test_the_plugin_is_found_guarded_and_works(installed: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM],
        env={**os.environ, "PYTHONPATH": str(installed)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.stderr == ""
    assert done.stdout == "quicklz works\n"
