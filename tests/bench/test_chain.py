"""The chain of stages: that it copies, and leaves nothing behind."""

import multiprocessing
from pathlib import Path

import numpy as np
import pytest

from migrated.bench import chain
from migrated.bench.chain import chain_rate


def test_every_byte_gets_there_and_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "source"
    source.write_bytes(np.random.default_rng(3).bytes(5 * 4096 + (3 << 20)))  # the last batch is short
    told, kept = chain._told, []

    def keep(pipe: object) -> object:
        said = told(pipe)  # type: ignore[arg-type]
        if said == "done":
            kept.append((tmp_path / "chained").read_bytes())
        return said

    monkeypatch.setattr(chain, "_told", keep)
    monkeypatch.setattr(chain, "usable_cores", lambda: 2)
    assert chain_rate(source, tmp_path) > 0
    assert kept == [source.read_bytes()]
    assert list(tmp_path.iterdir()) == [source]
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("cores", [1, 4])
def test_as_many_pairs_as_cores_allow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cores: int) -> None:
    source = tmp_path / "source"
    source.write_bytes(bytes(1 << 20))
    monkeypatch.setattr(chain, "usable_cores", lambda: cores)
    assert chain_rate(source, tmp_path) > 0


def test_a_process_that_ends_is_no_result(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(bytes(100))  # no whole page: whoever opens it as memory ends
    with pytest.raises(EOFError):
        chain_rate(source, tmp_path)
    assert list(tmp_path.iterdir()) == [source]
