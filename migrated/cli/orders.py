"""What a person typed to have a guest moved, or a move planned."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from migrated.cli.flags import command_of, word_of
from migrated.cli.run import read_settings
from migrated.config import Settings
from migrated.engine.options import AUTO
from migrated.errors import UsageError
from migrated.guests.base import GuestOptions, Selection

__all__ = ["GuestOrder"]


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestOrder:
    """A guest, where it is to go, and how. ``settings`` are overrides of the section ``send``, as typed."""

    guest: str
    destination: str
    settings: Mapping[str, object]
    config: Path | None
    name: str
    pids: tuple[int, ...]
    pause: str
    resume: str
    mappings: str
    as_json: bool

    def read_settings(self) -> Settings:
        """The settings in force. Raises as :func:`migrated.config.load` does, and UsageError for a level that would
        change nothing."""
        settings = read_settings(self.config, {"send": self.settings})
        level = self.settings.get("level")
        if level not in (None, "0") and settings.send.codec == AUTO:
            raise UsageError(
                "codec auto chooses the level of each batch itself",
                f"name a codec: --codec zstd --level {level}; or --level 0 for no compression",
            )
        return settings

    def guest_options(self, settings: Settings) -> GuestOptions:
        """How to open the guest. UsageError for words that mean nothing."""
        return GuestOptions(
            name=self.name,
            tracker=settings.send.tracker,
            force=settings.send.allow_seccomp,
            pids=self.pids,
            pause=command_of("--pause", self.pause),
            resume=command_of("--resume", self.resume),
            mappings=word_of(Selection, "--mappings", self.mappings),
        )
