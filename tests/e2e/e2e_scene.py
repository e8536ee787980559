"""One migration, stopped by the test at a moment of its choice: what then is killed, cut or told is up to it.

A test of this kind says three things: the moment, what happens there, and what must hold afterwards.
"""

import pytest
from e2e_host import Daemon, Guest, Host
from e2e_processes import Seen, Send, wait_until
from e2e_relay import Held, Kind, Relay

NEVER_DONE = ("--codec", "none", "--batch-size", "64KiB", "--bandwidth", "128KB/s")
"""Flags with which the first round of a guest of 8 MiB takes a minute, in pieces of half a second: who is told to
end it does not have to break one off."""


def at(*kinds: Kind) -> pytest.MarkDecorator:
    """The test runs once for each of these frames, as ``moment``."""
    return pytest.mark.parametrize("moment", kinds, ids=[kind.__name__ for kind in kinds])


class Scene:
    """Guest ``a`` on its way from here to there over a relay.

    Made by :func:`halted` and :func:`on_its_way`.
    """

    def __init__(self, host: Host, guest: Guest, daemon: Daemon, *flags: str) -> None:
        self.host, self.guest, self.daemon = host, guest, daemon
        self.relay: Relay = host.relay(daemon)
        self._flags = flags
        self._held: Held | None = None

    def begin(self, moment: Kind | None, nth: int) -> "Scene":
        """Send the guest, and wait for the moment: a frame, or the first round."""
        if moment is not None:
            self._held = self.relay.hold(moment, nth)
        self.send: Send = self.host.send(self.guest, self.relay, *self._flags)
        if self._held is None:
            self.send.event("round-started", round=1)
        else:
            self._held.wait()
        return self

    @property
    def id(self) -> str:
        return self.send.migration_id

    @property
    def standby(self) -> Seen:
        """The process at the destination that waits to become the guest."""
        return next(each.seen for each in self.host.places("a") if each.side == "there")

    # -- what the test does ------------------------------------------------------------------------

    def go_on(self) -> None:
        """Let the frame through."""
        assert self._held is not None
        self._held.release()

    def cut(self, *, alone: bool = False) -> None:
        """Lose the frame, and every connection; ``alone``: only the one that it came over."""
        assert self._held is not None
        self._held.drop(alone=alone)

    def lose_daemon(self) -> None:
        """kill -9 of the daemon, and whatever it had yet to read or to say is lost."""
        self.host.kill(self.daemon)
        self.cut()

    def restart(self) -> Daemon:
        """Another daemon in the place of the one that is gone, behind the same address."""
        self.daemon = self.host.restart()
        self.relay.target = self.daemon.port
        return self.daemon

    def resolve(self, *flags: str, code: int = 0) -> str:
        """``migrated resolve``; returns what it printed."""
        return self.host.command("resolve", self.id, *flags, code=code)

    # -- what must hold ----------------------------------------------------------------------------

    def waits_here(self) -> None:
        """Nobody lets the guest go on: it is paused here, until somebody knows."""
        (here,) = [each.seen for each in self.host.places("a") if each.side == "here"]
        assert here.stopped

    def runs_here(self) -> None:
        """The guest runs here, whatever is still to be tidied up at the destination."""
        self.host.goes_on("a", "here", alone=False)

    def stays(self) -> None:
        """It failed: the guest runs here and nowhere else, and nothing is left at the destination."""
        self.host.goes_on("a", "here")
        self.left_nothing()

    def left_nothing(self) -> None:
        """Nothing of the migration is left at the destination but the record that it came to nothing."""
        self.host.clean_there()
        self.written_off()

    def written_off(self) -> None:
        """The destination has recorded that it came to nothing."""
        wait_until(lambda: self.host.outcome("there", self.id) == "aborted", "the destination wrote it off")

    def moved(self) -> None:
        """The guest runs there and nowhere else."""
        self.host.goes_on("a", "there")

    def moved_or_stays(self, code: int, reason: str, *told: str) -> None:
        """It may work or fail in this way only; either leaves one guest, and nothing else."""
        if self.send.end() == 0:
            self.moved()
        else:
            self.send.failure(code, reason, *told)
            self.stays()


def halted(host: Host, moment: Kind, nth: int = 1) -> Scene:
    """A migration that stands still at the nth frame of this kind, whichever way it travels."""
    guest = host.demo()
    return Scene(host, guest, host.serve()).begin(moment, nth)


def on_its_way(host: Host, **serve: object) -> Scene:
    """A migration in a first round that does not end before the test does; ``serve`` are settings."""
    guest = host.demo("a", "8MiB")
    return Scene(host, guest, host.serve(**serve), *NEVER_DONE).begin(None, 0)
