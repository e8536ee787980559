"""What the kernel tells of a TCP connection."""

import contextlib
import socket
import struct

import pytest

from migrated.net.channel import SocketChannel
from migrated.net.tcp_info import TcpInfo, tcp_info
from migrated.protocol import Role


class Told:
    """A socket of whose connection the kernel says ``info``."""

    def __init__(self, info: bytes) -> None:
        self.family = socket.AF_INET
        self.info = info

    def getsockopt(self, level: int, option: int, length: int) -> bytes:
        assert (level, option) == (socket.IPPROTO_TCP, socket.TCP_INFO)
        return self.info[:length]


def struct_of(*, app_limited: bool) -> bytes:
    """A struct tcp_info of 232 bytes: 2500 us, 125 MB/s."""
    made = bytearray(232)
    made[7] = 0b110 | app_limited
    struct.pack_into("=I", made, 68, 2500)
    struct.pack_into("=Q", made, 160, 125_000_000)
    return bytes(made)


@pytest.mark.parametrize(
    ("info", "expected"),
    [
        (struct_of(app_limited=False), TcpInfo(0.0025, 125e6)),
        (struct_of(app_limited=True), TcpInfo(0.0025, 0.0)),
        (struct_of(app_limited=False)[:104], TcpInfo(0.0025, 0.0)),  # before Linux 4.9
    ],
)
def test_the_struct(info: bytes, expected: TcpInfo) -> None:
    assert tcp_info(Told(info)) == expected  # type: ignore[arg-type]


def test_a_socket_of_this_host_has_none() -> None:
    near, far = socket.socketpair()
    with near, far:
        assert tcp_info(near) is None


async def test_a_connection_that_had_more_to_send_than_it_could() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as far:
        far.connect(server.getsockname())
        near, _ = server.accept()
        channel = await SocketChannel(near, Role.DESTINATION, idle_timeout=60.0, peer="source").start()
        try:
            sent = 0
            with contextlib.suppress(BlockingIOError):
                while True:
                    sent += near.send(bytes(1 << 20))
            while sent:
                sent -= len(far.recv(sent))
            assert channel.round_trip > 0
            assert channel.delivery_rate > 0
            channel.set_rate(1e6)
            assert channel.delivery_rate == 0, "the limit is not the link's"
        finally:
            await channel.close()
