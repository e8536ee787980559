"""Watch a running process move: `make demo`.

A guest of 512 MiB that writes all the time moves from one service to the next on this host, with another codec
each time, over a link held at 1 Gb/s by our own rate limit. It goes on counting where it stopped, and ends at
once if a single byte of its memory is wrong. The table at the end has the shape of the one in the document of
QEMU's multi-thread compression: the original way (no compression) beside each codec.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from migrated.bench.demo_guest import RUNNING, Guest, end_arrived
from migrated.bench.hosts import loopback, memory_folder
from migrated.bench.service import MIGRATED, Service, environment
from migrated.cli.errors import fail_with
from migrated.errors import MigratedError

CODECS = ("off", "zlib", "lz4", "snappy", "zstd")
_END_SECONDS = 60.0


def main() -> int:
    """Run the demo; 0 if the guest arrived everywhere with every byte right."""
    parser = argparse.ArgumentParser(
        description="A guest that writes all the time moves with each codec in turn."
    )
    parser.add_argument("--size", default="512MiB", help="the guest's memory (512MiB)")
    parser.add_argument("--dirty-rate", default="20MB/s", help="what it writes (20MB/s)")
    parser.add_argument("--bandwidth", default="1gbit", help="the link's rate (1gbit); unlimited for none")
    parser.add_argument("--codecs", default=",".join(CODECS), help="which, in which order")
    asked = parser.parse_args()
    console = Console()
    with tempfile.TemporaryDirectory(prefix="migrated-demo-", dir=memory_folder()) as folder:
        return Demo(Path(folder), asked, console).run()


class Demo:
    """One run in ``folder``, which holds the guest's memory, the service's state, and nothing afterwards."""

    def __init__(self, folder: Path, asked: argparse.Namespace, console: Console) -> None:
        self._folder = folder
        self._asked = asked
        self._console = console
        self._codecs = asked.codecs.split(",")
        self._operations: list[tuple[int, int]] = []

    def _memory(self, hop: int) -> Path:
        return self._folder / f"hop{hop}.mem"

    def _log(self, hop: int) -> Path:
        return self._folder / f"hop{hop}.mem.log"

    def run(self) -> int:
        """Move the guest through all codecs."""
        asked = self._asked
        self._console.print(
            f"A guest of {asked.size} that writes {asked.dirty_rate} moves {len(self._codecs)} times, "
            f"over a link of {asked.bandwidth}.\n",
            highlight=False,
        )
        hops = range(1, len(self._codecs) + 1)
        guests = {f"hop{hop}": f"demo:{self._memory(hop)}" for hop in hops}
        with (
            Service(self._folder, loopback().destination, guests) as service,
            Guest(self._memory(0), asked.size, asked.dirty_rate) as guest,
        ):
            try:
                for hop, codec in enumerate(self._codecs, 1):
                    self._console.rule(f"move {hop}: {'no compression' if codec == 'off' else codec}")
                    before = self._last_count(hop - 1)
                    self._send(hop, codec, service.address)
                    guest.process.poll()
                    self._memory(hop - 1).unlink()
                    self._operations.append((before, self._first_count(hop)))
                    time.sleep(1.5)  # let the guest count a little before it moves on, for people to see
                    self._console.print(
                        f"the guest: {self._log(hop).read_text().splitlines()[-1]}\n", highlight=False
                    )
            finally:
                for hop in hops:
                    end_arrived(self._log(hop))
        return self._judge()

    def _send(self, hop: int, codec: str, address: str) -> None:
        how = ["--level=0"] if codec == "off" else [f"--codec={codec}", "--level=1"]
        command = [*MIGRATED, "send", f"demo:{self._memory(hop - 1)}", address, f"--name=hop{hop}"]
        done = subprocess.run(
            [*command, f"--bandwidth={self._asked.bandwidth}", *how],
            env=environment(self._folder),
            check=False,
        )
        if done.returncode:
            raise SystemExit(f"migrated send ended with {done.returncode}")

    def _first_count(self, hop: int) -> int:
        """Operations that the guest had done when it went on."""
        match = RUNNING.search(self._log(hop).read_text())
        return int(match[2]) if match else -1

    def _last_count(self, hop: int) -> int:
        """Operations that it last spoke of where it came from."""
        counts = re.findall(r"(\d+) operations", self._log(hop).read_text())
        return int(counts[-1]) if counts else -1

    def _judge(self) -> int:
        last = len(self._codecs)
        until = time.monotonic() + _END_SECONDS
        check = [*MIGRATED, "demo", f"--check={self._memory(last)}"]
        while (
            proof := subprocess.run(
                check, env=environment(self._folder), capture_output=True, text=True, check=False
            )
        ).returncode:
            if time.monotonic() > until:
                self._console.print(f"[red]the guest's memory is wrong:[/] {proof.stdout}{proof.stderr}")
                return 1
            time.sleep(0.1)  # the guest may still be on its way out
        lines = (self._folder / "state/history.jsonl").read_text().splitlines()
        reports = {(each["role"], each["guest"]): each["report"] for each in map(json.loads, lines)}
        hops = range(1, last + 1)
        equal = [
            reports["source", f"hop{n}"]["digest"] == reports["destination", f"hop{n}"]["digest"]
            for n in hops
        ]
        self._console.print(self._table([reports["source", f"hop{n}"] for n in hops], equal))
        counted = all(0 <= before <= after for before, after in self._operations)
        self._console.print(
            f"The guest went on counting each time: {'yes' if counted else 'NO'} "
            f"({' -> '.join(str(after) for _, after in self._operations)} operations).\n"
            f"Its memory at the end: {proof.stdout.splitlines()[0]}.",
            highlight=False,
        )
        return 0 if counted and all(equal) else 1

    def _table(self, reports: list[dict[str, Any]], equal: list[bool]) -> Table:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
        table.add_column("", no_wrap=True)
        for codec in self._codecs:
            table.add_column("original" if codec == "off" else codec, justify="right", no_wrap=True)
        first = reports[0]

        def row(name: str, value: Any, *, compared: bool = True) -> None:
            cells = []
            for report in reports:
                share = value(report) / value(first) - 1 if value(first) else 0.0
                change = f" {share:+.0%}" if report is not first and compared else ""
                cells.append(f"{value(report):.0f}{change}")
            table.add_row(name, *cells)

        row("total time, ms", lambda report: report["total_seconds"] * 1000)
        row("downtime, ms", lambda report: report["downtime_seconds"] * 1000)
        row("transferred, KiB", lambda report: report["wire_bytes"] / 1024)
        row("throughput, mbps", lambda report: report["wire_bytes"] * 8 / report["total_seconds"] / 1e6)
        row("total ram, KiB", lambda report: report["total_bytes"] / 1024, compared=False)
        table.add_row("rounds", *(str(report["rounds"]) for report in reports))
        table.add_row("digests", *("equal" if same else "DIFFER" for same in equal))
        return table


if __name__ == "__main__":
    try:
        sys.exit(main())
    except MigratedError as error:
        sys.exit(fail_with(error))
