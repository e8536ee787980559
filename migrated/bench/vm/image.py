"""The test guest: a kernel and an initramfs of one small program, built from Debian packages and kept.

Takes apt-get, dpkg-deb and gcc; nothing is installed. The results lie in :func:`cache_folder`: kernels by their
version, and beside each what was packed for it, under a key of all that goes in (the program and this file).
"""

import gzip
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from migrated.errors import ResourceError

__all__ = ["Image", "archive", "build", "cache_folder"]

_SOURCES = ("guest.c", "memory.c", "memory.h")
_PACKAGE = "linux-image-cloud-amd64"
_MODULES = ("virtio_pci", "virtio_blk", "virtio_balloon")
_FOLDER, _FILE, _DEVICE = 0o040755, 0o100755, 0o020600
_MODULES_KEY = hashlib.sha256(" ".join(_MODULES).encode()).hexdigest()[:8]
_KERNEL = "vmlinuz"
_PROGRAMS = ("apt-get", "apt-cache", "dpkg-deb", "gcc", "strip")


def cache_folder() -> Path:
    """Where images are kept: `.cache/vm` of a checkout, else in the user's cache folder."""
    root = Path(__file__).resolve().parents[3]
    if (root / "pyproject.toml").exists():
        return root / ".cache" / "vm"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "migrated" / "vm"


@dataclass(frozen=True)
class Image:
    """What QEMU's ``-kernel`` and ``-initrd`` take."""

    kernel: Path
    initrd: Path


def build(cache: Path | None = None) -> Image:
    """Build the guest unless it is in ``cache``; takes some 10 s and the network the first time.

    ResourceError with the program that is missing, or the command that failed.
    """
    cache = cache or cache_folder()
    kernel = _newest_kernel(cache)
    initrd = kernel / f"initrd-{_own_key()}" if kernel else None
    if kernel is None or initrd is None or not initrd.exists():
        missing = [program for program in _PROGRAMS if shutil.which(program) is None]
        if missing:
            raise ResourceError(
                f"the test VM cannot be built: there is no {', '.join(missing)}",
                "apt-get install gcc libc6-dev binutils dpkg, on Debian",
            )
        kernel = kernel or _fetch_kernel(cache)
        initrd = _pack(kernel)
    return Image(kernel / _KERNEL, initrd)


def _own_key() -> str:
    inputs = [Path(__file__).with_name(name).read_bytes() for name in (*_SOURCES, Path(__file__).name)]
    return hashlib.sha256(b"".join(inputs)).hexdigest()[:12]


def _newest_kernel(cache: Path) -> Path | None:
    """The kernel that was fetched last, without asking which is the newest by now."""
    fetched = [folder for folder in cache.glob(f"*-{_MODULES_KEY}") if (folder / _KERNEL).exists()]
    return max(fetched, key=lambda folder: folder.stat().st_mtime, default=None)


def _fetch_kernel(cache: Path) -> Path:
    """Download a kernel and keep what is needed of it."""
    package, version = _find_package()
    folder = cache / f"{version}-{_MODULES_KEY}"
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix="build-") as place:
        work = Path(place)
        work.chmod(0o755)  # apt's own user downloads into it
        unpacked = _unpack(package, work)
        made = work / "made"
        (made / "modules").mkdir(parents=True)
        shutil.copy(next(unpacked.glob("boot/vmlinuz-*")), made / _KERNEL)
        for name, content in _modules(unpacked).items():
            (made / name).write_bytes(content)
        if not folder.exists():  # another build may have been quicker
            made.rename(folder)
    return folder


def _pack(kernel: Path) -> Path:
    """Compile the program and pack it with the kernel's modules."""
    initrd = kernel / f"initrd-{_own_key()}"
    with tempfile.TemporaryDirectory(dir=kernel, prefix="build-") as place:
        files = {"init": _compile(Path(place)).read_bytes()}
        files |= {f"modules/{path.name}": path.read_bytes() for path in sorted(kernel.glob("modules/*.ko"))}
        made = Path(place) / "initrd"
        made.write_bytes(gzip.compress(archive(files), compresslevel=1, mtime=0))
        made.rename(initrd)
    return initrd


def _find_package() -> tuple[str, str]:
    """The kernel package behind the one that always names the newest, and its version."""
    depends = _run("apt-cache", "depends", _PACKAGE)
    match = re.search(r"Depends: (linux-image-\S+)", depends)
    if match is None:
        raise ResourceError(f"apt knows no kernel by {_PACKAGE}", "run `apt-get update`, on Debian for amd64")
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
    sources = [str(Path(__file__).with_name(name)) for name in _SOURCES if name.endswith(".c")]
    _run("gcc", "-O2", "-Wall", "-Wextra", "-Werror", "-static", "-pthread", "-o", str(program), *sources)
    _run("strip", str(program))
    return program


def _run(*command: str, folder: Path | None = None) -> str:
    environment = os.environ | {"LC_ALL": "C"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ResourceError(f"{' '.join(command)} failed: {done.stderr.strip() or done.returncode}")
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
