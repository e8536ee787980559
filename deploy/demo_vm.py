"""Watch a virtual machine move: `make demo-vm`.

A small VM (`migrated/bench/vm`) boots under QEMU's emulation, rewrites its memory all the time, checks every byte of
it, and prints a line ten times a second. It moves from one host to the other and back: two network namespaces with a
link of 1 Gb/s between them - or, without root, this host and loopback. Its console goes on where it stopped; the
longest time without a line is what its users would have noticed.
"""

import argparse
import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from migrated.bench.hosts import Host, Link, link, loopback, memory_folder
from migrated.bench.service import Service, send
from migrated.bench.vm.image import Image, build
from migrated.cli.errors import fail_with
from migrated.errors import MigratedError

_BEAT = re.compile(r"^beat (\d+) up \d+ written (\d+) checked (\d+)")
_SHOW_EVERY = 10
"""Lines of the VM's console: one a second is enough to see it live."""
_BOOT_SECONDS = 120.0


def main() -> int:
    """Run the demo; 0 if the VM arrived each time with every byte right."""
    parser = argparse.ArgumentParser(description="A virtual machine moves to another host and back.")
    parser.add_argument("--memory", default="512M", help="the VM's memory (512M)")
    parser.add_argument("--fill", default="256M", help="how much of it holds the pattern (256M)")
    parser.add_argument("--rate", default="10M", help="bytes a second that it rewrites (10M)")
    parser.add_argument("--moves", type=int, default=3, help="how often it moves (3)")
    parser.add_argument("--link", default="1gbit", help="the rate of the link, with root (1gbit)")
    parser.add_argument("send", nargs="*", help="further words for migrated send, after --")
    asked = parser.parse_args()
    for program in ("qemu-system-x86_64", "gcc", "apt-get"):
        if shutil.which(program) is None:
            raise SystemExit(
                f"this takes {program}: apt-get install qemu-system-x86 gcc libc6-dev, on Debian"
            )
    image = build()
    console = Console(highlight=False)
    with tempfile.TemporaryDirectory(prefix="migrated-vm-", dir=memory_folder()) as folder:
        joined = link(asked.link) if os.geteuid() == 0 else contextlib.nullcontext(loopback())
        with joined as hosts:
            return Demo(Path(folder), asked, image, hosts, console).run()


class Machine:
    """A QEMU on ``host``, that boots or, with ``waits``, takes another one in."""

    def __init__(
        self, folder: Path, number: int, host: Host, asked: argparse.Namespace, image: Image, *, waits: bool
    ) -> None:
        self.name = f"vm{number}"
        self.socket = folder / f"{self.name}.qmp"
        self.memory = folder / f"{self.name}.mem"
        self.output = folder / f"{self.name}.console"
        words = f"console=ttyS0 quiet panic=-1 beat=100 fill={asked.fill} rate={asked.rate}"
        backend = f"id=ram,size={asked.memory},share=on,mem-path={self.memory}"
        command = [
            *(*host.prefix, "qemu-system-x86_64", "-accel", "tcg", "-m", asked.memory, "-smp", "2"),
            *("-nodefaults", "-display", "none", "-serial", f"file:{self.output}"),
            *("-object", f"memory-backend-file,{backend}", "-machine", "q35,memory-backend=ram"),
            *("-kernel", str(image.kernel), "-initrd", str(image.initrd), "-append", words),
            *("-qmp", f"unix:{self.socket},server=on,wait=off"),
            *(("-incoming", "defer") if waits else ()),
        ]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        until = time.monotonic() + 30
        while not self.socket.exists():
            if self.process.poll() is not None or time.monotonic() > until:
                raise SystemExit("QEMU did not start")
            time.sleep(0.02)

    def end(self) -> None:
        """Kill it, and give its memory back."""
        self.process.kill()
        self.process.wait()
        self.memory.unlink(missing_ok=True)


class Watch(threading.Thread):
    """Shows a line of the VM's console now and then, wherever it runs, and measures the pauses between them."""

    def __init__(self, console: Console) -> None:
        super().__init__(daemon=True)
        self._console = console
        self._ended = threading.Event()
        self.places: list[tuple[str, Path]] = []
        self.number = 0
        self.gap = 0.0
        self.wrong = ""

    def run(self) -> None:
        """Until :meth:`stop`."""
        read: dict[Path, int] = {}
        last = time.monotonic()
        while not self._ended.wait(0.005):
            for where, path in list(self.places):
                text = path.read_bytes()[read.get(path, 0) :] if path.exists() else b""
                whole = text[: text.rfind(b"\n") + 1]
                read[path] = read.get(path, 0) + len(whole)
                for line in whole.decode(errors="replace").splitlines():
                    if line.startswith("WRONG"):
                        self.wrong = line
                    match = _BEAT.match(line)
                    if match:
                        now = time.monotonic()
                        if self.number:
                            self.gap = max(self.gap, now - last)
                        last, self.number = now, int(match[1])
                        if self.number % _SHOW_EVERY == 0:
                            self._console.print(f"  [dim]{where} |[/] {line}")

    def stop(self) -> None:
        """End."""
        self._ended.set()
        self.join()


class Demo:
    """One run in ``folder``, which holds the VM's memory, the services' state, and nothing afterwards."""

    def __init__(
        self, folder: Path, asked: argparse.Namespace, image: Image, hosts: Link, console: Console
    ) -> None:
        self._folder, self._asked, self._image, self._console = folder, asked, image, console
        self._hosts = hosts
        self._watch = Watch(console)

    def run(self) -> int:
        """Boot, move, judge."""
        asked = self._asked
        say = self._console.print
        place = f"a link of {asked.link}" if self._hosts.interface else "loopback"
        say(
            f"A VM of {asked.memory} that rewrites {asked.rate}B a second moves {asked.moves} times over {place}.\n"
        )
        machines: list[Machine] = []
        sides = (self._hosts.source, self._hosts.destination)
        self._watch.start()
        try:
            with self._services(sides) as services:
                machines.append(self._machine(0, sides[0], waits=False))
                say("booting ...")
                self._wait_for(lambda: self._watch.number > 10, "boot")
                for move in range(1, asked.moves + 1):
                    here, there = sides[(move - 1) % 2], move % 2
                    machines.append(self._machine(move, sides[there], waits=True))
                    self._watch.gap = 0.0
                    report, _ = send(
                        self._folder,
                        here,
                        f"qemu:{machines[-2].socket}",
                        services[there].address,
                        f"--name=vm{move}",
                        *asked.send,
                    )
                    seen = self._watch.number
                    self._wait_for(lambda seen=seen: self._watch.number > seen + 20, "the VM to go on")
                    machines[-2].end()
                    parts = ", ".join(
                        f"{name} {1000 * each:.0f}" for name, each in report["downtime_parts"].items()
                    )
                    say(
                        f"[bold]move {move}[/]: {report['total_seconds']:.2f} s, "
                        f"{report['wire_bytes'] / 1e6:.0f} MB on the wire for {report['raw_bytes'] / 1e6:.0f} MB of "
                        f"pages, downtime {1000 * report['downtime_seconds']:.0f} ms ({parts}); "
                        f"longest time between two lines {1000 * self._watch.gap:.0f} ms (100 without a move)\n"
                    )
        finally:
            self._watch.stop()
            for machine in machines:
                machine.end()
        say(
            self._watch.wrong
            or f"The VM moved {asked.moves} times, and every byte of its memory proved right."
        )
        return 1 if self._watch.wrong else 0

    @contextlib.contextmanager
    def _services(self, sides: tuple[Host, Host]) -> Iterator[list[Service]]:
        """`migrated serve` on each side, for the moves that end there."""
        moves = range(1, self._asked.moves + 1)
        with contextlib.ExitStack() as stack:
            services = []
            for side, host in enumerate(sides):
                folder = self._folder / f"side{side}"
                folder.mkdir()
                guests = {
                    f"vm{move}": f"qemu:{self._folder}/vm{move}.qmp" for move in moves if move % 2 == side
                }
                services.append(stack.enter_context(Service(folder, host, guests)))
            yield services

    def _machine(self, number: int, host: Host, *, waits: bool) -> Machine:
        machine = Machine(self._folder, number, host, self._asked, self._image, waits=waits)
        self._watch.places.append(("there" if number % 2 else "here ", machine.output))
        return machine

    def _wait_for(self, fact: "object", what: str) -> None:
        assert callable(fact)
        until = time.monotonic() + _BOOT_SECONDS
        while not fact():
            if time.monotonic() > until or self._watch.wrong:
                raise SystemExit(f"waited for {what}: {self._watch.wrong or 'nothing came'}")
            time.sleep(0.05)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except MigratedError as error:
        sys.exit(fail_with(error))
