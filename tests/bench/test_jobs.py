"""What a job costs, beside the executor's own way."""

import pytest

from migrated.bench import jobs


def test_a_job_costs_something_either_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "_JOBS", 200)
    monkeypatch.setattr(jobs, "_ALONE", 20)
    costs = jobs.job_costs()
    assert len(costs) == 6
    for name, value in costs.items():
        # 200 jobs may take the workers less than a tick of their clocks.
        assert value > 0 or "workers" in name
