"""One worker of the real command computes NaN: all stop, name it, and keep nothing of it."""

from __future__ import annotations

import pytest

from tests.command import CONFIGS, outcome, process, small
from trainer.inputs.open_data import OpenData
from trainer.runs.checkpoint import newest_checkpoint

STEP, RANK = 4, 1

# Python imports this module by its name when it starts, before anything of the project.
_POISON = f"""

import sys
from importlib.machinery import PathFinder

TARGET = "trainer.methods.astn"


class Poisoner:
    def find_spec(self, name, path=None, target=None):
        if name != TARGET:
            return None
        spec = PathFinder.find_spec(name, path)
        load = spec.loader.exec_module

        def exec_module(module):
            load(module)
            poison(module)

        spec.loader.exec_module = exec_module
        return spec


def poison(module):
    import torch

    from trainer.synchronised import collectives

    losses = module.Astn.losses

    def poisoned(self, batch, now):
        found = losses(self, batch, now)
        if now.step == {STEP} and collectives.rank() == {RANK}:
            weight = self.network.bottleneck.weight
            broken = weight.view_as(weight)
            broken.register_hook(lambda grad: grad * torch.nan)
            found.terms["domain"] = found.terms["domain"] + 0 * broken.sum()
        return found

    module.Astn.losses = poisoned


sys.meta_path.insert(0, Poisoner())
"""


@pytest.mark.slow
@pytest.mark.faults
def test_a_worker_whose_gradient_is_broken_is_named_by_all(benchmark, tmp_path, monkeypatch):
    poison = tmp_path / "poison"
    poison.mkdir()
    (poison / "sitecustomize.py").write_text(_POISON)
    monkeypatch.setenv("PYTHONPATH", str(poison))
    run = tmp_path / "run"
    overrides = small(benchmark, training__steps=12, training__checkpoint_every=2)
    train = ["-m", "cluster", "train", CONFIGS / "astn.yaml", *overrides, "--out", run]
    torchrun = ["--standalone", "--nproc-per-node", 2, *train]
    done = outcome(process(*torchrun, module="torch.distributed.run"), timeout_seconds=300)
    assert done.code != 0
    said = [line for line in done.err.splitlines() if line.startswith("img2shape: step ")]
    assert said, done.err
    assert len(set(said)) == 1
    start = f"img2shape: step {STEP}: gradient norm is nan, from the gradient of domain on rank 1; "
    assert said[0].startswith(start)
    assert f"samples: {', '.join(_keys(overrides)[:2])}" in said[0]
    found = newest_checkpoint(run / "checkpoints")
    assert found is not None
    assert found.step == STEP


def _keys(overrides: list[str]) -> list[str]:
    """Keys of the samples that the worker had at the step, as `img2shape data` rebuilds them."""
    from trainer.config import load_config
    from trainer.inputs.streams import training_loader

    config = load_config(CONFIGS / "astn.yaml", overrides)
    options = {"start_step": STEP, "rank": RANK, "world_size": 2}
    with training_loader(OpenData(config), **options) as loader:
        _, batch = next(iter(loader))
    return [key for part in batch.values() for key in part.keys]
