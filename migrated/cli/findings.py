"""What `migrated doctor` finds."""

from dataclasses import dataclass
from enum import StrEnum

__all__ = ["Check", "Level"]


class Level(StrEnum):
    """How bad it is: fine, works with limits, does not work."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Check:
    """One finding; ``hint`` says what to do about it. ``vital``: without it nothing can be moved."""

    subject: str
    level: Level
    found: str
    hint: str = ""
    vital: bool = False
