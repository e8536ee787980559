"""The ways to migrate that are compared: QEMU's own modes, and `migrated send` with each codec."""

import re
from dataclasses import dataclass, field
from typing import Any

from migrated.compression import registry
from migrated.config import load
from migrated.errors import ConfigError, UsageError

__all__ = ["OFF", "QEMU_MODES", "Mode", "QemuMode", "default_modes", "our_codecs", "parse_mode"]

OFF = "off"
"""Our way without compression."""

_AUTO = "auto"


@dataclass(frozen=True)
class QemuMode:
    """Capabilities to turn on, and parameters to set, on both sides."""

    capabilities: tuple[str, ...] = ()
    parameters: dict[str, Any] = field(default_factory=dict)


QEMU_MODES = {
    "none": QemuMode(),
    # 8 threads compress and 2 decompress, at level 1: the figures of its document, and its defaults.
    "compress": QemuMode(
        ("compress",), {"compress-level": 1, "compress-threads": 8, "decompress-threads": 2}
    ),
    "multifd": QemuMode(("multifd",)),
    "multifd-zlib": QemuMode(("multifd",), {"multifd-compression": "zlib", "multifd-zlib-level": 1}),
    "multifd-zstd": QemuMode(("multifd",), {"multifd-compression": "zstd", "multifd-zstd-level": 1}),
    "xbzrle": QemuMode(("xbzrle",)),
}
"""What QEMU can do on its own. A mode that a QEMU lacks (compress since 9.1) is reported as such."""

_MEASURED = ("none", "compress", "multifd-zlib", "multifd-zstd", "xbzrle")


@dataclass(frozen=True)
class Mode:
    """``tool`` is qemu or migrated; ``name`` a mode of QEMU or a codec; ``options`` what is set besides."""

    tool: str
    name: str
    options: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        return ",".join([f"{self.tool}:{self.name}", *(f"{key}={value}" for key, value in self.options)])

    @property
    def is_qemu(self) -> bool:
        """Whether QEMU moves the guest, not we."""
        return self.tool == "qemu"

    @property
    def qemu(self) -> QemuMode:
        """What to set on both QEMUs, for a mode of QEMU."""
        mode = QEMU_MODES[self.name]
        more = {key: int(value) if value.isdigit() else value for key, value in self.options}
        return QemuMode(mode.capabilities, mode.parameters | more)

    @property
    def words(self) -> list[str]:
        """For `migrated send`."""
        codec = ["--level=0"] if self.name == OFF else [f"--codec={self.name}"]
        level = ["--level=1"] if self.name not in (OFF, _AUTO) and "level" not in dict(self.options) else []
        return [*codec, *level, *(f"--{key}={value}" for key, value in self.options)]


def our_codecs() -> list[str]:
    """What `migrated send` can be measured with: off, the codecs that any destination offers, auto if there is one."""
    broken = registry.problems()
    working = [name for name in registry.names() if name not in broken]
    names = [OFF, *(name for name in working if not registry.info(name).trusts_input)]
    try:
        load(None, {"send": {"codec": _AUTO}})
    except ConfigError:
        return names
    return [name for name in names if name != _AUTO] + [_AUTO]


def default_modes() -> list[Mode]:
    """All of them but QEMU's plain multifd, which does as none does."""
    return [Mode("qemu", name) for name in _MEASURED] + [Mode("migrated", name) for name in our_codecs()]


def parse_mode(text: str) -> Mode:
    """``qemu:multifd-zstd``, ``migrated:lz4``, ``migrated:zstd,level=3,batch-size=1MiB``. UsageError: there is none."""
    what, *options = text.split(",")
    tool, _, name = what.partition(":")
    known = {"qemu": list(QEMU_MODES), "migrated": our_codecs()}
    if tool not in known or name not in known[tool]:
        listed = ", ".join(f"{each}:{one}" for each, names in known.items() for one in names)
        raise UsageError(f"there is no way to migrate {text!r}", f"there are {listed}")
    pairs = []
    for option in options:
        match = re.fullmatch(r"([\w-]+)=(\S+)", option)
        if match is None:
            raise UsageError(f"{option!r} in {text!r} is no option", "write it as in migrated:zstd,level=3")
        pairs.append((match[1], match[2]))
    return Mode(tool, name, tuple(pairs))
