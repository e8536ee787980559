"""Links between namespaces of this host."""

import subprocess
import sys
from pathlib import Path

import pytest

from migrated.bench.hosts import UNLIMITED, link

ROUND_TRIP = 0.05

LISTEN = """
import socket
listener = socket.create_server(("0.0.0.0", 4440))
print("ready", flush=True)
connection, _ = listener.accept()
while data := connection.recv(1 << 16):
    connection.sendall(data)
"""

CALL = """
import socket, sys, time
began = time.monotonic()
with socket.create_connection((sys.argv[1], 4440), 10) as connection:
    print(time.monotonic() - began)
    connection.sendall(b"x" * 100_000)
    connection.shutdown(socket.SHUT_WR)
    size = 0
    while data := connection.recv(1 << 16):
        size += len(data)
    print(size)
"""


@pytest.mark.slow
@pytest.mark.root
@pytest.mark.needs("netns", "ip", "tc")
def test_a_far_link_takes_its_time_and_loses_nothing() -> None:
    if not Path("/dev/net/tun").exists():
        pytest.skip("kernel: no devices whose other end is a program")
    with link(UNLIMITED, ROUND_TRIP) as far:
        before = far.sent_bytes()
        listen = [*far.destination.prefix, sys.executable, "-c", LISTEN]
        with subprocess.Popen(listen, stdout=subprocess.PIPE, text=True) as there:
            assert there.stdout is not None
            assert there.stdout.readline() == "ready\n"
            call = [*far.source.prefix, sys.executable, "-c", CALL, far.destination.address]
            done = subprocess.run(call, capture_output=True, text=True, timeout=60, check=True)
        connecting, echoed = done.stdout.split()
        assert float(connecting) >= ROUND_TRIP
        assert int(echoed) == 100_000
        assert far.sent_bytes() - before > 100_000
    names = subprocess.run(["ip", "-br", "link"], capture_output=True, text=True, check=True).stdout
    assert far.interface not in names
