"""The process's own random generators: training neither draws from them nor depends on them."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from tests.command import CONFIGS, small
from trainer.config import load_config
from trainer.loop import Trainer
from trainer.runs.checkpoint import open_checkpoint
from trainer.runs.run_folder import RunFolder


@pytest.mark.parametrize(
    ("method", "loader_workers", "cache"),
    [("astn", 0, "none"), ("astn", 2, "ram"), ("cdan", 0, "none")],
)
def test_a_run_draws_from_no_generator_of_the_process(
    method, loader_workers, cache, benchmark, tmp_path
):
    """Else a run that continues in a new process would draw other numbers."""
    overrides = {"training__loader_workers": loader_workers, "training__cache": cache}
    config = load_config(CONFIGS / f"{method}.yaml", small(benchmark, **overrides))
    before = random.getstate(), str(np.random.get_state())
    trainer = Trainer(config, RunFolder(tmp_path), device=torch.device("cpu"))
    trainer.run()
    assert (random.getstate(), str(np.random.get_state())) == before
    kept = open_checkpoint(tmp_path / "checkpoints" / "step-00000006").state["generator"]
    assert torch.equal(kept, torch.get_rng_state())
    assert torch.equal(kept, torch.manual_seed(config.training.seed).get_state())


def test_a_run_continues_with_the_generator_of_its_checkpoint(benchmark, tmp_path):
    config = load_config(CONFIGS / "astn.yaml", small(benchmark))
    trainer = Trainer(config, RunFolder(tmp_path), device=torch.device("cpu"))
    torch.rand(3)  # as a method of one's own might
    drawn = torch.get_rng_state()
    trainer.save(last=True)
    torch.rand(3)
    Trainer(config, RunFolder(tmp_path), device=torch.device("cpu"))
    assert torch.equal(torch.get_rng_state(), drawn)
