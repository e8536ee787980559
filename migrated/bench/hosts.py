"""Two hosts on one: network namespaces with a link of a given rate between them, or without root loopback."""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

from migrated.bench.delay import DelayedPair
from migrated.errors import AccessError, ResourceError

__all__ = ["UNLIMITED", "Host", "Link", "link", "loopback", "memory_folder"]

UNLIMITED = "unlimited"
"""The rate of a link that is as fast as the host is."""

_ADDRESSES = ("192.0.2.1", "192.0.2.2")
_ENDS = ("vs", "vd")
_FAR_MTU = "65520"
_SHAPE = ("burst", "256k", "latency", "100ms")
"""A bucket of 256 KiB passes 1 Gb/s at any timer; at most 100 ms of data wait in it, as in a switch."""


@dataclass(frozen=True)
class Host:
    """One end: its address, and what to put before a command that shall run on it."""

    address: str
    prefix: tuple[str, ...] = ()


@dataclass(frozen=True)
class Link:
    """Two hosts. ``interface`` is the source's end, whose counters say what really went over."""

    source: Host
    destination: Host
    interface: str = ""

    def sent_bytes(self) -> int:
        """What the source's interface has sent so far, frames and all; 0 on loopback."""
        if not self.interface:
            return 0
        text = _run(*self.source.prefix, "cat", f"/sys/class/net/{self.interface}/statistics/tx_bytes")
        return int(text)


def loopback() -> Link:
    """Both ends on this host."""
    return Link(Host("127.0.0.1"), Host("127.0.0.1"))


@contextlib.contextmanager
def link(rate: str, round_trip: float = 0.0) -> Iterator[Link]:
    """Two network namespaces, joined by a link of ``rate`` (as tc writes it, or :data:`UNLIMITED`) on which a
    ``round_trip`` takes so many seconds more.

    AccessError without root; ResourceError with the command that failed. Nothing is left afterwards.
    """
    if os.geteuid() != 0:
        raise AccessError("a link between two network namespaces takes root", "run it as root, with sudo")
    name = f"mig{os.getpid() % 100000}"
    spaces = (f"{name}s", f"{name}d")
    with contextlib.ExitStack() as undo:
        for space in spaces:
            _run("ip", "netns", "add", space)
            undo.callback(subprocess.run, ["ip", "netns", "del", space], check=False, capture_output=True)
        if round_trip:
            _join_far(spaces, round_trip, undo)
        else:
            _join(spaces)
        for space, end, address in zip(spaces, _ENDS, _ADDRESSES, strict=True):
            _run("ip", "-n", space, "addr", "add", f"{address}/30", "dev", end)
            for device in (end, "lo"):
                _run("ip", "-n", space, "link", "set", device, "up")
            if rate != UNLIMITED:
                _run("tc", "-n", space, "qdisc", "add", "dev", end, "root", "tbf", "rate", rate, *_SHAPE)
        hosts = [
            Host(address, ("ip", "netns", "exec", space))
            for space, address in zip(spaces, _ADDRESSES, strict=True)
        ]
        yield Link(hosts[0], hosts[1], _ENDS[0])


def _join(spaces: tuple[str, str]) -> None:
    veth = ("netns", spaces[0], "type", "veth", "peer", "name", _ENDS[1], "netns", spaces[1])
    _run("ip", "link", "add", _ENDS[0], *veth)


def _join_far(spaces: tuple[str, str], round_trip: float, undo: contextlib.ExitStack) -> None:
    made = tuple(f"{space}t" for space in spaces)
    try:
        pair = DelayedPair((made[0], made[1]), round_trip / 2)
    except OSError as error:
        raise ResourceError(f"no device whose other end is a program: {error.strerror}") from error
    undo.callback(pair.close)
    for device, space, end in zip(made, spaces, _ENDS, strict=True):
        _run("ip", "link", "set", device, "netns", space, "name", end, "mtu", _FAR_MTU)


def memory_folder() -> str | None:
    """Where temporary files are shared memory; None, as :mod:`tempfile` takes it, where there is no such place."""
    shm = "/dev/shm"  # noqa: S108
    return shm if os.access(shm, os.W_OK) else None


def _run(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise ResourceError(
            f"there is no program {command[0]}", "apt-get install iproute2, on Debian"
        ) from error
    if done.returncode:
        raise ResourceError(f"{' '.join(command)} failed: {done.stderr.strip()}")
    return done.stdout
