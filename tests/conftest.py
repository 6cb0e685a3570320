"""Shared fixtures: one small benchmark and one Ray cluster for the whole test session."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

# Tests measure nothing; one thread keeps two-process tests from fighting over the cores.
torch.set_num_threads(1)
os.environ.setdefault("RAY_AUTH_MODE", "disabled")


@pytest.fixture(scope="session")
def benchmark(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packed 'smoke' benchmark."""
    from cluster.data_jobs import make_benchmark

    out = tmp_path_factory.mktemp("benchmark") / "procedural-smoke"
    make_benchmark(out, size="smoke", seed=0)
    return out


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """One local Ray cluster, shared by all tests that need one."""
    from cluster.training import ray_session

    with ray_session():
        yield
