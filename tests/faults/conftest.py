"""The run that nothing disturbed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.job import Job


@pytest.fixture(scope="session")
def undisturbed(benchmark, tmp_path_factory) -> Path:
    """What every disturbed run must reproduce."""
    job = Job(benchmark, tmp_path_factory.mktemp("undisturbed") / "run")
    done = job.end()
    assert done.code == 0, done.err
    assert "restarted" not in done.err
    job.assert_nothing_is_left()
    return job.run
