"""A machine that was booted once, kept, and started again and again from exactly the same state."""

import subprocess
from pathlib import Path

from migrated.bench.hosts import Host
from migrated.bench.vm.machine import Machine, Spec, wait_until
from migrated.errors import GuestError, ResourceError

__all__ = ["Snapshot"]

_BEATS_BEFORE = 100
"""A second: the kernel has settled."""
_LOAD_SECONDS = 30.0
_LOADED = ("completed", "failed")
_IGNORE = {"x-ignore-shared": True}


class Snapshot:
    """Memory and devices of a machine of ``spec`` that has filled its memory, in ``folder``, which it owns."""

    def __init__(self, folder: Path, host: Host, spec: Spec) -> None:
        self.spec = spec
        self._devices = folder / "devices"
        self._memory = folder / "memory"
        with Machine(folder, "boot", host, spec) as machine:
            machine.wait_for_beats(_BEATS_BEFORE)
            machine.verify()
            monitor = machine.monitor
            monitor.qmp.execute("stop")
            monitor.set_capabilities(_IGNORE)
            monitor.qmp.execute("migrate", {"uri": f"exec:cat > {self._devices}"})
            wait_until(lambda: monitor.migration in _LOADED, "the booted machine to be kept", _LOAD_SECONDS)
            if monitor.migration != "completed":
                raise GuestError(f"the booted machine cannot be kept: {monitor.why_failed()}")
            machine.memory.rename(self._memory)

    def start(self, folder: Path, name: str, host: Host) -> Machine:
        """A machine that goes on from there; a second later nobody can tell that it was not just booted."""
        copy = ["cp", "--sparse=auto", str(self._memory), str(folder / f"{name}.mem")]
        done = subprocess.run(copy, capture_output=True, text=True, check=False)
        if done.returncode:
            raise ResourceError(f"{' '.join(copy)} failed: {done.stderr.strip()}")
        machine = Machine(folder, name, host, self.spec, waits=True)
        try:
            monitor = machine.monitor
            monitor.set_capabilities(_IGNORE)
            monitor.qmp.execute("migrate-incoming", {"uri": f"exec:cat {self._devices}"})
            wait_until(lambda: monitor.migration in _LOADED, "the kept machine to be loaded", _LOAD_SECONDS)
            if monitor.migration != "completed":
                raise GuestError(f"the kept machine cannot be loaded: {monitor.why_failed()}")
            monitor.set_capabilities(dict.fromkeys(_IGNORE, False))
            monitor.qmp.execute("cont")  # it was kept paused
        except BaseException:
            machine.end()
            raise
        return machine

    def close(self) -> None:
        """Give its memory back."""
        self._memory.unlink(missing_ok=True)
        self._devices.unlink(missing_ok=True)
