"""What can be migrated: the contract between the engine and every kind of guest.

All methods block and are called one at a time, from threads of the engine's choosing, never from the event loop.

    source        open -> (throttle)* -> pause -> freeze -> release       the guest runs at the destination
                                           └-> resume <-┘                 any failure, or ABORTED after COMMIT
    destination   prepare -> make_ready -> start                          it runs here
                     └-> discard <-┘                                      it does not
"""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from migrated.memory.region import FileRegion, Region
from migrated.memory.trackers.base import Tracker

__all__ = ["SourceGuest", "TargetGuest"]


class SourceGuest(ABC):
    """A guest that runs here and shall run elsewhere. Made open: its regions and its tracker are there.

    While it is paused by :meth:`pause`, the guest goes on by itself if this process dies, by whatever cause.
    From :meth:`freeze` on it does not.
    """

    kind: ClassVar[str]
    name: str
    """The name by which the destination knows it, unless the person says another."""
    regions: tuple[Region, ...]
    tracker: Tracker
    tracker_note: str
    """Why this tracker: one line for the person."""
    was_running: bool
    """Whether it ran when it was opened. One that was paused stays paused, here or there."""

    @abstractmethod
    def check(self) -> None:
        """Raise GuestDiedError if the guest has ended."""

    @abstractmethod
    def throttle(self, share: float) -> None:
        """Hold the guest for ``share`` of the time, 0 to 0.99; 0 ends it. GuestError if it can't be slowed down."""

    @abstractmethod
    def pause(self) -> None:
        """Stop it, reversibly: nothing of it writes from the return on. Any failure leaves it as it was."""

    @abstractmethod
    def resume(self) -> None:
        """Let it go on if it did before; undoes :meth:`pause` and :meth:`freeze`. Does nothing if it goes on."""

    @abstractmethod
    def freeze(self) -> None:
        """Turn the pause into one that outlives this process, without a single instruction in between."""

    @abstractmethod
    def release(self, moved: bool) -> None:  # noqa: FBT001
        """The destination answered RUNNING. ``moved``: it runs there, so give up the copy here; else it was
        only copied, and what the person asked for (``--after``) happens here."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """What :func:`migrated.guests.uri.revive` needs to find the frozen guest again, ready for JSON."""

    @abstractmethod
    def close(self) -> None:
        """Let go of everything. A guest that is paused but not frozen goes on. May be called twice."""


class TargetGuest(ABC):
    """Where a guest arrives, as the destination's own configuration says."""

    kind: ClassVar[str]
    name: str
    regions: tuple[FileRegion, ...]
    """Writable, empty and locked; there after :meth:`prepare`."""
    starts_guest: bool
    """Whether :meth:`start` makes it run here. If not, this is a copy, and the source's goes on."""

    @abstractmethod
    def prepare(self, regions: tuple[tuple[str, int], ...]) -> None:
        """Make empty memory for ``regions`` (name and bytes of each), locked against a second migration and not
        in use by a running guest, and start whatever may wait for the switchover. Any failure leaves nothing."""

    @abstractmethod
    def make_ready(self) -> None:
        """All memory is in place: prove that :meth:`start` will work, as far as can be known."""

    @abstractmethod
    def start(self, was_running: bool) -> None:  # noqa: FBT001
        """Run it (or leave it paused if it was). Idempotent, also in a new process after a crash, when
        :meth:`prepare` was never called in it: the memory is then what the crash left."""

    @abstractmethod
    def discard(self) -> None:
        """It does not run here: remove what :meth:`prepare` made, also in a new process after a crash."""

    @abstractmethod
    def close(self) -> None:
        """Let go of everything and leave a started guest running. May be called twice."""
