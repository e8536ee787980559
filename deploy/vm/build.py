"""The test guest: a kernel and an initramfs of one small program, built from Debian packages and kept.

    python deploy/vm/build.py          builds what is missing, prints the folder with `vmlinuz` and `initrd`

Takes apt-get, dpkg-deb and gcc; nothing is installed. The result lies in `.cache/vm/KEY` in the checkout, with a
KEY made from all that goes in: the package's version, the program and this file.
"""

import gzip
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Image", "build"]

_HERE = Path(__file__).resolve().parent
_CACHE = _HERE.parents[1] / ".cache" / "vm"
_PACKAGE = "linux-image-cloud-amd64"
_MODULES = ("virtio_pci", "virtio_blk", "virtio_balloon")
_FOLDER, _FILE, _DEVICE = 0o040755, 0o100755, 0o020600


@dataclass(frozen=True)
class Image:
    """What QEMU's ``-kernel`` and ``-initrd`` take."""

    kernel: Path
    initrd: Path


def build(cache: Path = _CACHE) -> Image:
    """Build the guest unless it is there; takes some 10 s and the network the first time.

    SystemExit with the command that failed.
    """
    built = _newest(cache)
    if built is not None:
        return built
    package, version = _find_package()
    folder = cache / f"{version}-{_own_key()}"
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix="build-") as place:
        work = Path(place)
        work.chmod(0o755)  # apt's own user downloads into it
        unpacked = _unpack(package, work)
        program = _compile(work)
        made = work / "made"
        made.mkdir()
        shutil.copy(next(unpacked.glob("boot/vmlinuz-*")), made / "vmlinuz")
        files = {"init": program.read_bytes()} | _modules(unpacked)
        (made / "initrd").write_bytes(gzip.compress(archive(files), compresslevel=1, mtime=0))
        if not folder.exists():  # another build may have been quicker
            made.rename(folder)
    return Image(folder / "vmlinuz", folder / "initrd")


def _own_key() -> str:
    inputs = (_HERE / "guest.c").read_bytes() + Path(__file__).read_bytes()
    return hashlib.sha256(inputs).hexdigest()[:12]


def _newest(cache: Path) -> Image | None:
    """What was built from these sources, without asking which kernel is the newest by now."""
    for folder in sorted(cache.glob(f"*-{_own_key()}")):
        if (folder / "vmlinuz").exists() and (folder / "initrd").exists():
            return Image(folder / "vmlinuz", folder / "initrd")
    return None


def _find_package() -> tuple[str, str]:
    """The kernel package behind the one that always names the newest, and its version."""
    depends = _run("apt-cache", "depends", _PACKAGE)
    match = re.search(r"Depends: (linux-image-\S+)", depends)
    if match is None:
        raise SystemExit(f"apt knows no kernel by {_PACKAGE}: run `apt-get update`, on Debian for amd64")
    shown = _run("apt-cache", "show", "--no-all-versions", match[1])
    version = re.search(r"^Version: (\S+)", shown, re.MULTILINE)
    assert version is not None
    return match[1], re.sub(r"[^\w.+-]", "-", version[1])


def _unpack(package: str, work: Path) -> Path:
    _run("apt-get", "download", "-qq", "-o", "APT::Sandbox::User=root", package, folder=work)
    unpacked = work / "unpacked"
    _run("dpkg-deb", "--extract", str(next(work.glob("*.deb"))), str(unpacked))
    return unpacked


def _modules(unpacked: Path) -> dict[str, bytes]:
    """The modules and those that they need, named so that they sort in the order to load them."""
    found = {path.stem.replace("-", "_"): path for path in unpacked.rglob("*.ko")}
    ordered: dict[str, bytes] = {}

    def add(name: str) -> None:
        if name not in ordered:
            content = found[name].read_bytes()
            needs = re.search(rb"\0depends=([^\0]*)\0", content)
            for each in needs[1].decode().split(",") if needs and needs[1] else ():
                add(each)
            ordered[name] = content

    for name in _MODULES:
        add(name)
    return {f"modules/{place:02}-{name}.ko": content for place, (name, content) in enumerate(ordered.items())}


def _compile(work: Path) -> Path:
    program = work / "init"
    _run("gcc", "-O2", "-Wall", "-Werror", "-static", "-pthread", "-o", str(program), str(_HERE / "guest.c"))
    _run("strip", str(program))
    return program


def _run(*command: str, folder: Path | None = None) -> str:
    environment = os.environ | {"LC_ALL": "C"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: {done.stderr.strip() or done.returncode}")
    return done.stdout


def archive(files: Mapping[str, bytes]) -> bytes:
    """``files`` as an initramfs (cpio, "newc"), with their folders, a console, and places to mount at."""
    folders = {"dev", "proc"} | {str(Path(name).parent) for name in files if "/" in name}
    entries = [_entry(name, _FOLDER) for name in sorted(folders)]
    entries.append(_entry("dev/console", _DEVICE, device=(5, 1)))
    entries += [_entry(name, _FILE, data) for name, data in files.items()]
    return b"".join([*entries, _entry("TRAILER!!!", 0)])


def _entry(name: str, mode: int, data: bytes = b"", device: tuple[int, int] = (0, 0)) -> bytes:
    number = int.from_bytes(hashlib.sha256(name.encode()).digest()[:3]) or 1
    fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(name) + 1, 0)
    head = b"070701" + b"".join(b"%08X" % field for field in fields) + name.encode() + b"\0"
    return _padded(head) + _padded(data)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


if __name__ == "__main__":
    sys.stdout.write(f"{build().kernel.parent}\n")
