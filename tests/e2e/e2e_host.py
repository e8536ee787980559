"""One host with both sides on it: folders, settings, a daemon, guests, and what may be left of them all.

``here`` is where guests come from and ``there`` where they arrive, each with memory files and durable records
of its own.
"""

import contextlib
import json
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from e2e_parts import Daemon, Guest, Place, counter, is_dead_socket, runs_on
from e2e_processes import MARK, PATIENCE, Running, Seen, Send, kill, look, marked, wait_until, zombies
from e2e_relay import Impostor, Relay

from migrated.guests.demo.layout import Counter
from migrated.guests.demo.proof import check_file

GRACE = 8.0
"""Seconds that helpers may take to notice that those they worked for are gone."""

_DEMO = "migrated.guests.demo"


class Host:
    """Made by the fixture ``host``. What a test expects to be left it says beforehand:

    ``arrived`` are names of demo guests whose memory stays there, ``kept`` other files; ``stopped`` are pids
    that may be stopped, ``unsettled`` says that the last word on a migration was not spoken.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.here, self.there, self.run = root / "here", root / "there", root / "run"
        for folder in (self.here, self.there, self.run):
            folder.mkdir()
        self.arrived: set[str] = set()
        self.kept: set[Path] = set()
        self.stopped: set[int] = set()
        self.unsettled = False
        self.damaged: set[Path] = set()
        self.daemons: list[Daemon] = []
        self.sends: list[Send] = []
        self.others: list[Running] = []
        self.guests: dict[str, Guest] = {}
        self.relays: list[Relay | Impostor] = []
        self.killed: set[int] = set()
        # How fast this machine is today decides nothing here: one round, and the guest is switched over.
        self._configure("here", {"send": {"downtime": "30s"}})

    # -- starting ----------------------------------------------------------------------------------

    def environment(self, side: str = "here") -> dict[str, str]:
        """For commands of that side."""
        kept = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith(("MIGRATED_", "XDG_")) and key != "PYTHONDONTWRITEBYTECODE"
        }
        return kept | {
            MARK: str(self.root),
            "RUNTIME_DIRECTORY": str(self.run),
            "MIGRATED_CONFIG": str(self.root / f"{side}.toml"),
            "HOME": str(self.root),
        }

    def _configure(self, side: str, tables: dict[str, dict[str, object]]) -> None:
        tables = {"host": {"state_dir": str(self.root / f"state-{side}")}, **tables}
        lines = []
        for table, values in tables.items():
            lines.append(f"[{table}]")
            lines += [f"{key} = {json.dumps(value)}" for key, value in values.items()]
        (self.root / f"{side}.toml").write_text("\n".join(lines) + "\n")

    def demo(self, name: str = "a", size: str = "4MiB", *more: str) -> Guest:
        """A demo guest that runs here."""
        path = self.here / f"{name}.mem"
        command = [sys.executable, "-m", _DEMO, "--file", path, "--size", size, "--json"]
        command += ["--dirty-rate", "1MB/s", *more]
        guest = Guest(name, path, Running(command, self.environment()))
        self.guests[name] = guest
        self.kept.add(path)
        return guest

    def started(self) -> None:
        """Wait until every guest runs."""
        for guest in self.guests.values():
            guest.run.out.wait('"running"')

    def entry(self, name: str, kind: str = "demo", **more: object) -> dict[str, object]:
        """What the destination's settings say of a guest."""
        path = self.there / (name if kind == "pid" else f"{name}.mem")
        return {"kind": kind, "path": str(path), **more}

    def serve(
        self,
        guests: dict[str, dict[str, object]] | None = None,
        *,
        flags: tuple[str, ...] = (),
        wait: bool = True,
        before: Any = None,
        **serve: object,
    ) -> Daemon:
        """A daemon that takes ``guests`` (default: the demo guest ``a``); ``serve`` are settings of it."""
        entries = {"a": self.entry("a")} if guests is None else guests
        section = {"listen": "127.0.0.1:0", "control": "127.0.0.1:0", **serve}
        self._configure(
            "there", {"serve": section} | {f"guests.{name}": each for name, each in entries.items()}
        )
        daemon = self._daemon(flags, before)
        if wait:
            daemon.wait_ready()
            self.started()
        return daemon

    def _daemon(self, flags: tuple[str, ...] = (), before: Any = None) -> Daemon:
        command = [sys.executable, "-m", "migrated", "serve", *flags]
        daemon = Daemon(command, self.environment("there"), preexec_fn=before)
        self.daemons.append(daemon)
        return daemon

    def restart(self) -> Daemon:
        """Another daemon on the settings and records of the last one."""
        daemon = self._daemon()
        daemon.wait_ready()
        return daemon

    def relay(self, daemon: Daemon) -> Relay:
        relay = Relay(daemon.port)
        self.relays.append(relay)
        return relay

    def impostor(self, talk: Callable[[socket.socket], Any]) -> Impostor:
        """Something that listens and is no destination; see there."""
        impostor = Impostor(talk)
        self.relays.append(impostor)
        return impostor

    def send(self, guest: Guest | str, to: Daemon | Relay | Impostor | str, *flags: str, **more: Any) -> Send:
        """``migrated send --json``, started."""
        address = to if isinstance(to, str) else f"127.0.0.1:{to.port}"
        uri = guest.uri if isinstance(guest, Guest) else guest
        program = more.pop("program", ("-m", "migrated"))
        command = [sys.executable, *program, "send", uri, address, "--json", *flags]
        send = Send(command, {**self.environment(), **more.pop("env", {})}, **more)
        self.sends.append(send)
        return send

    def command(self, *arguments: str, side: str = "here", code: int = 0) -> str:
        """Any other command; returns what it printed on both outputs."""
        running = Running([sys.executable, "-m", "migrated", *arguments], self.environment(side))
        self.others.append(running)
        assert running.end() == code, running.shown()
        assert "Traceback" not in running.err.text
        return running.out.text + "\n" + running.err.text

    def other(self, *command: str | Path) -> Running:
        """Any other process, killed at the end."""
        running = Running([str(part) for part in command], self.environment())
        self.others.append(running)
        return running

    # -- looking -----------------------------------------------------------------------------------

    def processes(self) -> list[Seen]:
        """All that belong to this test."""
        return marked(self.root)

    def children(self, of: int, text: str) -> list[Seen]:
        """Descendants of a process with ``text`` in their command line."""
        every = {each.pid: each for each in self.processes()}

        def below(seen: Seen | None) -> bool:
            return seen is not None and (seen.parent == of or below(every.get(seen.parent)))

        return [each for each in every.values() if below(each) and text in each.command]

    def fork_server(self, of: Running) -> Seen:
        """The fork server of a daemon or a client."""
        return next(each for each in self.children(of.pid, "forkserver") if each.parent == of.pid)

    def workers(self, of: Running) -> list[Seen]:
        """The workers of a daemon or a client."""
        server = self.fork_server(of)
        return [each for each in self.children(of.pid, "forkserver") if each.parent == server.pid]

    def holder(self, of: Send) -> Seen:
        """The process that holds the guest for a client."""
        return next(iter(self.children(of.pid, "migrated.memory.holder")))

    def places(self, name: str = "a") -> list[Place]:
        """Every process of that demo guest: those that stand by, too."""
        return [
            Place(side, seen, folder / f"{name}.mem")
            for side, folder in (("here", self.here), ("there", self.there))
            for seen in self.processes()
            if _DEMO in seen.command and f"{folder / name}.mem " in f"{seen.command} "
        ]

    def goes_on(self, name: str = "a", side: str = "here", *, alone: bool = True) -> None:
        """The guest runs on that side - and, if ``alone``, on no other - and counts on."""
        if side == "there":
            self.arrived.add(name)

        def places() -> list[Place]:
            found = self.places(name)
            return found if [each.side for each in found] == [side] else []

        if alone:
            wait_until(places, f"guest {name} {side} and nowhere else", GRACE)
        path = (self.here if side == "here" else self.there) / f"{name}.mem"
        runs = next(each for each in self.places(name) if each.side == side)
        assert runs_on(path) == runs.seen.pid
        before = counter(path, Counter.OPERATIONS)
        wait_until(
            lambda: counter(path, Counter.OPERATIONS) > before, f"guest {name} counts on {side}", GRACE
        )
        seen = look(runs.seen.pid)
        assert seen is not None
        assert not seen.stopped

    def records(self, side: str) -> dict[str, dict[str, Any]]:
        """The durable records of a side, by migration."""
        folder = self.root / f"state-{side}" / ("outgoing" if side == "here" else "incoming")
        return {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}

    def outcome(self, side: str, migration_id: str) -> str:
        found = self.records(side).get(migration_id)
        return str(found["outcome"]) if found else ""

    def clean_there(self) -> None:
        """Nothing of a migration that failed is left at the destination, though its daemon runs on."""

        def left() -> list[Any]:
            files = [path.name for path in self.there.iterdir()]
            return files + [
                each for name in self.guests for each in self.places(name) if each.side == "there"
            ]

        wait_until(lambda: not left(), f"nothing left there, but there is {left()}", GRACE)
        for daemon in self.daemons:
            if daemon.alive:
                wait_until(lambda daemon=daemon: not self.workers(daemon), "end of its workers", GRACE)

    # -- ending ------------------------------------------------------------------------------------

    def end(self) -> list[str]:
        """End what runs, and say what should not be there."""
        wrong: list[str] = []
        for relay in self.relays:
            relay.close()
        for send in self.sends:
            if send.alive:
                wrong.append(f"a client still ran: {send.shown()}")
                send.kill()
        for daemon in self.daemons:
            wrong += self._end_daemon(daemon)
        for other in self.others:
            if other.alive:
                other.kill()
        guests, strays = self._survivors()
        wrong += [f"still there: {each}" for each in strays]
        wrong += [f"stopped: {each}" for each in guests if each.stopped and each.pid not in self.stopped]
        for name in self.guests:
            places = [(each.side, each.seen.state) for each in self.places(name)]
            if len(places) > 1 and not self.unsettled:
                wrong.append(f"guest {name} is in {len(places)} places: {places}")
        for each in [*guests, *strays]:
            with contextlib.suppress(ProcessLookupError):
                kill(each.pid)
        for guest in self.guests.values():
            guest.run.process.wait(PATIENCE)
        return wrong + self._wrong_bytes() + self._left_files() + self._unsettled_records()

    def _end_daemon(self, daemon: Daemon) -> list[str]:
        if not daemon.alive:
            return []
        wrong = [f"zombie {pid} of the daemon" for pid in zombies(daemon.pid)]
        daemon.signal(signal.SIGTERM)
        try:
            code = daemon.end(20.0)
        except AssertionError as error:
            daemon.kill()
            return [*wrong, f"the daemon did not stop: {error}"]
        if code or "Traceback" in daemon.err.text:
            wrong.append(f"the daemon ended with {code}: {daemon.shown()}")
        return wrong

    def _survivors(self) -> tuple[list[Seen], list[Seen]]:
        ending = time.monotonic() + GRACE
        while True:
            alive = self.processes()
            guests = [each for each in alive if _DEMO in each.command]
            strays = [each for each in alive if _DEMO not in each.command]
            if not strays or time.monotonic() > ending:
                return guests, strays
            time.sleep(0.05)

    def _wrong_bytes(self) -> list[str]:
        """Every demo guest's memory proves right, wherever it ran last."""
        wrong = []
        paths = [guest.path for guest in self.guests.values()]
        paths += [self.there / f"{name}.mem" for name in self.arrived]
        for path in paths:
            if path in self.damaged or not path.exists():
                continue
            descriptor = os.open(path, os.O_RDWR)
            try:
                check_file(descriptor)
            except Exception as error:
                wrong.append(f"{path}: {error!r}")
            finally:
                os.close(descriptor)
        return wrong

    def _left_files(self) -> list[str]:
        expected = set(self.kept)
        for name in self.arrived:
            expected |= {self.there / f"{name}.mem", self.there / f"{name}.mem.log"}
        found = {
            path for folder in (self.here, self.there) for path in folder.rglob("*") if not path.is_dir()
        }
        wrong = [f"file left: {path}" for path in sorted(found - expected)]
        wrong += [f"file gone: {path}" for path in sorted(expected - found)]
        for path in self.run.rglob("*"):
            if not (self.killed and is_dead_socket(path)):
                wrong.append(f"left in the runtime folder: {path}")
        for side in ("here", "there"):
            for path in (self.root / f"state-{side}").rglob("*"):
                if path.is_file() and path.suffix not in (".json", ".jsonl"):
                    wrong.append(f"left in the state folder: {path}")
        return wrong

    def _unsettled_records(self) -> list[str]:
        if self.unsettled:
            return []
        here, there = self.records("here"), self.records("there")
        wrong = [
            f"undecided {side}: {each}"
            for side, records in (("here", here), ("there", there))
            for each in records.values()
            if each["outcome"] in ("committing", "receiving", "run")
        ]
        for migration_id, record in here.items():
            pair = (record["outcome"], there.get(migration_id, {}).get("outcome", "aborted"))
            # Who was killed before COMMIT was sent could not write that it came to nothing; `resolve` does.
            if pair not in (("completed", "running"), ("aborted", "aborted"), ("freezing", "aborted")):
                wrong.append(f"the records of {migration_id} do not agree: {pair}")
        return wrong

    def kill(self, running: Running) -> None:
        """SIGKILL a client or a daemon: its control socket may stay."""
        self.killed.add(running.pid)
        running.kill()


@contextlib.contextmanager
def a_host() -> Iterator[Host]:
    """A host in a folder of shared memory, with nothing left at the end."""
    memory = Path("/dev/shm")
    root = Path(tempfile.mkdtemp(prefix="e2e-", dir=memory if os.access(memory, os.W_OK) else None))
    host = Host(root)
    try:
        yield host
    finally:
        try:
            wrong = host.end()
        finally:
            shutil.rmtree(root, ignore_errors=True)
    assert not wrong, "\n".join(wrong)
