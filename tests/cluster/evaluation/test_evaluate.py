"""Evaluating a run, and galleries whose shards live in Ray actors."""

from __future__ import annotations

import inspect
import json
import shutil
from dataclasses import asdict, fields, replace
from pathlib import Path

import numpy as np
import pytest

from cluster.cli.evaluation import metrics
from cluster.evaluation.gallery_actors import gallery_transport
from cluster.evaluation.jobs import evaluate_run, score_files
from cluster.tables import print_metrics
from cluster.training import train_run
from dataio.shards.manifest import write_manifest
from dataio.shards.opening import load_manifest
from evalsuite.scoring.evaluation import evaluate
from evalsuite.scoring.options import Options
from evalsuite.vectors.embeddings import Embeddings, EvaluationError, write_embeddings
from evalsuite.vectors.reading import read_embeddings
from tests.command import CONFIGS, small
from trainer.config import load_config
from trainer.extraction.trained_run import extract, load_run
from trainer.inputs.open_data import OpenData
from trainer.sections import EvaluationConfig


@pytest.fixture(scope="module")
def run(benchmark, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("evaluate") / "run"
    train_run(load_config(CONFIGS / "source-only.yaml", small(benchmark)), out, workers=0)
    return out


def cloud(name: str, count: int, *, classes: int = 4, ties: int = 3) -> Embeddings:
    """Points on a coarse grid, so that equal distances occur."""
    random = np.random.default_rng(len(name))
    return Embeddings(
        [f"{name}-{i}" for i in range(count)],
        [f"class-{i % classes}" for i in range(count)],
        random.integers(0, ties, size=(count, 5)).astype(np.float32),
    )


@pytest.mark.ray
def test_ray_actors_answer_bit_for_bit_like_shards_in_process(ray_cluster):
    queries, gallery = cloud("query", 23), cloud("shape", 31)
    expected = evaluate(queries, gallery)
    options = {"features": "raw", "metric": "euclidean"}
    with gallery_transport(gallery, 2, actors=True, **options) as transport:
        found = evaluate(queries, gallery, transport=transport)
        assert found.to_json() == expected.to_json()
        assert found.per_query.equals(expected.per_query)
        with pytest.raises(AttributeError, match="no_such_question") as error:
            transport.broadcast("no_such_question")
    assert "ray::" not in str(error.value)  # the actor's error, not its traceback


def test_more_shards_than_shapes(tmp_path):
    files = []
    for name, count in (("query", 5), ("shape", 4)):
        files.append(tmp_path / f"{name}.parquet")
        write_embeddings(files[-1], cloud(name, count))
    assert score_files(*files, shards=9) == score_files(*files, shards=1)


def test_the_faster_arithmetic_ranks_alike_and_says_what_it_was(tmp_path):
    files = []
    for name, count in (("query", 40), ("shape", 700)):
        files.append(tmp_path / f"{name}.parquet")
        write_embeddings(files[-1], cloud(name, count))
    exact, fast = (score_files(*files, shards=2, arithmetic=a) for a in ("exact", "float32"))
    assert fast["arithmetic"] == "float32"
    assert fast["mAP"] == pytest.approx(exact["mAP"], abs=1e-3)
    assert fast == score_files(*files, shards=5, arithmetic="float32")
    with pytest.raises(EvaluationError, match="arithmetic='bf16'"):
        score_files(*files, shards=2, arithmetic="bf16")


def test_embeddings_are_the_networks_own(run):
    evaluate_run(run, shards=1)
    trained = load_run(run)
    source = OpenData(trained.config).evaluation_source(trained.config.data.gallery)
    precision = trained.config.training.precision
    keys, labels, vectors = extract(trained.method, source, batch=7, precision=precision)
    kept = read_embeddings(run / "embeddings" / "gallery")
    assert (kept.keys, kept.labels) == (keys, labels)
    np.testing.assert_allclose(kept.vectors, vectors, atol=1e-5)


def test_damaged_embeddings_are_made_again(run):
    first = evaluate_run(run, shards=1)
    folder = run / "embeddings" / "queries"
    (file, *others) = sorted(folder.glob("part-*"))
    assert others
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    assert evaluate_run(run, shards=1) == first
    assert file.read_bytes() == content
    assert len(read_embeddings(folder)) == first["n_queries"]


def test_embeddings_of_another_checkpoint_are_not_reused(run, benchmark, tmp_path):
    """A run that was deleted and trained anew in the same folder, say."""
    other = tmp_path / "run"
    overrides = small(benchmark, training__seed=5)
    train_run(load_config(CONFIGS / "source-only.yaml", overrides), other, workers=0)
    expected = evaluate_run(other, shards=1)
    evaluate_run(run, shards=1)
    shutil.copytree(run / "embeddings", other / "embeddings", dirs_exist_ok=True)
    assert evaluate_run(other, shards=1) == expected


def renamed(benchmark: Path, out: Path, names: dict[str, str | None]) -> Path:
    """The benchmark with other class names in its test split, in ``out``; the shards are linked."""
    out.mkdir()
    held = load_manifest(benchmark)
    for shard in held.shards:
        (out / shard.name).symlink_to(benchmark / shard.name)
    labels = [
        names.get(label, label) if split == "test" and stream == "image" else label
        for label, split, stream in zip(held.labels, held.splits, held.streams, strict=True)
    ]
    classes = tuple(sorted({label for label in labels if label is not None}))
    manifest = replace(
        held,
        root=str(out),
        labels=np.array(labels, dtype=object),
        classes=classes,
        fingerprint="",
    )
    write_manifest(manifest)
    return out


def trained_with_queries_from(data: Path, benchmark: Path, out: Path) -> Path:
    overrides = small(benchmark, training__steps=1, data__queries__root=data)
    train_run(load_config(CONFIGS / "source-only.yaml", overrides), out, workers=0)
    return out


def test_queries_keep_their_class_names_also_outside_the_label_space(benchmark, tmp_path):
    """A class that the classifier does not know must not be scored as another one."""
    data = renamed(benchmark, tmp_path / "data", {"vase": "amphora"})
    out = trained_with_queries_from(data, benchmark, tmp_path / "run")
    result = evaluate_run(out, shards=2)
    assert (result["n_queries"], result["n_evaluated"], result["n_missing"]) == (100, 80, 20)
    assert result["missing_labels"] == ["amphora"]
    labels = read_embeddings(out / "embeddings" / "queries").labels
    assert sorted(set(labels)) == ["amphora", "bottle", "chair", "sofa", "stool"]
    assert json.loads((out / "evaluation" / "metrics.json").read_text()) == result

    # Other queries in the same place: embedded anew.
    (data / "manifest.parquet").unlink()
    for link in data.iterdir():
        link.unlink()
    data.rmdir()
    renamed(benchmark, data, {"vase": "bottle"})
    assert evaluate_run(out, shards=2)["n_missing"] == 0


def test_unlabelled_queries_are_refused(benchmark, tmp_path):
    data = renamed(benchmark, tmp_path / "data", {"vase": None})
    out = trained_with_queries_from(data, benchmark, tmp_path / "run")
    with pytest.raises(ValueError, match="of image/test has no label; choose a labelled"):
        evaluate_run(out, shards=1)
    assert not (out / "embeddings").exists()


def test_an_undefined_value_is_a_dash_in_the_table(capsys):
    result = evaluate(cloud("query", 5), cloud("shape", 9)).to_json()
    print_metrics([("a [bold]name", {**result, "AUC": None}), ("other", result)])
    shown = capsys.readouterr().out
    assert "a [bold]name" in shown
    assert " – " in shown
    with pytest.raises(EvaluationError, match="no query has an item"):
        evaluate(cloud("query", 2, classes=1), Embeddings(["a"], ["b"], np.ones((1, 5))))


def test_the_command_line_has_the_defaults_of_the_options():
    given = inspect.signature(metrics).parameters
    for field in fields(Options):
        if field.name in given:
            assert given[field.name].default == field.default, field.name
    assert EvaluationConfig().options().items() <= asdict(Options()).items()
