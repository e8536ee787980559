"""The bodies of control messages: one msgpack map each, with the field names as keys."""

import msgpack  # type: ignore[import-untyped]

from migrated.errors import ProtocolError
from migrated.protocol.messages import MAX_DEVICE_STATE_CHUNK, Message
from migrated.protocol.records import MAX_TEXT

__all__ = ["pack", "unpack"]


def pack(message: Message) -> bytes:
    """The body of ``message``; ``ValueError`` if it is longer than its kind may be."""
    body: bytes = msgpack.packb(message.to_wire())
    if len(body) > message.body_limit:
        raise ValueError(f"{type(message).__name__} has {len(body)} bytes, {message.body_limit} are allowed")
    return body


def unpack(cls: type[Message], body: bytes) -> Message:
    """The message of kind ``cls`` in ``body``; :class:`migrated.errors.ProtocolError` if there is none."""
    try:
        content = msgpack.unpackb(
            body,
            use_list=False,
            max_str_len=4 * MAX_TEXT,
            max_bin_len=MAX_DEVICE_STATE_CHUNK,
            max_array_len=1024,
            max_map_len=64,
            max_ext_len=0,
        )
        if not isinstance(content, dict):
            raise ValueError("the body is no map")  # noqa: TRY004
        return cls.from_wire(content)
    except (ValueError, msgpack.UnpackException) as error:
        raise ProtocolError(f"the peer's {cls.__name__} cannot be read: {error}") from error
