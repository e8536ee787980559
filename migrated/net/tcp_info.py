"""What the kernel knows of a TCP connection (Linux's struct tcp_info)."""

import socket
import struct
from dataclasses import dataclass

__all__ = ["TcpInfo", "tcp_info"]

_APP_LIMITED = 7
_ROUND_TRIP = 68
_DELIVERY_RATE = 160
"""Where it is in the struct: a byte whose lowest bit it is, 4 bytes, 8 bytes."""

_BYTES = _DELIVERY_RATE + 8


@dataclass(frozen=True, slots=True)
class TcpInfo:
    """``round_trip``: the smoothed one, in seconds. ``delivery_rate``: bytes per second at which the peer got what was
    sent last, by its acknowledgements; 0 where that says nothing of the link, since there was too little to send."""

    round_trip: float
    delivery_rate: float


def tcp_info(sock: socket.socket) -> TcpInfo | None:
    """None for a socket that is not TCP's."""
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        return None
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _BYTES)
    (microseconds,) = struct.unpack_from("=I", info, _ROUND_TRIP)
    rate = 0
    if len(info) == _BYTES and not info[_APP_LIMITED] & 1:  # Linux 4.9
        (rate,) = struct.unpack_from("=Q", info, _DELIVERY_RATE)
    return TcpInfo(microseconds * 1e-6, float(rate))
