"""Training on the kept outputs of frozen stages is training through the stages themselves."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dataio.loading import apply, draw
from dataio.loading.batch import Stream
from dataio.loading.sources import SampleTable
from tests.open_clip_models import CLIP, made_models
from tests.spawn import run_processes
from trainer import loop
from trainer.config import RunConfig, parse_config
from trainer.extraction import extract, load_run
from trainer.inputs import FeatureStore, OpenData
from trainer.inputs.feature_store import feature_folder
from trainer.loop import Trainer, train
from trainer.networks.torchvision_shim import import_torchvision
from trainer.runs import RunFolder, newest_checkpoint
from trainer.validation import Validation

STEPS = 5


def config(root: Path, store: Path, method: str = "astn", **sections: dict[str, Any]) -> RunConfig:
    base: dict[str, dict[str, Any]] = {
        "data": {"root": str(root), "train_views": 2, "augment": None},
        "network": {"tiny_width": 8, "embedding": 16, "image_size": 32, "train": "head"},
        "optimizer": {"learning_rate": 0.01},
        "training": {
            "steps": STEPS,
            "batch": 9,
            "checkpoint_every": 2,
            "log_every": 1,
            "threads": 1,
            "precision": "float64",
            "feature_store": str(store),
        },
    }
    tree = {name: {**base.get(name, {}), **sections.get(name, {})} for name in base | sections}
    return parse_config({"method": method, **tree})


def run(config: RunConfig, path: Path, *, stop_after: int | None = None) -> RunFolder:
    folder, asked = RunFolder(path), iter(range(10**6))
    folder.claim(config, fingerprint=OpenData(config).fingerprint)
    train(config, folder, stop=None if stop_after is None else lambda: next(asked) >= stop_after)
    return folder


def losses(folder: RunFolder) -> list[float]:
    return [json.loads(line)["loss"] for line in folder.log.read_text().splitlines()]


def state(folder: RunFolder) -> dict[str, torch.Tensor]:
    found = newest_checkpoint(folder.checkpoints)
    assert found is not None
    assert found.step == STEPS
    return found.state["method"]


def parts(store: Path) -> list[Path]:
    return sorted(store.glob("*/part-*.npy"))


NETWORKS = {
    "head": ("astn", {}),
    "last stage": ("astn", {"train": "last:1"}),
    "map": ("hifa", {}),
    "map of a trained stage": ("hifa", {"train": "last:2"}),
    "rounds": ("ftspl", {}),
    "tokens": ("dann", {"backbone": "timm/test_vit", "train": "last:1"}),
    "statistics": ("dann", {"backbone": "timm/test_efficientnet", "train": "last:1"}),
    "shapes alone": ("daisnet", {"train": "all", "shape_train": "head"}),
    "two trunks": ("daisnet", {"shape_backbone": "timm/test_vit", "shape_train": "last:1"}),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_losses_are_those_of_training_through_the_frozen_stages(
    benchmark, tmp_path, monkeypatch, name
):
    method, network = NETWORKS[name]
    sections = {"network": {"tiny_width": 8, "embedding": 16, "image_size": 32, "train": "head"}}
    sections["network"] |= network
    kept = config(benchmark, tmp_path / "store", method, **sections)
    found = run(kept, tmp_path / "kept")
    assert parts(tmp_path / "store")
    monkeypatch.setattr(loop, "read_frozen_stages", lambda *_, **__: None)
    expected = run(kept, tmp_path / "through")
    np.testing.assert_allclose(losses(found), losses(expected), rtol=1e-9)
    ours, theirs = state(found), state(expected)
    for key, value in theirs.items():
        torch.testing.assert_close(ours[key], value, rtol=1e-7, atol=1e-10, msg=key)
    frozen = [key for key in ours if ".trunk." in key]
    assert frozen


def test_copies_against_a_slow_computation(benchmark, tmp_path):
    """Each pass reads the next copy; a copy is the augmentation of its number, view by view."""
    sections = {"training": {"feature_copies": 2, "feature_store": str(tmp_path), "batch": 5}}
    run_config = config(benchmark, tmp_path, "dann", data={"augment": {"flip": 0.5}}, **sections)
    trainer = Trainer(run_config, RunFolder(tmp_path / "run"), device=torch.device("cpu"))
    plain = OpenData(run_config).sources["target_shapes"]
    source, trunk = trainer.sources["target_shapes"], trainer.method.network.trunk.eval()
    stream = Stream(plain, SampleTable.of(plain), labels=None)
    draws = trainer.data.plan.draws
    seen = set()
    for step in (0, 1, 7, 31, 32, 33):
        positions, passes = draws.samples("target_shapes", step)
        views = draws.views("target_shapes", positions, passes)
        batch = Stream(
            source, SampleTable.of(source), labels=None, stores=source.features(True)
        ).batch(positions, 0, len(positions), views=views, passes=passes)
        assert batch.jitter is None
        for i, position in enumerate(positions):
            copy = int(passes[i]) % 2
            seen.add(copy)
            jitter = draw(
                plain.augment,
                seed=0,
                pass_index=copy,
                rows=plain.rows[[position]],
                views=12,
            )
            for j, view in enumerate(views[i]):
                pixels = stream.pixels(np.array([position]), np.array([[view]]))[0]
                x = apply(pixels, torch.from_numpy(jitter[0, [view]]), size=32)
                torch.testing.assert_close(batch.pixels[i, j], trunk.front(x.double())[0])
    assert seen == {0, 1}


def test_stopped_and_resumed_equals_uninterrupted_bit_for_bit(benchmark, tmp_path):
    settings = config(
        benchmark, tmp_path / "store", network={"train": "lora", "backbone": "timm/test_vit"}
    )
    for number, chosen in enumerate((config(benchmark, tmp_path / "store"), settings)):
        whole = run(chosen, tmp_path / f"whole{number}")
        run(chosen, tmp_path / f"parts{number}", stop_after=3)
        resumed = run(chosen, tmp_path / f"parts{number}")
        for key, value in state(whole).items():
            assert torch.equal(state(resumed)[key], value), key
        assert losses(whole) == losses(resumed)


def distributed(rank: int, world_size: int, root: Path, store: Path, out: Path) -> list[float]:
    settings = config(root, store, training={"batch": 7, "feature_store": str(store)})
    folder = RunFolder(out / f"{rank}of{world_size}")
    folder.path.mkdir()
    trainer = Trainer(settings, folder, device=torch.device("cpu"))
    found: list[float] = []
    trainer.method.register_forward_hook(lambda _m, _i, o: found.append(o.total.item()))
    trainer.run()
    return found


def test_ranks_share_the_parts_and_train_alike(benchmark, tmp_path):
    expected = distributed(0, 1, benchmark, tmp_path / "one", tmp_path)
    for found in run_processes(distributed, 3, benchmark, tmp_path / "three", tmp_path):
        np.testing.assert_allclose(found, expected, rtol=1e-9)
    names = [[p.relative_to(tmp_path / s) for p in parts(tmp_path / s)] for s in ("one", "three")]
    assert names[0] == names[1]  # the same content, each part once


def test_runs_that_need_the_same_features_share_them(benchmark, tmp_path):
    store = tmp_path / "store"
    run(config(benchmark, store), tmp_path / "astn")
    before = {path: path.stat().st_mtime_ns for path in parts(store)}
    # `tiny` starts from the seed, so another seed has other weights; another method has not.
    run(config(benchmark, store, "dann"), tmp_path / "dann")
    assert {path: path.stat().st_mtime_ns for path in parts(store)} == before
    training = {"seed": 1, "steps": STEPS, "feature_store": str(store), "batch": 9}
    run(config(benchmark, store, training=training), tmp_path / "seed")
    assert len(parts(store)) > len(before)


def test_a_damaged_part_is_computed_again(benchmark, tmp_path, caplog):
    store = tmp_path / "store"
    first = run(config(benchmark, store), tmp_path / "first")
    damaged = parts(store)[0]
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with caplog.at_level(logging.WARNING):
        second = run(config(benchmark, store), tmp_path / "second")
    assert f"{damaged}: other content" in caplog.text
    assert damaged.read_bytes() == whole
    assert losses(first) == losses(second)


def _compute(settings: RunConfig, slow: bool) -> None:
    from trainer.inputs import feature_store

    if slow:
        monkey = feature_store.write_whole

        def sleepy(path: Path, data: bytes) -> None:
            monkey(path, data)
            time.sleep(0.3)

        feature_store.write_whole = sleepy  # pyright: ignore
    folder = RunFolder(Path(settings.training.feature_store or "") / "run")
    Trainer(settings, folder, device=torch.device("cpu"))


def test_a_killed_process_loses_the_part_that_it_was_at(benchmark, tmp_path):
    settings = config(benchmark, tmp_path / "store")
    process = multiprocessing.get_context("spawn").Process(target=_compute, args=(settings, True))
    process.start()
    until = time.monotonic() + 60
    while len(parts(tmp_path / "store")) < 1 and time.monotonic() < until:
        time.sleep(0.02)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    before = {path: path.stat().st_mtime_ns for path in parts(tmp_path / "store")}
    found = run(settings, tmp_path / "run")
    after = {path: path.stat().st_mtime_ns for path in parts(tmp_path / "store")}
    assert before.items() < after.items()
    assert losses(found) == losses(run(config(benchmark, tmp_path / "other"), tmp_path / "again"))


def test_embeddings_read_the_same_features(benchmark, tmp_path, monkeypatch):
    folder = run(config(benchmark, tmp_path / "store"), tmp_path / "run")
    trained = load_run(folder.path)
    data = trained.config.data
    for selection in (data.queries, data.gallery):
        found, expected = (
            extract(
                trained.method,
                trained.data.evaluation_source(selection, pictures=pictures),
                batch=32,
                precision="float64",
            )
            for pictures in (False, True)
        )
        assert found[:2] == expected[:2]
        np.testing.assert_allclose(found[2], expected[2], rtol=1e-5, atol=1e-7)


def test_validation_reads_the_features_and_scores_as_with_pictures(benchmark, tmp_path):
    """No picture goes through the trunk at a validation, and the scores are those of pictures."""
    scored = {"every": 2, "metric": "mAP", "criterion": "im", "split": "test"}
    made = config(benchmark, tmp_path / "store", validation=scored)
    trainer = Trainer(made, RunFolder(tmp_path / "run"), device=torch.device("cpu"))
    trainer.folder.claim(made, fingerprint=trainer.data.fingerprint)
    trainer.run()
    validation = trainer.observers.validation
    read = [*validation.sources.values(), *validation.criterion_sources.values()]
    assert len(read) == 3
    assert all(source.features is not None for source in read)
    last = json.loads(trainer.folder.validation.read_text().splitlines()[-1])
    assert last["step"] == STEPS

    seen = Validation(
        OpenData(made), tmp_path / "pictures.jsonl", method=trainer.method,
        evaluating=validation.evaluating, device=validation.device, dtype=validation.dtype,
        clock=trainer.clock,
    )  # fmt: skip
    assert all(source.features is None for source in seen.sources.values())
    with seen.evaluating():
        seen.score(trainer.method, step=STEPS)
    scores = json.loads((tmp_path / "pictures.jsonl").read_text())["scores"]
    assert scores == pytest.approx(last["scores"], rel=1e-5)


def test_the_folder_is_the_users_choice(benchmark, tmp_path, monkeypatch):
    chosen = config(benchmark, tmp_path)
    assert feature_folder(chosen) == tmp_path
    training = chosen.training.model_copy(update={"feature_store": None})
    unsaid = chosen.model_copy(update={"training": training})
    monkeypatch.setenv("IMG2SHAPE_FEATURES", str(tmp_path / "named"))
    assert feature_folder(unsaid) == tmp_path / "named"
    monkeypatch.delenv("IMG2SHAPE_FEATURES")
    assert feature_folder(unsaid).parts[-2:] == ("img2shape", "features")


def test_a_trunk_without_frozen_stages_reads_pictures(benchmark, tmp_path):
    settings = config(benchmark, tmp_path, network={"train": "all"})
    trainer = Trainer(settings, RunFolder(tmp_path / "run"), device=torch.device("cpu"))
    assert all(source.features is None for source in trainer.sources.values())
    store = FeatureStore(settings, trainer.method, dtype=torch.float64)
    source = trainer.sources["source_images"]
    assert store.attached(source) is source


def test_the_same_weights_with_another_activation_have_a_store_of_their_own(benchmark, tmp_path):
    """A CLIP's weights taken with GELU by mistake, and then with their own QuickGELU."""
    import_torchvision()
    pytest.importorskip("open_clip")
    made_models(tmp_path)
    read = []
    for tag in ("plain", "quick"):
        network = {"backbone": f"open_clip/{CLIP}", "weights": tag}
        settings = config(benchmark, tmp_path / "store", "dann", network=network)
        trainer = Trainer(settings, RunFolder(tmp_path / tag), device=torch.device("cpu"))
        (stored,) = trainer.sources["source_images"].features(False)
        read.append(stored.read(stored.rows[:3], np.zeros((3, 1), dtype=np.int64)))
    assert np.abs(read[0] - read[1]).max() > 1e-6
