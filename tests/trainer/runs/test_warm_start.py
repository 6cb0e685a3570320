"""Pre-train, then fine-tune: what a run takes from another one, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from trainer.building import build_method
from trainer.config import ConfigError, RunConfig, parse_config
from trainer.extraction.trained_run import load_run, untrained
from trainer.inputs.open_data import OpenData
from trainer.loop import Trainer, train
from trainer.methods import METHODS
from trainer.runs.run_folder import RunFolder


def small(root: Path, method: str, *, width: int = 8, classes=None, **training) -> RunConfig:
    settings = {"steps": 2, "batch": 8, "threads": 1, "seed": 1}
    return parse_config(
        {
            "method": method,
            "data": {"root": str(root), "train_views": 2, "classes": classes},
            "network": {"tiny_width": width, "embedding": 16},
            "training": {**settings, **training},
        }
    )


def run(config: RunConfig, path: Path) -> RunFolder:
    folder = RunFolder(path)
    folder.claim(config, fingerprint=OpenData(config).fingerprint)
    train(config, folder)
    return folder


def start(config: RunConfig, path: Path) -> dict[str, torch.Tensor]:
    return Trainer(config, RunFolder(path), device=torch.device("cpu")).method.state_dict()


@pytest.fixture(scope="module")
def first(benchmark, tmp_path_factory) -> RunFolder:
    return run(small(benchmark, "astn"), tmp_path_factory.mktemp("first") / "run")


def test_the_network_is_taken_and_method_state_is_not(benchmark, first, tmp_path):
    config = small(benchmark, "dann", init_from=str(first.path), seed=2)
    found, theirs = start(config, tmp_path), load_run(first.path).method.state_dict()
    fresh = build_method(config, num_classes=len(OpenData(config).classes)).state_dict()
    for name in fresh:
        if name.startswith(("network.trunk", "network.bottleneck", "network.classifier")):
            assert torch.equal(found[name], theirs[name]), name
    config = small(benchmark, "astn", init_from=str(first.path), seed=2)
    assert not start(config, tmp_path)["source_centers.seen"].any()
    assert load_run(first.path).method.state_dict()["source_centers.seen"].any()


def test_classifier_rows_follow_the_class_names(benchmark, first, tmp_path):
    classes = OpenData(small(benchmark, "astn")).classes
    config = small(benchmark, "dann", classes=classes[::-1], init_from=str(first.path), seed=2)
    found, theirs = start(config, tmp_path), load_run(first.path).method.state_dict()
    for part in ("weight", "bias"):
        name = f"network.classifier.{part}"
        assert torch.equal(found[name], theirs[name].flip(0))


def test_a_fine_tuned_run_starts_there_and_goes_on(benchmark, first, tmp_path):
    folder = run(small(benchmark, "dann", init_from=str(first.path), seed=2), tmp_path / "run")
    trained = load_run(folder.path)
    before = untrained(trained).state_dict()["network.bottleneck.weight"]
    theirs = load_run(first.path).method.state_dict()["network.bottleneck.weight"]
    assert torch.equal(before, theirs)
    assert not torch.equal(trained.method.state_dict()["network.bottleneck.weight"], theirs)


def test_another_trunk_and_a_missing_run_are_refused(benchmark, first, tmp_path):
    with pytest.raises(ConfigError, match=r"init_from: .* has another trunk"):
        start(small(benchmark, "dann", width=16, init_from=str(first.path)), tmp_path)
    with pytest.raises(ConfigError, match="neither a run folder nor a checkpoint"):
        start(small(benchmark, "dann", init_from=str(tmp_path / "no")), tmp_path)


@pytest.mark.parametrize("name", [n for n in METHODS if METHODS[n].walked and METHODS[n].trains])
def test_no_steps_fit_a_shallow_method_on_a_run_that_exists(benchmark, tmp_path, name):
    """The last fit alone gives what training and fitting in one run gives."""
    source_only = run(small(benchmark, "source-only", steps=3), tmp_path / "source-only")
    config = small(benchmark, name, steps=0, init_from=str(source_only.path))
    fitted = load_run(run(config, tmp_path / "fitted").path).method.state_dict()
    whole = load_run(run(small(benchmark, name, steps=3), tmp_path / "whole").path)
    for key, value in whole.method.state_dict().items():
        torch.testing.assert_close(fitted[key], value, rtol=0, atol=0, msg=key)
