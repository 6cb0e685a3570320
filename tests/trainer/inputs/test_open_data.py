"""A run opens its data once in each process: in the check of the launcher, and in each worker."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import trainer.inputs.open_data as open_data
from cluster.evaluation.jobs import evaluate_run
from cluster.training.train_command import train_run
from dataio.shards.manifest import MANIFEST_NAME, Manifest
from dataio.shards.opening import load_manifest
from tests.command import CONFIGS, call, small
from tests.dataio.faulty_server import FaultyServer
from trainer.config import load_config
from trainer.inputs.open_data import OpenData


@pytest.fixture
def opened(monkeypatch) -> list[str]:
    """The data sets that are opened in this process, in order."""
    roots = []

    def noted(root: str) -> Manifest:
        roots.append(root)
        return load_manifest(root)

    monkeypatch.setattr(open_data, "load_manifest", noted)
    return roots


@pytest.fixture
def server(benchmark, monkeypatch, tmp_path) -> Iterator[FaultyServer]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("IMG2SHAPE_CACHE", str(tmp_path / "cache"))
    with FaultyServer(benchmark) as server:
        yield server


def scored(data: Path) -> list[str]:
    """A run of four steps that looks at its training streams, queries and gallery on its way."""
    return small(
        data,
        training__steps=4,
        training__checkpoint_every=2,
        validation__every=2,
        validation__criterion="source-val",
    )


def test_a_run_in_this_process_opens_its_data_once(benchmark, tmp_path, opened):
    config = load_config(CONFIGS / "astn.yaml", scored(benchmark))
    train_run(config, tmp_path / "run", workers=0)
    assert opened == [str(benchmark)]
    evaluate_run(tmp_path / "run", shards=1)
    assert opened == [str(benchmark)] * 2


def test_the_command_asks_a_server_for_the_manifest_once(server, tmp_path, capfd):
    """With workers: see ``tests/cluster/training/test_listening.py``."""
    keys = [key for key in scored(Path()) if not key.startswith("data.root=")]
    command = ["train", CONFIGS / "astn.yaml", "--workers", 0, "--out", tmp_path / "run"]
    found = call(capfd, *command, *keys, f"data.root={server.url}")
    assert found.code == 0, found.err
    asked = [request for request in server.requests if request.name == MANIFEST_NAME]
    begun = [request for request in asked if request.range is None or request.range[0] == 0]
    assert len(begun) == 1


def test_runs_that_share_manifests_open_a_data_set_once(benchmark, opened):
    shared: dict[str, Manifest] = {}
    for method in ("astn", "source-only"):
        config = load_config(CONFIGS / f"{method}.yaml", small(benchmark))
        OpenData(config, opened=shared).require_trainable()
    assert opened == [str(benchmark)]


def test_all_sources_of_a_data_set_are_of_one_manifest(benchmark):
    data = OpenData(load_config(CONFIGS / "astn.yaml", small(benchmark)))
    whole = data.manifest(data.config.data.gallery)
    for source in (*data.sources.values(), data.evaluation_source(data.config.data.queries)):
        assert source.manifest is whole
