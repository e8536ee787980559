"""What `migrated serve` does: the daemon, its control plane, its logs, metrics and history, and its end."""

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import Iterable, Mapping
from pathlib import Path

from migrated.cli.history import Keeper
from migrated.cli.interrupts import handled
from migrated.cli.run import loop, read_settings, say
from migrated.config import Settings
from migrated.control.directory import DaemonDirectory
from migrated.control.server import ControlServer
from migrated.daemon import Daemon
from migrated.engine.events import Observer, Role, State, fan_out
from migrated.errors import UsageError
from migrated.protocol import Offer
from migrated.telemetry import logs
from migrated.telemetry.history import History
from migrated.telemetry.metrics import Metrics, watch_loop
from migrated.units import format_duration

__all__ = ["guest_entries", "serve_guests"]

_log = logging.getLogger("migrated.daemon")


def guest_entries(texts: Iterable[str]) -> dict[str, dict[str, str]]:
    """The overrides of ``[guests]`` from ``NAME=KIND:PATH``; a relative path is one of the current folder."""
    found: dict[str, dict[str, str]] = {}
    for text in texts:
        name, equals, uri = text.partition("=")
        kind, colon, path = uri.partition(":")
        if not (name and equals and kind and colon and path):
            raise UsageError(
                f"--guest {text!r} is not NAME=KIND:PATH", "write it as in --guest a=demo:/dev/shm/a.mem"
            )
        if name in found:
            raise UsageError(f"--guest names {name!r} twice", "give each guest a name of its own")
        found[name] = {"kind": kind, "path": str(Path(path).absolute())}
    return found


def serve_guests(config: Path | None, overrides: Mapping[str, object]) -> None:
    """Serve until a signal ends it. Raises ConfigError, ResourceError or AccessError if it can't begin."""
    settings = read_settings(config, overrides)
    logs.configure(settings.log.level, settings.log.format)
    loop(lambda: _serve(settings))


async def _serve(settings: Settings) -> None:
    metrics, history = Metrics(), History(settings.host.state_path)

    def observe(offer: Offer) -> Observer:
        return fan_out(
            metrics.observer(Role.DESTINATION),
            logs.log_observer(_log, offer.migration_id, offer.guest),
            Keeper(history, offer.migration_id),
        )

    stops: asyncio.Queue[int] = asyncio.Queue()
    daemon = Daemon(settings, observe, dropped=metrics.dropped)
    control = ControlServer(
        DaemonDirectory(daemon), metrics.expose, name=f"serve-{os.getpid()}", address=settings.serve.control
    )
    with handled(stops.put_nowait):
        await daemon.start()
        try:
            await control.start()
            watching = asyncio.ensure_future(watch_loop(metrics))
            print(_greeting(daemon, control, settings), flush=True)
            number = await stops.get()
            await _stop(daemon, stops, number, settings.serve.drain_timeout)
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
        except BaseException:
            await daemon.drain(0)
            raise
        finally:
            await Keeper.wait()
            await control.close()


def _greeting(daemon: Daemon, control: ControlServer, settings: Settings) -> str:
    guests = ", ".join(f"{name} ({entry.kind})" for name, entry in sorted(settings.guests.items()))
    return (
        f"listening on {daemon.address}, control on {control.url or 'no address'}, "
        f"guests: {guests or 'none; name some with --guest or in the settings'}"
    )


async def _stop(daemon: Daemon, stops: "asyncio.Queue[int]", number: int, most: float) -> None:
    """Let running migrations finish; a second signal cuts that short."""
    running = sum(not State(progress.state).final for progress in daemon.migrations())
    wait = f"; {running} running may take {format_duration(most)}, a second signal cancels" if running else ""
    say(f"{signal.Signals(number).name}: stopping, nothing new is taken{wait}")
    draining = asyncio.ensure_future(daemon.drain(most))
    again = asyncio.ensure_future(stops.get())
    await asyncio.wait({draining, again}, return_when=asyncio.FIRST_COMPLETED)
    if not draining.done():
        say("once more: cancelling what is not decided")
        draining.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await draining
        await daemon.drain(0)
    else:
        again.cancel()
        await draining
