"""A QEMU that runs the test guest on one of the hosts: its command line, its console, its end."""

import contextlib
import os
import re
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from migrated.bench.hosts import Host
from migrated.bench.vm.image import Image
from migrated.errors import GuestError
from migrated.guests.qemu.monitor import Monitor

__all__ = ["BEAT_SECONDS", "QEMU", "Console", "Machine", "Spec", "wait_until", "words_against_lost_writes"]

QEMU = "qemu-system-x86_64"

BEAT_SECONDS = 0.01
"""Between two lines of the console: short beside any downtime, and 1 % of a core without KVM."""

_BRIEF = 10
_BOOT_SECONDS = 180.0
_ANSWER_SECONDS = 120.0
_LOOK_AGAIN_SECONDS = 0.01
_BEAT = re.compile(rb"^beat (\d+)(?: up (\d+) written (\d+) checked \d+ gap \d+)?$")
_QUOTED = 500


def wait_until(fact: Callable[[], bool], what: str, patience: float) -> None:
    """Look again every 10 ms until ``fact()``; GuestError after ``patience`` seconds."""
    ending = time.monotonic() + patience
    while not fact():
        if time.monotonic() > ending:
            raise GuestError(f"waited {patience:g} s for {what}")
        time.sleep(_LOOK_AGAIN_SECONDS)


def words_against_lost_writes(version: tuple[int, ...], accelerator: str) -> str:
    """Words for the kernel of a guest whose QEMU would lose what it writes while QEMU migrates it.

    Before 9.0, without KVM, QEMU clears the dirty bits of memory and does not tell the emulated processors: they go
    on to write to pages that they take for dirty, and those are not sent again ("physmem: Fix migration dirty
    bitmap coherency with TCG memory access"). The guest that was measured here crashed after every migration of
    QEMU's own under a writer. With page tables of its own the kernel makes the processor forget such pages whenever
    it is entered or left, some thousand times a second, for 3 % of a core. What migrates from outside, as we do, is
    not concerned.
    """
    return "pti=on" if accelerator == "tcg" and version < _MENDED else ""


_MENDED = (9, 0)


@dataclass(frozen=True)
class Spec:
    """A machine: bytes of memory, processors, what to boot, the guest's words and the disk with its content."""

    memory: int
    processors: int
    image: Image
    words: str
    content: Path | None = None
    accelerator: str = "tcg"

    def command(self, memory: Path, monitors: tuple[Path, ...], console: Path, words: Path) -> list[str]:
        """QEMU's command line, the same for every machine but for where its files are."""
        beats = f"beat={BEAT_SECONDS * 1000:g} brief={_BRIEF}"
        backend = f"id=ram,size={self.memory},share=on,mem-path={memory}"
        command = [
            *(QEMU, "-accel", self.accelerator, "-nodefaults", "-display", "none", "-no-reboot"),
            *("-m", f"{self.memory >> 10}k", "-smp", str(self.processors)),
            *("-kernel", str(self.image.kernel), "-initrd", str(self.image.initrd)),
            *("-append", f"console=ttyS0 quiet panic=-1 {beats} {self.words}"),
            *("-object", f"memory-backend-file,{backend}", "-machine", "q35,memory-backend=ram"),
            *("-serial", f"file:{console}", "-serial", f"unix:{words},server=on,wait=off"),
        ]
        for monitor in monitors:
            command += ["-qmp", f"unix:{monitor},server=on,wait=off"]
        if self.content:
            command += ["-drive", f"file={self.content},format=raw,if=none,id=content,readonly=on"]
            command += ["-device", "virtio-blk-pci,drive=content"]
        return command


class Console:
    """What the guest prints to ``path``, read as it grows. GuestError: a byte of its memory is wrong."""

    def __init__(self, path: Path) -> None:
        path.touch()
        self._file = os.open(path, os.O_RDONLY)
        self._place = 0
        self.beat = 0
        self.up_ms = 0
        self.written = 0
        self.verified = 0

    def look(self) -> bool:
        """Take in the lines that came; whether there was a beat among them."""
        found = False
        while new := os.pread(self._file, 1 << 16, self._place):
            whole = new[: new.rfind(b"\n") + 1]
            if not whole:
                break
            self._place += len(whole)
            for line in whole.splitlines():
                found |= self._line(line.rstrip(b"\r"))
        return found

    def _line(self, line: bytes) -> bool:
        match = _BEAT.match(line)
        if match:
            self.beat = int(match[1])
            if match[2]:
                self.up_ms, self.written = int(match[2]), int(match[3])
            return True
        if line.startswith(b"verified "):
            self.verified += 1
        elif line.startswith(b"WRONG") or b"panic" in line:
            raise GuestError(f"the guest's memory is wrong: {line.decode(errors='replace').strip()}")
        return False

    def close(self) -> None:
        """Give the descriptor back; what was read stays. May be called twice."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


class Machine:
    """A QEMU on ``host`` with its files ``NAME.*`` in ``folder``; with ``waits`` it takes a guest in.

    A memory file that is there already becomes its memory. GuestError if QEMU does not start. Ends with
    :meth:`end`, which takes its files along.
    """

    def __init__(self, folder: Path, name: str, host: Host, spec: Spec, *, waits: bool = False) -> None:
        self.name = name
        self.socket = folder / f"{name}.qmp"
        self.memory = folder / f"{name}.mem"
        self._monitor_path = folder / f"{name}.bench"
        self._words_path = folder / f"{name}.words"
        self._console_path = folder / f"{name}.console"
        self._log = folder / f"{name}.log"
        self._monitor: Monitor | None = None
        self.console = Console(self._console_path)
        command = spec.command(
            self.memory, (self.socket, self._monitor_path), self._console_path, self._words_path
        )
        with self._log.open("wb") as output:
            self._process = subprocess.Popen(
                [*host.prefix, *command, *(("-incoming", "defer") if waits else ())],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        self.pid = self._process.pid  # `ip netns exec` becomes QEMU
        try:
            wait_until(self._listens, f"QEMU to start: {' '.join(command)}", _BOOT_SECONDS)
        except BaseException:
            self.end()
            raise

    def _listens(self) -> bool:
        if self._process.poll() is not None:
            said = self._log.read_text(errors="replace").strip()
            raise GuestError(f"QEMU did not start: {said[-_QUOTED:] or self._process.returncode}")
        with contextlib.suppress(GuestError):  # not yet there, or there for an instant before QEMU gave up
            self._monitor = Monitor(self._monitor_path)
        return self._monitor is not None

    @property
    def monitor(self) -> Monitor:
        """Our own monitor of it; ``socket`` is another, for `migrated`."""
        assert self._monitor is not None
        return self._monitor

    @property
    def alive(self) -> bool:
        """Whether its QEMU has not ended."""
        return self._process.poll() is None

    def _must_live(self) -> None:
        if not self.alive:
            raise GuestError(f"QEMU ended: {self._log.read_text(errors='replace')[-_QUOTED:].strip()}")

    def wait_for_beats(self, beats: int, patience: float = _BOOT_SECONDS) -> None:
        """Until it has beaten so often from now on; the first beat of one that goes on may be its hundredth."""
        self.console.look()
        first = self.console.beat

        def reached() -> bool:
            nonlocal first
            self._must_live()
            self.console.look()
            first = first or self.console.beat
            return self.console.beat >= first + beats

        wait_until(reached, f"{beats} beats of the guest", patience)

    def verify(self) -> None:
        """Have it check every byte that it wrote. GuestError: one is wrong, or no answer comes."""
        before = self.console.verified

        def answered() -> bool:
            self._must_live()
            self.console.look()
            return self.console.verified > before

        with socket.socket(socket.AF_UNIX) as words:
            try:
                words.connect(str(self._words_path))
                words.sendall(b"verify\n")
            except OSError as error:
                raise GuestError(f"the guest's QEMU takes no words: {error.strerror}") from error
            # Not closed before: what the guest has not read by then QEMU may throw away.
            wait_until(answered, "the guest to check its memory", _ANSWER_SECONDS)

    def end(self) -> None:
        """Kill it, and remove its files. May be called twice."""
        self._process.kill()
        self._process.wait()
        if self._monitor is not None:
            self._monitor.close()
        self.console.close()
        for path in self._files():
            path.unlink(missing_ok=True)

    def _files(self) -> Iterator[Path]:
        yield from (self.socket, self.memory, self._monitor_path, self._words_path)
        yield from (self._console_path, self._log, self.socket.with_name(f"{self.socket.name}.receiving"))

    def __enter__(self) -> "Machine":
        return self

    def __exit__(self, *_: object) -> None:
        self.end()
