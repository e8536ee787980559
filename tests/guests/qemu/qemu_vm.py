"""Virtual machines of a test.

A machine boots once per shape and session; every test then gets a copy of it that goes on from there, in half a
second. Its console tells whether its memory is right (`migrated/bench/vm/guest.c`): see :meth:`Vm.goes_on`.
"""

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from migrated.bench.vm.image import Image
from migrated.config import GuestEntry
from migrated.guests.qemu.monitor import Monitor
from migrated.guests.qemu.target import QemuTarget
from migrated.guests.uri import open_source
from migrated.pages import PAGE_SIZE

QEMU = "qemu-system-x86_64"
PATIENCE = 30.0
_BOOT_SECONDS = 120.0
_ACCEPTS = 0x10000
"""Among the flags of a socket in /proc/net/unix: it listens."""
BEAT = re.compile(r"^beat (\d+) up (\d+) written (\d+) checked (\d+) gap (\d+)(?: disk (\d+))?$")


@dataclass(frozen=True)
class Shape:
    """How a machine is made; ``more`` are further words of QEMU's command line."""

    memory: int = 128
    backends: int = 1
    fill: str = "24M"
    rate: str = "2M"
    processors: int = 1
    disk: bool = False
    more: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """A name for a folder."""
        return f"{abs(hash(self)):x}"


def as_nobody() -> tuple[str, ...]:
    """QEMU's words to run as that user: 10.0 no longer knows the old ones."""
    told = subprocess.run([QEMU, "-help"], capture_output=True, text=True, check=True).stdout
    return ("-runas", "nobody") if "-runas" in told else ("-run-with", "user=nobody")


def wait_until(fact: Callable[[], object], what: str, patience: float = PATIENCE) -> None:
    """Look again every 5 ms until ``fact()`` is true."""
    ending = time.monotonic() + patience
    while not fact():
        assert time.monotonic() < ending, f"waited {patience:g} s for: {what}"
        time.sleep(0.005)


def listens(path: Path) -> bool:
    """Whether somebody listens at the Unix socket ``path``: its file is there a moment before anybody does."""
    sockets = (line.split(maxsplit=7) for line in Path("/proc/net/unix").read_text().splitlines()[1:])
    return any(int(each[3], 16) & _ACCEPTS and each[7:] == [str(path)] for each in sockets)


@dataclass
class Vm:
    """A machine of ``shape`` in ``folder``; ``name`` tells its files from those of others."""

    folder: Path
    name: str
    shape: Shape
    image: Image
    disk: Path
    memory_folder: Path | None = None
    process: "subprocess.Popen[bytes] | None" = None
    pid: int = 0
    _monitor: Monitor | None = field(default=None, repr=False, compare=False)

    @property
    def socket(self) -> Path:
        """The monitor for migrated."""
        return self.folder / f"{self.name}.qmp"

    @property
    def console(self) -> Path:
        return self.folder / f"{self.name}.console"

    @property
    def words(self) -> Path:
        """The guest's second serial port; see `guest.c`."""
        return self.folder / f"{self.name}.words"

    def memory(self, number: int = 0) -> Path:
        return (self.memory_folder or self.folder) / f"{self.name}.mem{number}"

    def command(self, *more: str) -> list[str]:
        """QEMU's command line."""
        shape = self.shape
        words = f"console=ttyS0 quiet panic=-1 beat=50 check=4M fill={shape.fill} rate={shape.rate}"
        words += f" disk={int(shape.disk)}"
        command = [
            *(QEMU, "-accel", "tcg", "-nodefaults", "-display", "none", "-no-reboot"),
            *("-m", f"{shape.memory}M", "-smp", str(shape.processors)),
            *("-kernel", str(self.image.kernel), "-initrd", str(self.image.initrd), "-append", words),
            *("-serial", f"file:{self.console}", "-serial", f"unix:{self.words},server=on,wait=off"),
            *("-qmp", f"unix:{self.socket},server=on,wait=off"),
            *("-qmp", f"unix:{self.socket}.test,server=on,wait=off"),
            *("-device", "virtio-balloon-pci,id=balloon"),
        ]
        size = shape.memory // shape.backends
        for number in range(shape.backends):
            backend = f"id=m{number},size={size}M,share=on,mem-path={self.memory(number)}"
            command += ["-object", f"memory-backend-file,{backend}"]
            if shape.backends > 1:
                command += ["-numa", f"node,memdev=m{number}"]
        command += ["-machine", "q35" if shape.backends > 1 else "q35,memory-backend=m0"]
        if shape.disk:
            command += ["-drive", f"file={self.disk},format=raw,if=none,id=disk0"]
            command += ["-device", "virtio-blk-pci,drive=disk0"]
        return [*command, *shape.more, *more]

    def start(self, *more: str) -> "Vm":
        """Start QEMU and wait until its monitor answers."""
        self.process = subprocess.Popen(self.command(*more), stdin=subprocess.DEVNULL)
        self.pid = self.process.pid
        wait_until(lambda: listens(self._test_socket) or not self.alive, f"monitor of {self.name}")
        assert self.alive, f"QEMU ended with {self.process.returncode}"
        return self

    @property
    def _test_socket(self) -> Path:
        return self.socket.with_name(f"{self.socket.name}.test")

    @contextlib.contextmanager
    def monitor(self) -> Iterator[Monitor]:
        """The test's own monitor; within another such context the same."""
        if self._monitor is not None:
            yield self._monitor
            return
        self._monitor = Monitor(self._test_socket)
        try:
            yield self._monitor
        finally:
            self._monitor.close()
            self._monitor = None

    @property
    def status(self) -> str:
        with self.monitor() as monitor:
            return monitor.status

    @property
    def settings(self) -> set[str]:
        """What of its migration is turned on."""
        with self.monitor() as monitor:
            return {name for name, state in monitor.capabilities().items() if state}

    # -- the console -------------------------------------------------------------------------------

    def beats(self) -> list[tuple[int, ...]]:
        """(number, up, written, checked, gap) of each line so far; fails if a byte of its memory was wrong."""
        text = self.console.read_text(errors="replace") if self.console.exists() else ""
        assert "WRONG" not in text, text[-500:]
        assert "panic" not in text, text[-2000:]
        lines = map(BEAT.match, text.splitlines())
        return [tuple(int(each or 0) for each in line.groups()) for line in lines if line]

    def last_beat(self) -> int:
        beats = self.beats()
        return beats[-1][0] if beats else 0

    def goes_on(self, after: int | None = None) -> int:
        """It beats and finds its memory right: all of it is checked meanwhile. Returns the last beat's number."""
        after = self.last_beat() if after is None else after
        wait_until(lambda: self.last_beat() > after + 3, f"beats of {self.name} after {after}")
        return self.last_beat()

    def checks_all(self) -> None:
        """Have every page of its pattern looked at, here and now."""
        proved = self.console.read_text().count("verified ")
        with socket.socket(socket.AF_UNIX) as words:
            words.connect(str(self.words))
            words.sendall(b"verify\n")
            wait_until(
                lambda: self.beats() and self.console.read_text().count("verified ") > proved,
                "a check of all memory",
                60.0,
            )

    # -- ending ------------------------------------------------------------------------------------

    @property
    def alive(self) -> bool:
        """Whether its QEMU runs - whoever started it."""
        if self.process is not None:
            return self.process.poll() is None
        return self.pid > 0 and Path(f"/proc/{self.pid}").exists()

    def find(self) -> "Vm":
        """Take over a QEMU that the destination started."""
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if (
                    entry.name.isdigit()
                    and f"file:{self.console}\0".encode() in (entry / "cmdline").read_bytes()
                ):
                    self.pid = int(entry.name)
        assert self.pid, f"no QEMU {self.name}"
        return self

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
        elif self.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)


@dataclass
class Stable:
    """Machines by shape, booted once. ``folder`` is of shared memory."""

    folder: Path
    image: Image
    booted: dict[Shape, Path] = field(default_factory=dict)

    def boot(self, shape: Shape) -> Path:
        """The folder with the memory and devices of a machine of that shape, some beats after its start."""
        if shape not in self.booted:
            folder = Path(tempfile.mkdtemp(dir=self.folder))
            vm = Vm(folder, "boot", shape, self.image, folder / "disk")
            with vm.disk.open("wb") as disk:
                disk.truncate(1 << 20)
            try:
                vm.start()
                wait_until(lambda: vm.last_beat() > 3 or not vm.alive, f"boot of {shape}", _BOOT_SECONDS)
                with vm.monitor() as monitor:
                    monitor.qmp.execute("stop")
                source = open_source(f"qemu:{vm.socket}")
                source.pause()
                (folder / "devices").write_bytes(b"".join(source.device_state() or ()))
            finally:
                vm.kill()
            source.close()
            self.booted[shape] = folder
        return self.booted[shape]

    def copy(self, folder: Path, name: str, shape: Shape, memory_folder: Path | None = None) -> Vm:
        """A machine that goes on from where the booted one stopped."""
        vm = Vm(folder, name, shape, self.image, folder / "disk", memory_folder)
        shutil.copy(self.boot(shape) / "disk", vm.disk)
        vm.start("-incoming", "defer")
        sizes = [(f"m{number}", (shape.memory << 20) // shape.backends) for number in range(shape.backends)]
        with contextlib.ExitStack() as undo:
            undo.callback(vm.kill)
            target = undo.enter_context(contextlib.closing(QemuTarget(name, entry(vm))))
            target.prepare(sizes)
            self.fill(target, shape)
            target.make_ready()
            target.start(was_running=True)
            vm.goes_on(0)
            undo.pop_all()
            target.close()
        return vm

    def fill(self, target: QemuTarget, shape: Shape) -> None:
        """Put the booted machine's memory and devices into a target that was prepared."""
        booted = self.boot(shape)
        for number, region in enumerate(target.regions):
            with (booted / f"boot.mem{number}").open("rb") as old:
                for start, data in _pieces(old):
                    runs = np.array([[start // PAGE_SIZE, len(data) // PAGE_SIZE]])
                    region.write(runs, memoryview(data))
        target.load_device_state((booted / "devices").read_bytes())


def _pieces(file: Any) -> Iterator[tuple[int, bytes]]:
    start = 0
    while data := file.read(1 << 20):
        if data.count(0) != len(data):
            yield start, data
        start += len(data)


def entry(vm: Vm, *, command: bool = False) -> GuestEntry:
    """The destination's entry for a machine."""
    return GuestEntry(
        kind="qemu", path=vm.socket, command=tuple(vm.command("-incoming", "defer")) if command else ()
    )
