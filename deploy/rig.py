"""What demonstrations and benchmarks share: two hosts on one, a service on one, guests on the other.

The hosts are network namespaces with a link of a given rate between them, which takes root; without root both
are this host, and the link is loopback. Only processes that were started here are ended here.
"""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = [
    "Guest",
    "Host",
    "Link",
    "PssWatch",
    "Service",
    "end_arrived",
    "link",
    "loopback",
    "send",
    "wait_for_guest",
]

MIGRATED = (sys.executable, "-m", "migrated")
_RUNNING = re.compile(r"running as process (\d+), start \d+, (\d+) operations done")
_START_SECONDS = 60.0


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
def link(rate: str) -> Iterator[Link]:
    """Two network namespaces, joined by a link of ``rate`` (as tc writes it, or "unlimited"). Takes root."""
    name = f"mig{os.getpid() % 100000}"
    spaces = (f"{name}s", f"{name}d")
    try:
        for space in spaces:
            _run("ip", "netns", "add", space)
        ends = [
            "link",
            "add",
            "vs",
            "netns",
            spaces[0],
            "type",
            "veth",
            "peer",
            "name",
            "vd",
            "netns",
            spaces[1],
        ]
        _run("ip", *ends)
        for space, end, address in zip(spaces, ("vs", "vd"), ("192.0.2.1", "192.0.2.2"), strict=True):
            _run("ip", "-n", space, "addr", "add", f"{address}/30", "dev", end)
            for device in (end, "lo"):
                _run("ip", "-n", space, "link", "set", device, "up")
            if rate != "unlimited":
                shape = ["root", "tbf", "rate", rate, "burst", "256k", "latency", "100ms"]
                _run("tc", "-n", space, "qdisc", "add", "dev", end, *shape)
        hosts = [
            Host(address, ("ip", "netns", "exec", space))
            for space, address in zip(spaces, ("192.0.2.1", "192.0.2.2"), strict=True)
        ]
        yield Link(hosts[0], hosts[1], "vs")
    finally:
        for space in spaces:
            subprocess.run(["ip", "netns", "del", space], check=False, capture_output=True)


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


def environment(folder: Path) -> dict[str, str]:
    """The environment of everything that is started: state and sockets under ``folder``."""
    return os.environ | {
        "MIGRATED_HOST__STATE_DIR": str(folder / "state"),
        "RUNTIME_DIRECTORY": str(folder / "run"),
    }


@dataclass
class Service:
    """`migrated serve` on a free port, for the guests ``name -> kind:path``."""

    folder: Path
    host: Host
    guests: dict[str, str]
    program: tuple[str, ...] = MIGRATED
    address: str = ""
    process: "subprocess.Popen[str]" = field(init=False)

    def __enter__(self) -> "Service":
        listen = [f"--listen={self.host.address}:0", "--control=127.0.0.1:0"]
        guests = [f"--guest={name}={uri}" for name, uri in self.guests.items()]
        with (self.folder / "serve.log").open("w") as log:
            self.process = subprocess.Popen(
                [*self.host.prefix, *self.program, "serve", *listen, *guests],
                env=environment(self.folder),
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        match = re.search(r"listening on (\S+:\d+)", line)
        if match is None:
            self.process.wait()
            raise SystemExit(f"the service did not start: {line}{(self.folder / 'serve.log').read_text()}")
        self.address = match[1]
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


@dataclass
class Guest:
    """A demo guest on this host; ``more`` are further words of its command line."""

    memory: Path
    size: str
    dirty_rate: str
    more: tuple[str, ...] = ()
    pid: int = 0
    process: "subprocess.Popen[bytes]" = field(init=False)

    @property
    def log(self) -> Path:
        """What it prints."""
        return self.memory.with_name(self.memory.name + ".log")

    def __enter__(self) -> "Guest":
        command = [
            *MIGRATED,
            "demo",
            f"--file={self.memory}",
            f"--size={self.size}",
            f"--dirty-rate={self.dirty_rate}",
        ]
        with self.log.open("w") as output:
            self.process = subprocess.Popen([*command, *self.more], stdout=output, stderr=output)
        self.pid = wait_for_guest(self.log, self.process)
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()


def wait_for_guest(log: Path, process: "subprocess.Popen[bytes] | None" = None) -> int:
    """Wait until the demo guest that prints to ``log`` runs; its process id."""
    until = time.monotonic() + _START_SECONDS
    while True:
        match = _RUNNING.search(log.read_text()) if log.exists() else None
        if match:
            return int(match[1])
        if time.monotonic() > until or (process is not None and process.poll() is not None):
            raise SystemExit(f"the guest did not start: {log.read_text() if log.exists() else log}")
        time.sleep(0.05)


def end_arrived(log: Path) -> None:
    """End the demo guest that was started at a destination."""
    match = _RUNNING.search(log.read_text()) if log.exists() else None
    if match:
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(match[1]), signal.SIGTERM)


def send(
    folder: Path, host: Host, *words: str, program: tuple[str, ...] = MIGRATED
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """`migrated send` with ``words``: the report, and all events. SystemExit with what it said if it failed."""
    done = subprocess.run(
        [*host.prefix, *program, "send", "--json", *words],
        env=environment(folder),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(
            f"migrated send {' '.join(words)} ended with {done.returncode}: {done.stdout[-2000:]}{done.stderr}"
        )
    events = [json.loads(line) for line in done.stdout.splitlines()]
    return events[-1], events


class PssWatch(threading.Thread):
    """Sums, now and then, the proportional memory of everything that carries ``folder`` in its environment."""

    def __init__(self, folder: Path, skip: frozenset[int] = frozenset()) -> None:
        super().__init__(daemon=True)
        self._folder = str(folder).encode()
        self._skip = skip
        self._ended = threading.Event()
        self.most_kib = 0

    def run(self) -> None:
        """Until :meth:`stop`."""
        while not self._ended.wait(0.25):
            self.most_kib = max(self.most_kib, self._sum())

    def stop(self) -> int:
        """End; the largest sum seen, in KiB."""
        self._ended.set()
        self.join()
        return self.most_kib

    def _sum(self) -> int:
        total = 0
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) in self._skip or int(entry.name) == os.getpid():
                continue
            with contextlib.suppress(OSError):
                if self._folder in (entry / "environ").read_bytes():
                    total += pss_of(entry)
        return total


def pss_of(process: Path) -> int:
    """Proportional set size of ``/proc/PID``, in KiB."""
    match = re.search(r"^Pss:\s+(\d+) kB", (process / "smaps_rollup").read_text(), re.MULTILINE)
    return int(match[1]) if match else 0
