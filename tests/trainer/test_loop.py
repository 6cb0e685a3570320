"""The loop on the real benchmark: resume bit for bit, refusals, non-finite stops, checkpoints."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from dataio.datasets import mi3dor
from dataio.findings import Findings
from dataio.packing.records_to_shards import pack
from dataio.shards.opening import load_manifest
from tests.spawn import run_processes
from trainer.config import ConfigError, RunConfig, parse_config
from trainer.extraction.trained_run import extract, load_run, untrained
from trainer.inputs.open_data import OpenData
from trainer.loop import Trainer, train
from trainer.runs.checkpoint import load_checkpoint, newest_checkpoint, save_checkpoint
from trainer.runs.retention import Retention
from trainer.runs.run_folder import RunFolder
from trainer.watching.finite import NonFiniteError


def small(root: Path, method: str = "astn", **training) -> RunConfig:
    settings = {"steps": 6, "batch": 10, "log_every": 1, "checkpoint_every": 2, "threads": 1}
    return parse_config(
        {
            "method": {"name": method},
            "data": {"root": str(root), "train_views": 2},
            "network": {"tiny_width": 8, "embedding": 16},
            "training": {**settings, **training},
        }
    )


def run(config: RunConfig, path: Path, stop_after: int | None = None) -> RunFolder:
    folder = RunFolder(path)
    folder.claim(config, fingerprint=OpenData(config).fingerprint)
    asked = iter(range(10**6))
    stop = None if stop_after is None else (lambda: next(asked) >= stop_after)
    train(config, folder, stop=stop)
    return folder


def state(folder: RunFolder) -> dict[str, torch.Tensor]:
    found = newest_checkpoint(folder.checkpoints)
    assert found is not None
    return found.state["method"]


def log(folder: RunFolder) -> list[dict]:
    records = [json.loads(line) for line in folder.log.read_text().splitlines()]
    for record in records:
        del record["seconds"]
    return records


@pytest.fixture(scope="module")
def whole(benchmark, tmp_path_factory) -> RunFolder:
    return run(small(benchmark), tmp_path_factory.mktemp("whole") / "run")


@pytest.mark.parametrize("stop_after", [1, 3])
def test_an_interrupted_run_ends_like_the_whole_one_bit_for_bit(
    benchmark, whole, tmp_path, stop_after
):
    interrupted = run(small(benchmark), tmp_path / "run", stop_after=stop_after)
    assert interrupted.read()["status"] == "interrupted"
    finished = run(small(benchmark), tmp_path / "run")
    assert finished.read()["status"] == "finished"
    expected = state(whole)
    for name, value in state(finished).items():
        assert torch.equal(value, expected[name]), name
    assert log(finished) == log(whole)


@pytest.mark.parametrize("cache", ["ram", "device"])
def test_loader_workers_and_cache_change_nothing(benchmark, whole, tmp_path, cache):
    other = run(small(benchmark, loader_workers=1, cache=cache), tmp_path / "run")
    for name, value in state(other).items():
        assert torch.equal(value, state(whole)[name]), name


def test_a_run_resumes_with_another_cache_bit_for_bit(benchmark, whole, tmp_path):
    run(small(benchmark, cache="ram"), tmp_path / "run", stop_after=3)
    finished = run(small(benchmark, cache="device"), tmp_path / "run")
    for name, value in state(finished).items():
        assert torch.equal(value, state(whole)[name]), name
    assert log(finished) == log(whole)


def test_bf16_trains_close_to_float32_with_full_precision_weights(benchmark, whole, tmp_path):
    folder = run(small(benchmark, precision="bf16"), tmp_path / "run")
    assert {v.dtype for v in state(folder).values() if v.is_floating_point()} == {torch.float32}
    first, expected = log(folder)[0]["terms"], log(whole)[0]["terms"]
    assert first["classification"] == pytest.approx(expected["classification"], rel=0.05)
    assert first["classification"] != expected["classification"]


def on_rank(rank: int, world_size: int, root: Path, out: Path):
    config = small(root, precision="float64", batch=9)
    folder = RunFolder(out / f"w{world_size}")
    if rank == 0:
        folder.claim(config, fingerprint=OpenData(config).fingerprint)
    torch.distributed.barrier() if world_size > 1 else None
    train(config, folder)
    return {n: v.numpy() for n, v in state(folder).items()} if rank == 0 else None


def test_a_run_of_two_processes_is_the_run_of_one(benchmark, tmp_path):
    """The whole loop with an odd batch: order, augmentation, dropout, centres, optimiser."""
    one = on_rank(0, 1, benchmark, tmp_path)
    two = run_processes(on_rank, 2, benchmark, tmp_path)[0]
    for name, value in one.items():
        np.testing.assert_allclose(two[name], value, rtol=1e-8, atol=1e-10, err_msg=name)


def test_a_damaged_checkpoint_is_passed_over(benchmark, whole, tmp_path, caplog):
    folder = RunFolder(tmp_path / "run")
    shutil.copytree(whole.path, folder.path)
    newest = sorted(folder.checkpoints.glob("step-*"))[-1]
    with (newest / "state.pt").open("r+b") as file:
        file.seek(100)
        file.write(b"damage")
    found = newest_checkpoint(folder.checkpoints)
    assert found is not None
    assert found.step == 4
    assert "does not match its hash" in caplog.text
    with pytest.raises(ConfigError, match="does not match its hash"):
        load_checkpoint(newest)


def test_checkpoints_are_whole_or_absent_and_old_ones_go(tmp_path, monkeypatch):
    for step in (1, 2, 3):
        save_checkpoint(
            tmp_path, {"x": torch.ones(1)}, step=step, description={}, keep=Retention(2)
        )
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000002", "step-00000003"]

    def full_disk(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("trainer.runs.checkpoint.os.fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(tmp_path, {"x": torch.ones(1)}, step=4, description={}, keep=Retention(2))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000002", "step-00000003"]


def test_another_runs_folder_is_refused_naming_the_fields(benchmark, whole):
    with pytest.raises(ConfigError, match=r"differing in training\.seed; use another --out"):
        run(small(benchmark, seed=9), whole.path)


def test_a_foreign_folder_is_refused(benchmark, tmp_path):
    (tmp_path / "letter.txt").write_text("mine")
    with pytest.raises(ConfigError, match="not a run folder"):
        run(small(benchmark), tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["letter.txt"]


def test_divergence_names_the_term_and_the_samples(benchmark, tmp_path):
    config = small(benchmark, method="source-only", steps=30)
    config = config.model_copy(
        update={"optimizer": config.optimizer.model_copy(update={"learning_rate": 1e30})}
    )
    with pytest.raises(NonFiniteError) as error:
        run(config, tmp_path / "run")
    message = str(error.value)
    assert "classification is" in message or "gradient norm is" in message
    assert "step " in message
    assert "procedural-train-" in message
    assert "optimizer.learning_rate" in message


def test_target_labels_never_reach_the_method(benchmark, tmp_path):
    config = small(benchmark)
    trainer = Trainer(config, RunFolder(tmp_path), device=torch.device("cpu"))
    assert not trainer.sources["target_shapes"].labelled
    seen = []
    original = trainer.method.losses
    trainer.method.losses = lambda batch, progress: (
        seen.append(batch["target_shapes"].labels),
        original(batch, progress),
    )[1]
    trainer.folder.checkpoints.mkdir(parents=True)
    trainer.folder.update(status="test")
    trainer.run()
    assert torch.cat(seen).unique().tolist() == [-1]


def test_extraction_takes_each_item_once_at_any_world_size(benchmark, whole):
    trained = load_run(whole.path)
    source = OpenData(trained.config).evaluation_source(trained.config.data.gallery)
    options = {"batch": 7, "precision": "float32"}
    keys, labels, vectors = extract(trained.method, source, **options)
    manifest = load_manifest(benchmark)
    rows = manifest.select("shape", "test")
    assert keys == [manifest.keys[r] for r in rows]
    assert labels == [manifest.labels[r] for r in rows]
    assert vectors.shape == (len(rows), 16)
    parts = [extract(trained.method, source, rank=r, world_size=3, **options) for r in range(3)]
    assert sorted(k for p in parts for k in p[0]) == sorted(keys)
    by_key = {k: v for p in parts for k, v in zip(p[0], p[2], strict=True)}
    for key, vector in zip(keys, vectors, strict=True):
        np.testing.assert_allclose(by_key[key], vector, atol=1e-5)


def test_the_untrained_method_is_the_start_of_the_run(whole):
    trained = load_run(whole.path)
    a, b = untrained(trained).state_dict(), untrained(trained).state_dict()
    assert all(torch.equal(a[n], b[n]) for n in a)
    assert not torch.equal(
        a["network.bottleneck.weight"], trained.method.state_dict()["network.bottleneck.weight"]
    )


def test_joint_training_draws_from_the_union_of_data_sets(benchmark, tmp_path):
    """ASTN table 4: source and target of two data sets, one label space, evaluated on one."""
    other = tmp_path / "other"
    options = mi3dor.Options(name="other")
    records = mi3dor.records(benchmark / "raw", options, Findings("other"))
    pack(records, other, dataset="other", seed=1)
    tree = small(benchmark).to_dict()
    for stream in ("source_images", "target_shapes"):
        tree["data"][stream]["root"] = [str(benchmark), str(other)]
    config = parse_config(tree)
    trainer = Trainer(config, RunFolder(tmp_path / "x"), device=torch.device("cpu"))
    alone = Trainer(small(benchmark), RunFolder(tmp_path / "y"), device=torch.device("cpu"))
    for stream, source in trainer.sources.items():
        assert len(source.rows) == 2 * len(alone.sources[stream].rows)
    assert trainer.data.classes == alone.data.classes
    folder = run(config, tmp_path / "joint")
    moved = tmp_path / "moved"  # the fingerprint is of the content, not of the place
    other.rename(moved)
    for stream in ("source_images", "target_shapes"):
        tree["data"][stream]["root"] = [str(benchmark), str(moved)]
    assert OpenData(parse_config(tree)).fingerprint == folder.read()["data"]["fingerprint"]
    assert parse_config(tree).identity == config.identity


def test_restricted_streams_hold_the_named_classes_alone(benchmark):
    tree = small(benchmark).to_dict()
    tree["data"] |= {"classes": ["sofa", "chair"], "restrict": True}
    config = parse_config(tree)
    assert OpenData(config).classes == ("sofa", "chair")
    sources = OpenData(config).sources
    for source in (*sources.values(), OpenData(config).evaluation_source(config.data.gallery)):
        assert set(source.manifest.labels[source.rows]) == {"sofa", "chair"}
    assert not sources["target_shapes"].labelled
    with pytest.raises(ConfigError, match=r"data\.restrict: .* has no sample of data\.classes"):
        OpenData(
            config.model_copy(update={"data": config.data.model_copy(update={"classes": ()})})
        ).evaluation_source(config.data.gallery)
