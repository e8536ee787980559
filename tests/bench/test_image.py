"""The kernel and the initramfs of the test guest: where they are kept, and what is built anew."""

from pathlib import Path

import pytest

from migrated.bench.vm import image
from migrated.bench.vm.image import archive, build, cache_folder
from migrated.errors import ResourceError

ROOT = Path(__file__).parents[2]


def test_a_checkout_keeps_them_in_itself() -> None:
    assert cache_folder() == ROOT / ".cache/vm"


def test_an_installation_keeps_them_in_the_users_cache(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(image, "__file__", str(tmp_path / "lib/migrated/bench/vm/image.py"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert cache_folder() == tmp_path / "cache/migrated/vm"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache/migrated/vm"


def kernel(cache: Path) -> Path:
    folder = cache / f"6.1-{image._MODULES_KEY}"
    (folder / "modules").mkdir(parents=True)
    (folder / "vmlinuz").write_text("kernel")
    return folder


def test_what_was_built_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    folder = kernel(tmp_path)
    initrd = folder / f"initrd-{image._own_key()}"
    initrd.write_text("packed")
    assert build(tmp_path) == image.Image(folder / "vmlinuz", initrd)


def test_a_program_that_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ResourceError, match="gcc") as caught:
        build(tmp_path)
    assert "apt-get install" in caught.value.hint


@pytest.mark.needs("gcc", "strip")
def test_another_program_does_not_fetch_another_kernel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image, "_fetch_kernel", lambda _cache: pytest.fail("it was there"))
    folder = kernel(tmp_path)
    (folder / "modules/00-virtio.ko").write_text("module")
    (folder / "initrd-older").write_text("of an older program")
    made = build(tmp_path)
    assert made.initrd.read_bytes()[:2] == b"\x1f\x8b"
    assert {path.name for path in folder.iterdir()} == {
        "vmlinuz",
        "modules",
        "initrd-older",
        made.initrd.name,
    }


def test_an_archive_holds_its_files_and_folders() -> None:
    made = archive({"init": b"program", "modules/00-a.ko": b"module"})
    for name in (b"dev\0", b"dev/console\0", b"modules\0", b"init\0", b"modules/00-a.ko\0", b"TRAILER!!!\0"):
        assert name in made
    assert made.startswith(b"070701")
    assert len(made) % 4 == 0
