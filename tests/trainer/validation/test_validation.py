"""Scores on the way: the same for any number of ranks, without a trace in training."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cluster.training.launching import launch
from dataio.shards.opening import load_manifest
from evalsuite.scoring.evaluation import evaluate
from evalsuite.scoring.options import HEADLINES
from evalsuite.vectors.embeddings import Embeddings, EvaluationError
from tests.spawn import run_processes
from tests.trainer.test_loop import log, run, state
from tests.trainer.test_loop import small as unscored
from trainer.config import ConfigError, RunConfig, parse_config
from trainer.explain import explain_run
from trainer.extraction.embed_stream import embed_whole
from trainer.extraction.trained_run import extract, load_run
from trainer.inputs.open_data import OpenData
from trainer.loop import Trainer
from trainer.runs.retention import best_first
from trainer.runs.run_folder import RunFolder
from trainer.validation import validation


def small(root: Path, method: str = "astn", *, more: Any = None, **training: Any) -> RunConfig:
    tree = unscored(root, method, **training).to_dict()
    tree["validation"]["every"] = 2
    tree["evaluation"]["batch"] = 9
    for section, values in (more or {}).items():
        tree[section] |= values
    return parse_config(tree)


def scores(folder: RunFolder) -> list[dict[str, Any]]:
    return [json.loads(line) for line in folder.validation.read_text().splitlines()]


def facts(folder: RunFolder) -> dict[int, dict[str, Any]]:
    found = [json.loads(p.read_text()) for p in folder.checkpoints.glob("step-*/checkpoint.json")]
    return {f["step"]: f for f in found}


def equal_states(one: RunFolder, other: RunFolder) -> bool:
    ours, theirs = state(one), state(other)
    assert ours.keys() == theirs.keys()
    return all(torch.equal(value, theirs[name]) for name, value in ours.items())


@pytest.fixture(scope="module")
def whole(benchmark, tmp_path_factory) -> RunFolder:
    return run(small(benchmark), tmp_path_factory.mktemp("whole") / "run")


def on_rank(rank: int, world_size: int, root: Path, out: Path) -> Any:
    """What this rank embeds, scores and calls; parts are uneven, and some are empty."""
    config = small(root, precision="float64", more={"evaluation": {"batch": 7}})
    trainer = Trainer(config, RunFolder(out / f"{world_size}"), device=torch.device("cpu"))
    trainer.folder.path.mkdir(exist_ok=True)
    method, calls = trainer.method.eval(), []
    embed = method.embed_queries
    method.embed_queries = lambda pixels: (calls.append(len(pixels)), embed(pixels))[1]
    options = {"device": torch.device("cpu"), "dtype": torch.float64}
    with torch.no_grad():
        sides = {
            side: embed_whole(method, source, batch=7, on_part=lambda: None, **options).numpy()
            for side, source in trainer.observers.validation.sources.items()
        }
        trainer.observers.validation.score(method, step=2)
    return sides, trainer.observers.validation.known(2), calls


@pytest.mark.parametrize("world_size", [2, 3])
def test_scores_do_not_depend_on_the_number_of_ranks(benchmark, tmp_path, world_size):
    ((expected, known, calls),) = run_processes(on_rank, 1, benchmark, tmp_path)
    assert known.keys() == set(HEADLINES)
    ranks = run_processes(on_rank, world_size, benchmark, tmp_path)
    for sides, found, rows in ranks:
        assert found == known
        assert len(rows) == len(calls)  # engines that shard weights wait for each pass
        for side, vectors in expected.items():
            np.testing.assert_allclose(sides[side], vectors, rtol=0, atol=1e-12)
    rows = np.array([rows for _, _, rows in ranks])
    assert (rows == 0).any()
    assert rows.sum() == sum(calls)
    records = [scores(RunFolder(tmp_path / str(w))) for w in (1, world_size)]
    assert records[0] == records[1]


def test_the_scores_are_those_of_extraction_and_evaluation(benchmark, whole):
    trained, sides = load_run(whole.path), {}
    for side in ("queries", "gallery"):
        selection = getattr(trained.config.data, side).model_copy(update={"split": "val"})
        source = OpenData(trained.config).evaluation_source(selection)
        sides[side] = Embeddings(*extract(trained.method, source, batch=9, precision="float32"))
    manifest = load_manifest(benchmark)
    assert sides["queries"].keys == [manifest.keys[r] for r in manifest.select("image", "val")]
    found = evaluate(sides["queries"], sides["gallery"])
    last = scores(whole)[-1]
    assert (last["step"], last["split"], last["protocol"]) == (6, "val", "mi3dor")
    assert last["scores"] == dict(found.headline)
    assert facts(whole)[6]["scores"] == last["scores"]


def test_training_goes_on_as_if_there_were_no_validation(benchmark, whole, tmp_path):
    silent = run(unscored(benchmark), tmp_path / "run")
    assert equal_states(whole, silent)
    assert log(whole) == log(silent)
    assert [s["step"] for s in scores(whole)] == [2, 4, 6]
    assert not silent.validation.exists()
    assert "scores" not in facts(silent)[6]
    assert "validation" in whole.read()["timings"]
    assert whole.read()["identity"] == silent.read()["identity"]


@pytest.mark.parametrize("stop_after", [3, 4])
def test_a_resumed_run_ends_alike_with_the_same_scores(
    benchmark, whole, tmp_path, stop_after, monkeypatch
):
    """Stopped between two validations, and right after one, whose scores are not lost."""
    folder = run(small(benchmark), tmp_path / "run", stop_after=stop_after)
    assert ("scores" in facts(folder)[stop_after]) == (stop_after == 4)
    with monkeypatch.context() as patched:  # nothing is scored twice
        patched.setattr("trainer.validation.validation.Validation.score", None)
        run(small(benchmark), folder.path, stop_after=0)  # saves where it starts
    assert ("scores" in facts(folder)[stop_after]) == (stop_after == 4)
    future = {"step": 5, "scores": {}}  # of an attempt that got further and lost its checkpoint
    with folder.validation.open("a") as file:
        file.write(json.dumps(future) + '\n{"step": 6, "sc')
    run(small(benchmark), folder.path)
    assert equal_states(folder, whole)
    assert scores(folder) == scores(whole)
    assert {s: f["scores"] for s, f in facts(folder).items() if "scores" in f}.keys() >= {6}


def test_the_best_checkpoint_outlives_the_newest_ones(benchmark, tmp_path, monkeypatch):
    values = iter([0.2, 0.9, 0.5, 0.4, 0.3, 0.1])
    monkeypatch.setattr(
        "trainer.validation.validation.Validation._scored",
        lambda *_: {name: next(values) if name == "mAP" else 0.0 for name in ("mAP", "NN")},
    )
    folder = run(small(benchmark, "source-only", steps=12, keep_last=1), tmp_path / "run")
    assert sorted(facts(folder)) == [4, 12]
    (best, last) = best_first(folder.checkpoints.glob("step-*"))
    assert (best.step, best.value, last.step) == (4, 0.9, 12)


def test_only_a_fitted_model_has_its_score_in_the_checkpoint(benchmark, tmp_path):
    """On the way a shallow method is the network alone, which is another model."""
    folder = run(small(benchmark, "coral"), tmp_path / "run")
    assert [s["step"] for s in scores(folder)] == [2, 4, 6]
    assert {step: "scores" in f for step, f in facts(folder).items()} == {4: False, 6: True}
    assert scores(folder)[-1]["scores"] == facts(folder)[6]["scores"]
    config = small(benchmark, "coral", steps=0, init_from=str(folder.path))
    fitted = run(config, tmp_path / "fitted")
    assert [s["step"] for s in scores(fitted)] == [0]
    assert "scores" in facts(fitted)[0]


def test_a_diverged_network_scores_badly_and_stops_nothing(benchmark, tmp_path):
    trainer = Trainer(small(benchmark), RunFolder(tmp_path), device=torch.device("cpu"))
    with torch.no_grad():
        for parameter in trainer.method.parameters():
            parameter.fill_(torch.nan)
        trainer.observers.validation.score(trainer.method.eval(), step=2)
    assert trainer.observers.validation.known(2)["NN"] == 0.0


def failure_on_rank(rank: int, world_size: int, root: Path, out: Path) -> str:
    def fail(*_: object, **__: object) -> None:
        raise EvaluationError("cannot be scored")

    before = validation.evaluate
    if rank == 0:
        validation.evaluate = fail
    trainer = Trainer(small(root), RunFolder(out), device=torch.device("cpu"))
    trainer.step = 2
    try:
        trainer.save()
    except EvaluationError as err:
        return str(err)
    finally:
        validation.evaluate = before
    return "nothing"


def test_all_ranks_learn_why_there_is_no_score(benchmark, tmp_path):
    told = run_processes(failure_on_rank, 2, benchmark, tmp_path)
    assert told == ["cannot be scored"] * 2


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"validation": {"metric": "map"}}, r"validation\.metric: no metric 'map'; did you .*mAP"),
        (
            {"validation": {"every": 5}, "training": {"checkpoint_every": 3}},
            r"validation\.every: 5 is no multiple of training\.checkpoint_every=3; .* take 6",
        ),
    ],
)
def test_a_description_that_cannot_be_scored_is_refused(benchmark, more, words):
    with pytest.raises(ConfigError, match=words):
        small(benchmark, more=more)


def test_a_split_without_samples_is_refused_before_anything_is_written(
    benchmark, tmp_path, monkeypatch
):
    manifest = load_manifest(benchmark)
    held_out = (manifest.streams == "shape") & (manifest.splits == "val")
    without_val = replace(manifest, splits=np.where(held_out, "train", manifest.splits))
    monkeypatch.setattr("trainer.inputs.open_data.load_manifest", lambda root: without_val)
    config = small(benchmark)
    words = (
        r"has no shape of split 'val' for data\.gallery; it has them in test, train; "
        r".*`data pack folder -o val_share=0\.1`.*validation\.metric=null validation\.criterion=im"
    )
    with pytest.raises(ConfigError, match=words):
        launch(config, tmp_path / "run", workers=0)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ConfigError, match=words):
        explain_run(OpenData(config), world_size=1)
