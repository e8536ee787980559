"""``python -m migrated`` is the command ``migrated``."""

from migrated.cli.main import run

run()
