"""Two hosts with a link between them on this one, and a shared-memory region that moves while it is written to.

Takes root: the hosts are network namespaces. The writer punches holes, too, and pages go non-zero, zero, non-zero
while they move; it stays stopped afterwards, so that both memory files can be compared byte by byte.
"""

import argparse
import filecmp
import os
import sys
import tempfile
from pathlib import Path

from migrated.bench import hosts
from migrated.bench.demo_guest import Guest
from migrated.bench.pss import PssWatch
from migrated.bench.service import Service, send
from migrated.cli.errors import fail_with
from migrated.errors import MigratedError


def main() -> int:
    """Move it once; 0 if both files are equal."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rate", default="1gbit", help="the link's, as tc writes it (1gbit)")
    parser.add_argument("--size", default="4GiB", help="of the region (4GiB)")
    parser.add_argument("--used", type=float, default=25, help="percent of it in use (25)")
    parser.add_argument("--dirty-rate", default="20MB/s", help="what the writer writes (20MB/s)")
    parser.add_argument("words", nargs="*", help="further words for `migrated send`, behind --")
    asked = parser.parse_args()
    if os.geteuid() != 0:
        parser.error("network namespaces take root")
    share = asked.used / 100
    mix = f"--mix=zero={100 - asked.used:g},text={40 * share:g},code={40 * share:g},random={20 * share:g}"
    with (
        tempfile.TemporaryDirectory(prefix="migrated-hosts-", dir=hosts.memory_folder()) as name,
        hosts.link(asked.rate) as link,
    ):
        folder = Path(name)
        arrived = folder / "arrived.mem"
        with (
            Guest(folder / "guest.mem", asked.size, asked.dirty_rate, (mix, "--punch")) as guest,
            Service(folder, link.destination, {"region": f"shm:{arrived}"}) as service,
        ):
            watch = PssWatch(folder, frozenset({guest.pid}))
            watch.start()
            before = link.sent_bytes()
            what = (
                f"shm:{guest.memory}",
                service.address,
                "--name=region",
                f"--pid={guest.pid}",
                "--after=stop",
            )
            report, _ = send(folder, link.source, *what, *asked.words)
            sent, most = link.sent_bytes() - before, watch.stop()
            same = filecmp.cmp(guest.memory, arrived, shallow=False)
    pages = {name: report[f"{name}_pages"] for name in ("sent", "zero", "unchanged")}
    parts = ", ".join(f"{part} {seconds * 1000:.0f}" for part, seconds in report["downtime_parts"].items())
    print(f"total time        {report['total_seconds']:.2f} s, setup {report['setup_seconds']:.2f} s")
    print(f"downtime          {report['downtime_seconds'] * 1000:.0f} ms ({parts})")
    print(
        f"rounds            {report['rounds']}, tracker {report['tracker']}, {report['codec']} {report['level']}"
    )
    print(f"pages             {', '.join(f'{count} {name}' for name, count in pages.items())}")
    print(f"on the wire       {report['wire_bytes'] / 1e6:.0f} MB, on the interface {sent / 1e6:.0f} MB")
    print(f"summed PSS        {most / 1024:.0f} MiB at most, both sides and all their workers")
    print(f"memory files      {'equal' if same else 'DIFFER'}")
    return 0 if same else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except MigratedError as error:
        sys.exit(fail_with(error))
