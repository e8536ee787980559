"""What Ctrl-C, SIGTERM and SIGHUP do to `migrated send`.

    before COMMIT   first: cancel, the guest goes on here    second: the same, at once
    after COMMIT    first: say so, and go on asking          second: leave; the guest stays paused (exit 20)
    outcome known   nothing: what is left is tidying up

The guest is safe whenever this process ends: what holds it before COMMIT lets go when its parent dies.
"""

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from typing import Protocol

from migrated.errors import CancelledByPersonError

__all__ = ["Interrupts", "Stoppable", "handled"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_NAMES = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM", signal.SIGHUP: "SIGHUP"}

_AT_ONCE_SECONDS = 3.0
"""How long tidying up may still take after the second signal, until the process just ends."""


class Stoppable(Protocol):
    """What :class:`migrated.client.Outgoing` offers for this."""

    migration_id: str

    @property
    def committed(self) -> bool:
        """Whether COMMIT may have been sent."""

    @property
    def settled(self) -> bool:
        """Whether the outcome is known."""

    def cancel(self, why: str) -> bool:
        """Give the guest back; False if it is too late, or too early, for that."""

    def leave(self) -> None:
        """Stop asking for the outcome."""


class Interrupts:
    """Decides what each signal means. ``stop`` cancels what goes on before there is a migration to cancel.

    ``end`` ends the process; it is called if a second signal was not enough.
    """

    def __init__(
        self,
        stop: Callable[[], object],
        say: Callable[[str], None],
        *,
        end: Callable[[int], object] = os._exit,
    ) -> None:
        self._stop = stop
        self._say = say
        self._end = end
        self._migration: Stoppable | None = None
        self._cancelled = 0
        self._told = False
        self.why = ""
        """By what it was cancelled, in words; empty if it was not."""

    def take_over(self, migration: Stoppable) -> None:
        """From now on there is a migration to cancel."""
        self._migration = migration

    def __call__(self, number: int) -> None:
        """A signal came."""
        name = _NAMES.get(signal.Signals(number), signal.Signals(number).name)
        if self._migration is not None and self._migration.committed:
            self._committed(self._migration, name)
            return
        self._cancelled += 1
        self.why = self.why or f"cancelled by {name}"
        if self._cancelled == 1:
            self._say(f"{name}: cancelling; the guest goes on here")
        elif self._cancelled == 2:
            self._say(f"{name} again: ending at once; the guest goes on here")
            asyncio.get_running_loop().call_later(
                _AT_ONCE_SECONDS, self._end, CancelledByPersonError.exit_code
            )
        if self._migration is None or not self._migration.cancel(self.why):
            self._stop()

    def _committed(self, migration: Stoppable, name: str) -> None:
        if migration.settled:
            self._say(f"{name}: the outcome is known; this ends as soon as all is tidied up")
            return
        if self._told:
            migration.leave()
            return
        self._told = True
        self._say(
            f"{name}: the destination may run the guest already, so it is not resumed here; asking for the "
            "outcome. Once more leaves it paused, to be settled with: "
            f"migrated resolve {migration.migration_id}"
        )


@contextlib.contextmanager
def handled(handle: Callable[[int], None]) -> Iterator[None]:
    """Give the running loop's SIGINT, SIGTERM and SIGHUP to ``handle``; those ignored stay so."""
    loop = asyncio.get_running_loop()
    taken = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    for number in taken:
        loop.add_signal_handler(number, handle, number)
    try:
        yield
    finally:
        for number in taken:
            loop.remove_signal_handler(number)
