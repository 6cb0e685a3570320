"""The run that nothing disturbed."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.job import Job
from tests.faults.many_shards import pack_small_shards


@pytest.fixture(scope="session")
def undisturbed(benchmark, tmp_path_factory) -> Path:
    """What every disturbed run must reproduce."""
    job = Job(benchmark, tmp_path_factory.mktemp("undisturbed") / "run")
    done = job.end()
    assert done.code == 0, done.err
    assert "restarted" not in done.err
    job.assert_nothing_is_left()
    return job.run


@pytest.fixture(scope="session")
def many_shards(benchmark, tmp_path_factory) -> Path:
    """The same pictures in about forty shards."""
    out = tmp_path_factory.mktemp("many-shards") / "packed"
    pack_small_shards(benchmark / "raw", out)
    return out


@pytest.fixture(scope="session")
def undisturbed_in(many_shards, tmp_path_factory) -> Callable[[int], Path]:
    """What a disturbed run with that many Ray workers (0: none) on many shards must reproduce."""

    @functools.cache
    def run(workers: int) -> Path:
        out = tmp_path_factory.mktemp("undisturbed-in") / "run"
        job = Job(many_shards, out, workers=workers)
        done = job.end()
        assert done.code == 0, done.err
        return job.run

    return run
