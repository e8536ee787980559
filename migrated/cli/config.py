"""``migrated config``: the settings in force, and where each comes from."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from migrated.cli.helptext import example
from migrated.cli.run import ConfigFile, Json

if TYPE_CHECKING:
    from pathlib import Path

    from migrated.config import Settings

__all__ = ["EPILOG", "as_toml", "config"]

EPILOG = example(
    "migrated config                                     all of them",
    "migrated config | grep -v '# default'               only what somebody changed",
    "MIGRATED_SEND__LEVEL=3 migrated config",
    codes="0 done, 2 a setting is wrong, 5 the file can't be read",
)


def config(
    *,
    file: ConfigFile = None,
    show: Annotated[bool, typer.Option("--show", help="Print the settings; this is the default.")] = True,  # noqa: ARG001
    as_json: Json = False,
) -> None:
    """Print the settings in force as TOML, and where each comes from.

    Read from --config, else $MIGRATED_CONFIG, else ~/.config/migrated/migrated.toml, else
    /etc/migrated/migrated.toml; above that stand variables such as MIGRATED_SEND__LEVEL.
    """
    from migrated.cli.run import print_json, read_settings
    from migrated.config import find_file

    settings = read_settings(file)
    found = find_file(file)
    if as_json:
        origins = _Origins(found)
        print_json(
            {
                section: {
                    key: {"value": value, "from": origins.of(section, key)} for key, value in keys.items()
                }
                for section, keys in _plain(settings).items()
            }
        )
        return
    print(f"# {found or 'no settings file: only defaults and the environment'}")
    print(as_toml(settings, found))


def as_toml(settings: "Settings", file: "Path | None" = None) -> str:
    """The settings as TOML that reads back as the same settings; ``file`` is where they were read from."""
    origins = _Origins(file)
    lines: list[str] = []
    for section, keys in _plain(settings).items():
        lines += ["", f"[{section}]"]
        rows = [(f"{key} = {_toml(value)}", origins.of(section, key)) for key, value in keys.items()]
        width = max((len(text) for text, _ in rows), default=0)
        lines += [f"{text:<{width}}  # {origin}" for text, origin in rows]
    return "\n".join(lines[1:])


def _plain(settings: "Settings") -> dict[str, dict[str, Any]]:
    """Section (``guests.NAME`` for a guest) to key to value, as a person writes them."""
    found: dict[str, dict[str, Any]] = {}
    for section in type(settings).model_fields:
        if section != "guests":
            model = getattr(settings, section)
            found[section] = {key: _written(key, getattr(model, key)) for key in type(model).model_fields}
    for name, entry in settings.guests.items():
        values = {key: getattr(entry, key) for key in type(entry).model_fields}
        found[f"guests.{_key(name)}"] = {
            key: _written(key, value) for key, value in values.items() if value not in (None, ())
        }
    return found


def _written(key: str, value: Any) -> Any:
    """A value as it is typed: quantities with their units, exactly."""
    from pathlib import Path

    from migrated.net.address import Address
    from migrated.units import format_duration, format_size, parse_duration, parse_size

    match value:
        case bool():
            return value
        case int() if key in ("batch_size", "max_region", "max_batch"):
            shown = format_size(value).replace(" ", "")
            return shown if parse_size(shown) == value else str(value)
        case float() if key == "bandwidth":
            return _rate(value)
        case float():
            shown = format_duration(value).replace(" ", "")
            return shown if parse_duration(shown) == value else f"{value:f}s"
        case Address() | Path():
            return str(value)
        case tuple():
            return list(value)
        case _:
            return value


def _rate(value: float) -> str:
    from migrated.units import format_rate, parse_rate

    shown = format_rate(value).replace(" ", "").replace("b/s", "bit/s")
    return shown if parse_rate(shown) == value else f"{value:f}B/s"


def _toml(value: Any) -> str:
    import json

    return json.dumps(value, ensure_ascii=False)  # a string, number, true, false or list is the same in TOML


def _key(name: str) -> str:
    return f'"{name}"' if "." in name else name


class _Origins:
    """Who said what a setting is."""

    def __init__(self, file: "Path | None") -> None:
        from migrated.config.lines import key_lines

        self._file = file
        self._lines = key_lines(file.read_text(encoding="utf-8")) if file else {}

    def of(self, section: str, key: str) -> str:
        import os

        path = (*section.replace('"', "").split(".", 1), key)
        variable = "MIGRATED_" + "__".join(path).upper()
        if any(name.upper() == variable for name in os.environ):
            return f"environment, {variable}"
        line = self._lines.get(path)
        return f"{self._file}, line {line}" if line else "default"
