import tracemalloc
from collections.abc import Callable, Iterable, Iterator

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from migrated.errors import ConnectionLostError, ProtocolError
from migrated.protocol.batch import HEADER_BYTES, BatchHeader, BatchLimits
from migrated.protocol.connection import MAX_BUFFERED, READ_BYTES, Connection, LocalProtocolError
from migrated.protocol.frames import BATCH_TYPE, FRAME, FRAME_BYTES, PREAMBLE
from migrated.protocol.messages import (
    MAX_CONTROL_BODY,
    MESSAGES,
    Aborted,
    Accept,
    Cancel,
    Commit,
    Digest,
    Failed,
    Message,
    Offer,
    Ping,
    Pong,
    Progress,
    Query,
    Ready,
    Refuse,
    RegionInfo,
    RoundDone,
    RoundEnd,
    Running,
)
from migrated.protocol.packing import pack
from migrated.protocol.states import FINAL_STATES, TRANSITIONS, Role, State

Event = Message | BatchHeader
MIGRATION = "0123456789abcdef0123456789abcdef"
OFFER = Offer(
    1,
    1,
    MIGRATION,
    "web",
    "demo",
    4096,
    (RegionInfo("memory", 1 << 20),),
    {"lz4": (1,)},
    batch_pages=64,
    digest_seed=9,
)
ACCEPT = Accept(version=1, codecs=("lz4",), batch_pages=64, decompress_workers=1)
LIMITS = BatchLimits(batch_pages=64, page_size=4096, region_pages=(256,), codecs=1)
PAYLOADS = (bytes(range(20)) * 3, bytes(8), b"MIGRATE\x01" + bytes(40))


def batch(sequence: int, payload: bytes) -> BatchHeader:
    data = len(payload) > 8
    return BatchHeader(
        round=1,
        sequence=sequence,
        region=0,
        codec=2,
        level=1,
        data_pages=int(data),
        zero_pages=int(not data),
        data_runs=int(data),
        zero_runs=int(not data),
        blocks=int(data),
        payload_bytes=len(payload),
        checksum=sequence,
    )


BATCHES = [(batch(number, payload), payload) for number, payload in enumerate(PAYLOADS, start=1)]
SAID_BY_SOURCE: list[Event | bytes] = [
    *(OFFER, Ping()),
    *(part for header_and_payload in BATCHES for part in header_and_payload),
    *(RoundEnd(round=1, batches=3, pages=3), Pong(), Digest(terms=(7,), was_running=True), Commit(MIGRATION)),
]
SAID_BY_DESTINATION: list[Event | bytes] = [
    *(ACCEPT, Progress(batches=1, raw_bytes=4096), Ping(), RoundDone(round=1), Ready(), Running()),
]


def frame(event: Event | bytes) -> bytes:
    if isinstance(event, bytes):
        return event
    if isinstance(event, BatchHeader):
        return FRAME.pack(BATCH_TYPE, 0, 0, HEADER_BYTES + event.payload_bytes) + event.pack()
    body = pack(event)
    return FRAME.pack(event.type_id, 0, 0, len(body)) + body


SOURCE_STREAM = PREAMBLE + b"".join(frame(event) for event in SAID_BY_SOURCE)
DESTINATION_STREAM = PREAMBLE + b"".join(frame(event) for event in SAID_BY_DESTINATION)


def answer_as_destination(connection: Connection, event: Event) -> None:
    if isinstance(event, Offer):
        connection.send(ACCEPT)
        connection.agree(LIMITS)
    elif isinstance(event, Digest):
        connection.send(Ready())
    elif isinstance(event, Commit):
        connection.send(Running())
    elif isinstance(event, Cancel):
        connection.send(Aborted("as asked"))
    elif isinstance(event, Query):
        connection.send(Refuse("busy", "later"))


def answer_as_source(connection: Connection, event: Event) -> None:
    if isinstance(event, Accept):
        connection.agree(LIMITS)
    elif isinstance(event, RoundDone) and connection.state is State.COPYING:
        connection.send(Digest(terms=(7,), was_running=True))
    elif isinstance(event, Ready):
        connection.send(Commit(MIGRATION))


class Reader:
    """What a channel does with a connection, without the channel."""

    def __init__(self, role: Role) -> None:
        self.connection = Connection(role)
        self.answer: Callable[[Connection, Event], None] = answer_as_destination
        if role is Role.SOURCE:
            self.answer = answer_as_source
            self.connection.send(OFFER)
        self.events: list[Event | bytes] = []
        self.slot: bytearray | None = None
        self.filled = 0
        self.buffered_payload = 0

    def feed(self, chunk: bytes) -> None:
        view = memoryview(chunk)
        if self.slot is not None:
            count = min(len(self.slot) - self.filled, len(view))
            self.slot[self.filled : self.filled + count] = view[:count]
            self.filled += count
            view = view[count:]
            self.finish_payload()
        if len(view):
            self.connection.receive_data(view)
        assert len(self.connection._buffer) <= MAX_BUFFERED
        self.drain()

    def drain(self) -> None:
        while self.slot is None and (event := self.connection.next_event()) is not None:
            self.events.append(event)
            if isinstance(event, BatchHeader):
                assert event.payload_bytes <= LIMITS.max_payload
                assert self.connection.wanted == 0
                self.slot = bytearray(event.payload_bytes)
                self.filled = self.connection.take_buffered(memoryview(self.slot))
                self.buffered_payload += self.filled
                self.finish_payload()
            else:
                self.answer(self.connection, event)
        if self.slot is None:
            assert 0 < self.connection.wanted <= MAX_CONTROL_BODY

    def finish_payload(self) -> None:
        if self.slot is not None and self.filled == len(self.slot):
            self.connection.payload_done()
            self.events.append(bytes(self.slot))
            self.slot = None


def cut(stream: bytes, sizes: Iterable[int]) -> Iterator[bytes]:
    start = 0
    for size in sizes:
        yield stream[start : start + size]
        start += size
    while start < len(stream):
        yield stream[start : start + READ_BYTES]
        start += READ_BYTES


SPLITS = st.lists(st.integers(0, 60), max_size=60)
STREAMS = [
    (Role.DESTINATION, SOURCE_STREAM, SAID_BY_SOURCE),
    (Role.SOURCE, DESTINATION_STREAM, SAID_BY_DESTINATION),
]


@given(st.sampled_from(STREAMS), SPLITS)
@example(STREAMS[0], [1] * len(SOURCE_STREAM))
@example(STREAMS[1], [1] * len(DESTINATION_STREAM))
@example(STREAMS[0], [])
def test_any_split_gives_the_same_events(
    stream: tuple[Role, bytes, list[Event | bytes]], sizes: list[int]
) -> None:
    role, data, said = stream
    reader = Reader(role)
    for chunk in cut(data, sizes):
        reader.feed(chunk)
    assert reader.events == said
    assert reader.connection.state is State.DONE
    reader.connection.receive_eof()


@pytest.mark.parametrize(("role", "data", "said"), STREAMS)
def test_reading_what_is_wanted_buffers_no_payload(
    role: Role, data: bytes, said: list[Event | bytes]
) -> None:
    reader = Reader(role)
    start = 0
    while start < len(data):
        size = len(reader.slot) - reader.filled if reader.slot is not None else reader.connection.wanted
        assert size > 0
        assert start + size <= len(data)
        reader.feed(data[start : start + size])
        start += size
    assert reader.events == said
    assert reader.buffered_payload == 0


def test_a_channel_may_read_ahead_to_the_end_of_the_batch_header(
    header: BatchHeader, limits: BatchLimits
) -> None:
    reader = copying_destination()
    data = frame(BATCHES[0][0]) + PAYLOADS[0]
    reader.feed(data[: FRAME_BYTES + HEADER_BYTES])
    assert reader.slot is not None
    assert reader.buffered_payload == 0


def copying_destination() -> Reader:
    reader = Reader(Role.DESTINATION)
    reader.feed(PREAMBLE + frame(OFFER))
    assert reader.connection.state is State.COPYING
    return reader


def greeted(role: Role, state: State = State.OPENING) -> Connection:
    connection = Connection(role)
    connection.receive_data(PREAMBLE)
    assert connection.next_event() is None
    connection.state = state
    return connection


MUTATIONS = st.lists(
    st.tuples(st.integers(0, len(SOURCE_STREAM)), st.integers(0, 8), st.binary(max_size=12)),
    min_size=1,
    max_size=4,
)


@given(st.sampled_from(STREAMS), MUTATIONS, SPLITS)
def test_mutated_streams_raise_protocol_errors_only(
    stream: tuple[Role, bytes, list[Event | bytes]], mutations: list[tuple[int, int, bytes]], sizes: list[int]
) -> None:
    role, data, _ = stream
    for place, removed, inserted in mutations:
        data = data[:place] + inserted + data[place + removed :]
    feed_hostile(Reader(role), cut(data, sizes))


@given(st.sampled_from(Role), st.booleans(), st.binary(max_size=400), SPLITS)
def test_random_bytes_raise_protocol_errors_only(
    role: Role, greets: bool, data: bytes, sizes: list[int]
) -> None:
    feed_hostile(Reader(role), cut(PREAMBLE * greets + data, sizes))


@given(
    st.sampled_from(Role),
    st.lists(
        st.tuples(
            st.integers(0, 70), st.sampled_from([0, 0, 0, 0, 1]), st.binary(max_size=60) | st.just(b"\x80")
        ),
        max_size=12,
    ),
    SPLITS,
)
def test_random_frames_raise_protocol_errors_only(
    role: Role, frames: list[tuple[int, int, bytes]], sizes: list[int]
) -> None:
    data = b"".join(FRAME.pack(number, flags, 0, len(body)) + body for number, flags, body in frames)
    reader = copying_destination() if role is Role.DESTINATION else Reader(role)
    feed_hostile(reader, cut(PREAMBLE * (role is Role.SOURCE) + data, sizes))


def feed_hostile(reader: Reader, chunks: Iterable[bytes]) -> None:
    connection, broken = reader.connection, None
    try:
        for chunk in chunks:
            reader.feed(chunk)
        connection.receive_eof()
    except ProtocolError as error:
        broken = error
    except ConnectionLostError:
        assert not connection.finished
    if broken is not None:
        connection.receive_data(b"what comes after is dropped")
        assert len(connection._buffer) == 0
        with pytest.raises(ProtocolError) as again:
            connection.next_event()
        assert again.value is broken
        connection.receive_eof()


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("state", State)
def test_every_state_and_message_is_allowed_or_an_error(
    role: Role, state: State, messages: dict[type[Message], Message]
) -> None:
    frames: dict[type[Event], bytes] = {cls: frame(message) for cls, message in messages.items()}
    frames[BatchHeader] = frame(BATCHES[0][0])
    assert set(frames) == {*MESSAGES.values(), BatchHeader}
    for kind, data in frames.items():
        connection = greeted(role, state)
        connection.agree(LIMITS)
        connection.receive_data(data)
        after = TRANSITIONS[role.peer][state].get(kind)
        if state in FINAL_STATES:
            assert connection.next_event() is None
            assert connection.state is state
        elif after is None:
            with pytest.raises(ProtocolError, match=f"sent {kind.__name__} in the state {state}"):
                connection.next_event()
            assert connection.state is state
        else:
            assert type(connection.next_event()) is kind
            assert connection.state is after


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("state", State)
def test_sending_out_of_turn_is_a_local_error(
    role: Role, state: State, messages: dict[type[Message], Message]
) -> None:
    for cls, message in messages.items():
        connection = greeted(role, state)
        after = TRANSITIONS[role][state].get(cls)
        if after is None:
            with pytest.raises(LocalProtocolError, match=f"may not send {cls.__name__} in {state}"):
                connection.send(message)
            assert connection.state is state
        else:
            assert connection.send(message) == frame(message)
            assert connection.state is after


def test_batches_are_sent_within_the_limits_only() -> None:
    header = BATCHES[0][0]
    connection = greeted(Role.SOURCE, State.COPYING)
    with pytest.raises(LocalProtocolError, match="agree"):
        connection.send_batch(header)
    connection.agree(LIMITS)
    assert connection.send_batch(header) == frame(header)
    with pytest.raises(LocalProtocolError, match="cannot send a batch: region 1 of 1"):
        connection.send_batch(BatchHeader(1, 1, 1, 2, 1, 1, 0, 1, 0, 1, 60, 0))
    connection.state = State.SWITCHING
    with pytest.raises(LocalProtocolError, match="may not send BatchHeader"):
        connection.send_batch(header)
    with pytest.raises(LocalProtocolError, match="once"):
        connection.agree(LIMITS)


def test_batch_before_limits_were_agreed_on_is_an_error() -> None:
    connection = greeted(Role.DESTINATION, State.COPYING)
    connection.receive_data(frame(BATCHES[0][0]))
    with pytest.raises(ProtocolError, match="before its limits"):
        connection.next_event()


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (FRAME.pack(0, 0, 0, 1), "unknown frame: type 0"),
        (FRAME.pack(200, 0, 0, 1), "unknown frame: type 200"),
        (FRAME.pack(Ping.type_id, 1, 0, 1), "flags 1"),
        (FRAME.pack(Ping.type_id, 0, 1, 1), "unknown frame"),
        (FRAME.pack(Ping.type_id, 0, 0, 0), "Ping of 0 bytes"),
        (FRAME.pack(Cancel.type_id, 0, 0, Cancel.body_limit + 1), "Cancel of 32769 bytes, 1 to 32768"),
        (FRAME.pack(RoundEnd.type_id, 0, 0, (1 << 32) - 1), "RoundEnd of 4294967295 bytes"),
        (FRAME.pack(BATCH_TYPE, 0, 0, HEADER_BYTES - 1), "BatchHeader of 51 bytes"),
        (FRAME.pack(BATCH_TYPE, 0, 0, HEADER_BYTES + LIMITS.max_payload + 1), "BatchHeader of"),
        (FRAME.pack(BATCH_TYPE, 0, 0, HEADER_BYTES + 61) + BATCHES[0][0].pack(), "a batch of 113 bytes has"),
        (
            FRAME.pack(BATCH_TYPE, 0, 0, HEADER_BYTES + 60) + bytes(HEADER_BYTES),
            "batch header is wrong: round 0",
        ),
    ],
)
def test_bad_frames_are_refused_before_their_body(data: bytes, why: str) -> None:
    reader = copying_destination()
    with pytest.raises(ProtocolError, match=why):
        reader.feed(data)


def test_a_declared_length_allocates_nothing() -> None:
    reader = copying_destination()
    tracemalloc.start()
    try:
        for data in (
            frame(BATCHES[0][0]),
            PAYLOADS[0],
            FRAME.pack(RoundEnd.type_id, 0, 0, RoundEnd.body_limit),
        ):
            reader.feed(data)
        with pytest.raises(ProtocolError):
            reader.feed(b"\xdf\xff\xff\xff\xff" + bytes(RoundEnd.body_limit - 5))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1 << 20


@pytest.mark.parametrize(
    ("greeting", "why"),
    [
        (b"H", "does not speak"),
        (b"HTTP/1.1 400 Bad Request\r\n", "does not speak"),
        (b"\x15\x03\x01\x00\x02\x02", "does not speak"),
        (b"MIGRATS", "does not speak"),
        (b"MIGRATE\x02", "wire format 2, this side 1"),
        (b"MIGRATE\x00", "wire format 0"),
    ],
)
def test_a_stranger_is_known_by_its_first_bytes(greeting: bytes, why: str) -> None:
    connection = Connection(Role.SOURCE)
    connection.receive_data(greeting)
    with pytest.raises(ProtocolError, match=why) as caught:
        connection.next_event()
    assert caught.value.hint


def test_after_a_protocol_error_this_side_can_still_say_why() -> None:
    reader = copying_destination()
    with pytest.raises(ProtocolError):
        reader.feed(FRAME.pack(200, 0, 0, 1))
    failed = Failed("protocol", "unknown frame")
    assert reader.connection.send(failed) == frame(failed)
    assert reader.connection.state is State.FAILED


@pytest.mark.parametrize("state", State)
def test_eof_is_a_loss_unless_the_session_was_over(state: State) -> None:
    connection = greeted(Role.SOURCE, state)
    if state in FINAL_STATES:
        connection.receive_eof()
        return
    with pytest.raises(
        ConnectionLostError, match=f"the destination closed the connection in the state {state}"
    ):
        connection.receive_eof()


def test_eof_before_the_preamble_hints_at_strangers() -> None:
    with pytest.raises(ConnectionLostError, match="is it migrated"):
        Connection(Role.SOURCE).receive_eof()


def test_what_arrives_after_the_end_is_dropped() -> None:
    reader = copying_destination()
    reader.connection.send(Failed("resources", "no memory"))
    assert reader.connection.finished
    for _ in range(3):
        reader.connection.receive_data(bytes(MAX_BUFFERED))
        assert reader.connection.next_event() is None
    assert len(reader.connection._buffer) == 0
    assert reader.connection.wanted == READ_BYTES
    reader.connection.receive_eof()


def test_failing_in_the_middle_of_a_payload_ends_it() -> None:
    reader = copying_destination()
    reader.feed(frame(BATCHES[0][0]) + PAYLOADS[0][:5])
    reader.connection.send(Failed("resources", "no memory"))
    assert reader.connection.wanted == READ_BYTES
    reader.connection.receive_data(PAYLOADS[0][5:])
    reader.connection.payload_done()


def test_what_crosses_a_cancel_is_still_understood() -> None:
    source = greeted(Role.SOURCE, State.SWITCHING)
    source.send(Cancel("a person asked"))
    crossing = (Progress(1, 4096), RoundDone(2), Ready(), Aborted("as asked"))
    source.receive_data(b"".join(frame(message) for message in crossing))
    assert tuple(source.next_event() for _ in crossing) == crossing
    assert source.state is State.ABORTED


def test_a_cancel_between_a_frames_header_and_its_body() -> None:
    source = greeted(Role.SOURCE, State.SWITCHING)
    ready = frame(Ready())
    source.receive_data(ready[:FRAME_BYTES])
    assert source.next_event() is None
    source.send(Cancel("a person asked"))
    source.receive_data(ready[FRAME_BYTES:])
    assert source.next_event() == Ready()
    assert source.state is State.CANCELLING


@pytest.mark.parametrize(
    ("outcome", "state"), [(Running(), State.DONE), (Aborted("never ran"), State.ABORTED)]
)
def test_commit_as_first_message_asks_for_the_outcome(outcome: Message, state: State) -> None:
    source, destination = greeted(Role.SOURCE), greeted(Role.DESTINATION)
    destination.receive_data(source.send(Commit(MIGRATION)))
    assert destination.next_event() == Commit(MIGRATION)
    source.receive_data(destination.send(outcome))
    assert source.next_event() == outcome
    assert source.state is destination.state is state


def test_misuse_of_payloads_is_a_local_error() -> None:
    connection = greeted(Role.DESTINATION, State.COPYING)
    connection.agree(LIMITS)
    with pytest.raises(LocalProtocolError, match="no payload"):
        connection.payload_done()
    assert connection.take_buffered(memoryview(bytearray(10))) == 0
    header, payload = BATCHES[0]
    connection.receive_data(frame(header) + payload[:10])
    assert connection.next_event() == header
    assert connection.next_event() is None
    with pytest.raises(LocalProtocolError, match="read by the caller"):
        connection.receive_data(payload[10:])
    with pytest.raises(LocalProtocolError, match="take_buffered"):
        connection.payload_done()
    slot = bytearray(1000)
    assert connection.take_buffered(memoryview(slot)[:4]) == 4
    assert connection.take_buffered(memoryview(slot)[4:]) == 6
    assert slot[:10] == payload[:10]
    connection.payload_done()
    assert connection.wanted == FRAME_BYTES


def test_buffered_payload_ends_where_the_next_frame_begins() -> None:
    connection = greeted(Role.DESTINATION, State.COPYING)
    connection.agree(LIMITS)
    header, payload = BATCHES[0]
    connection.receive_data(frame(header) + payload + frame(Ping()))
    assert connection.next_event() == header
    slot = bytearray(1000)
    assert connection.take_buffered(memoryview(slot)) == len(payload)
    connection.payload_done()
    assert connection.next_event() == Ping()


def test_wanted_is_what_the_current_unit_still_needs() -> None:
    connection = Connection(Role.DESTINATION)
    data = PREAMBLE + frame(OFFER)
    for end in range(len(data)):
        behind_header = end >= len(PREAMBLE) + FRAME_BYTES
        unit_end = len(PREAMBLE) if end < len(PREAMBLE) else len(PREAMBLE) + FRAME_BYTES
        assert connection.wanted == (len(data) if behind_header else unit_end) - end
        connection.receive_data(data[end : end + 1])
        event = connection.next_event()
    assert event == OFFER


def test_what_stands_behind_the_last_message_is_not_kept() -> None:
    for end in (Aborted("never ran"), Running()):
        connection = greeted(Role.SOURCE, State.COMMITTING)
        connection.receive_data(frame(end) + bytes(1000))
        assert connection.next_event() == end
        assert len(connection._buffer) == 0
        assert connection.next_event() is None


def test_reads_without_asking_for_events_are_bounded() -> None:
    connection = greeted(Role.DESTINATION)
    connection.receive_data(bytes(MAX_BUFFERED))
    with pytest.raises(LocalProtocolError, match="without asking"):
        connection.receive_data(b"x")


def test_message_too_long_is_a_local_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Cancel, "body_limit", 10)
    connection = greeted(Role.SOURCE)
    with pytest.raises(LocalProtocolError, match="cannot send: Cancel"):
        connection.send(Cancel("too long"))
    assert connection.state is State.OPENING
