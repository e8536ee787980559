"""What the engine needs of its surroundings, and how it runs blocking work."""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from typing import Protocol, TypeVar

from migrated.protocol import BatchHeader, BatchLimits, Message

__all__ = ["Channel", "Sent", "in_thread", "readable", "see_through"]

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Sent:
    """What sending a batch took: all of its bytes, and the seconds of the link that were its own; of them those in
    which this side's event loop slept. ``waited``: the link was busy with others when it came. ``carries``: bytes per
    second that the link carries at most, by the kernel; 0 if it cannot tell."""

    wire_bytes: int
    seconds: float
    asleep: float
    waited: bool
    carries: float = 0.0


class Channel(Protocol):
    """A connection to the other side; all errors are :class:`migrated.errors.MigratedError`."""

    @property
    def connections(self) -> int:
        """How many carry batches by now."""

    def carried(self) -> None:
        """All batches have arrived, and none is sent any more: connections that only carry them may end."""

    @property
    def sent_bytes(self) -> int:
        """All bytes given to the network so far."""

    @property
    def received_bytes(self) -> int:
        """All bytes taken from the network so far."""

    @property
    def sending(self) -> bool:
        """Whether a send is under way, so that another would wait for it."""

    def agree(self, limits: BatchLimits) -> None:
        """Set what both sides agreed on for batches."""

    def set_rate(self, bytes_per_second: float) -> None:
        """Limit what is sent from now on; infinity for no limit."""

    async def send(self, message: Message) -> None:
        """Send a control message. A cancelled send closes the connection."""

    async def send_batch(self, header: BatchHeader, payload: memoryview) -> Sent:
        """Send a batch straight from its slot; its sequence becomes the next one of the connection that it takes.
        A cancelled send closes the connection."""

    async def receive(self) -> Message | BatchHeader:
        """The next message; after a header, :meth:`receive_payload` must come next."""

    async def receive_payload(self, into: memoryview) -> None:
        """Fill ``into`` with the payload of the header just received."""

    async def close(self) -> None:
        """End the connection; never raises."""


async def in_thread(function: Callable[..., _T], *args: object) -> _T:
    """Run blocking work off the loop, and see it through: what pauses or starts a guest must not go on behind
    the back of the code that undoes it."""
    return await see_through(asyncio.to_thread(function, *args))


async def see_through(work: Coroutine[object, object, _T]) -> _T:
    """Run ``work`` to its end, whoever cancels; a cancellation is raised only then."""
    task = asyncio.ensure_future(work)
    cancelled = False
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            cancelled = True
        except Exception:
            break
    if cancelled:
        task.exception()
        raise asyncio.CancelledError
    return task.result()


@contextlib.contextmanager
def readable(descriptor: int, then: Callable[[], object]) -> Iterator[None]:
    """Call ``then`` once, if ``descriptor`` becomes readable within; nothing is watched if that is -1."""
    if descriptor < 0:
        yield
        return
    loop = asyncio.get_running_loop()

    def call() -> None:
        loop.remove_reader(descriptor)
        then()

    loop.add_reader(descriptor, call)
    try:
        yield
    finally:
        loop.remove_reader(descriptor)
