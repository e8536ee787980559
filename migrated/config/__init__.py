"""Settings: one typed model, read from a TOML file, the environment and flags, in rising precedence.

A setting is ``section.key``: in the file ``key`` under ``[section]``, in the environment
``MIGRATED_SECTION__KEY``, as a flag of the command that uses it ``--key`` with dashes. `config/migrated.toml`
has every one with its default. An unknown key or a bad value is a :class:`migrated.errors.ConfigError` that
names the key, where it stands, and what is allowed; nothing is ever ignored or corrected.
"""

from migrated.config.load import find_file, load, read_setting
from migrated.config.model import (
    GuestEntry,
    HostSettings,
    LogSettings,
    SendSettings,
    ServeSettings,
    Settings,
)

__all__ = [
    "GuestEntry",
    "HostSettings",
    "LogSettings",
    "SendSettings",
    "ServeSettings",
    "Settings",
    "find_file",
    "load",
    "read_setting",
]
