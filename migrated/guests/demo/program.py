"""The demo guest itself: dirties its memory at a steady rate, proves it without end, says so each second.

It can be stopped at any instruction and go on from a copy of its memory file. A wrong byte ends it with exit
code 12 and the place. ``--standby`` makes going on short: all is loaded, and only a line on stdin is waited
for.

With ``--notify-fd`` it writes ``ready`` (in standby) and ``running`` there, a line each. On stdin a guest in
standby takes ``start`` or ``start-stopped`` (go on, but stopped by SIGSTOP before anything is changed); at
end of file it leaves, so it never outlives who started it without having been started.
"""

import argparse
import contextlib
import fcntl
import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TextIO

import numpy as np

from migrated.errors import GuestError, MigratedError, ResourceError, UsageError
from migrated.guests.demo.content import GROUP_PAGES, pools, stream
from migrated.guests.demo.layout import JOURNAL_PAGES, Counter, Header, Layout, parse_mix, read_runner
from migrated.guests.demo.proof import Prover, check_file
from migrated.guests.demo.state import GuestMemory, create_memory
from migrated.memory.linux import process
from migrated.pages import PAGE_SIZE
from migrated.units import parse_duration, parse_rate, parse_size

__all__ = ["main"]

TICK_NS = 20_000_000
"""50 heartbeats a second: fine enough to see a pause of 40 ms, coarse enough to cost little."""
LONGEST_TICK_NS = 250_000_000
"""More than this since the last tick was a pause: it does not count as run time, and nothing is caught up
on."""
SLOTS_A_TICK = 8
TABLES_EVERY = 10
"""Ticks between two proofs of the tables: 5 proofs a second."""
STATUS_EVERY_NS = 1_000_000_000


def main(argv: Sequence[str] | None = None) -> int:
    """Run the guest, or check a memory file; returns the exit code, as in :mod:`migrated.errors`."""
    options = _parser().parse_args(argv)
    voice = _Voice(json_lines=options.json, quiet=options.quiet)
    try:
        if options.check is not None:
            return _check(options, voice)
        return _run(options, voice)
    except MigratedError as error:
        voice.say(
            {"event": "failed", "reason": error.reason, "what": str(error)}, f"FAILED: {error}", always=True
        )
        print(f"migrated demo: {error}", file=sys.stderr, flush=True)
        return error.exit_code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="migrated demo",
        description="A guest to migrate: its memory is a file that it changes and proves.",
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--file", metavar="FILE", help="the memory file; new, or a guest's with --resume or --standby"
    )
    what.add_argument(
        "--check", metavar="FILE", help="prove every byte of the file of a guest that does not run"
    )
    parser.add_argument("--size", default="512MiB", help="memory of a new guest (default %(default)s)")
    parser.add_argument(
        "--mix",
        default="zero=20,text=40,code=30,random=10",
        help="shares of kinds of pages (default %(default)s)",
    )
    parser.add_argument(
        "--dirty-rate", help="memory rewritten per second, for example 20MB/s (the default) or 0"
    )
    parser.add_argument(
        "--verify-rate", default="16MB/s", help="memory proved per second (default %(default)s)"
    )
    parser.add_argument(
        "--working-set", type=int, default=100, metavar="PERCENT", help="share of pages rewritten"
    )
    parser.add_argument(
        "--punch", action="store_true", help="pages that come to be zero are punched out of the file"
    )
    parser.add_argument("--seed", type=int, default=1, help="another seed, other bytes")
    parser.add_argument("--resume", action="store_true", help="go on from the file")
    parser.add_argument(
        "--standby", action="store_true", help="wait for `start` on stdin, then go on from the file"
    )
    parser.add_argument("--duration", help="stop by itself after this time, for example 10s")
    parser.add_argument("--json", action="store_true", help="print JSON lines")
    parser.add_argument("--quiet", action="store_true", help="print failures only")
    # For who starts a guest in standby: an open and locked memory file, and where to say that it runs.
    parser.add_argument("--fd", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--notify-fd", type=int, help=argparse.SUPPRESS)
    return parser


@dataclass(slots=True)
class _Voice:
    """What the guest says, as text or JSON lines. Nobody listening is no reason to end."""

    json_lines: bool
    quiet: bool
    out: TextIO = field(default_factory=lambda: sys.stdout)

    def say(self, facts: dict[str, object], text: str, *, always: bool = False) -> None:
        if self.quiet and not always:
            return
        with contextlib.suppress(OSError, ValueError):
            print(json.dumps(facts) if self.json_lines else text, file=self.out, flush=True)


def _notify(descriptor: int | None, word: str) -> None:
    if descriptor is not None:
        with contextlib.suppress(OSError):
            os.write(descriptor, f"{word}\n".encode())


def _check(options: argparse.Namespace, voice: _Voice) -> int:
    descriptor = _open(options.check, os.O_RDWR)
    try:
        _lock(descriptor, options.check, fcntl.LOCK_SH)
        found = check_file(descriptor)
    finally:
        os.close(descriptor)
    facts: dict[str, object] = {
        "event": "checked",
        "data_pages": found.data_pages,
        "redone_pages": found.redone_pages,
    }
    redone = f", {found.redone_pages} of them as the journal says" if found.redone_pages else ""
    lines = [f"every byte is right: {found.data_pages} data pages{redone}"]
    lines += [f"{name:>16} {value}" for name, value in found.counters.items() if name != "checksum"]
    voice.say(facts | found.counters, "\n".join(lines))
    return 0


def _open(path: str, flags: int) -> int:
    try:
        return os.open(path, flags | os.O_CLOEXEC, 0o600)
    except FileExistsError as error:
        hint = "--resume goes on from it; remove it for a new guest"
        raise GuestError(f"there is a file {path} already", hint) from error
    except OSError as error:
        raise GuestError(f"cannot open the memory file {path}: {error.strerror}", "check the path") from error


def _lock(descriptor: int, path: str, how: int) -> None:
    """Lock the memory file as long as this process lives: two guests on one file would ruin it."""
    try:
        fcntl.flock(descriptor, how | fcntl.LOCK_NB)
    except BlockingIOError as error:
        pid, _ = read_runner(descriptor)
        raise GuestError(
            f"the memory file {path} is in use, last by process {pid}", "stop that guest first"
        ) from error


def _rate(text: str) -> float:
    """Bytes per second, where 0 is 0 and not - as for links - unlimited."""
    if text.strip().rstrip("bBitkKmMgGps/ ").replace(".", "").strip("0") == "":
        return 0.0
    rate = parse_rate(text)
    if rate == float("inf"):
        raise UsageError(f"the rate {text!r} has no end", "give a rate, for example 20MB/s")
    return rate


def _run(options: argparse.Namespace, voice: _Voice) -> int:
    stop = _Stop()
    dirty_rate = None if options.dirty_rate is None else _rate(options.dirty_rate)
    verify_rate = _rate(options.verify_rate)
    duration = parse_duration(options.duration) if options.duration else None
    pools()
    stopped = False
    if options.standby:
        _notify(options.notify_fd, "ready")
        voice.say({"event": "standby"}, "standing by")
        word = sys.stdin.readline().strip()
        if word not in ("start", "start-stopped"):
            return 0
        stopped = word == "start-stopped"
    going_on = options.resume or options.standby
    if options.fd is not None:
        descriptor = int(options.fd)
    else:
        descriptor = _open(options.file, os.O_RDWR if going_on else os.O_RDWR | os.O_CREAT | os.O_EXCL)
    try:
        _lock(descriptor, options.file, fcntl.LOCK_EX)
        if not going_on:
            try:
                _create(descriptor, options, 20e6 if dirty_rate is None else dirty_rate, voice)
            except BaseException:
                os.unlink(options.file)  # noqa: PTH108 - what was just made by its name
                raise
        memory = GuestMemory(descriptor)
        memory.settle_in(os.getpid(), process.start_time(os.getpid()))
        _notify(options.notify_fd, "running")
        if options.notify_fd is not None:
            os.close(options.notify_fd)
        if stopped:
            os.kill(os.getpid(), signal.SIGSTOP)
        guest = _Guest(
            memory, voice, memory.header.dirty_rate if dirty_rate is None else dirty_rate, verify_rate
        )
        guest.run(stop, duration)
    finally:
        os.close(descriptor)
    return 0


def _create(descriptor: int, options: argparse.Namespace, dirty_rate: float, voice: _Voice) -> None:
    size = parse_size(options.size)
    if not 0 <= options.seed < 2**63:
        raise UsageError(f"the seed {options.seed} is out of range", "give 0 to 2^63-1")
    header = Header(
        size, options.seed, parse_mix(options.mix), dirty_rate, options.working_set, options.punch
    )
    Layout.of(size)
    space = os.fstatvfs(descriptor)
    filled = size - size * header.shares[0] // sum(header.shares)
    if filled > space.f_bavail * space.f_frsize:
        raise UsageError(
            f"no room for {filled} bytes of memory where {options.file} is", "take another place or size"
        )
    began = time.monotonic()
    try:
        create_memory(descriptor, header)
    except OSError as error:
        raise ResourceError(
            f"cannot fill {options.file}: {error.strerror}", "take another place or size"
        ) from error
    took = time.monotonic() - began
    voice.say(
        {"event": "filled", "bytes": filled, "seconds": took}, f"filled {filled >> 20} MiB in {took:.1f} s"
    )


class _Stop:
    """Set by SIGTERM and SIGINT: the guest ends between two operations."""

    def __init__(self) -> None:
        self.asked = False
        for number in (signal.SIGTERM, signal.SIGINT):
            with contextlib.suppress(
                ValueError
            ):  # not the main thread: a caller of main() stops it by --duration
                signal.signal(number, self._ask)

    def _ask(self, *_: object) -> None:
        self.asked = True


class _Guest:
    """The guest at work."""

    def __init__(self, memory: GuestMemory, voice: _Voice, dirty_rate: float, verify_rate: float) -> None:
        self._memory = memory
        self._voice = voice
        self._prover = Prover(memory)
        self._bytes_per_ns = dirty_rate / 1e9
        self._proofs_per_ns = verify_rate / (GROUP_PAGES * PAGE_SIZE) / 1e9
        self._due = 0.0
        self._proofs_due = 0.0
        self._proved = {Counter.PAGES_VERIFIED: 0, Counter.TABLES_VERIFIED: 0, Counter.SWEPT: 0}

    def run(self, stop: _Stop, duration: float | None) -> None:
        """Tick until asked to stop, or for ``duration`` seconds; raises WrongByteError for a wrong byte."""
        self._say_running()
        began = last = said = time.monotonic_ns()
        written, gap = self._memory.counter(Counter.PAGES_WRITTEN), 0
        ending = None if duration is None else began + int(duration * 1e9)
        while not stop.asked and (ending is None or last < ending):
            time.sleep(max(0, last + TICK_NS - time.monotonic_ns()) / 1e9)
            now = time.monotonic_ns()
            gap = max(gap, now - last)
            self._tick(min(now - last, LONGEST_TICK_NS))
            last = now
            if now - said >= STATUS_EVERY_NS:
                total = self._memory.counter(Counter.PAGES_WRITTEN)
                self._say_status((total - written) * PAGE_SIZE * 1e9 / (now - said), gap)
                said, written, gap = now, total, 0
        self._voice.say({"event": "stopped"}, "stopped; --resume goes on from here")

    def _tick(self, elapsed: int) -> None:
        memory = self._memory
        self._due += elapsed * self._bytes_per_ns / PAGE_SIZE
        heartbeat = {Counter.HEARTBEATS: 1, Counter.RUN_NS: elapsed, Counter.WALL_NS: time.time_ns()}
        pages = self._take(int(self._due))
        draw = stream(memory.header.seed + 1, memory.counter(Counter.RANDOM), 2 * SLOTS_A_TICK)
        slots = np.unique((draw[:SLOTS_A_TICK] % np.uint64(memory.layout.table_slots)).astype(np.int64))
        values = draw[SLOTS_A_TICK : SLOTS_A_TICK + len(slots)]
        moved = {Counter.RANDOM: 2 * SLOTS_A_TICK + len(pages)}
        memory.commit(pages, slots, values, heartbeat | moved | self._proved)
        self._due -= len(pages)
        self._proved = dict.fromkeys(self._proved, 0)
        while self._due >= JOURNAL_PAGES and len(memory.writable_groups) and len(pages):
            pages = self._take(JOURNAL_PAGES)
            memory.commit(
                pages, slots[:0], values[:0], {Counter.RANDOM: len(pages), Counter.WALL_NS: time.time_ns()}
            )
            self._due -= len(pages)
        self._prove(elapsed)

    def _take(self, count: int) -> "np.ndarray[tuple[int], np.dtype[np.int64]]":
        """Some ``count`` pages to rewrite, each once; fewer if the draw named one twice."""
        memory = self._memory
        count, groups = min(count, JOURNAL_PAGES), memory.writable_groups
        if not len(groups):
            return np.empty(0, dtype=np.int64)
        draw = stream(memory.header.seed + 2, memory.counter(Counter.RANDOM), count)
        place = np.unique((draw % np.uint64(len(groups) * GROUP_PAGES)).astype(np.int64))
        return groups[place // GROUP_PAGES] * GROUP_PAGES + place % GROUP_PAGES

    def _prove(self, elapsed: int) -> None:
        """Prove the groups that are due, every other one in order and the rest at random, and at times the
        tables."""
        memory, layout, proved = self._memory, self._memory.layout, self._proved
        self._proofs_due += elapsed * self._proofs_per_ns
        count = int(self._proofs_due)
        self._proofs_due -= count
        swept = memory.counter(Counter.SWEPT)
        heartbeats = memory.counter(Counter.HEARTBEATS)
        random = stream(memory.header.seed + 3, heartbeats << 20, count)
        for number in range(count):
            if number % 2:
                group = int(random[number]) % layout.groups
            else:
                group = (swept + proved[Counter.SWEPT]) % layout.groups
                proved[Counter.SWEPT] += 1
            proved[Counter.PAGES_VERIFIED] += self._prover.prove_group(group)
        if heartbeats % TABLES_EVERY == 0:
            self._prover.prove_tables()
            proved[Counter.TABLES_VERIFIED] += 1

    def _say_running(self) -> None:
        memory, pid = self._memory, os.getpid()
        operations, started = memory.counter(Counter.OPERATIONS), memory.counter(Counter.WALL_NS)
        away = (time.time_ns() - started) / 1e6 if started else 0.0
        memory.commit(
            np.empty(0, dtype=np.int64),
            np.empty(0, dtype=np.int64),
            np.empty(0, dtype=np.uint64),
            {Counter.STARTS: 1, Counter.WALL_NS: time.time_ns()},
        )
        starts = memory.counter(Counter.STARTS)
        facts = {
            "event": "running",
            "pid": pid,
            "size": memory.header.size,
            "operations": operations,
            "starts": starts,
        }
        text = f"running as process {pid}, start {starts}, {operations} operations done"
        self._voice.say(facts | {"away_ms": away}, f"{text}, away for {away:.0f} ms" if started else text)

    def _say_status(self, rate: float, gap: int) -> None:
        count = self._memory.counter
        facts: dict[str, object] = {
            "event": "status",
            "uptime_s": count(Counter.RUN_NS) / 1e9,
            "heartbeats": count(Counter.HEARTBEATS),
            "operations": count(Counter.OPERATIONS),
            "pages_written": count(Counter.PAGES_WRITTEN),
            "bytes_per_s": rate,
            "pages_verified": count(Counter.PAGES_VERIFIED),
            "tables_verified": count(Counter.TABLES_VERIFIED),
            "longest_gap_ms": gap / 1e6,
        }
        self._voice.say(
            facts,
            f"up {facts['uptime_s']:.0f} s  {facts['operations']} operations  writes {rate / 1e6:.1f} MB/s  "
            f"{facts['pages_verified']} pages proved, all right  gap {gap / 1e6:.0f} ms",
        )
