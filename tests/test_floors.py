"""The floors of the house: a module imports only from its own floor or from lower ones.

Imports are read from the sources, so those within functions and under TYPE_CHECKING count too.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

FLOORS = {
    "migrated": 0,  # the package itself: only its version
    "migrated.errors": 0,
    "migrated.units": 0,
    "migrated.pages": 0,
    "migrated.protocol": 1,
    "migrated.memory": 2,
    "migrated.compression": 3,
    "migrated.guests": 4,
    "migrated.engine": 5,
    "migrated.net": 6,
    "migrated.telemetry": 7,
    "migrated.config": 8,
    "migrated.outcomes": 9,
    "migrated.daemon": 9,
    "migrated.client": 9,
    "migrated.planning": 9,
    "migrated.control": 10,
    "migrated.bench": 10,
    "migrated.cli": 11,
    "migrated.__main__": 11,
}

CLOCKS_AND_IO = [
    "asyncio",
    "os",
    "select",
    "selectors",
    "socket",
    "ssl",
    "subprocess",
    "threading",
    "time",
    "uvloop",
]
WATCHERS = ["logging", "prometheus_client", "rich", "typer"]
FORBIDDEN = {
    "migrated.protocol": CLOCKS_AND_IO,  # bytes in, events out, bytes to send
    "migrated.engine": WATCHERS,  # steps go to an observer; who watches is none of its business
}
"""Packages that may not import these, whatever their floor."""

ONLY_HERE = {"ctypes": "migrated.memory"}
"""What only one package may import."""

CODEC_MAY_IMPORT = {"migrated.compression.codec", "migrated.errors"}


def imports(tree: ast.AST, module: str, *, package: bool) -> Iterator[tuple[int, str]]:
    """Line and full name of everything that ``module`` imports; of names from a package, name by name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = module.split(".")
            base = base[: len(base) - node.level + package] if node.level else []
            source = ".".join([*base, node.module] if node.module else base)
            for alias in node.names:
                yield node.lineno, f"{source}.{alias.name}"
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name in ("import_module", "__import__") and isinstance(node.args[0].value, str):
                yield node.lineno, node.args[0].value


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def floor_of(name: str) -> int | None:
    parts = name.split(".")
    if len(parts) == 2 and parts[1].startswith("__") and name not in FLOORS:
        return FLOORS["migrated"]
    return FLOORS.get(".".join(parts[:2]))


def faults(source: str, module: str, *, package: bool = False) -> list[str]:
    """What is wrong with the imports of ``module``, one line each."""
    found = []
    own = floor_of(module)
    if within(module, "migrated") and own is None:
        found.append(f"{module} has no floor")
    for line, name in imports(ast.parse(source), module, package=package):
        where = f"{module}:{line} imports {name}"
        for top, home in ONLY_HERE.items():
            if within(name, top) and not within(module, home):
                found.append(f"{where}: only {home} may")
        for owner, names in FORBIDDEN.items():
            if within(module, owner) and any(within(name, each) for each in names):
                found.append(f"{where}: {owner} may not")
        if not within(name, "migrated"):
            continue
        if not within(module, "migrated"):
            if not any(within(name, each) for each in CODEC_MAY_IMPORT):
                found.append(f"{where}: a codec may import {' and '.join(sorted(CODEC_MAY_IMPORT))}")
            continue
        target = floor_of(name)
        if target is None:
            found.append(f"{where}, which has no floor")
        elif own is not None and target > own:
            found.append(f"{where}: from floor {own} up to {target}")
    return found


def sources() -> list[tuple[str, Path]]:
    """Module name and file of everything that is packaged."""
    found = []
    for base, top in ((ROOT, "migrated"), (ROOT / "codecs", "migrated_codecs")):
        for path in sorted((base / top).rglob("*.py")):
            parts = path.relative_to(base).with_suffix("").parts
            found.append((".".join(parts[:-1] if parts[-1] == "__init__" else parts), path))
    return found


@pytest.mark.parametrize(("module", "path"), [pytest.param(*each, id=each[0]) for each in sources()])
def test_imports_only_from_its_floor_or_lower(module: str, path: Path) -> None:
    assert faults(path.read_text(), module, package=path.name == "__init__.py") == []


def test_everything_is_read() -> None:
    names = {module for module, _ in sources()}
    assert {"migrated", "migrated.errors", "migrated.compression.codec"} <= names


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("migrated.pages", "import migrated.protocol"),
        ("migrated.pages", "from migrated import protocol"),
        ("migrated.pages", "from . import protocol"),
        ("migrated.protocol.frames", "from .. import engine"),
        ("migrated.protocol.frames", "from ..engine import sender"),
        ("migrated.engine.sender", "from migrated.telemetry import metrics"),
        ("migrated.engine.sender", "def f():\n    import migrated.net"),
        ("migrated.engine.sender", "if TYPE_CHECKING:\n    from migrated.config import Settings"),
        ("migrated.engine.sender", "import importlib\nimportlib.import_module('migrated.net')"),
        ("migrated.engine.sender", "import prometheus_client"),
        ("migrated.engine.sender", "from logging import getLogger"),
        ("migrated.protocol.frames", "import os.path"),
        ("migrated.protocol.frames", "from time import monotonic"),
        ("migrated.protocol.frames", "def f():\n    import asyncio"),
        ("migrated.net.dial", "import ctypes"),
        ("migrated.net.dial", "from ctypes import util"),
        ("migrated.novelty", ""),
        ("migrated.cli.main", "import migrated.novelty"),
        ("migrated_codecs.new", "import ctypes"),
        ("migrated_codecs.new", "from migrated.pages import PageSet"),
        ("migrated_codecs.new", "from migrated import errors, pages"),
        ("migrated_codecs.new", "from migrated.compression import registry"),
    ],
)
def test_a_fault_is_found(module: str, source: str) -> None:
    assert len(faults(source, module)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("migrated.pages", "import os, time\nfrom migrated.errors import MigratedError"),
        ("migrated.protocol.frames", "from . import messages\nfrom .messages import Offer\nimport struct"),
        ("migrated.memory.linux.calls", "import ctypes"),
        ("migrated.cli.main", "from migrated import __version__\nfrom migrated.config import load"),
        ("migrated.engine.sender", "import asyncio, timeit\nimport migrated.engine.events"),
        (
            "migrated_codecs.new",
            "from migrated.compression.codec import Codec\nfrom migrated.errors import *",
        ),
        (
            "migrated_codecs.new",
            "from migrated.errors import IntegrityError\nfrom migrated_codecs import other",
        ),
    ],
)
def test_what_is_allowed_is_no_fault(module: str, source: str) -> None:
    assert faults(source, module) == []


def test_a_package_imports_relative_to_itself() -> None:
    assert faults("from . import frames", "migrated.protocol", package=True) == []
    assert len(faults("from .. import engine", "migrated.protocol", package=True)) == 1
