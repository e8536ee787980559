"""A relay between source and destination that understands frames, and stops or cuts them at a chosen one."""

import contextlib
import socket
import threading
from collections.abc import Callable, Sequence
from typing import Any

from e2e_processes import PATIENCE

from migrated.protocol import BatchHeader, Message
from migrated.protocol.frames import BATCH_TYPE, FRAME, FRAME_BYTES, PREAMBLE
from migrated.protocol.messages import MESSAGES

Kind = type[Message] | type[BatchHeader]


class Held:
    """One frame, waited for; it goes on, or is lost with its connection, when the test says so."""

    def __init__(self, kind: Kind, nth: int) -> None:
        self.kind, self.left = kind, nth
        self._arrived, self._decided = threading.Event(), threading.Event()
        self._pass = True
        self.alone = False

    def wait(self) -> None:
        """Until the frame has come; the connection then stands still in its direction."""
        assert self._arrived.wait(PATIENCE), f"no {self.kind.__name__} came"

    def release(self) -> None:
        """Let it through."""
        self._decided.set()

    def drop(self, *, alone: bool = False) -> None:
        """Lose it, and every connection; ``alone``: only the one that it came over."""
        self._pass, self.alone = False, alone
        self._decided.set()

    def take(self) -> bool:
        self._arrived.set()
        self._decided.wait()
        return self._pass


class Relay:
    """Listens on ``port`` and passes every connection on to ``target``, frame by frame.

    ``refusing`` closes new connections at once. :meth:`close` ends everything.
    """

    def __init__(self, target: int) -> None:
        self.target = target
        self.refusing = False
        self.connections = 0
        self._rules: list[Held] = []
        self._held: list[Held] = []
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def hold(self, kind: Kind, nth: int = 1) -> Held:
        """Stop at the nth frame of this kind from now on, in whichever direction it travels."""
        rule = Held(kind, nth)
        with self._lock:
            self._rules.append(rule)
            self._held.append(rule)
        return rule

    def cut(self, ends: Sequence[socket.socket] | None = None) -> None:
        """Cut these ends, or every connection that there is."""
        with self._lock:
            cut = self._sockets if ends is None else ends
            self._sockets = [each for each in self._sockets if each not in cut]
        for each in cut:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.refusing = True
        self._listener.close()
        for rule in self._held:
            rule.drop()
        self.cut()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            if self.refusing:
                near.close()
                continue
            try:
                far = socket.create_connection(("127.0.0.1", self.target))
            except OSError:
                near.close()
                continue
            with self._lock:
                self._sockets += [near, far]
            alive = [2]
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=self._pump, args=(source, sink, alive), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, alive: list[int]) -> None:
        try:
            with contextlib.suppress(OSError, EOFError):
                sink.sendall(_exactly(source, len(PREAMBLE)))
                while True:
                    head = _exactly(source, FRAME_BYTES)
                    number, _, _, length = FRAME.unpack(head)
                    kind: Kind = BatchHeader if number == BATCH_TYPE else MESSAGES[number]
                    if not self._passes(kind, source, sink):
                        break
                    sink.sendall(head)
                    _copy(source, sink, length)
            with contextlib.suppress(OSError):
                sink.shutdown(socket.SHUT_WR)
        finally:
            with self._lock:
                alive[0] -= 1
                last = not alive[0]
            if last:
                source.close()
                sink.close()

    def _passes(self, kind: Kind, *ends: socket.socket) -> bool:
        with self._lock:
            rule = next((each for each in self._rules if each.kind is kind), None)
            if rule is None:
                return True
            rule.left -= 1
            if rule.left:
                return True
            self._rules.remove(rule)
        if not rule.take():
            self.cut(ends if rule.alone else None)
            return False
        return True


def _exactly(source: socket.socket, count: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        piece = source.recv(count - len(data))
        if not piece:
            raise EOFError
        data += piece
    return bytes(data)


def _copy(source: socket.socket, sink: socket.socket, count: int) -> None:
    while count:
        piece = source.recv(min(count, 1 << 16))
        if not piece:
            raise EOFError
        sink.sendall(piece)
        count -= len(piece)


class Impostor:
    """Something that listens and is no destination: ``talk`` is given every connection that comes."""

    def __init__(self, talk: Callable[[socket.socket], Any]) -> None:
        self._talk = talk
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._open.append(connection)
            with contextlib.suppress(OSError):
                self._talk(connection)

    def close(self) -> None:
        self._listener.close()
        for each in self._open:
            each.close()
