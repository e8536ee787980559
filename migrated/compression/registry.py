"""Which codecs there are: entry points of the group ``migrated.codecs``, found once, imported when used.

Any distribution may add one; the entry point's name is the codec's name on the wire and what a person types.
A plugin that cannot be used is an error when it is asked for by name, and does not stand in the others' way.
"""

import inspect
import logging
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points

from migrated.compression.codec import MAX_LEVEL, MIN_LEVEL, Codec
from migrated.errors import ResourceError, UsageError

__all__ = ["GROUP", "CodecInfo", "Registry", "create", "info", "names", "offered", "problems"]

GROUP = "migrated.codecs"

_NAME = re.compile(r"[a-z0-9-]{1,16}")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CodecInfo:
    """What people and the negotiation may know of a codec."""

    name: str
    trusts_input: bool
    levels: dict[int, str]
    """The person's level to what the codec makes of it."""
    distribution: str
    """Name and version of the distribution that it comes from, as in ``migrated 0.1.0``."""


class Registry:
    """The codecs of ``entries``. The functions of this module use one over the installed distributions."""

    def __init__(self, entries: Iterable[EntryPoint]) -> None:
        self._entries: dict[str, list[EntryPoint]] = {}
        for entry in entries:
            self._entries.setdefault(entry.name, []).append(entry)
        self._loaded: dict[str, type[Codec] | ResourceError] = {}

    def names(self) -> tuple[str, ...]:
        """The names of all codecs, sorted, the broken ones too. Imports nothing."""
        return tuple(sorted(self._entries))

    def create(self, name: str, level: int) -> Codec:
        """A new codec at ``level`` of the person's scale.

        Raises UsageError for a name or level that there is not, ResourceError for a plugin that fails.
        """
        cls = self._load(name)
        if not MIN_LEVEL <= level <= MAX_LEVEL:
            raise UsageError(
                f"there is no level {level} of codec {name}", f"levels go from {MIN_LEVEL} to {MAX_LEVEL}"
            )
        try:
            return cls(level)
        except Exception as error:
            raise _broken(self._entries[name][0], f"cannot be made: {error!r}") from error

    def info(self, name: str) -> CodecInfo:
        """What there is to know of a codec. Raises as :meth:`create`."""
        cls = self._load(name)
        levels = range(MIN_LEVEL, MAX_LEVEL + 1)
        try:
            described = {level: cls.describe_level(level) for level in levels}
        except Exception as error:
            raise _broken(self._entries[name][0], f"cannot describe its levels: {error!r}") from error
        return CodecInfo(name, cls.trusts_input, described, _distribution(self._entries[name][0]))

    def offered(self, allowed: Collection[str] = ()) -> dict[str, tuple[int, ...]]:
        """The codecs to offer to a peer, and their levels.

        A codec that trusts its input is left out unless ``allowed`` names it. A broken one is left out, with
        a warning in the log, unless ``allowed`` names it: then, and for a name that there is not, it raises
        as :meth:`create`.
        """
        found = {name: self.info(name) for name in sorted(allowed)}
        for name in self.names():
            if name not in found:
                try:
                    codec = self.info(name)
                except ResourceError as error:
                    _log.warning("codec left out: %s", error)
                    continue
                if not codec.trusts_input:
                    found[name] = codec
        return {name: tuple(found[name].levels) for name in sorted(found)}

    def problems(self) -> dict[str, ResourceError]:
        """The codecs that cannot be used, and why. Imports all."""
        found = {}
        for name in self.names():
            try:
                self.info(name)
            except ResourceError as error:
                found[name] = error
        return found

    def _load(self, name: str) -> type[Codec]:
        if name not in self._entries:
            raise UsageError(
                f"there is no codec {name!r}", f"installed are: {', '.join(self.names()) or 'none at all'}"
            )
        if name not in self._loaded:
            try:
                self._loaded[name] = _import(self._entries[name])
            except ResourceError as error:
                self._loaded[name] = error
        found = self._loaded[name]
        if isinstance(found, ResourceError):
            # Not the kept one itself: its traceback would grow with every raise.
            raise ResourceError(found.what, found.hint) from found.__cause__
        return found


def _import(entries: list[EntryPoint]) -> type[Codec]:
    entry = entries[0]
    if len(entries) > 1:
        # Which of them comes first depends on the path: both ends could mean different formats by one name.
        owners = " and ".join(sorted(map(_distribution, entries)))
        raise ResourceError(f"codec {entry.name} comes from {owners}", "uninstall all but one of them")
    try:
        cls: object = entry.load()
    except Exception as error:
        raise _broken(entry, f"cannot be imported: {error!r}") from error
    if not (isinstance(cls, type) and issubclass(cls, Codec)) or inspect.isabstract(cls):
        raise _broken(entry, f"is no codec: {entry.value} is not a complete subclass of Codec")
    if cls.name != entry.name or not _NAME.fullmatch(cls.name):
        raise _broken(entry, f"calls itself {cls.name!r}, not its entry point's name, or not a valid one")
    return cls


def _broken(entry: EntryPoint, why: str) -> ResourceError:
    return ResourceError(
        f"codec {entry.name} of {_distribution(entry)} {why}",
        f"install {_distribution(entry).split()[0]} again with what it needs, or uninstall it",
    )


def _distribution(entry: EntryPoint) -> str:
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist else "unknown"


@cache
def _installed() -> Registry:
    return Registry(entry_points(group=GROUP))


def names() -> tuple[str, ...]:
    """As :meth:`Registry.names`, of the installed distributions."""
    return _installed().names()


def create(name: str, level: int) -> Codec:
    """As :meth:`Registry.create`, of the installed distributions."""
    return _installed().create(name, level)


def info(name: str) -> CodecInfo:
    """As :meth:`Registry.info`, of the installed distributions."""
    return _installed().info(name)


def offered(allowed: Collection[str] = ()) -> dict[str, tuple[int, ...]]:
    """As :meth:`Registry.offered`, of the installed distributions."""
    return _installed().offered(allowed)


def problems() -> dict[str, ResourceError]:
    """As :meth:`Registry.problems`, of the installed distributions."""
    return _installed().problems()
