"""The few things that both sides ask of a VM's QEMU, on top of its monitor."""

import contextlib
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from migrated.errors import GuestDiedError, GuestError, MigratedError
from migrated.guests.qemu.qmp import CommandFailedError, Qmp, Sent

__all__ = ["Monitor"]

_ASK_SECONDS = 0.1
"""QEMU tells when its migration has ended, if the setting ``events`` is on. So often it is asked besides: one that
lacks the setting is waited for a little longer."""

_LOOK_AGAIN_SECONDS = 0.005

_STREAM = "migrated-devices"
"""A name for the descriptor within QEMU."""

_ACTIVE = ("setup", "active", "pre-switchover", "device", "postcopy-active", "wait-unplug", "cancelling")

_FINALIZING = "finish-migrate"
"""What QEMU calls the VM for the last instants of a migration; it takes no ``cont`` then."""


class Monitor:
    """A VM by its monitor. Errors are those of :class:`migrated.guests.qemu.qmp.Qmp`."""

    def __init__(self, path: Path) -> None:
        self._news = threading.Condition()
        self._told = ""
        self._ended = False
        self._stops = 0
        self.resumes = 0
        """How often the VM went on since we are connected."""
        self.runs: bool | None = None
        """Whether its processors run, as far as QEMU has told of a change; None if it told of none."""
        self.qmp = Qmp(path, self._hear)

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

    def capabilities(self) -> dict[str, bool]:
        """The settings of its migration that this QEMU has, and whether they are on."""
        answer = self.qmp.execute("query-migrate-capabilities")
        return {each["capability"]: bool(each["state"]) for each in answer}

    def set_capabilities(self, wanted: Mapping[str, bool]) -> None:
        """Turn settings of its migration on or off."""
        if wanted:
            states = [{"capability": name, "state": state} for name, state in wanted.items()]
            self.qmp.execute("migrate-set-capabilities", {"capabilities": states})

    def stop(self) -> bool:
        """Let its processors run no more; whether they ran."""
        before = self._stops
        self.qmp.execute("stop")
        return self._stops > before

    def go_on(self, patience: float = 5.0) -> None:
        """Let its processors run, whatever a migration of its devices left behind."""
        self.end_migration()
        ending = time.monotonic() + patience
        while True:
            try:
                self.qmp.execute("cont")
            except CommandFailedError:
                if self.status != _FINALIZING or time.monotonic() > ending:
                    raise
                time.sleep(_LOOK_AGAIN_SECONDS)
            else:
                return

    def announce(self) -> None:
        """Tell the network that the VM's addresses are here: switches had learned of another place."""
        # QEMU's defaults for the same after a migration: 5 times within 2 s.
        with contextlib.suppress(CommandFailedError):
            self.qmp.execute("announce-self", {"initial": 50, "max": 550, "rounds": 5, "step": 100})

    # -- QEMU's own migration ----------------------------------------------------------------------

    def give_stream(self, descriptor: int) -> None:
        """Hand QEMU the stream by which the devices will travel. It is duplicated."""
        self.qmp.give_descriptor(_STREAM, descriptor)

    def take_stream_back(self) -> None:
        """Have QEMU close a stream that was handed to it and not used."""
        with contextlib.suppress(CommandFailedError):
            self.qmp.execute("closefd", {"fdname": _STREAM})

    def begin_migration(self, command: str) -> Sent:
        """Send ``migrate`` or ``migrate-incoming``, by the stream; :meth:`wait_for_migration` waits for its end."""
        with self._news:
            self._told = ""
        return self.qmp.send(command, {"uri": f"fd:{_STREAM}"})

    def end_migration(self, patience: float = 5.0) -> None:
        """Cancel a migration that is under way, and wait until it has ended."""
        if self.migration in _ACTIVE:
            with contextlib.suppress(CommandFailedError):
                self.qmp.execute("migrate_cancel")
            self.wait_for_migration(patience)

    def wait_for_migration(self, patience: float) -> str:
        """Wait until QEMU's migration has ended; its state. GuestError if that takes ``patience`` seconds."""
        ending = time.monotonic() + patience
        while True:
            with self._news:
                self._news.wait_for(lambda: self._ended or self._told not in ("", *_ACTIVE), _ASK_SECONDS)
                state = self._told
            if state in ("", *_ACTIVE):
                state = self.migration
            if state not in _ACTIVE:
                return state
            if time.monotonic() > ending:
                raise GuestError(f"QEMU's migration of the devices is still {state!r} after {patience:g} s")

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

    def _hear(self, event: str, data: Mapping[str, Any]) -> None:
        with self._news:
            match event:
                case "MIGRATION":
                    self._told = str(data["status"])
                case "STOP":
                    self._stops += 1
                    self.runs = False
                case "RESUME":
                    self.resumes += 1
                    self.runs = True
                case "":
                    self._ended = True
                case _:
                    return
            self._news.notify_all()
