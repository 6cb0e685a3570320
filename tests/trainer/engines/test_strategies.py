"""Accumulation against batches averaged by hand, refusals, and the loop under strategies."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cluster.training.launching import launch
from tests.spawn import run_alone, run_processes
from tests.trainer.strategies import Run, Small, arrays, batches, part
from trainer.config import ConfigError, RunConfig, parse_config
from trainer.engines.strategy import refusals
from trainer.inputs.open_data import OpenData
from trainer.loop import train
from trainer.methods import Now
from trainer.runs.checkpoint import newest_checkpoint
from trainer.runs.run_folder import RunFolder

DEEPSPEED = importlib.util.find_spec("deepspeed") is not None
needs_deepspeed = pytest.mark.skipif(not DEEPSPEED, reason="deepspeed is not installed")

# ---- accumulation

COUNT, BATCHES = 3, 6


def by_hand() -> tuple[dict[str, np.ndarray], list[dict[str, np.ndarray]], list[float | None]]:
    """Weights after, gradients of, and norms of SGD with momentum on means of three batches."""
    method = Small()
    momentum = {name: torch.zeros_like(p) for name, p in method.named_parameters()}
    rates = {"trunk": 0.05, "new": 0.15}
    names = {id(p): n for n, p in method.named_parameters()}
    taken, norms = [], []
    sums = {name: torch.zeros_like(p) for name, p in method.named_parameters()}
    for step, batch in enumerate(batches(BATCHES)):
        losses = method(part(batch, 0, 1), Now(step, 0.0), "all")
        found = torch.autograd.grad(losses.total, list(method.parameters()))
        for name, gradient in zip(sums, found, strict=True):
            sums[name] += gradient
        norms.append(None)
        if step % COUNT != COUNT - 1:
            continue
        mean = {name: total / COUNT for name, total in sums.items()}
        taken.append(arrays(mean))
        norms[-1] = float(torch.sqrt(sum((g**2).sum() for g in mean.values())))  # pyright: ignore
        with torch.no_grad():
            for group, parameters in method.parameter_groups().items():
                for parameter in parameters:
                    name = names[id(parameter)]
                    momentum[name] = 0.9 * momentum[name] + mean[name] + 0.1 * parameter
                    parameter -= rates[group] * (1.0 - 0.1 * step) * momentum[name]
        sums = {name: torch.zeros_like(total) for name, total in sums.items()}
    return arrays(dict(method.named_parameters())), taken, norms


def accumulated(rank: int, world_size: int, names: list[str]) -> list[Any]:
    found = []
    for name in names:
        run = Run(name, accumulate=COUNT)
        run.train(batches(BATCHES), rank=rank, world_size=world_size)
        weights = {k: v for k, v in run.strategy.weights().items() if k != "seen"}
        found.append((arrays(weights), run.gradients, run.norms))
    return found


@pytest.mark.parametrize("world_size", [1, 2])
def test_gradients_of_several_batches_are_averaged_into_one_step(world_size):
    weights, gradients, norms = by_hand()
    names = ["ddp", *(["zero0", "zero1", "zero2", "zero3"] if DEEPSPEED else [])]
    if world_size == 1:
        ranks = [run_alone(accumulated, 0, 1, names)]
    else:
        ranks = run_processes(accumulated, world_size, names)
    for found in ranks:
        for name, (after, taken, seen) in zip(names, found, strict=True):
            for one, other in zip([after, *taken], [weights, *gradients], strict=True):
                assert one.keys() == other.keys()
                for key, value in other.items():
                    np.testing.assert_allclose(
                        one[key], value, rtol=2e-4, atol=2e-6, err_msg=f"{name}: {key}"
                    )
            assert [n is None for n in seen] == [n is None for n in norms]
            steps = [[n for n in part if n is not None] for part in (seen, norms)]
            np.testing.assert_allclose(*steps, rtol=1e-4, err_msg=name)


# ---- the loop


def config(root: Path, method: str = "source-only", **sections: dict[str, Any]) -> RunConfig:
    base: dict[str, dict[str, Any]] = {
        "data": {"root": str(root), "train_views": 2},
        "network": {"tiny_width": 8, "embedding": 16, "image_size": 32},
        "optimizer": {"learning_rate": 0.01},
        "training": {"steps": 8, "batch": 9, "checkpoint_every": 4, "log_every": 1, "threads": 1},
    }
    tree = {name: {**base.get(name, {}), **sections.get(name, {})} for name in base | sections}
    return parse_config({"method": method, **tree})


def run(config: RunConfig, path: Path, *, stop_at: int | None = None) -> tuple[RunFolder, int]:
    folder, asked = RunFolder(path), []
    folder.claim(config, fingerprint=OpenData(config).fingerprint)

    def stop() -> bool:
        asked.append(1)
        return stop_at is not None and len(asked) > stop_at

    return folder, train(config, folder, stop=stop)


def state(folder: RunFolder) -> dict[str, Any]:
    found = newest_checkpoint(folder.checkpoints)
    assert found is not None
    return found.state


def test_a_run_stops_between_steps_and_goes_on_as_if_it_had_not(benchmark, tmp_path):
    accumulating = config(benchmark, optimizer={"accumulate": 4, "learning_rate": 0.01})
    whole, reached = run(accumulating, tmp_path / "whole")
    assert reached == 8
    parts, reached = run(accumulating, tmp_path / "parts", stop_at=1)  # asked at 0 and at 4
    assert reached == 4
    run(accumulating, tmp_path / "parts")
    for key, value in state(whole)["method"].items():
        assert torch.equal(state(parts)["method"][key], value), key
    records = [json.loads(line) for line in whole.log.read_text().splitlines()]
    told = ["gradient_norm" in record["health"] for record in records]
    assert told == [False, False, False, True] * 2


def bf16(rank: int, world_size: int, root: Path, out: Path) -> list[dict[str, np.ndarray]]:
    found = []
    for name, stage in (("ddp", 0), ("deepspeed", 2), ("deepspeed", 3)):
        strategy = {"name": name, "zero_stage": stage}
        training = {"steps": 3, "precision": "bf16"}
        settings = config(root, "dann", training=training, strategy=strategy)
        folder = RunFolder(out / f"{name}{stage}-{world_size}")
        if rank == 0:
            folder.claim(settings, fingerprint=OpenData(settings).fingerprint)
        if world_size > 1:
            torch.distributed.barrier()
        train(settings, folder)
        found.append(arrays(state(folder)["method"]))
    return found


@needs_deepspeed
@pytest.mark.slow
def test_bf16_is_the_same_under_every_strategy(benchmark, tmp_path):
    plain, *others = run_processes(bf16, 2, benchmark, tmp_path)[0]
    full, _ = run(config(benchmark, "dann", training={"steps": 3}), tmp_path / "float32")
    expected = arrays(state(full)["method"])
    name = "network.trunk.conv2.weight"
    rounding = np.abs(expected[name] - plain[name]).max()
    assert rounding > 1e-6, "bf16 must show"
    for other in others:
        assert {v.dtype for v in other.values() if v.dtype.kind == "f"} == {np.dtype("float32")}
        assert np.abs(other[name] - plain[name]).max() < 0.05 * rounding


# ---- refusals


@pytest.mark.parametrize(
    ("method", "sections", "told"),
    [
        ("dann", {"training": {"steps": 9}, "optimizer": {"accumulate": 4}}, "training.steps: 9"),
        (
            "dann",
            {"training": {"checkpoint_every": 2}, "optimizer": {"accumulate": 4}},
            r"training.checkpoint_every: 2 is no multiple of optimizer.accumulate \(4\).*take 4",
        ),
        (
            "dca",
            {"training": {"batch": 64}, "optimizer": {"accumulate": 4}},
            "optimizer.accumulate: dca .*set it to 1",
        ),
        (
            "dann",
            {"training": {"precision": "float64"}, "strategy": {"name": "deepspeed"}},
            "training.precision: deepspeed .*strategy.name to ddp",
        ),
    ],
)
def test_what_cannot_be_trained_is_refused_before_anything_is_written(
    method, sections, told, benchmark, tmp_path
):
    with pytest.raises(ConfigError, match=told):
        launch(config(benchmark, method, **sections), tmp_path / "run", workers=2)
    assert not list(tmp_path.iterdir())


def test_a_missing_package_is_named_with_its_remedy(benchmark, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    (told,) = refusals(config(benchmark, strategy={"name": "deepspeed"}))
    assert told.startswith("strategy.name: deepspeed is not installed; pip install 'img2shape[")
    assert refusals(config(benchmark)) == []
