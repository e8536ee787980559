"""The rules of conftest.py itself: what a missing need does, with and without MIGRATED_REQUIRE."""

from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

TESTS = """
import pytest

@pytest.mark.needs("sh")
def test_present(needs):
    needs("sh")

@pytest.mark.needs("no-such-program")
def test_program(): raise RuntimeError

def test_middle(needs):
    needs("no-such-program")
    raise RuntimeError

def test_by_hand():
    pytest.skip("for no good reason")

def test_feature():
    pytest.skip("kernel: no such feature")

@pytest.mark.xfail(strict=True)
def test_expected(): raise RuntimeError
"""


@pytest.fixture
def suite(pytester: pytest.Pytester) -> pytest.Pytester:
    pytester.makeconftest(Path(__file__).with_name("conftest.py").read_text())
    pytester.makepyfile(TESTS)
    pytester.makeini("[pytest]\nmarkers =\n    root\naddopts = --strict-markers -p no:asyncio\n")
    return pytester


def test_a_missing_need_skips(suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MIGRATED_REQUIRE", raising=False)
    result = suite.runpytest_subprocess("-rs")
    result.assert_outcomes(passed=1, skipped=4, xfailed=1)
    result.stdout.fnmatch_lines("*this host lacks the program no-such-program*")


def test_required_a_skip_fails(suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIGRATED_REQUIRE", "all")
    result = suite.runpytest_subprocess("-rf")
    result.assert_outcomes(passed=1, failed=2, errors=1, skipped=1, xfailed=1)
    result.stdout.fnmatch_lines("*forbids it: this host lacks the program no-such-program*")


def test_required_a_skipped_module_fails(suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    suite.makepyfile("import pytest\npytest.importorskip('no_such_module')")
    monkeypatch.setenv("MIGRATED_REQUIRE", "all")
    assert suite.runpytest_subprocess().ret == pytest.ExitCode.INTERRUPTED


def test_required_root_fails_without_it(suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIGRATED_REQUIRE", "all")
    suite.makepyfile(
        """
        import os, pytest
        os.geteuid = lambda: 1000
        @pytest.mark.root
        def test_root(): pass
        """
    )
    suite.runpytest_subprocess().assert_outcomes(errors=1)


def test_another_value_is_refused(suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIGRATED_REQUIRE", "some")
    assert suite.runpytest_subprocess().ret == pytest.ExitCode.USAGE_ERROR
