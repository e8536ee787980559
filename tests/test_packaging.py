"""The pins of constraints.txt against what is installed and what pyproject.toml asks for."""

import re
import tomllib
from importlib.metadata import distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LINES = [
    line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")
]
PINS = [Requirement(line) for line in LINES]
IN_FORCE = {canonicalize_name(pin.name): pin for pin in PINS if pin.marker is None or pin.marker.evaluate()}


def test_no_folder_beside_a_package_passes_for_a_module() -> None:
    """A development install has `codecs` among the places where modules are looked for: `codecs/quicklz` was one, of
    no content, wherever the real one was not installed."""
    beside = [each.name for each in (ROOT / "codecs").iterdir() if not (each / "__init__.py").exists()]
    assert "migrated-codec-quicklz" in beside
    assert [name for name in beside if name.isidentifier() and name != "__pycache__"] == []


@pytest.mark.parametrize("line", LINES)
def test_a_pin_is_a_name_and_one_version(line: str) -> None:
    assert re.fullmatch(r'[\w.-]+==[\w.]+( ; python_version (<|>=) "3\.\d+")?', line)


def test_pins_are_sorted_and_one_per_package() -> None:
    names = [canonicalize_name(pin.name) for pin in PINS]
    assert names == sorted(names)
    assert len(IN_FORCE) == sum(pin.marker is None or pin.marker.evaluate() for pin in PINS)


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
def test_every_python_gets_one_pin_of_each(python: str) -> None:
    chosen = [
        canonicalize_name(pin.name)
        for pin in PINS
        if pin.marker is None or pin.marker.evaluate({"python_version": python})
    ]
    assert len(chosen) == len(set(chosen))
    assert set(chosen) == {canonicalize_name(pin.name) for pin in PINS}


def test_what_the_project_asks_for_is_pinned_within_its_bounds() -> None:
    asked = [
        Requirement(text)
        for text in (
            *PROJECT["build-system"]["requires"],
            *PROJECT["project"]["dependencies"],
            *PROJECT["project"]["optional-dependencies"]["dev"],
        )
    ]
    for requirement in asked:
        (pinned,) = IN_FORCE[canonicalize_name(requirement.name)].specifier
        assert requirement.specifier.contains(pinned.version), f"{requirement} is pinned to {pinned}"


def test_what_is_installed_is_what_is_pinned() -> None:
    installed = {canonicalize_name(each.name): each.version for each in distributions()}
    wrong = [
        f"{name} {installed[name]}"
        for name, pin in IN_FORCE.items()
        if installed.get(name) not in pin.specifier
    ]
    assert wrong == []
