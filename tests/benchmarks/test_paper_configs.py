"""Every configuration of a paper trains: a few steps at its widths, classes and batch."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import paper_configs

from trainer.config import load_config
from trainer.shipped import find_config

# Adam's 0.0001 moves little in these few steps.
STEPS = {"dca": 24, "daisnet": 24}


def test_the_papers_folders_are_all_there():
    assert {name.split("/")[0] for name in paper_configs.names()} == set(paper_configs.FOLDERS)
    assert len(paper_configs.names()) == 11


@pytest.mark.slow
@pytest.mark.parametrize("name", paper_configs.names())
def test_a_papers_configuration_trains(name):
    method = name.split("/")[1]
    result = paper_configs.train(name, STEPS.get(method, 14), side=1)
    assert result.finite
    first, last = result.fell
    assert last < first, "the loss that learns the labels does not fall"
    assert not result.outside(method)


@pytest.mark.slow
def test_what_does_not_train_is_seen():
    """HIFA with squared norms at the paper's weight of 1: found by this benchmark."""
    result = paper_configs.train(
        "mi3dor/hifa", 8, side=1, overrides=["method.global_penalty=squared"]
    )
    first, last = result.fell
    assert last > 10 * first


def test_drawn_features_have_the_scale_of_their_trunk():
    config = load_config(find_config("mi3dor/source-only"))
    x, labels, labelled = paper_configs.Features(config, 21).pools["source_images"]
    rows = x.flatten(1)
    assert labelled
    assert labels.tolist() == sorted(labels.tolist())
    kind = paper_configs.KINDS["alexnet"]
    assert rows.shape == (21 * paper_configs.POOL, kind.width)
    assert (rows > 0).float().mean().item() == pytest.approx(kind.active, abs=0.02)
    assert rows[rows > 0].mean().item() == pytest.approx(kind.size, rel=1e-3)
    assert 50 < torch.linalg.vector_norm(rows, dim=1).mean() < 90


def test_lengths_shrink_with_the_schedule():
    config = load_config(find_config("shrec13/dca"))
    short = paper_configs.shortened(config, 350)
    assert short.training.steps == 350
    assert short.optimizer.hold_steps == 50
    assert short.method.pretrain_steps == 30
    assert short.method.pretrain_transformation_steps == 20
