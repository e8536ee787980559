"""A way that takes time: two network devices of this host, and a process between them that holds every packet.

The kernel here has no delaying queue (netem); a device whose other end is a program (tun) does as well. Packets are
as large as they can be: TCP's windows and round trips are real ones, and the program passes 1 Gb/s without trouble.
"""

import contextlib
import fcntl
import multiprocessing
import os
import signal
import struct
import threading
import time
from collections import deque

__all__ = ["DelayedPair"]

_TUN = "/dev/net/tun"
_TUNSETIFF = 0x400454CA
_IFF_TUN_NO_PI = 0x1001
_LARGEST = 65_536
_QUEUE = 4096
"""Packets on their way in each direction: 256 MiB, more than TCP's windows."""


class DelayedPair:
    """Two tun devices, ``names``; what is sent into one comes out of the other ``seconds`` later.

    OSError if this host has none. The devices may be moved to namespaces; they go with :meth:`close`.
    """

    def __init__(self, names: tuple[str, str], seconds: float) -> None:
        self._ends = [_device(name) for name in names]
        context = multiprocessing.get_context("fork")
        self._relay = context.Process(target=_relay, args=(*self._ends, seconds), daemon=True)
        self._relay.start()

    def close(self) -> None:
        """End it."""
        self._relay.kill()
        self._relay.join()
        for end in self._ends:
            os.close(end)


def _device(name: str) -> int:
    end = os.open(_TUN, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.ioctl(end, _TUNSETIFF, struct.pack("16sH", name.encode(), _IFF_TUN_NO_PI))
    except BaseException:
        os.close(end)
        raise
    return end


def _relay(left: int, right: int, seconds: float) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # the parent's is not for its children
    ways = [
        threading.Thread(target=_way, args=each) for each in ((left, right, seconds), (right, left, seconds))
    ]
    for way in ways:
        way.start()
    for way in ways:
        way.join()


def _way(source: int, target: int, seconds: float) -> None:
    """Pass packets on, each when it is due."""
    waiting: deque[tuple[float, bytes]] = deque()
    filled = threading.Semaphore(0)

    def deliver() -> None:
        while True:
            filled.acquire()
            due, packet = waiting.popleft()
            left = due - time.monotonic()
            if left > 0:
                time.sleep(left)
            with contextlib.suppress(OSError):  # the other end is not up yet: it is lost, as on a wire
                os.write(target, packet)

    threading.Thread(target=deliver, daemon=True).start()
    while True:
        packet = os.read(source, _LARGEST)
        if len(waiting) < _QUEUE:  # else it is lost, as in a switch that is full
            waiting.append((time.monotonic() + seconds, packet))
            filled.release()
