"""Real processes and real sockets. Each test gets a host of its own, and leaves nothing on it."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from e2e_host import Host, a_host


@pytest.fixture
def host() -> Iterator[Host]:
    """See :class:`e2e_host.Host`."""
    with a_host() as made:
        yield made
