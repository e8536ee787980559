"""What `migrated plan` does: opens the guest, has everything measured, and says what it means."""

import asyncio
from dataclasses import dataclass

from migrated.cli.forecasts import advice, as_plain, header, table, unlikely
from migrated.cli.interrupts import handled
from migrated.cli.orders import GuestOrder
from migrated.cli.run import loop, print_json, say, show
from migrated.compression import fork_server
from migrated.config import Settings
from migrated.engine.ports import in_thread
from migrated.errors import CancelledByPersonError
from migrated.guests.base import GuestOptions
from migrated.guests.uri import open_source, parse
from migrated.net.address import Address, parse_address
from migrated.planning import Plan, make_plan
from migrated.telemetry import logs

__all__ = ["Order", "plan_guest"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Order(GuestOrder):
    """What the person typed. The guest is watched for so many ``seconds``."""

    seconds: float


def plan_guest(order: Order) -> None:
    """Print the forecasts. Raises any MigratedError; StalledError, when all is printed, if what is asked for would
    not converge."""
    uri = parse(order.guest)
    address = parse_address(order.destination)
    settings = order.read_settings()
    options = order.guest_options(settings)
    logs.configure(settings.log.level, settings.log.format)
    plan = loop(lambda: _plan(order, options, settings, address))
    if order.as_json:
        print_json({"guest": str(uri), "destination": str(address), **as_plain(plan)})
    else:
        print(*header(plan, str(uri), str(address)), sep="\n")
        show(table(plan))
        print(*advice(plan), sep="\n", flush=True)
    error = unlikely(plan)
    if error is not None:
        raise error


async def _plan(order: Order, options: GuestOptions, settings: Settings, address: Address) -> Plan:
    task = asyncio.current_task()
    assert task is not None
    try:

        def stop(_number: int) -> None:
            task.cancel()

        with handled(stop):
            await in_thread(fork_server.start)
            guest = await in_thread(open_source, order.guest, options)
            try:
                return await make_plan(
                    guest,
                    address,
                    settings.send,
                    name=order.name or guest.name,
                    seconds=order.seconds,
                    say=say,
                )
            finally:
                await in_thread(guest.close)
    except asyncio.CancelledError:
        raise CancelledByPersonError("cancelled", "the guest goes on as it did") from None
