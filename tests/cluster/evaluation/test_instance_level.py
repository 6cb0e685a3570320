"""The exact shape of each query, from a packed data set to the table of the report."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from cluster.evaluation.gallery_actors import gallery_transport
from cluster.evaluation.jobs import evaluate_run, score_files, write_report
from cluster.training import train_run
from dataio.shards.manifest import write_manifest
from dataio.shards.opening import load_manifest
from evalsuite.scoring import INSTANCE_METRICS
from evalsuite.scoring.instance_level import evaluate_instances
from evalsuite.vectors.embeddings import Embeddings, EvaluationError, write_embeddings
from evalsuite.vectors.reading import read_embeddings
from tests.command import CONFIGS, call, small
from trainer.config import load_config


def paired(benchmark: Path, out: Path) -> Path:
    """The benchmark with pairs of its test split, in ``out``; the shards are linked.

    Picture k of a class shows shape k, or shape 0 where there is none. The first picture of each
    class says nothing, and the second names an object that is nowhere.
    """
    out.mkdir()
    held = load_manifest(benchmark)
    for shard in held.shards:
        (out / shard.name).symlink_to(benchmark / shard.name)
    names = [""] * len(held)
    for label in held.classes:
        rows = {
            stream: np.flatnonzero(
                (held.labels == label) & (held.splits == "test") & (held.streams == stream)
            )
            for stream in ("image", "shape")
        }
        for k, row in enumerate(rows["shape"]):
            names[row] = f"{label}/{k}"
        for k, row in enumerate(rows["image"]):
            shown = k if k < len(rows["shape"]) else 0
            names[row] = ["", "nowhere"][k] if k < 2 else f"{label}/{shown}"
    manifest = replace(held, root=str(out), instances=names)
    assert manifest.fingerprint == held.fingerprint
    write_manifest(manifest)
    return out


@pytest.fixture(scope="module")
def data(benchmark, tmp_path_factory) -> Path:
    return paired(benchmark, tmp_path_factory.mktemp("instances") / "data")


@pytest.fixture(scope="module")
def run(data, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("instances") / "run"
    overrides = small(data, training__steps=2)
    train_run(load_config(CONFIGS / "source-only.yaml", overrides), out, workers=0)
    return out


def ranks_by_sorting(run: Path) -> dict[str, int]:
    """By key, from the whole matrix of cosines of the embeddings on disk."""
    queries, gallery = (read_embeddings(run / "embeddings" / s) for s in ("queries", "gallery"))
    q, g = (side.vectors.astype(np.float64) for side in (queries, gallery))
    g /= np.linalg.norm(g, axis=1, keepdims=True)
    held, found = np.array(gallery.instances), {}
    for key, name, vector in zip(queries.keys, queries.instances, q, strict=True):
        cosine = (g @ vector / np.linalg.norm(vector)).astype(np.float32)
        order = np.argsort(-cosine, kind="stable")
        if name and (held == name).any():
            found[key] = 1 + int((held[order] == name).argmax())
    return found


def test_a_run_gets_the_ranks_that_sorting_finds(run):
    plain = evaluate_run(run)
    assert "instance" not in plain
    result = evaluate_run(run, level="instance")
    found, written = result["instance"], json.loads((run / "evaluation/metrics.json").read_text())
    assert written == result
    assert {name: result[name] for name in plain} == plain  # beside the class metrics
    assert (result["features"], result["metric"]) == ("raw", "cosine")
    ranks = ranks_by_sorting(run)
    classes = len(result["per_class"])
    assert found["n_evaluated"] == len(ranks) == result["n_queries"] - 2 * classes
    assert (found["n_unnamed"], found["n_missing"]) == (classes, classes)
    for k in (1, 5, 10):
        assert found[f"R@{k}"] == pytest.approx(np.mean([r <= k for r in ranks.values()]))
    assert found["median_rank"] == np.median(list(ranks.values()))
    assert found["MRR"] == pytest.approx(np.mean([1 / r for r in ranks.values()]))
    for name in INSTANCE_METRICS:
        ends = found["intervals"][name]
        assert ends["low"] <= found[name] <= ends["high"]
    table = pq.read_table(run / "evaluation" / "per_query.parquet")
    column = table.column("instance_rank").to_pylist()
    assert {
        key: rank
        for key, rank in zip(table.column("key").to_pylist(), column, strict=True)
        if rank is not None
    } == ranks
    assert evaluate_run(run, level="instance", shards=3) == result


def test_the_command_prints_both_tables_and_the_report_shows_one(run, tmp_path, capfd):
    told = call(capfd, "eval", run, "--level", "instance")
    assert told.code == 0
    for word in ("mAP", "R@1", "R@10", "median rank", "not paired", "shape not in the gallery"):
        assert word in told.out, word
    assert "R@1" not in call(capfd, "eval", run).out
    page = write_report([run], tmp_path / "plain.html", title="t").read_text()
    assert "exact shape" not in page
    found = call(capfd, "eval", run, "--level", "instance", "--json").json["instance"]
    page = write_report([run], tmp_path / "report.html", title="t").read_text()
    assert "The exact shape of each query" in page
    ends = found["intervals"]["R@5"]
    shown = f"<td>{found['R@5']:.3f}<small>[{ends['low']:.3f}, {ends['high']:.3f}]</small></td>"
    assert shown in page


def test_pairs_that_are_added_to_a_data_set_reach_the_embeddings(benchmark, data, tmp_path):
    """A run of an older version, whose data set is packed again."""
    run = tmp_path / "run"
    overrides = small(benchmark, training__steps=1)
    train_run(load_config(CONFIGS / "source-only.yaml", overrides), run, workers=0)
    before = evaluate_run(run)
    assert not any(read_embeddings(run / "embeddings" / "queries").instances)
    found = evaluate_run(run, level="instance", data=str(data))
    assert found["mAP"] == before["mAP"]
    assert found["instance"]["n_evaluated"] == len(ranks_by_sorting(run))


def test_data_without_pairs_are_refused_before_anything_is_embedded(benchmark, tmp_path, capfd):
    run = tmp_path / "run"
    overrides = small(benchmark, training__steps=1)
    train_run(load_config(CONFIGS / "source-only.yaml", overrides), run, workers=0)
    told = call(capfd, "eval", run, "--level", "instance")
    assert told.code == 2
    assert "sh3f and pix3d have pairs" in told.err
    assert "images/chair/oslo.jpg and meshes/chair/oslo.obj" in told.err
    assert not (run / "embeddings").exists()
    told = call(capfd, "eval", run, "--level", "object")
    assert told.code == 2
    assert "level='object': expected one of class, instance" in told.err


def sides(folder: Path, **instances: list[str]) -> list[Path]:
    random = np.random.default_rng(0)
    files = []
    for name in ("queries", "gallery"):
        held = Embeddings(
            [f"{name}-{k}" for k in range(6)],
            ["chair", "sofa"] * 3,
            random.integers(0, 3, (6, 2)),
            instances=instances.get(name, []),
        )
        files.append(folder / f"{name}.parquet")
        write_embeddings(files[-1], held)
    return files


def test_files_with_a_column_instance_are_scored(tmp_path, capfd):
    files = sides(tmp_path, queries=list("abcdef"), gallery=list("fedcba"))
    expected = evaluate_instances(*map(read_embeddings, files))
    found = score_files(*files, shards=2, level="instance")["instance"]
    assert {name: found[name] for name in INSTANCE_METRICS} == expected.headline
    options = ("metrics", "--queries", files[0], "--gallery", files[1])
    told = call(capfd, *options, "--level", "instance", "--json")
    assert told.json["instance"] == found
    assert "median rank" in call(capfd, *options, "--level", "instance").out
    plain = sides(tmp_path)
    told = call(capfd, *options, "--level", "instance")
    assert told.code == 2
    assert "column 'instance'" in told.err
    assert "instance" not in score_files(*plain, shards=1)


def test_a_query_in_the_gallery_is_left_out_of_its_own_ranking(tmp_path):
    both = Embeddings(
        list("abcd"),
        ["chair"] * 4,
        np.array([[0.0], [3.0], [1.0], [9.0]]),
        instances=["x", "x", "y", "z"],
    )
    write_embeddings(tmp_path / "both.parquet", both)
    files = [tmp_path / "both.parquet"] * 2
    assert score_files(*files, shards=1, level="instance")["instance"]["R@1"] == 1.0
    found = score_files(*files, shards=1, level="instance", drop_self=True)["instance"]
    assert (found["n_evaluated"], found["n_missing"], found["n_gallery"]) == (2, 2, 3)
    assert (found["R@1"], found["median_rank"]) == (0.0, 2.0)
    changed = replace(both, instances=["y", "x", "y", "z"])
    write_embeddings(tmp_path / "changed.parquet", changed)
    with pytest.raises(EvaluationError, match="'a' is of instance 'x' among"):
        score_files(files[0], tmp_path / "changed.parquet", shards=1, level="instance",
                    drop_self=True)  # fmt: skip


@pytest.mark.ray
def test_ray_actors_give_the_same_bits(run, ray_cluster):
    expected = evaluate_run(run, level="instance", shards=2)
    assert evaluate_run(run, level="instance", shards=3, actors=True) == expected
    queries, gallery = (read_embeddings(run / "embeddings" / s) for s in ("queries", "gallery"))
    options = {"features": "raw", "metric": "euclidean"}
    with gallery_transport(gallery, 2, actors=True, instances=True, **options) as transport:
        found = evaluate_instances(queries, None, transport=transport)
    assert found.to_json() == evaluate_instances(queries, gallery).to_json()
