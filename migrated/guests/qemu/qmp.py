"""QEMU's monitor protocol (QMP), for code that blocks.

The library's client lives on an event loop of one thread of ours; calls may come from any thread, one at a time.
"""

import asyncio
import contextlib
import logging
import os
import threading
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import CancelledError, Future
from pathlib import Path
from typing import Any, TypeVar, cast

from qemu.qmp import ConnectError, ExecuteError, QMPClient, QMPError, Runstate

from migrated.errors import AccessError, GuestDiedError, GuestError, GuestNotFoundError, MigratedError

__all__ = ["CommandFailedError", "Heard", "Qmp", "Sent"]

_T = TypeVar("_T")

Heard = Callable[[str, Mapping[str, Any]], None]
"""Takes an event's name and data, on the connection's own thread; an empty name when the connection has ended.
An event comes before the answer to the command that caused it."""

logging.getLogger("qemu.qmp").setLevel(logging.CRITICAL)  # it logs what it raises, and we tell that ourselves

_GREETING_SECONDS = 5.0
"""QEMU greets at once, unless somebody else is connected: a monitor's socket serves one client at a time."""

_COMMAND_SECONDS = 30.0
"""Commands take milliseconds; stopping a VM waits for its disks."""


class CommandFailedError(GuestError):
    """QEMU refused a command; ``said`` is its own text, ``kind`` QMP's error class."""

    def __init__(self, command: str, kind: str, said: str) -> None:
        super().__init__(f"QEMU refused {command}: {said}")
        self.command, self.kind, self.said = command, kind, said


class Sent:
    """A command that was sent, and may be running."""

    def __init__(self, path: Path, command: str, future: "Future[Any]") -> None:
        self._path, self._command, self._future = path, command, future

    @property
    def failed(self) -> bool:
        """Whether it was answered by now, with an error."""
        return self._future.done() and self._future.exception() is not None

    def on_failure(self, call: Callable[[], None]) -> None:
        """Have ``call`` made, on any thread, once it is known that there is no good answer."""

        def ended(future: "Future[Any]") -> None:
            if future.cancelled() or future.exception() is not None:
                call()

        self._future.add_done_callback(ended)

    def answer(self) -> Any:
        """Wait for its return value; the errors are those of :meth:`Qmp.execute`."""
        return _translated(self._path, self._command, self._future)


class Qmp:
    """A connection to the monitor at ``path``, with the VM's name for errors being that path.

    GuestNotFoundError: nobody listens there; AccessError; GuestError: it is busy with another client, or no QEMU.
    A command that gets no answer since QEMU ended is a GuestDiedError.
    """

    def __init__(self, path: Path, heard: Heard | None = None) -> None:
        self.path = path
        self._client = QMPClient(str(path))
        self._heard = heard or (lambda _name, _data: None)
        self._client.events.event_filter = self._take_event
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"qmp {path}", daemon=True)
        self._thread.start()
        self._open = True
        try:
            self._connect()
        except BaseException:
            self._end()
            raise

    def _connect(self) -> None:
        try:
            self._start(self._client.connect(os.fspath(self.path)), _GREETING_SECONDS).result()
            self._start(self._watch_end())
        except TimeoutError as error:
            raise GuestError(
                f"the QEMU at {self.path} does not answer: another client has its monitor, or it hangs",
                "give it a second monitor: one more -qmp unix:PATH,server=on,wait=off",
            ) from error
        except QMPError as error:
            raise _not_connected(
                self.path, error.exc if isinstance(error, ConnectError) else error
            ) from error

    @property
    def greeting(self) -> dict[str, Any]:
        """What QEMU said of itself at first."""
        greeting = self._client.greeting
        assert greeting is not None
        return cast("dict[str, Any]", greeting._asdict()["QMP"])

    def execute(self, command: str, arguments: Mapping[str, Any] | None = None) -> Any:
        """Run a command; its return value. CommandFailedError, GuestDiedError, GuestError (no answer in time)."""
        return self.send(command, arguments).answer()

    def send(self, command: str, arguments: Mapping[str, Any] | None = None) -> Sent:
        """As :meth:`execute`, without waiting for the answer. Commands run in the order in which they are sent."""
        return self._send(command, self._client.execute(command, arguments))

    def give_descriptor(self, name: str, descriptor: int) -> None:
        """Hand a descriptor to QEMU, as ``name`` for its ``fd:`` addresses. It is duplicated."""

        async def give() -> None:
            self._client.send_fd_scm(descriptor)
            await self._client.execute("getfd", {"fdname": name})

        self._send("getfd", give()).answer()

    def close(self) -> None:
        """Hang up; the VM goes on. May be called twice."""
        if self._open:
            with contextlib.suppress(Exception):  # it raises what ended the connection: of no use any more
                self._start(self._client.disconnect(), _GREETING_SECONDS).result()
            self._end()

    def _send(self, command: str, work: Coroutine[Any, Any, _T]) -> Sent:
        if not self._open:
            work.close()
            raise GuestError(f"the connection to {self.path} was closed")
        return Sent(self.path, command, self._start(work, _COMMAND_SECONDS))

    def _start(self, work: Coroutine[Any, Any, _T], seconds: float | None = None) -> "Future[_T]":
        async def bounded() -> _T:
            return await asyncio.wait_for(work, seconds)

        return asyncio.run_coroutine_threadsafe(bounded(), self._loop)

    def _take_event(self, event: Mapping[str, Any]) -> bool:
        self._heard(str(event["event"]), event.get("data", {}))
        return False  # the library would keep it for ever

    async def _watch_end(self) -> None:
        while self._client.runstate is Runstate.RUNNING:
            await self._client.runstate_changed()
        self._heard("", {})

    def _end(self) -> None:
        self._open = False
        self._start(self._end_tasks()).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _end_tasks(self) -> None:
        """End what still waits, which is told that the connection was closed."""
        waiting = asyncio.all_tasks() - {asyncio.current_task()}
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


def _translated(path: Path, command: str, future: "Future[_T]") -> _T:
    try:
        return future.result()
    except ExecuteError as error:
        raise CommandFailedError(command, error.error_class, str(error)) from error
    except CancelledError as error:
        raise GuestError(f"the connection to {path} was closed") from error
    except TimeoutError as error:
        raise GuestError(
            f"the QEMU at {path} did not finish {command} within {_COMMAND_SECONDS:g} s"
        ) from error
    except (QMPError, OSError, EOFError, asyncio.IncompleteReadError) as error:
        raise GuestDiedError(f"the QEMU at {path} ended, or hung up, during {command}") from error


def _not_connected(path: Path, error: Exception) -> MigratedError:
    match error:
        case FileNotFoundError() | ConnectionRefusedError():
            return GuestNotFoundError(
                f"no QEMU listens at {path}: {error.strerror}",
                "start it with -qmp unix:PATH,server=on,wait=off",
            )
        case PermissionError():
            return AccessError(
                f"no access to {path}", "run as QEMU's user, or as root, or change the socket's mode"
            )
        case _:
            return GuestError(f"what listens at {path} is no QEMU monitor: {error}")
