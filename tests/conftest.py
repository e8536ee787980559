"""What tests need of the host, and what happens where that is missing.

A test says what it needs, by name::

    @pytest.mark.root                       # the same as needs("root")
    @pytest.mark.needs("netns", "tc")       # before it starts, fixtures included
    def test_…(needs): needs("ptrace")      # in the middle

A name is one of :data:`PROBES`, or else a program that must be on the PATH. What is missing skips the test
and says why. Under ``MIGRATED_REQUIRE=all``, as `.ci/run` sets it, it fails the test instead, and so does
every other skip whose reason does not start with ``kernel:`` - a feature that no package can bring.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Generator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

KERNEL_REASON = "kernel:"

# How long an example takes says more about who else uses these cores than about what is tested.
settings.register_profile("any-machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any-machine")


def _lacks_root() -> str:
    return "" if os.geteuid() == 0 else "root"


def _lacks_namespaces() -> str:
    if os.geteuid() != 0:
        return "root, for network namespaces"
    unshare = shutil.which("unshare")
    if unshare is None:
        return "the program unshare (Debian: util-linux)"
    done = subprocess.run([unshare, "--net", "true"], capture_output=True, text=True, check=False, timeout=10)
    return "" if done.returncode == 0 else f"network namespaces ({done.stderr.strip()})"


def _lacks_ptrace() -> str:
    scope = Path("/proc/sys/kernel/yama/ptrace_scope")
    value = int(scope.read_text()) if scope.exists() else 0
    if value == 0 or (os.geteuid() == 0 and value < 3):
        return ""
    return f"ptrace of other processes ({scope} is {value})"


PROBES: dict[str, Callable[[], str]] = {
    "root": _lacks_root,
    "netns": _lacks_namespaces,
    "ptrace": _lacks_ptrace,
}
"""Name -> what is missing for it on this host, in words, or nothing."""

_missing: dict[str, str] = {}


def _lacks(name: str) -> str:
    if name not in _missing:
        if name in PROBES:
            _missing[name] = PROBES[name]()
        else:
            _missing[name] = "" if shutil.which(name) else f"the program {name}"
    return _missing[name]


def _demands_all() -> bool:
    value = os.environ.get("MIGRATED_REQUIRE", "")
    if value not in ("", "all"):
        raise pytest.UsageError(f"MIGRATED_REQUIRE is 'all' or not set, not {value!r}")
    return value == "all"


def _need(*names: str) -> None:
    missing = [why for why in map(_lacks, names) if why]
    if missing:
        pytest.skip("this host lacks " + ", ".join(missing))


@pytest.fixture(scope="session")
def needs() -> Callable[..., None]:
    """Called with names, as the marker of the same name."""
    return _need


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "needs(*names): skipped where the host lacks one; see tests/conftest.py"
    )
    _demands_all()


def pytest_report_header() -> list[str]:
    lines = [f"migrated: python {sys.version.split()[0]}, kernel {os.uname().release}, uid {os.geteuid()}"]
    if _demands_all():
        lines.append("migrated: MIGRATED_REQUIRE=all, a skipped test is a failure")
    return lines


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("root"):
        _need("root")
    for marker in item.iter_markers("needs"):
        _need(*marker.args)


def _skip_reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return reason.removeprefix("Skipped: ")


def _fail_if_skipped(report: pytest.TestReport | pytest.CollectReport) -> None:
    if not report.skipped or hasattr(report, "wasxfail") or not _demands_all():
        return
    reason = _skip_reason(report)
    if not reason.startswith(KERNEL_REASON):
        report.outcome = "failed"
        report.longrepr = f"skipped, and MIGRATED_REQUIRE=all forbids it: {reason}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    _fail_if_skipped(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    _fail_if_skipped(report)
    return report
