"""A source made of a bare socket: it says what it is told to, true or not."""

import contextlib
import socket
import uuid
from dataclasses import replace

import xxhash

from migrated.errors import ConnectionLostError
from migrated.protocol import (
    BLOCK_BYTES,
    FIRST_CODEC,
    HEADER_BYTES,
    MIN_VERSION,
    RAW_CODEC,
    VERSION,
    BatchHeader,
    Connection,
    Message,
    Offer,
    Ping,
    RegionInfo,
    Role,
)
from migrated.protocol.frames import BATCH_TYPE, FRAME, PREAMBLE
from migrated.protocol.packing import pack

PAGE = 4096


def an_offer(guest: str, size: int = 1 << 20, kind: str = "shm", **more: object) -> Offer:
    """An offer that a daemon with the guest in its settings takes."""
    offer = Offer(
        min_version=MIN_VERSION,
        max_version=VERSION,
        migration_id=uuid.uuid4().hex,
        guest=guest,
        kind=kind,
        page_size=PAGE,
        regions=(RegionInfo("memory", size),),
        codecs={"lz4": tuple(range(1, 10)), "zstd": tuple(range(1, 10))},
        batch_pages=512,
        digest_seed=7,
        sender="a test",
    )
    return replace(offer, **more)  # type: ignore[arg-type]


def frame(message: Message) -> bytes:
    """A message as it travels, whether or not it is its turn."""
    body = pack(message)
    return FRAME.pack(message.type_id, 0, 0, len(body)) + body


def a_batch(payload: bytes | None = None, **lies: int) -> bytes:
    """A batch of one raw page at page 0, unless ``lies`` say otherwise; ``payload`` replaces what it holds."""
    if payload is None:
        runs = (0).to_bytes(4, "little") + (1).to_bytes(4, "little")
        payload = bytes(range(256)) * 16 + runs + PAGE.to_bytes(4, "little")
    header = BatchHeader(
        round=1,
        sequence=1,
        region=0,
        codec=RAW_CODEC,
        level=0,
        data_pages=1,
        zero_pages=0,
        data_runs=1,
        zero_runs=0,
        blocks=1,
        payload_bytes=len(payload),
        checksum=xxhash.xxh3_64_intdigest(payload),
    )
    header = replace(header, **lies)
    return FRAME.pack(BATCH_TYPE, 0, 0, HEADER_BYTES + header.payload_bytes) + header.pack() + payload


def compressed(blocks: bytes, *, codec: int = FIRST_CODEC, pages: int = 1, start: int = 0) -> bytes:
    """A batch with one block that was compressed, or claims so."""
    assert pages * PAGE <= BLOCK_BYTES
    runs = start.to_bytes(4, "little") + pages.to_bytes(4, "little")
    return a_batch(blocks + runs + len(blocks).to_bytes(4, "little"), codec=codec, level=1, data_pages=pages)


class Liar:
    """A connection to a daemon. Whatever it gets is read with the real parser; what it says is raw."""

    def __init__(self, port: int, *, greet: bool = True) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=20)
        self._connection = Connection(Role.SOURCE)
        if greet:
            self.say(PREAMBLE)

    def __enter__(self) -> "Liar":
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def say(self, *parts: bytes | Message) -> None:
        """Say it, in turn or not."""
        for part in parts:
            self.socket.sendall(frame(part) if isinstance(part, Message) else part)

    def ask(self, *messages: Message) -> Message | None:
        """Say what is in turn, so that the answer can be read, and return that."""
        for message in messages:
            self.socket.sendall(self._connection.send(message))
        return self.hear()

    def hear(self) -> Message | None:
        """The next thing that it says, or None when it hung up."""
        while True:
            event = self._connection.next_event()
            if event is not None:
                assert isinstance(event, Message)
                if isinstance(event, Ping):
                    continue
                return event
            try:
                data = self.socket.recv(self._connection.wanted)
            except ConnectionError:
                return None
            if not data:
                with contextlib.suppress(ConnectionLostError):
                    self._connection.receive_eof()
                return None
            self._connection.receive_data(data)

    def last(self) -> list[Message]:
        """All that it still says, until it hangs up."""
        heard = []
        while (message := self.hear()) is not None:
            heard.append(message)
        return heard

    def hang_up(self, *, hard: bool = False) -> None:
        """End the connection; ``hard`` with a reset."""
        if hard:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.socket.close()
