"""What a guest is to the engine: at the source something to read, pause and give up; at the destination
something to fill and start. Every call blocks and belongs in a thread; one call at a time for each guest.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import ClassVar, Protocol

from migrated.errors import GuestError
from migrated.memory.region import FileRegion, Region
from migrated.memory.trackers.base import Tracker

__all__ = ["After", "GuestOptions", "Selection", "SourceGuest", "TargetEntry", "TargetGuest"]


class After(StrEnum):
    """What becomes of the source's guest when its memory was copied and the destination starts nothing."""

    RESUME = "resume"
    STOP = "stop"
    KILL = "kill"


class Selection(StrEnum):
    """Which mappings of a process a copy has."""

    ANONYMOUS = "anonymous"
    """Private memory that it may write and that no file lies behind: heap, stacks, bss and what it mapped."""
    WRITABLE = "writable"
    """And what it changed, or may change, of files: the data of its program and libraries."""


@dataclass(frozen=True, slots=True)
class GuestOptions:
    """What a person may say of the guest at the source.

    ``name`` is what the destination knows it by, if not the URI's own; ``pids`` are who writes a
    shared-memory file; ``pause`` and ``resume`` are commands (argument lists) that stop and start who writes
    it; ``keep`` leaves a virtual machine that has moved here, paused; ``force`` lets a tracker make its system
    call in a process under an unknown seccomp filter; times are in seconds.
    """

    name: str = ""
    tracker: str = "auto"
    force: bool = False
    pids: tuple[int, ...] = ()
    pause: tuple[str, ...] = ()
    resume: tuple[str, ...] = ()
    after: After = After.RESUME
    mappings: Selection = Selection.ANONYMOUS
    keep: bool = False
    pause_timeout: float = 1.0
    hook_timeout: float = 30.0


class SourceGuest(ABC):
    """A guest that is to leave this host, open. It runs on until :meth:`pause`.

    Until :meth:`freeze` whatever happens to us leaves it running: it is held by a helper that lets go when we
    die. From freeze on it stays paused until :meth:`resume`, :meth:`release`, or - by another process, from
    what :meth:`describe` gave - :func:`migrated.guests.uri.revive`.
    """

    kind: ClassVar[str]
    name: str
    """What the destination knows it by."""
    regions: tuple[Region, ...]
    tracker: Tracker
    tracker_note: str
    """Why it is this tracker, for people."""
    holes_are_zeros: ClassVar[bool] = True
    """Whether memory that it gave back has to be zeros there, too, once it reads it without having written it. False
    also says that nobody changes its memory by write(2)."""
    was_running: bool = True
    """Whether it ran when it was paused; valid after :meth:`pause`. One that did not run does not go on
    there."""
    facts: Mapping[str, str] = {}
    """What the destination compares with its own before the first page, word by word; see
    :class:`migrated.protocol.Offer`."""
    switch_seconds: float = 0.0
    """What stopping it and taking its device state is expected to add to the downtime."""

    def device_state(self) -> Iterator[bytes] | None:
        """What the guest is besides its memory, in pieces; None if that is nothing.

        Asked for once, when the guest is paused; its pages are read meanwhile. Pieces are at most
        ``migrated.protocol.MAX_DEVICE_STATE_CHUNK`` long. GuestError: it can't be had; the guest stays paused
        until :meth:`resume`, and its memory is as it was.
        """
        return None

    @abstractmethod
    def pause(self) -> None:
        """Let it write nothing any more. GuestError or AccessError: it could not be paused, and runs."""

    @abstractmethod
    def resume(self) -> None:
        """As it was before :meth:`pause`, also after :meth:`freeze`; nothing to do if it is not paused."""

    @abstractmethod
    def freeze(self) -> None:
        """The guest is paused: from now on it stays so when we die. After an error: :meth:`resume`."""

    @abstractmethod
    def release(self, moved: bool) -> None:
        """The destination has it. ``moved``: the guest runs there; else its memory was copied, and it may go
        on."""

    @abstractmethod
    def throttle(self, fraction: float) -> None:
        """Take ``fraction`` (0 to 0.99) of its time away; 0 ends that. GuestError if it cannot be slowed."""

    @abstractmethod
    def check(self) -> None:
        """GuestDiedError if it ended."""

    def watched(self) -> Sequence[int]:
        """Descriptors that become readable when a process of the guest ends; they stay ours."""
        return ()

    @abstractmethod
    def describe(self) -> dict[str, object]:
        """What :func:`migrated.guests.uri.revive` needs, fit for JSON; complete once the guest is paused."""

    @abstractmethod
    def close(self) -> None:
        """Let it go, unless it is frozen or released, and give up what we hold of it. May be called twice."""


class TargetGuest(ABC):
    """A guest that is to arrive at this host, under a name that this host's configuration knows.

    Made anew from the configuration after a crash it can :meth:`start` what had arrived, or :meth:`discard`
    what :meth:`prepare` had made.
    """

    kind: ClassVar[str]
    name: str
    regions: tuple[FileRegion, ...] = ()
    """Where the pages go: writable, empty and locked, once prepared."""
    has_device_state: ClassVar[bool] = False
    """Whether :meth:`load_device_state` is needed for it to start."""

    def expect(self, facts: Mapping[str, str]) -> None:
        """What the source tells of its guest (:attr:`SourceGuest.facts`): data of the source's, for
        :meth:`prepare` to compare."""
        _ = facts

    def load_device_state(self, piece: bytes) -> None:
        """The next piece of what :meth:`SourceGuest.device_state` gave; all memory is in place by then."""
        _ = piece
        raise GuestError(f"a guest of the kind {self.kind} has no device state")

    def watched(self) -> int:
        """A descriptor that becomes readable when what was prepared for the guest ends by itself, so that nothing
        can be started any more; -1 if there is no such thing. It stays ours."""
        return -1

    def why_ended(self) -> GuestError:
        """What to say when :meth:`watched` became readable. Does not block."""
        return GuestError(f"what was to become guest {self.name} has ended")

    @property
    @abstractmethod
    def starts_guest(self) -> bool:
        """Whether the guest will run here; else its memory is copied and goes on at the source."""

    @abstractmethod
    def prepare(self, sizes: Sequence[tuple[str, int]]) -> None:
        """Make empty memory for regions of these names and sizes in bytes, and lock it.

        The names are data of the source's. ResourceError: no room here; GuestError: it can't be, for example
        because a guest runs on that memory. After an error nothing was made or changed.
        """

    @abstractmethod
    def make_ready(self) -> None:
        """All memory and device state has arrived: whatever can fail or take time before the guest starts,
        fails or is done here."""

    @abstractmethod
    def start(self, was_running: bool) -> None:
        """Let the guest go on here - or not, if it was paused at the source. Again: nothing more happens.

        GuestError if it does not start; the memory stays as it is, and a repetition tries again.
        """

    @abstractmethod
    def discard(self) -> None:
        """Take away what :meth:`prepare` made. Nothing happens to a guest that was started."""

    @abstractmethod
    def close(self) -> None:
        """Give up locks and descriptors; memory and guest stay as they are. May be called twice."""


class TargetEntry(Protocol):
    """What the configuration says of a guest that may arrive here."""

    @property
    def kind(self) -> str:
        """``demo``, ``shm``, ``pid`` or ``qemu``."""

    @property
    def path(self) -> Path:
        """The memory file; for ``pid`` the folder of a copy, for ``qemu`` the socket of its monitor."""

    @property
    def resume(self) -> Sequence[str]:
        """The command that starts the guest; empty for none."""

    @property
    def log(self) -> Path | None:
        """Where the output of a demo guest or of QEMU goes; None: beside ``path``."""

    @property
    def command(self) -> Sequence[str]:
        """The command that starts a QEMU that waits for its guest; empty: one waits already."""
