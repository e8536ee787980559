"""How far `migrated plan` is off: it predicts, then the same guest is copied with each codec, and both are compared.

A demo guest writes its memory meanwhile. It is copied, not moved, so that all codecs meet the same guest; and before
each copy it is planned anew, so that what else the host does meets both alike.
"""

import json
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from migrated.bench.demo_guest import Guest
from migrated.bench.hosts import Link, memory_folder
from migrated.bench.service import MIGRATED, SendFailedError, Service, environment, send
from migrated.bench.warm import WarmPages
from migrated.errors import MigratedError, StalledError
from migrated.units import parse_size

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["Compared", "measure", "summary", "table"]

_NAMED = "guest"
_GOOD = 0.25
"""What a plan promises: no more than a quarter off."""

_SAID = 2000


@dataclass(frozen=True, slots=True)
class Compared:
    """One codec's forecast beside what then happened: seconds, bytes. ``predicted`` and ``happened`` are whether the
    rounds converge; where either is not so, times and bytes say nothing."""

    link: str
    writes: str
    codec: str
    predicted: bool
    happened: bool
    total: tuple[float, float]
    downtime: tuple[float, float]
    sent: tuple[float, float]
    rounds: tuple[int, int]

    @property
    def moved(self) -> bool:
        """Whether there is anything to compare."""
        return self.predicted and self.happened

    @property
    def total_off(self) -> float:
        """Predicted over actual total time, less 1."""
        return _off(self.total)

    @property
    def sent_off(self) -> float:
        """Predicted over actual bytes, less 1."""
        return _off(self.sent)


def _off(pair: tuple[float, float]) -> float:
    predicted, actual = pair
    return predicted / actual - 1 if actual else 0.0


def measure(
    between: Link,
    link: str,
    writes: str,
    codecs: Sequence[str],
    *,
    size: str,
    runs: int,
    more: Sequence[str] = (),
    say: Callable[[str], None] = lambda _text: None,
) -> Iterator[Compared]:
    """Plan and copy a guest of ``size`` that writes at the rate ``writes``, ``runs`` times with each codec.

    ``link`` is the name of ``between`` in the results; ``more`` are words for both commands. ResourceError or
    GuestError if a side does not start; MigratedError for a plan or copy that fails for another reason than a stall.
    """
    with tempfile.TemporaryDirectory(prefix="migrated-plan-", dir=memory_folder()) as name:
        folder = Path(name)
        arrived = folder / "arrived.mem"
        target = {_NAMED: f"shm:{arrived}"}
        with (
            Guest(folder / "guest.mem", size, writes, ()) as guest,
            Service(folder, between.destination, target) as service,
        ):
            what = (f"shm:{guest.memory}", service.address, f"--name={_NAMED}", f"--pid={guest.pid}", *more)
            for run in range(runs):
                for codec in codecs:
                    say(f"{link}, {writes}, {codec}, run {run + 1} of {runs} ...")
                    words = (*what, f"--codec={codec}")
                    forecast = _plan(folder, between, *words)
                    # What it takes this host to get pages from its own host is no part of what is foretold.
                    arrived.unlink(missing_ok=True)
                    with WarmPages(parse_size(size), arrived):
                        report = _copy(folder, between, *words)
                    yield _compared(link, writes, codec, forecast, report)


def _plan(folder: Path, between: Link, *words: str) -> Mapping[str, Any]:
    """The forecast for the codec that is asked for."""
    command = [*between.source.prefix, *MIGRATED, "plan", "--json", *words]
    done = subprocess.run(command, env=environment(folder), capture_output=True, text=True, check=False)
    if done.returncode not in (0, StalledError.exit_code):
        raise MigratedError(f"migrated plan ended with {done.returncode}: {done.stderr[-_SAID:]}")
    rows = json.loads(done.stdout.splitlines()[0])["forecasts"]
    return next(row for row in rows if row["asked"])


def _copy(folder: Path, between: Link, *words: str) -> Mapping[str, Any] | None:
    """The report; None if the rounds did not converge."""
    try:
        report, _ = send(folder, between.source, *words)
    except SendFailedError as error:
        if error.why != StalledError.reason:
            raise
        return None
    return report


def _compared(
    link: str, writes: str, codec: str, forecast: Mapping[str, Any], report: Mapping[str, Any] | None
) -> Compared:
    actual = report or {"total_seconds": 0.0, "downtime_seconds": 0.0, "wire_bytes": 0, "rounds": 0}

    def pair(key: str) -> tuple[Any, Any]:
        return forecast[key], actual[key]

    return Compared(
        link,
        writes,
        codec,
        forecast["converges"],
        report is not None,
        pair("total_seconds"),
        pair("downtime_seconds"),
        pair("wire_bytes"),
        pair("rounds"),
    )


def table(rows: Sequence[Compared]) -> "Table":
    """A row a measurement: predicted and actual, and how far they are apart."""
    from rich import box
    from rich.table import Table

    from migrated.units import format_duration, format_size

    made = Table(
        *("link", "writes", "codec", "total", "was", "off", "downtime", "was", "sent", "was", "off"),
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    for row in rows:
        if not row.moved:
            said = tuple("converges" if each else "does not" for each in (row.predicted, row.happened))
            made.add_row(row.link, row.writes, row.codec, *said, "" if said[0] == said[1] else "wrong")
            continue
        total, downtime = (tuple(map(format_duration, each)) for each in (row.total, row.downtime))
        sent = tuple(map(format_size, row.sent))
        offs = (f"{row.total_off:+.0%}", f"{row.sent_off:+.0%}")
        made.add_row(row.link, row.writes, row.codec, *total, offs[0], *downtime, *sent, offs[1])
    return made


def summary(rows: Sequence[Compared]) -> dict[str, float]:
    """How good it was: the largest and the median error of times and bytes, and how many were within a quarter.

    ``verdicts`` is the share of measurements in which it was right about whether the rounds converge.
    """
    import statistics

    moved = [row for row in rows if row.moved]
    found: dict[str, float] = {"measurements": len(rows)}
    if rows:
        found["verdicts"] = sum(row.predicted == row.happened for row in rows) / len(rows)
    for name, offs in (
        ("total", [abs(row.total_off) for row in moved]),
        ("sent", [abs(row.sent_off) for row in moved]),
    ):
        if offs:
            found[f"{name}_median"] = statistics.median(offs)
            found[f"{name}_worst"] = max(offs)
            found[f"{name}_good"] = sum(off <= _GOOD for off in offs) / len(offs)
    return found
