import ast
from pathlib import Path

import migrated.protocol

PACKAGE = Path(migrated.protocol.__file__).parent
ALLOWED = {
    "collections",
    "dataclasses",
    "enum",
    "migrated",
    "msgpack",
    "re",
    "struct",
    "typing",
    "typing_extensions",
}
ORDER = ["frames", "records", "messages", "packing", "batch", "negotiate", "states", "connection", "__init__"]


def imported(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.module is not None
            found.add(node.module)
    return found


def test_protocol_does_no_io_and_reads_no_clock() -> None:
    for path in PACKAGE.glob("*.py"):
        assert {name.split(".")[0] for name in imported(path)} <= ALLOWED, path.name


def test_modules_import_downward_only() -> None:
    assert {path.stem for path in PACKAGE.glob("*.py")} == set(ORDER)
    for path in PACKAGE.glob("*.py"):
        own = {name.rpartition(".")[2] for name in imported(path) if name.startswith("migrated.protocol.")}
        assert own <= set(ORDER[: ORDER.index(path.stem)]), path.name
        others = {name for name in imported(path) if name.startswith("migrated.")} - {
            f"migrated.protocol.{name}" for name in own
        }
        assert others <= {"migrated.errors"}, path.name


def test_all_is_exact() -> None:
    assert migrated.protocol.__all__ == sorted(
        set(migrated.protocol.__all__), key=lambda name: (not name.isupper(), not name[0].isupper(), name)
    )
    for name in migrated.protocol.__all__:
        assert hasattr(migrated.protocol, name)
