"""What the guests at the source have in common: held processes, a tracker, a record of what is frozen."""

import contextlib
import re
from collections.abc import Sequence

from migrated.errors import MigratedError
from migrated.guests.base import After, GuestOptions, SourceGuest
from migrated.guests.frozen import FrozenGuest, describe_frozen
from migrated.guests.held import HeldProcesses
from migrated.guests.hooks import Hook
from migrated.memory.region import Region
from migrated.memory.trackers.base import Tracker, TrackTarget
from migrated.memory.trackers.choose import choose

__all__ = ["HeldGuest", "guest_name"]


def guest_name(text: str) -> str:
    """``text`` as a name that the protocol and configurations take."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", text)[:64].strip("-.") or "guest"


class HeldGuest(SourceGuest):
    """A guest whose processes are held. Subclasses open what they have and then call :meth:`_track`."""

    _on_moved = After.STOP
    """What becomes of its processes when it goes on at the destination."""

    def __init__(self, uri: str, name: str, options: GuestOptions) -> None:
        self._uri = uri
        self.name = options.name or name
        self._options = options
        self._held: HeldProcesses | None = None
        self.regions: tuple[Region, ...] = ()
        self.tracker_note = ""

    def _hold(self, pids: Sequence[tuple[int, int | None]]) -> HeldProcesses:
        self._held = HeldProcesses(pids, self._options.pause_timeout)
        return self._held

    def _track(self, name: str, targets: Sequence[TrackTarget]) -> Tracker:
        holders = {} if self._held is None else {holder.pid: holder for holder in self._held.holders}
        self.tracker, self.tracker_note = choose(
            name, targets, self.regions, holders=holders, force=self._options.force
        )
        return self.tracker

    def pause(self) -> None:
        """See :meth:`SourceGuest.pause`."""
        if self._held is not None:
            self._held.pause()
            self.was_running = self._held.was_running

    def resume(self) -> None:
        """See :meth:`SourceGuest.resume`."""
        if self._held is not None:
            self._held.resume()

    def freeze(self) -> None:
        """See :meth:`SourceGuest.freeze`."""
        if self._held is not None:
            self._held.freeze()

    def throttle(self, fraction: float) -> None:
        """See :meth:`SourceGuest.throttle`."""
        if self._held is not None:
            self._held.throttle(fraction)

    def check(self) -> None:
        """See :meth:`SourceGuest.check`."""
        if self._held is not None:
            self._held.check()

    def watched(self) -> Sequence[int]:
        """See :meth:`SourceGuest.watched`."""
        return () if self._held is None else [holder.pidfd for holder in self._held.holders]

    def describe(self) -> dict[str, object]:
        """See :meth:`SourceGuest.describe`."""
        processes = [] if self._held is None else self._held.describe()
        return describe_frozen(
            self._uri, processes, moved=self._on_moved, copied=self._options.after, resume=self._resume_hook()
        )

    def release(self, moved: bool) -> None:
        """See :meth:`SourceGuest.release`."""
        self.tracker.close()
        frozen = FrozenGuest(self.describe())
        try:
            if not moved and self._options.after is not After.STOP:
                self.resume()
                if self._options.after is After.RESUME:
                    return
            elif not moved and self._held is not None:
                self._held.stay()
            frozen.release(moved)
        finally:
            frozen.close()

    def close(self) -> None:
        """See :meth:`SourceGuest.close`."""
        if hasattr(self, "tracker"):
            with contextlib.suppress(MigratedError):
                self.tracker.close()
        if self._held is not None:
            self._held.close()
        for region in self.regions:
            region.close()

    def _resume_hook(self) -> Hook | None:
        return None
