"""What the source hears from the destination, and waits for."""

import asyncio
from typing import TypeVar

from migrated.engine.ports import Channel
from migrated.errors import ConnectionLostError, MigratedError, PeerFailedError, ProtocolError, RefusedError
from migrated.protocol import (
    Aborted,
    Accept,
    BatchHeader,
    Failed,
    Message,
    Offer,
    Ping,
    Pong,
    Refuse,
    RoundDone,
)
from migrated.protocol import Progress as PeerProgress

__all__ = ["Conversation"]

_M = TypeVar("_M", bound=Message)

_MOST_ANSWERS = 4
"""One is due at a time; an error of the destination may come on top."""


class Conversation:
    """The source's side of a channel. ``committed`` is set when COMMIT may have been sent: from then on
    Aborted is an answer, and not a failure of the other side."""

    def __init__(self, channel: Channel) -> None:
        self.committed = False
        self.unpacking = 0.0
        """Seconds that a byte of memory takes the destination's workers, as last heard; 0 before."""
        self._channel = channel
        self._answers: asyncio.Queue[Message | MigratedError] = asyncio.Queue()

    async def negotiate(self, offer: Offer) -> Accept:
        """Make the offer; RefusedError with the destination's reason and hint if it refuses."""
        await self._channel.send(offer)
        answer = await self._channel.receive()
        while isinstance(answer, Ping | Pong):
            answer = await self._channel.receive()
        match answer:
            case Refuse():
                raise RefusedError(f"the destination refused: {answer.what}", answer.hint, answer.code)
            case Failed():
                raise PeerFailedError(f"the destination failed: {answer.what}", answer.hint, answer.code)
            case Accept():
                return answer
            case _:
                raise ProtocolError(f"the destination answered an offer with {type(answer).__name__}")

    async def listen(self) -> None:
        """Take the destination's messages; ends only by an error, which is also the next answer."""
        try:
            while True:
                self._heard(await self._channel.receive())
        except MigratedError as error:
            self._answers.put_nowait(error)
            raise

    def _heard(self, message: Message | BatchHeader) -> None:
        match message:
            case Failed(code=ConnectionLostError.reason):  # one of several, and the other side noticed first
                raise ConnectionLostError(message.what, message.hint)
            case Failed():
                raise PeerFailedError(f"the destination failed: {message.what}", message.hint, message.code)
            case Aborted() if not self.committed:
                raise PeerFailedError(f"the destination aborted: {message.reason}", "", "aborted")
            case PeerProgress():
                self.unpacking = message.unpack_picoseconds * 1e-12
            case Ping() | Pong():
                pass
            case BatchHeader():
                raise ProtocolError("the destination sent a batch")
            case _ if self._answers.qsize() >= _MOST_ANSWERS:
                raise ProtocolError("the destination answers more than it was asked")
            case _:
                self._answers.put_nowait(message)

    async def answer(self, *kinds: type[_M]) -> _M:
        message = await self._answers.get()
        if isinstance(message, MigratedError):
            raise message
        if not isinstance(message, kinds):
            due = " or ".join(kind.__name__ for kind in kinds)
            raise ProtocolError(f"the destination sent {type(message).__name__} where {due} was due")
        return message

    async def barrier(self, number: int) -> None:
        """Wait until every page of round ``number`` is in place."""
        done = await self.answer(RoundDone)
        if done.round != number:
            raise ProtocolError(f"the destination finished round {done.round} instead of {number}")
