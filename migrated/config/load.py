"""Reading settings: the file, the environment and flags become one model, or one error that says where."""

import difflib
import os
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_settings import BaseSettings, EnvSettingsSource, SettingsConfigDict, SettingsError

from migrated.compression import registry
from migrated.config.lines import key_lines
from migrated.config.model import GuestEntry, ReadContext, SendSettings, Settings
from migrated.errors import AccessError, ConfigError, UsageError

__all__ = ["find_file", "load", "read_setting"]

_PREFIX = "MIGRATED_"
_SEPARATOR = "__"
_FILE_VARIABLE = "MIGRATED_CONFIG"
_MAX_SHOWN = 60

_Location = tuple[str, ...]


class _Environment(Settings, BaseSettings):
    """Never made: tells pydantic-settings which variables there are."""

    model_config = SettingsConfigDict(
        env_prefix=_PREFIX, env_nested_delimiter=_SEPARATOR, extra="forbid", frozen=True
    )


def find_file(path: Path | None = None) -> Path | None:
    """The settings file: ``path``, else $MIGRATED_CONFIG, else the person's own, else the host's, else None.

    Only one file is read. A file that was named and is not there is a ConfigError; the usual places may be
    empty.
    """
    named = path or (Path(os.environ[_FILE_VARIABLE]) if os.environ.get(_FILE_VARIABLE) else None)
    if named is not None:
        if not _may_be_there(named):
            by = "--config" if path else _FILE_VARIABLE
            raise ConfigError(f"there is no settings file {named}", f"make it, or correct {by}")
        return named
    home = Path(os.environ.get("XDG_CONFIG_HOME") or "~/.config").expanduser()
    usual = [home / "migrated/migrated.toml", Path("/etc/migrated/migrated.toml")]
    return next((each for each in usual if os.path.lexists(each)), None)


def _may_be_there(path: Path) -> bool:
    """False if it certainly is not; why it can't be reached, if so, is told by who reads it."""
    try:
        path.stat()
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return True


def load(path: Path | None = None, overrides: Mapping[str, object] | None = None) -> Settings:
    """The settings in force; ``path`` as in :func:`find_file`.

    ``overrides`` come from flags: section -> key -> the text as typed, or a value in base units where the
    setting is no quantity; a value None means that the flag was not given. Raises ConfigError, or AccessError
    if the file cannot be read.
    """
    flags = _given(overrides or {})
    environment = _read_environment()
    file = find_file(path)
    text, in_file = _read_file(file) if file else ("", {})
    sources = _Sources(flags, environment, in_file, file, text)
    try:
        return Settings.model_validate(
            _merged(in_file, environment, flags), context=ReadContext(frozenset(registry.names()))
        )
    except ValidationError as error:
        raise _translated(error, sources) from error


def read_setting(key: str, text: str) -> float:
    """The number in base units that ``text`` is as the setting ``send.key``; UsageError says what is allowed."""
    try:
        made = SendSettings.model_validate({key: text}, context=ReadContext(frozenset(registry.names())))
    except ValidationError as error:
        allowed = _allowed(("send", key))
        raise UsageError(f"{key} {text[:_MAX_SHOWN]!r} is not allowed", f"allowed: {allowed}") from error
    return float(getattr(made, key))


class _Sources:
    """What was given where, in falling precedence."""

    def __init__(
        self,
        flags: Mapping[str, Any],
        environment: Mapping[str, Any],
        in_file: Mapping[str, Any],
        file: Path | None,
        text: str,
    ) -> None:
        self.flags, self.environment, self.in_file = flags, environment, in_file
        self.file, self.text = file, text

    def find(self, location: _Location) -> tuple[str, object]:
        """Who gave the value there, in words, and the value as it was given.

        If nobody did: who gave the longest part of the way to it, and nothing.
        """
        for length in range(len(location), 0, -1):
            part = location[:length]
            whole = length == len(location)
            if (given := _at(self.flags, part)) is not None:
                where = "on the command line, --" + part[-1].replace("_", "-")
            elif (given := _at(self.environment, part)) is not None:
                where = "in the environment, " + _variable(part)
            elif (given := _at(self.in_file, part)) is not None:
                line = self._line(part)
                where = f"{self.file}, line {line}" if line else str(self.file)
            else:
                continue
            return where, given if whole else None
        return "in the settings", None

    def _line(self, location: _Location) -> int:
        lines = key_lines(self.text)
        parts = (location[:length] for length in range(len(location), 0, -1))
        return next((lines[part] for part in parts if part in lines), 0)


def _given(overrides: Mapping[str, object]) -> dict[str, Any]:
    return {
        key: _given(value) if isinstance(value, Mapping) else value
        for key, value in overrides.items()
        if value is not None
    }


def _read_environment() -> dict[str, Any]:
    for name in sorted(os.environ):
        if name.upper().startswith(_PREFIX) and _SEPARATOR in name:
            section = name[len(_PREFIX) :].split(_SEPARATOR)[0].lower()
            if section not in Settings.model_fields:
                raise ConfigError(
                    f"in the environment, {name}: there is no section {section}", _similar((section,))
                )
    try:
        return EnvSettingsSource(_Environment)()
    except SettingsError as error:
        raise ConfigError(
            f"cannot read a setting from the environment: {error}", "write it as MIGRATED_SECTION__KEY=value"
        ) from error


def _read_file(file: Path) -> tuple[str, dict[str, Any]]:
    try:
        text = file.read_text(encoding="utf-8")
        return text, tomllib.loads(text)
    except PermissionError as error:
        raise AccessError(f"cannot read the settings file {file}", "let this user read it") from error
    except OSError as error:
        raise ConfigError(f"cannot read the settings file {file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file} is not UTF-8 text", "write it again as UTF-8") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(
            f"{file} is not TOML: {error}", "config/migrated.toml shows how it is written"
        ) from error


def _merged(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Later layers over earlier ones, table by table."""
    merged: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            below = merged.get(key)
            if isinstance(value, dict) and isinstance(below, dict):
                merged[key] = _merged(below, value)
            else:
                merged[key] = value
    return merged


def _at(source: object, location: _Location) -> object:
    for part in location:
        if not isinstance(source, Mapping):
            return None
        source = source.get(part)
    return source


def _variable(location: _Location) -> str:
    return _PREFIX + _SEPARATOR.join(location).upper()


def _translated(error: ValidationError, sources: _Sources) -> ConfigError:
    errors = error.errors(include_url=False)
    # An unknown key explains the missing one beside it, so it goes first.
    first = next((each for each in errors if each["type"] == "extra_forbidden"), errors[0])
    location = tuple(part for part in first["loc"] if isinstance(part, str) and part != "[key]")
    key = ".".join(location)
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    where, given = sources.find(location)
    if first["type"] == "extra_forbidden":
        return ConfigError(f"{where}: there is no setting {key}{more}", _similar(location))
    allowed = _allowed(location)
    if first["type"] == "missing":
        return ConfigError(f"{where}: {key} is missing{more}", f"set it to {allowed}")
    shown = repr(given)
    shown = shown if len(shown) <= _MAX_SHOWN else shown[: _MAX_SHOWN - 3] + "..."
    subject = key if given is None or isinstance(given, Mapping) else f"{key} = {shown}"
    why = f": {first['ctx']['error']}" if first["type"] == "value_error" else ""
    return ConfigError(f"{where}: {subject} is not allowed{why}{more}", f"allowed: {allowed}")


def _known(model: type[BaseModel], at: _Location = ()) -> Iterator[_Location]:
    for name, field in model.model_fields.items():
        yield (*at, name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _known(field.annotation, (*at, name))


def _model_at(location: _Location) -> type[BaseModel]:
    """The table that ``location``, a key, stands in."""
    if len(location) > 2 and location[0] == "guests":
        return GuestEntry
    field = Settings.model_fields.get(location[0]) if len(location) == 2 else None
    annotation = field.annotation if field else None
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else Settings


def _allowed(location: _Location) -> str:
    if location[0] == "guests" and len(location) <= 2:  # a guest's name, or a guest as a whole
        return Settings.model_fields["guests"].description or ""
    return _model_at(location).model_fields[location[-1]].description or ""


def _similar(location: _Location) -> str:
    """What may have been meant, and what there is."""
    table = _model_at(location)
    beside = [(*location[:-1], name) for name in table.model_fields]
    names = {".".join(each): each for each in [*beside, *_known(Settings)]}
    wanted = [name for name, each in names.items() if each[-1] == location[-1]]
    wanted = wanted or difflib.get_close_matches(".".join(location), names, n=1, cutoff=0.7)
    meant = f"did you mean {' or '.join(wanted)}? " if wanted else ""
    here = f"[{'.'.join(location[:-1])}] has" if table is not Settings else "the sections are"
    return f"{meant}{here} {', '.join(table.model_fields)}"
