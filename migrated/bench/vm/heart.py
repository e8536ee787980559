"""The heartbeat of a guest while it moves: how long it was silent, by the clock of this host."""

import contextlib
import os
import threading
import time

from migrated.bench.vm.machine import Console
from migrated.errors import MigratedError

__all__ = ["Heart"]

_LOOK_AGAIN_SECONDS = 0.002
"""A fifth of a beat; costs 1 % of a core."""

_PRIORITY = -10
"""Nice value: a look that comes late would pass for a silent guest."""


class Heart(threading.Thread):
    """Watches the consoles of both machines until :meth:`stop`; they are nobody else's meanwhile.

    ``longest`` is the longest time without a beat anywhere; ``switch`` the time from the last beat here to the first
    one there, 0 if there was none; ``arrived`` the moment of that one. All are seconds, moments by
    :func:`time.monotonic`. ``fault``: what the guest said if it found its memory wrong.
    """

    def __init__(self, source: Console, destination: Console) -> None:
        super().__init__(name="heart", daemon=True)
        self._source, self._destination = source, destination
        self._ended = threading.Event()
        self._news = threading.Condition()
        self.fault = ""
        self.longest = self.switch = self.arrived = 0.0

    def run(self) -> None:
        """Until :meth:`stop`, or until a guest finds its memory wrong."""
        with contextlib.suppress(OSError):  # only root may
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _PRIORITY)
        try:
            self._watch()
        except MigratedError as error:
            self.fault = error.what
            with self._news:
                self._news.notify()

    def _watch(self) -> None:
        self._source.look()
        last = last_here = time.monotonic()
        while not self._ended.wait(_LOOK_AGAIN_SECONDS):
            here, there = self._source.look(), self._destination.look()
            if not (here or there):
                continue
            now = time.monotonic()
            self.longest = max(self.longest, now - last)
            last = now
            if here:
                last_here = now
            if there and not self.arrived:
                self.arrived, self.switch = now, now - last_here
            with self._news:
                self._news.notify()

    def wait_for_beats_there(self, beats: int, patience: float) -> bool:
        """Wait until the guest has beaten so often at the destination, or has a fault; False: neither came in time."""

        def arrived() -> bool:
            return bool(self.fault) or self._destination.beat >= self._source.beat + beats

        with self._news:
            return self._news.wait_for(arrived, patience)

    def stop(self) -> None:
        """End. May be called twice."""
        self._ended.set()
        self.join()
