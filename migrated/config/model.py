"""The settings and what each may be.

A field's ``description`` says what is allowed, for the person who wrote something else. Quantities are
written with their units (:mod:`migrated.units`) and held as bytes, bytes per second and seconds.
"""

import math
import os
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    InstanceOf,
    ValidationInfo,
    model_validator,
)
from pydantic_settings import NoDecode

from migrated.engine.options import AUTO
from migrated.errors import UsageError
from migrated.net.address import DEFAULT_PORT, Address, parse_address
from migrated.net.pace import SLOWEST_RATE
from migrated.units import parse_duration, parse_rate, parse_size

__all__ = [
    "NO_CODEC",
    "GuestEntry",
    "HostSettings",
    "LogSettings",
    "ReadContext",
    "SendSettings",
    "ServeSettings",
    "Settings",
]

NO_CODEC = "none"
"""The codec that is none: every batch travels raw, as at level 0."""

_PAGE = 4096


@dataclass(frozen=True, slots=True)
class ReadContext:
    """Passed while settings are read from what a person wrote, and which codecs are installed then.

    Without it, code makes the model: bare numbers are seconds and bytes per second, and any codec name goes.
    """

    codecs: frozenset[str]


def _text(parse: Callable[[str], object]) -> Callable[[object], object]:
    def read(value: object) -> object:
        if not isinstance(value, str):
            return value
        try:
            return parse(value)
        except UsageError as error:
            raise ValueError(error.what) from error

    return read


def _with_unit(parse: Callable[[str], object]) -> Callable[[object, ValidationInfo], object]:
    read = _text(parse)

    def check(value: object, info: ValidationInfo) -> object:
        if not isinstance(value, str) and isinstance(info.context, ReadContext):
            raise ValueError("the unit is missing")  # noqa: TRY004  pydantic takes a ValueError
        return read(value)

    return check


def _no_flag(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("a number is wanted")  # noqa: TRY004
    return value


def _flag(value: object) -> object:
    words = {"true": True, "false": False}
    return words.get(value.lower(), value) if isinstance(value, str) else value


def _words(value: object) -> object:
    return (
        tuple(word.strip() for word in value.split(",") if word.strip()) if isinstance(value, str) else value
    )


def _argv(value: object) -> object:
    return tuple(shlex.split(value)) if isinstance(value, str) else value


def _codec(name: str, info: ValidationInfo) -> str:
    known = info.context.codecs if isinstance(info.context, ReadContext) else {name}
    if name not in known:
        raise ValueError(f"there is no codec {name[:20]!r} here; installed are {', '.join(sorted(known))}")
    return name


def _codec_or_none(name: str, info: ValidationInfo) -> str:
    return name if name in (NO_CODEC, AUTO) else _codec(name, info)


def _whole_pages(size: int) -> int:
    if size % _PAGE:
        raise ValueError(f"it is cut in pages of {_PAGE} bytes")
    return size


def _absolute(path: Path) -> Path:
    if not path.is_absolute():
        raise ValueError("the path is not absolute")
    return path


def _absolute_or_empty(path: str) -> str:
    return str(_absolute(Path(path))) if path else ""


Whole = Annotated[int, BeforeValidator(_no_flag)]
Switch = Annotated[bool, BeforeValidator(_flag), Field(strict=True)]
Size = Annotated[int, BeforeValidator(_no_flag), BeforeValidator(_text(parse_size))]
Rate = Annotated[float, BeforeValidator(_no_flag), BeforeValidator(_with_unit(parse_rate))]
Duration = Annotated[float, BeforeValidator(_no_flag), BeforeValidator(_with_unit(parse_duration))]
# NoDecode: in an environment variable these are text for us to read, not JSON.
Endpoint = Annotated[InstanceOf[Address], NoDecode, BeforeValidator(_text(parse_address))]
Command = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_argv)]
AbsolutePath = Annotated[Path, AfterValidator(_absolute)]
GuestName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SendSettings(_Section):
    """What `migrated send` does unless its flags say otherwise."""

    codec: Annotated[str, AfterValidator(_codec_or_none)] = Field(
        default=AUTO,
        description="auto, the name of an installed codec (see `migrated codecs`), or none",
    )
    level: Whole = Field(
        default=1, ge=0, le=9, description="0 (no compression), or 1 (fastest) to 9 (best ratio)"
    )
    compress_workers: Whole = Field(
        default=8,
        ge=1,
        le=256,
        description="a number from 1 to 256; more than there are cores are not started",
    )
    decompress_workers: Whole = Field(
        default=0, ge=0, le=256, description="a number from 1 to 256, or 0 for half of compress_workers"
    )
    batch_size: Annotated[Size, AfterValidator(_whole_pages)] = Field(
        default=4 << 20, ge=64 << 10, le=16 << 20, description="64KiB to 16MiB, in whole pages of 4KiB"
    )
    delta_cache: Size = Field(
        default=64 << 20,
        ge=0,
        le=64 << 30,
        description="a size as in 64MiB, at most 64GiB, or 0 for no deltas",
    )
    streams: Whole = Field(
        default=0, ge=0, le=64, description="a number from 1 to 64, or 0 for what the link is worth"
    )
    bandwidth: Rate = Field(
        default=math.inf,
        ge=SLOWEST_RATE,
        description="a rate as in 1gbit, 100Mbit/s or 50MB/s, 1kB/s or more, or unlimited",
    )
    downtime: Duration = Field(
        default=0.3, gt=0, le=2000, description="a duration as in 300ms or 2s, at most 2000s"
    )
    max_rounds: Whole = Field(default=30, ge=1, le=10_000, description="a number from 1 to 10000")
    on_stall: Literal["fail", "throttle", "switch"] = Field(
        default="fail", description="fail, throttle or switch"
    )
    verify: Literal["digest", "full"] = Field(default="digest", description="digest or full")
    tracker: Literal["auto", "pagemap-scan", "soft-dirty", "hash"] = Field(
        default="auto", description="auto, pagemap-scan, soft-dirty or hash"
    )
    allow_seccomp: Switch = Field(default=False, description="true or false")
    connect_timeout: Duration = Field(
        default=10.0, gt=0, le=3600, description="a duration as in 10s or 1m, at most 1h"
    )
    idle_timeout: Duration = Field(
        default=30.0, ge=1, le=3600, description="a duration as in 30s or 2m, from 1s to 1h"
    )


class ServeSettings(_Section):
    """What `migrated serve` offers, and to how many."""

    listen: Endpoint = Field(
        default=Address("127.0.0.1", DEFAULT_PORT),
        description="host:port, [v6]:port or unix:/path, as in 0.0.0.0:4440",
    )
    control: Endpoint = Field(
        default=Address("127.0.0.1", DEFAULT_PORT + 1),
        description="host:port, [v6]:port or unix:/path, as in 127.0.0.1:4441",
    )
    max_migrations: Whole = Field(default=4, ge=1, le=1000, description="a number from 1 to 1000")
    max_streams: Whole = Field(default=8, ge=1, le=64, description="a number from 1 to 64")
    max_connections: Whole = Field(default=64, ge=2, le=10_000, description="a number from 2 to 10000")
    decompress_workers: Whole = Field(
        default=0, ge=0, le=256, description="a number from 1 to 256, or 0 for what the source asks for"
    )
    codecs: Annotated[
        tuple[Annotated[str, AfterValidator(_codec)], ...], NoDecode, BeforeValidator(_words)
    ] = Field(
        default=(), description="a list of names of installed codecs; empty for all that check their input"
    )
    max_region: Size = Field(default=1 << 40, ge=_PAGE, description="a size as in 64GiB, 4KiB or more")
    max_batch: Annotated[Size, AfterValidator(_whole_pages)] = Field(
        default=8 << 20, ge=64 << 10, le=16 << 20, description="64KiB to 16MiB, in whole pages of 4KiB"
    )
    handshake_timeout: Duration = Field(
        default=10.0, gt=0, le=3600, description="a duration as in 10s or 1m, at most 1h"
    )
    idle_timeout: Duration = Field(
        default=30.0, ge=1, le=3600, description="a duration as in 30s or 2m, from 1s to 1h"
    )
    drain_timeout: Duration = Field(
        default=60.0, ge=0, le=86_400, description="a duration as in 60s or 5m, at most 24h; 0 for none"
    )

    @model_validator(mode="after")
    def _migrations_leave_room_for_questions(self) -> Self:
        if self.max_connections <= self.max_migrations:
            raise ValueError(
                f"max_connections ({self.max_connections}) is not more than max_migrations ({self.max_migrations})"
            )
        return self


class HostSettings(_Section):
    """What both roles on this host share."""

    state_dir: Annotated[str, AfterValidator(_absolute_or_empty)] = Field(
        default="", description="an absolute path, or empty for the usual place"
    )

    @property
    def state_path(self) -> Path:
        """``state_dir``; if empty, $STATE_DIRECTORY, root's /var/lib/migrated, or the user's own."""
        if self.state_dir:
            return Path(self.state_dir)
        given = os.environ.get("STATE_DIRECTORY", "").split(":")[0]
        if given:
            return Path(given)
        if os.geteuid() == 0:
            return Path("/var/lib/migrated")
        home = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state"
        return Path(home) / "migrated"


class LogSettings(_Section):
    """What is logged, to standard error."""

    level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="debug, info, warning or error"
    )
    format: Literal["text", "json"] = Field(default="text", description="text or json")


class GuestEntry(_Section):
    """A guest that this host knows by name: what may arrive under it, and where it goes."""

    kind: Literal["demo", "shm", "pid", "qemu"] = Field(description="demo, shm, pid or qemu")
    path: AbsolutePath = Field(
        description="an absolute path: of the memory file, for pid of a folder, for qemu of its QMP socket"
    )
    resume: Command = Field(default=(), description='a command as a list, as in ["systemctl", "start", "db"]')
    command: Command = Field(
        default=(), description='a command as a list, as in ["qemu-system-x86_64", "-incoming", "defer"]'
    )
    log: AbsolutePath | None = Field(default=None, description="an absolute path of a file")

    @model_validator(mode="after")
    def _commands_belong_to_their_kinds(self) -> Self:
        if self.kind != "shm" and self.resume:
            raise ValueError(f"resume is for the kind shm; {self.kind} needs none")
        if self.kind != "qemu" and self.command:
            raise ValueError(f"command is for the kind qemu; {self.kind} needs none")
        return self


class Settings(_Section):
    """Everything that can be set. Immutable, and equal if every setting is."""

    host: HostSettings = Field(default=HostSettings(), description="a table")
    send: SendSettings = Field(default=SendSettings(), description="a table")
    serve: ServeSettings = Field(default=ServeSettings(), description="a table")
    log: LogSettings = Field(default=LogSettings(), description="a table")
    guests: dict[GuestName, GuestEntry] = Field(
        default={},
        description="tables [guests.NAME]; a name has letters, digits and _.- and is at most 64 long",
    )
