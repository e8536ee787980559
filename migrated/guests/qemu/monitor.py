"""The few things that both sides ask of a VM's QEMU, on top of its monitor."""

import contextlib
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from migrated.errors import GuestDiedError, GuestError, MigratedError
from migrated.guests.qemu.qmp import CommandFailedError, Qmp

__all__ = ["Monitor"]

_LOOK_AGAIN_SECONDS = 0.002
"""Between two looks at a migration of devices, which takes some 20 ms."""

_ACTIVE = ("setup", "active", "pre-switchover", "device", "postcopy-active", "wait-unplug", "cancelling")


class Monitor:
    """A VM by its monitor. Errors are those of :class:`migrated.guests.qemu.qmp.Qmp`."""

    def __init__(self, path: Path) -> None:
        self.qmp = Qmp(path)

    @property
    def status(self) -> str:
        """QEMU's word for what the VM does."""
        return str(self.qmp.execute("query-status")["status"])

    @property
    def running(self) -> bool:
        """Whether its processors run."""
        return bool(self.qmp.execute("query-status")["running"])

    @property
    def migration(self) -> str:
        """The state of QEMU's own migration; ``none`` if there was none."""
        return str(self._query_migrate().get("status", "none"))

    def capabilities(self, names: Sequence[str]) -> dict[str, bool]:
        """Whether these settings of its migration are on; one that this QEMU lacks is left out."""
        answer = self.qmp.execute("query-migrate-capabilities")
        return {each["capability"]: bool(each["state"]) for each in answer if each["capability"] in names}

    def set_capabilities(self, wanted: Mapping[str, bool]) -> None:
        """Turn settings of its migration on or off."""
        if wanted:
            states = [{"capability": name, "state": state} for name, state in wanted.items()]
            self.qmp.execute("migrate-set-capabilities", {"capabilities": states})

    def go_on(self) -> None:
        """Let its processors run, whatever a migration of its devices left behind."""
        self.end_migration()
        self.qmp.execute("cont")

    def announce(self) -> None:
        """Tell the network that the VM's addresses are here: switches had learned of another place."""
        # QEMU's defaults for the same after a migration: 5 times within 2 s.
        with contextlib.suppress(CommandFailedError):
            self.qmp.execute("announce-self", {"initial": 50, "max": 550, "rounds": 5, "step": 100})

    def end_migration(self, patience: float = 5.0) -> None:
        """Cancel a migration that is under way, and wait until it has ended."""
        if self.migration in _ACTIVE:
            with contextlib.suppress(CommandFailedError):
                self.qmp.execute("migrate_cancel")
            self.wait_for_migration(patience)

    def wait_for_migration(self, patience: float) -> str:
        """Wait until QEMU's migration has ended; its state. GuestError if that takes ``patience`` seconds."""
        ending = time.monotonic() + patience
        while (state := self.migration) in _ACTIVE:
            if time.monotonic() > ending:
                raise GuestError(f"QEMU's migration of the devices is still {state!r} after {patience:g} s")
            time.sleep(_LOOK_AGAIN_SECONDS)
        return state

    def why_failed(self) -> str:
        """QEMU's word on a migration that failed."""
        answer = self._query_migrate()
        return str(answer.get("error-desc") or f"its state is {answer.get('status', 'none')!r}")

    def quit(self) -> None:
        """Tell QEMU to end. It may be gone before it answers."""
        with contextlib.suppress(GuestDiedError):
            self.qmp.execute("quit")

    def close(self) -> None:
        """Hang up."""
        with contextlib.suppress(MigratedError):
            self.qmp.close()

    def _query_migrate(self) -> dict[str, Any]:
        return dict(self.qmp.execute("query-migrate"))
