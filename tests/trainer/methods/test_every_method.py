"""What every registered method gets from the loop, on the real benchmark: rounds and a last fit
where it has them, resume bit for bit, embeddings of both sides, world-size free statistics."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from trainer.config import RunConfig, parse_config
from trainer.extraction.trained_run import extract, load_run
from trainer.inputs.open_data import OpenData
from trainer.loop import Trainer, train
from trainer.methods import METHODS
from trainer.runs.checkpoint import newest_checkpoint
from trainer.runs.run_folder import RunFolder

STEPS = 4


def small(root: Path, method: str, **training) -> RunConfig:
    options: dict[str, object] = {"name": method}
    settings = {"steps": STEPS, "log_every": 1, "checkpoint_every": 2, "threads": 1, "batch": 9}
    if not METHODS[method].trains:
        del settings["steps"]
        training.pop("steps", None)
    if METHODS[method].balanced:
        options |= {"classes_per_batch": 3, "samples_per_class": 3}
    return parse_config(
        {
            "method": options,
            "data": {"root": str(root), "train_views": 2},
            "network": {"tiny_width": 8, "embedding": 16},
            "optimizer": {"learning_rate": 0.01, "clip_norm": 1.0},
            "training": {**settings, **training},
        }
    )


def run(config: RunConfig, path: Path, stop_after: int | None = None) -> RunFolder:
    folder = RunFolder(path)
    folder.claim(config, fingerprint=OpenData(config).fingerprint)
    asked = iter(range(10**6))
    train(config, folder, stop=None if stop_after is None else lambda: next(asked) >= stop_after)
    return folder


def state(folder: RunFolder) -> dict[str, torch.Tensor]:
    found = newest_checkpoint(folder.checkpoints)
    assert found is not None
    assert found.step == STEPS
    return found.state["method"]


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_stopped_and_resumed_equals_uninterrupted_bit_for_bit(benchmark, tmp_path, name):
    if not METHODS[name].trains:
        pytest.skip(f"{name} takes no step after which it could stop")
    whole = run(small(benchmark, name), tmp_path / "whole")
    run(small(benchmark, name), tmp_path / "parts", stop_after=3)
    parts = run(small(benchmark, name), tmp_path / "parts")
    expected, found = state(whole), state(parts)
    assert expected.keys() == found.keys()
    for key, value in expected.items():
        assert torch.equal(found[key], value), key
    records = [
        [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in f]
        for f in (folder.log.read_text().splitlines() for folder in (whole, parts))
    ]
    assert records[0] == records[1]

    trained = load_run(whole.path)  # both sides can be embedded by what was saved
    widths = set()
    for side in ("queries", "gallery"):
        source = OpenData(trained.config).evaluation_source(getattr(trained.config.data, side))
        _, _, vectors = extract(trained.method, source, batch=32, precision="float32")
        assert np.isfinite(vectors).all()
        assert np.linalg.norm(vectors - vectors[0], axis=1).max() > 0, "all embeddings are equal"
        widths.add(vectors.shape[1])
    assert len(widths) == 1


@pytest.mark.parametrize("name", METHODS)
def test_bf16_keeps_losses_and_weights_in_full_precision(benchmark, tmp_path, name):
    config = small(benchmark, name, precision="bf16", steps=2)
    trainer = Trainer(config, RunFolder(tmp_path), device=torch.device("cpu"))
    seen = []
    trainer.method.register_forward_hook(lambda _m, _i, losses: seen.append(losses.terms))
    trainer.folder.checkpoints.mkdir(parents=True)
    trainer.run()
    dtypes = {value.dtype for terms in seen for value in terms.values()}
    assert torch.bfloat16 not in dtypes
    assert {p.dtype for p in trainer.method.parameters()} == {torch.float32}
    assert all(torch.isfinite(p).all() for p in trainer.method.parameters())


def test_the_walk_covers_each_sample_once_and_hides_target_labels(benchmark, tmp_path):
    trainer = Trainer(small(benchmark, "dann"), RunFolder(tmp_path), device=torch.device("cpu"))
    for stream, labelled in (("source_images", True), ("target_shapes", False)):
        parts = list(trainer.rounds.walk(stream))
        samples = torch.cat([p.samples for p in parts])
        assert samples.tolist() == list(range(parts[0].size))
        labels = torch.cat([p.labels for p in parts])
        assert (labels >= 0).all() if labelled else (labels == -1).all()
        if stream == "target_shapes":
            assert parts[0].pixels.shape[1] == 12
