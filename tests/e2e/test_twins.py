"""Pages that are there twice travel once, whatever their owner does with them meanwhile."""

import pytest
from e2e_host import Host
from e2e_processes import look
from e2e_shuffler import DIFFERENT, PAGE, PAGES, shuffler

pytestmark = pytest.mark.slow


def test_what_is_there_twice_travels_once(host: Host) -> None:
    path, copy = host.here / "db.mem", host.there / "db.mem"
    source = shuffler(host, path, "idle")
    daemon = host.serve({"db": host.entry("db", "shm")})
    send = host.send(f"shm:{path}", daemon, "--pid", str(source.pid), "--after", "stop", "--codec", "lz4")
    report = send.report()
    assert path.read_bytes() == copy.read_bytes()
    # Not while it did not know yet that it pays, nor where one content has the place of another in the table.
    assert 0.2 * (PAGES - DIFFERENT) < report["copied_pages"] <= PAGES - DIFFERENT
    assert report["copied_pages"] + report["sent_pages"] == PAGES
    assert report["wire_bytes"] < 1.01 * report["sent_pages"] * PAGE
    told = " ".join(host.command("status", report["migration_id"]).split())
    assert f"copied {report['copied_pages']} pages (there twice)" in told


@pytest.mark.parametrize(
    ("how", "flags"),
    [
        ("busy", ("--codec", "zstd")),
        ("busy", ("--codec", "lz4", "--streams", "3")),
        ("busy", ("--verify", "full", "--downtime", "1s")),
        ("holes", ("--codec", "zstd", "--downtime", "1s")),
    ],
    ids=lambda each: each if isinstance(each, str) else " ".join(each),
)
def test_both_files_are_equal_though_pages_come_and_go(host: Host, how: str, flags: tuple[str, ...]) -> None:
    """Where holes are made all the time any page may be another one than was sent: then none is copied."""
    path, copy = host.here / "db.mem", host.there / "db.mem"
    source = shuffler(host, path, how)
    daemon = host.serve({"db": host.entry("db", "shm")})
    send = host.send(
        f"shm:{path}", daemon, "--pid", str(source.pid), "--after", "stop", "--bandwidth", "20MB/s", *flags
    )
    report = send.report()
    assert (report["copied_pages"] > 0) is (how == "busy")
    assert report["rounds"] >= 3
    seen = look(source.pid)
    assert seen is not None
    assert seen.stopped
    assert path.read_bytes() == copy.read_bytes()


@pytest.mark.parametrize(
    "flags",
    [("--tracker", "hash"), ("--max-rounds", "1", "--on-stall", "switch"), ("--codec", "none")],
    ids=lambda flags: " ".join(flags),
)
def test_where_it_does_not_pay_all_are_sent(host: Host, flags: tuple[str, ...]) -> None:
    """Where every page is a candidate in each round, where there is no second round before the guest is paused, and
    where sending a page costs less than looking."""
    path, copy = host.here / "db.mem", host.there / "db.mem"
    source = shuffler(host, path, "idle")
    daemon = host.serve({"db": host.entry("db", "shm")})
    report = host.send(f"shm:{path}", daemon, "--pid", str(source.pid), "--after", "stop", *flags).report()
    assert report["copied_pages"] == 0
    assert path.read_bytes() == copy.read_bytes()
