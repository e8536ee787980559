"""The rate limit: a token bucket whose clock is an argument."""

import math

__all__ = ["SLOWEST_RATE", "Pacer"]

SLOWEST_RATE = 1000.0
"""Bytes per second: the lowest limit that may be set. A batch's header alone would take longer than a person waits."""

_BURST_SECONDS = 0.05
"""What may be sent at once after a pause. Long enough that timers of some ms do not cost rate, short enough that
a limit does not show as bursts on the link."""

_SMALLEST_PIECE = 16 << 10
"""Smaller ones cost more than they smooth..."""

_PIECE_SECONDS = 0.25
"""...but none may take longer than this: a peer that hears nothing for its idle timeout, which may be as short as a
second, takes us for lost."""


class Pacer:
    """Says how long to wait before the next bytes go out. ``rate`` in bytes per second, infinity for no limit."""

    def __init__(self, rate: float = math.inf) -> None:
        self.rate = rate
        self.sharers = 1
        """Connections that take turns with their pieces: a peer hears of each only that often."""
        self._ready_at = 0.0

    def set_rate(self, rate: float) -> None:
        """Change the limit from now on."""
        self.rate = rate

    @property
    def piece(self) -> int:
        """The most bytes to send at once, so that a changed limit shows soon; 0 for any number."""
        if math.isinf(self.rate):
            return 0
        burst = max(_SMALLEST_PIECE, int(self.rate * _BURST_SECONDS))
        return max(1, min(burst, int(self.rate * _PIECE_SECONDS / self.sharers)))

    def delay(self, size: int, now: float) -> float:
        """Take ``size`` bytes from the bucket at ``now``; return the seconds to wait before they are sent."""
        if math.isinf(self.rate):
            return 0.0
        start = max(self._ready_at, now - _BURST_SECONDS)
        self._ready_at = start + size / self.rate
        return max(0.0, start - now)
