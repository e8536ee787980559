"""The format on the wire, frozen. A test that fails here means: an older peer no longer understands us."""

from dataclasses import replace

import pytest

from migrated.protocol import Connection, Role, State
from migrated.protocol.batch import BatchHeader, BatchLimits
from migrated.protocol.frames import FRAME_BYTES, PREAMBLE
from migrated.protocol.messages import MESSAGES, Message
from migrated.protocol.packing import unpack
from migrated.protocol.states import TRANSITIONS

FROZEN = {
    "Query": "010000000100000080",
    "Offer": (
        "020000002a0100008eab6d696e5f76657273696f6e01ab6d61785f76657273696f6e01ac6d6967726174696f6e5f6964"
        "d9203031323334353637383961626364656630313233343536373839616263646566a56775657374a3776562a46b696e"
        "64a464656d6fa9706167655f73697a65cd1000a7726567696f6e739282a46e616d65a66d656d6f7279aa73697a655f62"
        "79746573ce0010000082a46e616d65a46d6f7265aa73697a655f6279746573cd1000a6636f6465637382a47a73746493"
        "010203a36c7a349101ab62617463685f706167657340ab6469676573745f73656564cfffffffffffffffffb26465636f"
        "6d70726573735f776f726b65727302ab7665726966795f66756c6cc3a8666561747572657391a564656c7461a673656e"
        "646572ae6d6967726174656420302e312e30"
    ),
    "RoundEnd": "040000001900000083a5726f756e6401a76261746368657303a57061676573ccc8",
    "DeviceState": "050000000b00000081a464617461c4030001ff",
    "DeviceStateEnd": "060000001100000082a473697a6503a8636865636b73756d4d",
    "Estimate": (
        "0a0000006d00000085af72656d61696e696e675f627974657301b472656d61696e696e675f776972655f627974"
        "657302b664697274795f62797465735f7065725f7365636f6e6403b5776972655f62797465735f7065725f7365"
        "636f6e6404b465787065637465645f646f776e74696d655f6d7305"
    ),
    "Digest": "070000001f00000082a57465726d7392cfffffffffffffffff00ab7761735f72756e6e696e67c3",
    "Commit": (
        "080000003b00000082ac6d6967726174696f6e5f6964d920303132333435363738396162636465663031323334"
        "3536373839616263646566a97061757365645f6d7300"
    ),
    "Cancel": (
        "090000002600000082a6726561736f6eae6120706572736f6e2061736b6564a4636f6465a963616e63656c6c6564"
    ),
    "Capabilities": (
        "21000000a600000089a8736f667477617265ae6d6967726174656420302e312e30ab6d696e5f76657273696f6e01ab6d"
        "61785f76657273696f6e01a6636f6465637381a36c7a34920109a8666561747572657391a564656c7461a66775657374"
        "7391aa776562202864656d6f29b06d61785f726567696f6e5f6279746573cf0000010000000000af62617463685f7061"
        "6765735f6d6178cd0200b26465636f6d70726573735f776f726b65727302"
    ),
    "Accept": (
        "220000004c00000085a776657273696f6e01a6636f6465637392a47a737464a36c7a34ab62617463685f706167657340"
        "b26465636f6d70726573735f776f726b65727302a8666561747572657391a564656c7461"
    ),
    "Refuse": (
        "230000003200000083a4636f6465a5636f646563a477686174af6e6f20636f6d6d6f6e20636f646563a468696e74ab69"
        "6e7374616c6c206f6e65"
    ),
    "Progress": (
        "240000003300000083a76261746368657302a97261775f6279746573cf0000000200000000b2756e7061636b5f706963"
        "6f7365636f6e6473cd05dc"
    ),
    "RoundDone": "250000000800000081a5726f756e6401",
    "Ready": "260000000100000080",
    "Running": "270000000100000080",
    "Aborted": "280000001b00000081a6726561736f6eb2746865206469676573742064696666657273",
    "Failed": (
        "290000002e00000083a4636f6465a97265736f7572636573a477686174a96e6f206d656d6f7279a468696e74a9667265"
        "6520736f6d65"
    ),
    "Join": (
        "0b0000004500000082ac6d6967726174696f6e5f6964d9203031323334353637383961626364656630313233343536373839"
        "616263646566ab6469676573745f73656564cfffffffffffffffff"
    ),
    "Copies": (
        "0c0000003100000085a5726f756e6402a6726567696f6e00a5706167657303a472756e73c40c00010203040506070809"
        "0a0ba562617365734d"
    ),
    "Joined": "2a0000000100000080",
    "Ping": "410000000100000080",
    "Pong": "420000000100000080",
}
FROZEN_BATCH = (
    "0300000057000000010000000100000000000201030000003c00000002000000010000000100000023000000efcdab8967452301"
    "0000000000000000"
)
FROZEN_DELTA_BATCH = (
    "0300000063000000010000000100000000000201030000003c0000000200000001000000010000002f000000efcdab8967452301"
    "0200000005000000"
)


def test_every_message_is_frozen() -> None:
    assert set(FROZEN) == {cls.__name__ for cls in MESSAGES.values()}


def test_preamble() -> None:
    assert PREAMBLE.hex() == "4d49475241544501"
    assert Connection(Role.SOURCE).preamble() == PREAMBLE


@pytest.mark.parametrize("name", FROZEN)
def test_message_is_written_and_read_as_ever(name: str, messages: dict[type[Message], Message]) -> None:
    frozen = bytes.fromhex(FROZEN[name])
    cls = MESSAGES[frozen[0]]
    assert cls.__name__ == name
    assert unpack(cls, frozen[FRAME_BYTES:]) == messages[cls]
    assert sent(messages[cls]) == frozen


def sent(message: Message) -> bytes:
    """What a connection sends in the first state that allows it."""
    for role in Role:
        for state in State:
            connection = Connection(role)
            connection.state = state
            if type(message) in TRANSITIONS[role][state]:
                return connection.send(message)
    raise AssertionError(f"nobody may send {message}")


def test_batch_is_written_and_read_as_ever(header: BatchHeader, limits: BatchLimits) -> None:
    check_batch(FROZEN_BATCH, header, limits)


def test_batch_of_deltas_is_written_and_read_as_ever(header: BatchHeader, limits: BatchLimits) -> None:
    deltas = replace(header, payload_bytes=header.payload_bytes + 12, delta_pages=2, delta_words=5)
    check_batch(FROZEN_DELTA_BATCH, deltas, replace(limits, deltas=True))


def check_batch(expected: str, header: BatchHeader, limits: BatchLimits) -> None:
    frozen = bytes.fromhex(expected)
    source, destination = Connection(Role.SOURCE), Connection(Role.DESTINATION)
    for connection in (source, destination):
        connection.state = State.COPYING
        connection.agree(limits)
    assert source.send_batch(header) == frozen
    destination.receive_data(PREAMBLE + frozen)
    assert destination.next_event() == header
