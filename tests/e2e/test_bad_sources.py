"""A daemon is told everything but the truth: it answers, leaves nothing behind, and serves the next one."""

import contextlib
import random
import select
import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from e2e_host import Daemon, Host, a_host
from e2e_processes import PATIENCE, wait_until
from e2e_wire import PAGE, Liar, a_batch, an_offer, compressed, frame

from migrated.compression.delta import bases_hash
from migrated.compression.digest import page_terms
from migrated.protocol import (
    Aborted,
    Accept,
    Capabilities,
    Commit,
    Copies,
    Digest,
    Failed,
    Message,
    Offer,
    Ping,
    Progress,
    Query,
    Ready,
    Refuse,
    RegionInfo,
    RoundDone,
    RoundEnd,
)
from migrated.protocol.frames import FRAME, PREAMBLE

pytestmark = pytest.mark.slow

GUESTS = 12


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[Host, Daemon]]:
    """One daemon for all of them: it has to survive them all."""
    with a_host() as host:
        guests = {f"g{number}": host.entry(f"g{number}", "shm") for number in range(GUESTS)}
        guests |= {"demo": host.entry("demo"), "db": host.entry("db", "shm", resume=["true"])}
        limits = {"max_region": "64MiB", "handshake_timeout": "500ms", "max_migrations": 20}
        daemon = host.serve(guests, **limits)
        yield host, daemon
        assert "Traceback" not in daemon.err.text
        # After all that it moves a guest as if nothing had been.
        guest = host.demo("demo", "4MiB")
        host.started()
        host.send(guest, daemon).report()
        host.goes_on("demo", "there")


def nothing_left(host: Host, daemon: Daemon) -> None:
    wait_until(lambda: not list(host.there.iterdir()), "no files left there")
    wait_until(lambda: not host.workers(daemon), "no workers left")


def still_serves(daemon: Daemon) -> None:
    with Liar(daemon.port) as liar:
        assert isinstance(liar.ask(Query()), Capabilities)


def assert_failed(liar: Liar, code: str) -> None:
    """All that it still says is that this failed."""
    told = [each for each in liar.last() if not isinstance(each, Progress | RoundDone)]
    assert [type(each) for each in told] == [Failed], told
    assert told[0].code == code, told


NOISE = random.Random(7)


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + NOISE.randbytes(500),
        b"\r\n",
        b"MIGRATE\xff",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        NOISE.randbytes(100_000),
        bytes(64),
        PREAMBLE + NOISE.randbytes(50_000),
        PREAMBLE + FRAME.pack(2, 0, 0, 0xFFFFFFFF),
        PREAMBLE + FRAME.pack(2, 0, 0, 1 << 30) + bytes(1 << 20),
        PREAMBLE + FRAME.pack(2, 0, 0, 0),
        PREAMBLE + FRAME.pack(0, 0, 0, 1) + b"\x80",
        PREAMBLE + FRAME.pack(2, 1, 0, 1) + b"\x80",
        PREAMBLE + FRAME.pack(250, 0, 0, 5) + b"hello",
        PREAMBLE + FRAME.pack(2, 0, 0, 1) + b"\xc1",
        PREAMBLE + FRAME.pack(2, 0, 0, 5) + b"\xdf\xff\xff\xff\xff",
        PREAMBLE + FRAME.pack(2, 0, 0, 200) + b"\x91" * 200,
        PREAMBLE + frame(RoundEnd(1, 0, 0)),
        PREAMBLE + frame(Digest((1,), was_running=True)),
        PREAMBLE + a_batch(),
        PREAMBLE + frame(Refuse("protocol", "you?")),
    ],
    ids=lambda garbage: garbage[:24].hex(),
)
def test_garbage_from_the_first_byte(served: tuple[Host, Daemon], garbage: bytes) -> None:
    host, daemon = served
    with Liar(daemon.port, greet=False) as liar:
        try:
            liar.say(garbage)
            liar.socket.shutdown(socket.SHUT_WR)
        except ConnectionError:
            pass  # it had heard enough
        assert all(isinstance(each, Failed | Refuse) for each in liar.last())
    still_serves(daemon)
    nothing_left(host, daemon)


def test_who_says_nothing_is_hung_up_on(served: tuple[Host, Daemon]) -> None:
    _, daemon = served
    for greet in (True, False):
        with Liar(daemon.port, greet=greet) as liar:
            assert not [each for each in liar.last() if not isinstance(each, Failed)]
    still_serves(daemon)


OFFERS: dict[str, tuple[Offer, str]] = {
    "unknown guest": (an_offer("nobody"), "guest-unknown"),
    "another kind": (an_offer("g0", kind="demo"), "guest-kind"),
    "newer version": (an_offer("g0", min_version=99, max_version=120), "version"),
    "no shared codec": (an_offer("g0", codecs={"brotli": (1,)}), "codec"),
    "large region": (an_offer("g0", size=65 << 20), "region-too-large"),
    "huge region": (an_offer("g0", size=PAGE * ((1 << 32) - 1)), "region-too-large"),
    "huge pages": (an_offer("g0", size=64 << 20, page_size=2 << 20, batch_pages=1), "page-size"),
    "two regions": (
        an_offer("g0", regions=(RegionInfo("a", PAGE), RegionInfo("b", PAGE))),
        "guest",
    ),
    "odd demo": (an_offer("demo", kind="demo", size=PAGE), "usage"),
}


@pytest.mark.parametrize("case", OFFERS)
def test_offers_that_cannot_be_taken(served: tuple[Host, Daemon], case: str) -> None:
    host, daemon = served
    offer, code = OFFERS[case]
    with Liar(daemon.port) as liar:
        answer = liar.ask(offer)
        assert isinstance(answer, Refuse), answer
        assert answer.code == code
        assert answer.what
    nothing_left(host, daemon)


def test_an_id_is_used_once(served: tuple[Host, Daemon]) -> None:
    host, daemon = served
    offer = an_offer("g1")
    with Liar(daemon.port) as liar:
        assert isinstance(liar.ask(offer), Accept)
        with Liar(daemon.port) as other:
            answer = other.ask(replace(offer, guest="g2"))
            assert isinstance(answer, Refuse)
            assert answer.code == "duplicate"
        with Liar(daemon.port) as other:
            answer = other.ask(an_offer("g1"))
            assert isinstance(answer, Refuse)
            assert answer.code == "guest-busy"
    nothing_left(host, daemon)
    with Liar(daemon.port) as liar:
        answer = liar.ask(offer)
        assert isinstance(answer, Refuse)
        assert answer.code == "duplicate"


def test_the_outcome_of_what_it_never_saw_is_aborted_for_good(served: tuple[Host, Daemon]) -> None:
    _, daemon = served
    offer = an_offer("g1")
    for _ in range(2):
        with Liar(daemon.port) as liar:
            assert isinstance(liar.ask(Commit(offer.migration_id)), Aborted)
    with Liar(daemon.port) as liar:
        answer = liar.ask(offer)
        assert isinstance(answer, Refuse)
        assert answer.code == "duplicate"


def refused_after(served: tuple[Host, Daemon], offer: Offer, code: str, *parts: bytes | Message) -> None:
    """The offer is taken, what is said then is not, and nothing is left of either."""
    host, daemon = served
    with Liar(daemon.port) as liar:
        assert isinstance(liar.ask(offer), Accept)
        liar.say(*parts)
        assert_failed(liar, code)
    nothing_left(host, daemon)


RUN = (0).to_bytes(4, "little") + (1).to_bytes(4, "little")
BEYOND = (300).to_bytes(4, "little") + (1).to_bytes(4, "little")
TABLE = PAGE.to_bytes(4, "little")

LIES: dict[str, tuple[bytes, str]] = {
    "checksum": (a_batch(checksum=1), "integrity"),
    "beyond the region": (a_batch(bytes(PAGE) + BEYOND + TABLE), "integrity"),
    "block too long": (a_batch(bytes(PAGE) + RUN + (5000).to_bytes(4, "little")), "integrity"),
    "block of nothing": (a_batch(bytes(PAGE) + RUN + bytes(4)), "integrity"),
    "run of nothing": (a_batch(bytes(PAGE) + bytes(8) + TABLE), "integrity"),
    "no such region": (a_batch(region=1), "protocol"),
    "no such codec": (a_batch(codec=9, level=1), "protocol"),
    "codec zero": (a_batch(codec=0), "protocol"),
    "level of raw": (a_batch(level=3), "protocol"),
    "too many pages": (a_batch(data_pages=100_000, blocks=1563), "protocol"),
    "more pages than bytes": (a_batch(data_pages=2, blocks=1), "protocol"),
    "no pages": (a_batch(data_pages=0, data_runs=0, blocks=0), "protocol"),
    "huge": (a_batch(payload_bytes=0xF0000000), "protocol"),
    "round to come": (a_batch(round=2), "protocol"),
    "sequence": (a_batch(sequence=2), "protocol"),
    "not lz4": (compressed(b"\xff" * 64), "integrity"),
    "lz4 of less": (compressed(b"\x10a"), "integrity"),
    "not zstd": (compressed(b"nonsense" * 9, codec=3), "integrity"),
    "zstd of more": (
        # A frame that says it holds 128 MiB of zeros.
        compressed(bytes.fromhex("28b52ffda4000000080200feff0100"), codec=3),
        "integrity",
    ),
    "nine zero pages as one": (
        a_batch(RUN, data_pages=0, data_runs=0, blocks=0, zero_pages=9, zero_runs=1),
        "integrity",
    ),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_batch_that_lies(served: tuple[Host, Daemon], lie: str) -> None:
    batch, code = LIES[lie]
    refused_after(served, an_offer("g3"), code, batch)


def copies(**lies: Any) -> bytes:
    """Pages 1 to 3 are copies of page 0, which came in the round before."""
    term = page_terms(memoryview(bytes(range(256)) * 16), PAGE, np.zeros(1, dtype=np.int64), 0, 7)
    true: dict[str, Any] = {
        "round": 2,
        "region": 0,
        "pages": 3,
        "runs": np.array([[1, 0, 1], [2, 0, 1], [3, 0, 1]], dtype="<u4").tobytes(),
        "bases": bases_hash(np.repeat(term, 3)),
    }
    return frame(Copies(**true | lies))


FIRST_ROUND = [a_batch(), frame(RoundEnd(1, 1, 1))]
COPIES_LIES: dict[str, tuple[list[bytes], str]] = {
    "in the first round": ([a_batch(), copies()], "protocol"),
    "in a round to come": ([*FIRST_ROUND, copies(round=3)], "protocol"),
    "after the digest": ([*FIRST_ROUND, frame(Digest((5,), was_running=True)), copies()], "integrity"),
    "no such region": ([*FIRST_ROUND, copies(region=1)], "protocol"),
    "too many": ([*FIRST_ROUND, copies(pages=513)], "protocol"),
    "other bases": ([*FIRST_ROUND, copies(bases=1)], "integrity"),
    "other pages": ([*FIRST_ROUND, copies(pages=4)], "integrity"),
    "half a run": ([*FIRST_ROUND, copies(runs=bytes(7))], "integrity"),
    "beyond the region": (
        [*FIRST_ROUND, copies(runs=np.array([255, 0, 3], dtype="<u4").tobytes())],
        "integrity",
    ),
    "the digest": (
        [*FIRST_ROUND, copies(), frame(RoundEnd(2, 0, 0)), frame(Digest((5,), was_running=True))],
        "integrity",
    ),
    "a digest before the round's end": (
        [*FIRST_ROUND, copies(), frame(Digest((5,), was_running=True))],
        "protocol",
    ),
}


@pytest.mark.parametrize("lie", COPIES_LIES)
def test_copies_that_lie(served: tuple[Host, Daemon], lie: str) -> None:
    parts, code = COPIES_LIES[lie]
    refused_after(served, an_offer("g6", features=("copies",)), code, *parts)


def test_copies_that_were_not_agreed_on(served: tuple[Host, Daemon]) -> None:
    refused_after(served, an_offer("g6"), "protocol", *FIRST_ROUND, copies())


ENDS: dict[str, tuple[list[bytes], str]] = {
    "digest": ([a_batch(), frame(RoundEnd(1, 1, 1)), frame(Digest((5,), was_running=True))], "integrity"),
    "number of digests": ([frame(RoundEnd(1, 0, 0)), frame(Digest((0, 0), was_running=True))], "integrity"),
    "pages of a round": ([a_batch(), frame(RoundEnd(1, 1, 2))], "protocol"),
    "round": ([a_batch(), frame(RoundEnd(2, 1, 1))], "protocol"),
    "commit before ready": ([frame(RoundEnd(1, 0, 0)), frame(Commit("0" * 32))], "protocol"),
    "second offer": ([frame(an_offer("g5"))], "protocol"),
    "an answer": ([frame(RoundDone(1))], "protocol"),
}


@pytest.mark.parametrize("end", ENDS)
def test_what_does_not_fit_what_came(served: tuple[Host, Daemon], end: str) -> None:
    parts, code = ENDS[end]
    refused_after(served, an_offer("g4"), code, *parts)


def test_a_commit_of_another_migration(served: tuple[Host, Daemon]) -> None:
    """The digest of no pages is 0: this guest could run, but it is not what is committed."""
    host, daemon = served
    with Liar(daemon.port) as liar:
        assert isinstance(liar.ask(an_offer("db")), Accept)
        assert isinstance(liar.ask(RoundEnd(1, 0, 0)), RoundDone)
        assert isinstance(liar.ask(Digest((0,), was_running=True)), Ready)
        told = liar.ask(Commit("f" * 32))
        assert isinstance(told, Failed)
        assert told.code == "protocol"
    nothing_left(host, daemon)


@pytest.mark.parametrize("hard", [False, True], ids=["closed", "reset"])
def test_the_connection_ends_at_every_byte_of_the_greeting_and_offer(
    served: tuple[Host, Daemon], hard: bool
) -> None:
    host, daemon = served
    session = PREAMBLE + frame(an_offer("g6"))
    for length in range(len(session)):
        with Liar(daemon.port, greet=False) as liar:
            liar.say(session[:length])
            liar.hang_up(hard=hard)
    still_serves(daemon)
    nothing_left(host, daemon)


def test_the_connection_ends_within_batches_and_rounds(served: tuple[Host, Daemon]) -> None:
    """Each end has a guest of its own, so that all of them are under way at once."""
    host, daemon = served
    batch, end = a_batch(), frame(RoundEnd(1, 1, 1))
    session = batch + end + a_batch(round=2, sequence=2)
    places = [0, 1, 7, 8, 9, 30, 56, 57, len(batch) - 1, len(batch), len(batch) + 3, len(session) - 1]
    liars = []
    for number, place in enumerate(places):
        liar = Liar(daemon.port)
        assert isinstance(liar.ask(an_offer(f"g{number}")), Accept)
        liar.say(session[:place])
        liars.append(liar)
    for number, liar in enumerate(liars):
        liar.hang_up(hard=bool(number % 2))
    nothing_left(host, daemon)
    assert "receiving" not in {each["outcome"] for each in host.records("there").values()}


def test_who_only_pings_is_hung_up_on_too(served: tuple[Host, Daemon]) -> None:
    host, daemon = served
    ending = time.monotonic() + PATIENCE
    with Liar(daemon.port) as liar, contextlib.suppress(ConnectionError):
        while time.monotonic() < ending:
            liar.say(Ping())
            if select.select([liar.socket], [], [], 0.05)[0] and not liar.socket.recv(1 << 16):
                break
    assert time.monotonic() < ending
    still_serves(daemon)
    nothing_left(host, daemon)


def test_many_connections_at_once(served: tuple[Host, Daemon]) -> None:
    _, daemon = served
    crowd = [socket.create_connection(("127.0.0.1", daemon.port), PATIENCE) for _ in range(100)]
    still_serves(daemon)
    for each in crowd:
        each.close()
    still_serves(daemon)
