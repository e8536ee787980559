"""One side of one connection: bytes in, events out, bytes to send. No socket, no clock, no task.

The caller reads from wherever it likes and repeats::

    event = connection.next_event()      # a Message, a BatchHeader, or None: more bytes are needed
    connection.receive_data(read(connection.wanted))       # or receive_eof() when there are none

The payload of a batch never passes through here. After a :class:`BatchHeader` the caller moves what was
already read with :meth:`Connection.take_buffered`, receives the rest straight into its own slot, and calls
:meth:`Connection.payload_done`. A caller that reads ``wanted`` bytes at a time never buffers any of it.

What the peer sends can raise :class:`migrated.errors.ProtocolError` from ``next_event``, and
:class:`migrated.errors.ConnectionLostError` from ``receive_eof``, and nothing else. After a ProtocolError the
connection reads no more and raises it again, but can still send, so that the peer learns why. In a final
state what arrives is dropped unread. A mistake of the caller is a :class:`LocalProtocolError`.
"""

from typing import Final

from typing_extensions import Buffer

from migrated.errors import ConnectionLostError, MigratedError, ProtocolError
from migrated.protocol.batch import HEADER_BYTES, BatchHeader, BatchLimits
from migrated.protocol.frames import BATCH_TYPE, FRAME, FRAME_BYTES, MAGIC, PREAMBLE, WIRE_FORMAT
from migrated.protocol.messages import MAX_CONTROL_BODY, MESSAGES, Message
from migrated.protocol.packing import pack, unpack
from migrated.protocol.states import FINAL_STATES, TRANSITIONS, EventType, Role, State, next_state

__all__ = ["MAX_BUFFERED", "READ_BYTES", "Connection", "LocalProtocolError"]

READ_BYTES: Final = 64 << 10
"""What a caller may read at once, whatever ``wanted`` says, once ``next_event`` has returned None."""

MAX_BUFFERED: Final = FRAME_BYTES + MAX_CONTROL_BODY + READ_BYTES
"""The internal buffer never holds more: less than one unit, and one read."""


class LocalProtocolError(MigratedError):
    """This side tried to break the protocol: a mistake in this program, not the peer's."""


class Connection:
    """The protocol as one ``role`` sees it. Not thread-safe."""

    def __init__(self, role: Role) -> None:
        self.role = role
        self.state = State.OPENING
        self.limits: BatchLimits | None = None
        self._buffer = bytearray()
        self._greeted = False
        self._frame: tuple[EventType, int] | None = None  # the open frame's kind, and the length of its body
        self._payload_left: int | None = None
        self._error: ProtocolError | None = None

    def __repr__(self) -> str:
        return f"<Connection {self.role.value} {self.state}>"

    @property
    def finished(self) -> bool:
        """Whether the state is final: nothing may be sent, and what arrives is dropped."""
        return self.state in FINAL_STATES

    def preamble(self) -> bytes:
        """What to send before anything else."""
        return PREAMBLE

    @property
    def wanted(self) -> int:
        """How many bytes the current unit still needs; 0 while an event or a payload waits for the caller.

        Reading no more than this leaves every payload for the caller's own slot.
        """
        if self.finished or self._error is not None:
            return READ_BYTES
        if self._payload_left is not None:
            return 0
        return max(0, self._unit_bytes() - len(self._buffer))

    def receive_data(self, data: Buffer) -> None:
        """Take bytes from the peer, split in any way.

        Raises LocalProtocolError while a payload is expected, or if more is given than one read of
        :data:`READ_BYTES` on top of a drained connection.
        """
        if self.finished or self._error is not None:
            return
        if self._payload_left is not None:
            raise LocalProtocolError("a batch's payload is read by the caller, then payload_done() is called")
        view = memoryview(data)
        if len(self._buffer) + view.nbytes > MAX_BUFFERED:
            raise LocalProtocolError("more than one read was given without asking for events")
        self._buffer += view

    def receive_eof(self) -> None:
        """The peer closed. Raises ConnectionLostError unless the session was over; ask for events first."""
        if not self.finished and self._error is None:
            raise ConnectionLostError(
                f"the {self.role.peer.value} closed the connection in the state {self.state}",
                "its log says why" if self._greeted else "is it migrated that listens there?",
            )

    def next_event(self) -> Message | BatchHeader | None:
        """The next thing that the peer said, or None if it needs more bytes. The state has already moved on.

        Raises ProtocolError, now and ever after, if the peer broke the protocol.
        """
        if self._error is not None:
            raise self._error
        if self.finished or self._payload_left is not None:
            return None
        try:
            return self._parse()
        except ProtocolError as error:
            self._error = error
            self._buffer.clear()
            raise

    def take_buffered(self, target: memoryview) -> int:
        """Move payload bytes that were read already to the start of ``target`` (bytes); return how many."""
        if self._payload_left is None:
            return 0
        count = min(len(self._buffer), self._payload_left, len(target))
        if count:
            target[:count] = memoryview(self._buffer)[:count]
            del self._buffer[:count]
            self._payload_left -= count
        return count

    def payload_done(self) -> None:
        """The caller has the whole payload; frames follow again."""
        if self.finished:
            return
        if self._payload_left is None:
            raise LocalProtocolError("no payload was expected")
        if self._payload_left and self._buffer:
            raise LocalProtocolError("payload bytes are left in the buffer: take_buffered() comes first")
        self._payload_left = None

    def agree(self, limits: BatchLimits) -> None:
        """Set what was negotiated; both sides do so once, after the accept and before the first batch."""
        if self.limits is not None:
            raise LocalProtocolError("limits are agreed on once")
        self.limits = limits

    def send(self, message: Message) -> bytes:
        """The bytes of ``message``; the state moves on. LocalProtocolError if it is not its turn."""
        after = self._turn(type(message))
        try:
            body = pack(message)
        except ValueError as error:
            raise LocalProtocolError(f"cannot send: {error}") from error
        self._move(after)
        return FRAME.pack(message.type_id, 0, 0, len(body)) + body

    def send_batch(self, header: BatchHeader) -> bytes:
        """The bytes before a batch's payload; the caller sends exactly ``payload_bytes`` behind them."""
        after = self._turn(BatchHeader)
        if self.limits is None:
            raise LocalProtocolError("agree() comes before the first batch")
        try:
            header.check(self.limits)
            packed = header.pack()
        except ValueError as error:
            raise LocalProtocolError(f"cannot send a batch: {error}") from error
        self._move(after)
        return FRAME.pack(BATCH_TYPE, 0, 0, HEADER_BYTES + header.payload_bytes) + packed

    def _turn(self, event: EventType) -> State:
        after = next_state(self.role, self.state, event)
        if after is None:
            raise LocalProtocolError(f"the {self.role.value} may not send {event.__name__} in {self.state}")
        return after

    def _move(self, after: State) -> None:
        self.state = after
        if self.finished:
            self._buffer.clear()

    def _unit_bytes(self) -> int:
        """The length of what has to be in the buffer for the next step of the parser."""
        if not self._greeted:
            return len(PREAMBLE)
        if self._frame is None:
            return FRAME_BYTES
        kind, length = self._frame
        return HEADER_BYTES if kind is BatchHeader else length

    def _parse(self) -> Message | BatchHeader | None:
        if not self._greeted:
            _check_greeting(self._buffer)
            if len(self._buffer) < len(PREAMBLE):
                return None
            del self._buffer[: len(PREAMBLE)]
            self._greeted = True
        if self._frame is None:
            if len(self._buffer) < FRAME_BYTES:
                return None
            self._frame = self._read_frame()
            del self._buffer[:FRAME_BYTES]
        if len(self._buffer) < self._unit_bytes():
            return None
        kind, length = self._frame
        # again: this side may have sent something since the frame began
        after = self._expect(kind)
        self._frame = None
        if issubclass(kind, BatchHeader):
            header = self._read_batch(length)
            self._move(after)
            self._payload_left = header.payload_bytes
            return header
        body = bytes(memoryview(self._buffer)[:length])
        del self._buffer[:length]
        message = unpack(kind, body)
        self._move(after)
        return message

    def _read_frame(self) -> tuple[EventType, int]:
        """The kind and the length of the frame that begins; refused here if it is out of turn or too long."""
        number, flags, reserved, length = FRAME.unpack_from(self._buffer)
        kind: EventType | None = BatchHeader if number == BATCH_TYPE else MESSAGES.get(number)
        if kind is None or flags or reserved:
            raise ProtocolError(
                f"the {self.role.peer.value} sent an unknown frame: type {number}, flags {flags}, {reserved}",
                "one side may be newer than it says; upgrade the older one",
            )
        self._expect(kind)
        if issubclass(kind, BatchHeader):
            if self.limits is None:
                raise ProtocolError("a batch came before its limits were agreed on")
            low, high = HEADER_BYTES, HEADER_BYTES + self.limits.max_payload
        else:
            low, high = 1, kind.body_limit
        if not low <= length <= high:
            raise ProtocolError(f"a {kind.__name__} of {length} bytes, {low} to {high} are allowed")
        return kind, length

    def _read_batch(self, length: int) -> BatchHeader:
        assert self.limits is not None
        header = BatchHeader.unpack(self._buffer)
        del self._buffer[:HEADER_BYTES]
        try:
            header.check(self.limits)
        except ValueError as error:
            raise ProtocolError(f"the peer's batch header is wrong: {error}") from error
        if length != HEADER_BYTES + header.payload_bytes:
            raise ProtocolError(f"a batch of {length} bytes has a payload of {header.payload_bytes}")
        return header

    def _expect(self, kind: EventType) -> State:
        sender = self.role.peer
        after = next_state(sender, self.state, kind)
        if after is None:
            allowed = ", ".join(event.__name__ for event in TRANSITIONS[sender][self.state])
            raise ProtocolError(
                f"the {sender.value} sent {kind.__name__} in the state {self.state}; it may send {allowed}"
            )
        return after


def _check_greeting(received: bytearray) -> None:
    """Raise ProtocolError as soon as the first bytes cannot become a preamble that this side understands."""
    head = bytes(received[: len(PREAMBLE)])
    if PREAMBLE.startswith(head):
        return
    if head.startswith(MAGIC):
        raise ProtocolError(
            f"the peer speaks wire format {head[len(MAGIC)]}, this side {WIRE_FORMAT}",
            "upgrade the older side",
        )
    raise ProtocolError(
        "the peer does not speak the protocol of migrated",
        "check address and port",
    )
