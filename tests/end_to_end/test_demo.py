"""``img2shape demo``: what it trains, and one small demo on Ray."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cluster.cli import demo
from trainer.config import RunConfig, load_config
from trainer.methods import METHODS


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize("method", demo.COMPARED)
def test_nothing_but_a_head_is_trained(method, quick):
    config = demo.demo_config(method, Path("data/here"), quick=quick)
    assert config.data.root == "data/here"
    assert config.network.reads_features  # kept, so that all runs share them
    assert config.training.precision == "float32"
    steps = demo.QUICK_STEPS if quick else demo.STEPS
    assert config.training.steps == (steps if METHODS[method].trains else 0)


@pytest.mark.ray
@pytest.mark.slow
def test_a_demo_is_kept_by_the_next(benchmark, ray_cluster, tmp_path, monkeypatch, capfd):
    """Two Ray workers and two gallery actors; few steps on small pictures."""
    whole = demo.demo_config

    def few(method: str, data: Path, *, quick: bool) -> RunConfig:
        config = whole(method, data, quick=quick)
        steps = ["training.steps=3"] if METHODS[method].trains else []
        (tmp_path / "whole.yaml").write_text(config.to_yaml())
        return load_config(tmp_path / "whole.yaml", ["network.image_size=32", *steps])

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo, "demo_config", few)
    (tmp_path / "data").mkdir()
    (tmp_path / "data/procedural-smoke").symlink_to(benchmark)
    page = demo.run_demo(Path("runs"), workers=2, quick=True)
    assert page == Path("runs/report.html")
    told = capfd.readouterr()
    rows = json.loads(Path("runs/results.json").read_text())["rows"]
    assert [row["method"] for row in rows] == list(demo.COMPARED)
    assert all(f"{row['metrics']['mAP']:.3f}" in told.out for row in rows)
    for row in rows:
        run = json.loads(Path(f"runs/{row['method']}-quick/run.json").read_text())
        workers = 2 if METHODS[row["method"]].trains else 1
        assert (run["status"], run["world_size"]) == ("finished", workers)
    demo.run_demo(Path("runs"), workers=2, quick=True)
    assert capfd.readouterr().err.count("finished already") == len(demo.COMPARED)
    assert json.loads(Path("runs/results.json").read_text())["rows"] == rows
