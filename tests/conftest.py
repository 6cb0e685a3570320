"""Shared fixtures: one small benchmark for the test session, one Ray cluster for each process."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from filelock import FileLock

from tests import spawn

# Tests measure nothing; one thread keeps two-process tests from fighting over the cores.
torch.set_num_threads(1)
os.environ.setdefault("RAY_AUTH_MODE", "disabled")

LONG = ("ray", "slow")  # markers
STARTERS = {"run_processes", "run_alone", "process", "subprocess"}  # names in a test's own body


@pytest.hookimpl(tryfirst=True)  # before pytest picks by marker
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests that start processes or Ray, and put files with long tests first: at the end the
    processes of pytest-xdist then share short files, and none waits long for another."""
    for item in items:
        body = getattr(getattr(item, "function", None), "__code__", None)
        if body is not None and not STARTERS.isdisjoint(body.co_names):
            item.add_marker("processes")
        if "ray_cluster" in getattr(item, "fixturenames", ()):
            item.add_marker("ray")
    long = Counter(item.path for item in items if any(map(item.get_closest_marker, LONG)))
    items.sort(key=lambda item: -long[item.path])


def pytest_collection_finish(session: pytest.Session) -> None:
    """Start the server of processes where a chosen test needs processes."""
    modules = {item.getparent(pytest.Module) for item in session.items}
    if any(module and hasattr(module.obj, "run_processes") for module in modules):
        spawn.start_server()


@pytest.fixture(scope="session", autouse=True)
def feature_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the outputs of frozen stages out of the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IMG2SHAPE_FEATURES", str(tmp_path_factory.mktemp("features")))
        yield


@pytest.fixture(scope="session")
def benchmark(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packed 'smoke' benchmark; it is shared, so tests only read it."""
    return _made_once(tmp_path_factory, "procedural-smoke", size="smoke", style="a")


@pytest.fixture(scope="session")
def benchmark_b(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A benchmark of few pictures in the other style; tests only read it."""
    from dataio.datasets.procedural import SIZES, BenchmarkSize

    SIZES["few"] = BenchmarkSize(SIZES["smoke"].classes, (12, 2, 4), (6, 2, 3), (2, 1, 1))
    try:
        return _made_once(tmp_path_factory, "procedural-few-b", size="few", style="b")
    finally:
        del SIZES["few"]


def _made_once(factory: pytest.TempPathFactory, name: str, *, size: str, style: str) -> Path:
    """A benchmark in a folder that all processes of pytest-xdist share."""
    from cluster.data_jobs import make_benchmark

    shared = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    out = shared / "made" / name
    out.parent.mkdir(exist_ok=True)
    with FileLock(f"{out}.lock"):
        make_benchmark(out, size=size, seed=0, style=style, workers=1)
    return out


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """One local Ray cluster, shared by all tests of this process that need one."""
    from cluster.training.ray_cluster import ray_session

    with ray_session():
        yield
