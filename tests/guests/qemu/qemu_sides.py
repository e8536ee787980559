"""Two sides to move machines between, and one machine that several tests use after each other."""

import asyncio
import contextlib
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from qemu_vm import BEAT, Shape, Stable, Vm, wait_until

from migrated.client import Outgoing
from migrated.config import GuestEntry, SendSettings, ServeSettings, Settings
from migrated.config.model import HostSettings
from migrated.daemon import Daemon
from migrated.engine.events import Event, Report
from migrated.engine.ports import in_thread
from migrated.guests.base import GuestOptions
from migrated.guests.uri import open_source
from migrated.net.address import Address


class Sides:
    """A daemon in this process, and machines. Everything ends with :meth:`close`."""

    def __init__(self, folder: Path, stable: Stable) -> None:
        self.folder = folder
        self.stable = stable
        self.vms: list[Vm] = []
        self.daemon: Daemon | None = None
        self.far_events: list[Event] = []
        self.observe_far: Callable[[Event], None] = lambda _event: None
        self._settings = Settings(host=HostSettings(state_dir=str(folder / "here")))

    def vm(self, name: str = "a", shape: Shape | None = None) -> Vm:
        """A machine that runs."""
        vm = self.stable.copy(self.folder, name, shape or Shape())
        self.vms.append(vm)
        return vm

    def other(self, vm: Vm, name: str = "b", **changes: Any) -> Vm:
        """Where ``vm`` may go: not started. ``changes`` are of its shape."""
        shape = Shape(**{**vm.shape.__dict__, **changes}) if changes else vm.shape
        made = Vm(self.folder, name, shape, vm.image, vm.disk)
        self.vms.append(made)
        return made

    async def serve(self, **guests: GuestEntry) -> None:
        settings = Settings(
            host=HostSettings(state_dir=str(self.folder / "there")),
            serve=ServeSettings(listen=Address(path=str(self.folder / "daemon"))),
            guests=guests,
        )

        def observe(event: Event) -> None:
            self.far_events.append(event)
            self.observe_far(event)

        self.daemon = Daemon(settings, lambda _offer: observe)
        await self.daemon.start()

    async def outgoing(
        self, vm: Vm, name: str, observe: Callable[[Event], None] = lambda _event: None, **more: Any
    ) -> Outgoing:
        """A migration that has opened its machine, to be run."""
        assert self.daemon is not None
        options = GuestOptions(**{key: more.pop(key) for key in ("tracker", "keep") if key in more})
        guest = await in_thread(open_source, f"qemu:{vm.socket}", options)
        settings = self._settings.model_copy(
            update={"send": SendSettings(**{"compress_workers": 1, "downtime": 1.0, **more})}
        )
        return Outgoing(guest, self.daemon.address, settings, name=name, observer=observe)

    async def move(self, vm: Vm, name: str, **more: Any) -> Report:
        return await (await self.outgoing(vm, name, **more)).run()

    async def close(self) -> None:
        if self.daemon is not None:
            await self.daemon.drain(0.0)
        for vm in self.vms:
            vm.kill()
            with contextlib.suppress(AssertionError):
                if vm.process is None:
                    vm.find().kill()
        shutil.rmtree(self.folder, ignore_errors=True)


class Home:
    """A machine that tests use after each other, wherever it has got to. ``folder`` is of shared memory."""

    def __init__(self, stable: Stable, shape: Shape) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="vm-home-", dir=stable.folder.parent))
        self.shape = shape
        self._stable = stable
        self._vm: Vm | None = None
        self._copies = 0

    def vm(self) -> Vm:
        """It runs: a fresh copy if the test before has left none."""
        if self._vm is None or not self._vm.alive or self._vm.status != "running":
            self.close(whole=False)
            self._copies += 1
            self._vm = self._stable.copy(self.folder, f"here{self._copies}", self.shape)
        return self._vm

    def moved_to(self, vm: Vm) -> None:
        """It runs there now, and its QEMU of before has ended."""
        if self._vm is not None:
            self._vm.kill()
        self._vm = vm

    def close(self, *, whole: bool = True) -> None:
        if self._vm is not None:
            self._vm.kill()
            for number in range(self.shape.backends):
                self._vm.memory(number).unlink(missing_ok=True)
        if whole:
            shutil.rmtree(self.folder, ignore_errors=True)


_LOOK_SECONDS = 0.004


class Pulse(threading.Thread):
    """Watches the consoles of machines for new beats: the longest time without one, and that none is lost."""

    def __init__(self, vms: list[Vm]) -> None:
        super().__init__(daemon=True)
        self._vms = vms
        self._ended = threading.Event()
        self.longest, self.late = 0.0, 0.0
        """The longest time between two beats; and by how much this thread itself woke up too late, at most."""
        self.seen, self._seen_at = 0, 0.0

    def run(self) -> None:
        places = dict.fromkeys(range(len(self._vms)), 0)
        looked = time.monotonic()
        while not self._ended.wait(_LOOK_SECONDS):
            now = time.monotonic()
            self.late, looked = max(self.late, now - looked - _LOOK_SECONDS), now
            for index, vm in enumerate(self._vms):
                with contextlib.suppress(OSError), vm.console.open("rb") as file:
                    file.seek(places[index])
                    new = file.read()
                    places[index] += new.rfind(b"\n") + 1
                    for line in new[: new.rfind(b"\n") + 1].decode(errors="replace").splitlines():
                        self._line(line)

    def _line(self, line: str) -> None:
        match = BEAT.match(line)
        if match and int(match[1]) > self.seen:
            now = time.monotonic()
            if self.seen:
                self.longest = max(self.longest, now - self._seen_at)
            self.seen, self._seen_at = int(match[1]), now

    def stop(self) -> float:
        self._ended.set()
        self.join()
        return self.longest


async def until(fact: Callable[[], object], what: str, patience: float = 30.0) -> None:
    """:func:`wait_until` beside a running event loop."""
    await asyncio.to_thread(wait_until, fact, what, patience)
