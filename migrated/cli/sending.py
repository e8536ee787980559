"""What `migrated send` does: opens the guest, moves it, shows how far it is, and obeys signals."""

import asyncio
import contextlib
import importlib
import time
from dataclasses import dataclass, replace
from types import ModuleType

from migrated.cli.flags import word_of
from migrated.cli.history import entry_of
from migrated.cli.interrupts import Interrupts, handled
from migrated.cli.orders import GuestOrder
from migrated.cli.run import loop
from migrated.cli.views import View, make_view
from migrated.client import Outgoing
from migrated.config import Settings
from migrated.control.directory import OutgoingDirectory
from migrated.engine.events import Report, Role, fan_out
from migrated.engine.ports import in_thread
from migrated.errors import CancelledByPersonError, MigratedError
from migrated.guests.base import After, GuestOptions
from migrated.guests.uri import open_source, parse
from migrated.net.address import Address, parse_address
from migrated.telemetry import logs
from migrated.telemetry.history import History
from migrated.telemetry.metrics import Metrics

__all__ = ["Order", "send_guest"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Order(GuestOrder):
    """What the person typed."""

    after: str
    keep: bool
    quiet: bool


def send_guest(order: Order) -> None:
    """Move the guest and print the summary. Raises any MigratedError; the guest runs here then, unless it is
    OutcomeUnknownError."""
    uri = parse(order.guest)
    address = parse_address(order.destination)
    settings = order.read_settings()
    options = replace(
        order.guest_options(settings), after=word_of(After, "--after", order.after), keep=order.keep
    )
    logs.configure(settings.log.level, settings.log.format)
    view = make_view(str(uri), str(address), as_json=order.as_json, quiet=order.quiet)
    try:
        report = loop(lambda: _Sending(order, options, settings, address, view).run())
    except MigratedError as error:
        view.failed(error)
        raise
    view.report(report)


class _Sending:
    def __init__(
        self, order: Order, options: GuestOptions, settings: Settings, address: Address, view: View
    ) -> None:
        self._order, self._options, self._settings = order, options, settings
        self._address, self._view = address, view

    async def run(self) -> Report:
        task = asyncio.current_task()
        assert task is not None
        interrupts = Interrupts(task.cancel, self._view.say)
        try:
            with handled(interrupts):
                return await self._open_and_move(interrupts)
        except asyncio.CancelledError:
            raise CancelledByPersonError(interrupts.why or "cancelled", "the guest goes on here") from None

    async def _open_and_move(self, interrupts: Interrupts) -> Report:
        # Opening a guest waits for other processes; that is the time to load the control plane, a quarter of a second.
        loading = asyncio.ensure_future(in_thread(importlib.import_module, "migrated.control.server"))
        guest = await in_thread(open_source, self._order.guest, self._options)
        try:
            server, metrics = await loading, Metrics()
            outgoing = Outgoing(
                guest,
                self._address,
                self._settings,
                name=self._order.name or guest.name,
                observer=fan_out(metrics.observer(Role.SOURCE), self._view),
                say=self._view.say,
            )
            self._view.tuning = outgoing.tuning
            interrupts.take_over(outgoing)
            return await self._move(outgoing, metrics, server)
        finally:
            await in_thread(guest.close)

    async def _move(self, outgoing: Outgoing, metrics: Metrics, server: ModuleType) -> Report:
        control = server.ControlServer(
            OutgoingDirectory(outgoing), metrics.expose, name=f"send-{outgoing.migration_id}"
        )
        await control.start()
        try:
            with self._view:
                showing = asyncio.ensure_future(self._view.keep_showing())
                try:
                    report = await outgoing.run()
                finally:
                    showing.cancel()
            await self._remember(outgoing, report, None)
            return report
        except MigratedError as error:
            await self._remember(outgoing, None, error)
            raise
        finally:
            await control.close()

    async def _remember(self, outgoing: Outgoing, report: Report | None, error: MigratedError | None) -> None:
        entry = entry_of(outgoing.progress(), report, error, ended=time.time())
        entry["destination"] = str(self._address)
        history = History(self._settings.host.state_path)
        with contextlib.suppress(asyncio.CancelledError):
            await in_thread(history.add, entry)
